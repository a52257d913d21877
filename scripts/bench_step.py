"""Times a training step and its parts against the plain algorithm (plain_model.py), and weighs its memory.

    py/python.sh scripts/bench_step.py [--preset ViT-B/16] [--frames 8] [--batch 2] [--quick]

Each side has a process of its own and runs as it would: ours under the settings of allocator and threads of
py/python.sh, the plain one as Python comes. What these settings alone give it is a row of its own. Clips are noise
in memory, except for the data wait, which trains through the program itself on real clips.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import plain_model
from bench_features import BACKBONES, make_settings
from coldframe import build
from coldframe.clip import VisionTransformer, neighbour_maps
from coldframe.cohort import DTYPES, Cohort
from coldframe.environment import cpu_has_bf16
from coldframe.settings import Settings
from timing import emit, measure, ratio

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
PROGRAM_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # py/python.sh


class Ours:
    """A cohort of one on a batch of noise."""

    def __init__(self, settings: Settings, precision: str) -> None:
        self.settings, self.precision = settings, precision
        self.backbone, _, _ = build.build_backbone(settings, CPU, precision)
        self.trial = build.build_trial("main", settings, self.backbone, CPU, precision)
        fill_zeros(self.trial.model)
        self.cohort = Cohort([self.trial], self.backbone, CPU, precision)
        data, batch_size = settings.data, settings.train.batch_size
        generator = torch.Generator().manual_seed(0)
        self.clips_NCTHW = torch.randn(batch_size, 3, data.num_frames, data.size, data.size, generator=generator)
        self.labels_N = torch.arange(batch_size)

    def step(self) -> None:
        self.cohort.step(0, self.clips_NCTHW, self.labels_N)

    def run_backbone(self) -> object:
        with self.cohort.autocast():
            return self.cohort.features(self.clips_NCTHW)

    def decode(self, features: object) -> None:
        self.trial.model.train()
        self.trial.zero_grad()
        with self.cohort.autocast():
            logits = self.trial.logits(features)  # type: ignore[arg-type]
        self.trial.accumulate(logits, self.labels_N, 1.0)

    def logits(self) -> Tensor:
        self.trial.model.eval()
        with torch.no_grad(), self.cohort.autocast():
            return self.trial.logits(self.cohort.features(self.clips_NCTHW))


class Plain:
    """The plain algorithm on the weights, the batch and the precision of `ours`."""

    def __init__(self, ours: Ours) -> None:
        self.ours = ours
        model = ours.settings.model
        self.weights = dict(ours.backbone.state_dict())
        self.trained = dict(ours.trial.model.named_parameters())
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=ours.settings.train.lr, weight_decay=0.05)
        side = ours.backbone.patch_size
        self.backbone_sizes = {"num_heads": model.backbone.num_heads, "patch_size": side}
        self.dropout = {"mlp_dropout": model.decoder.mlp_dropout, "head_dropout": model.head.dropout}

    def step(self) -> None:
        self.decode(self.run_backbone())
        self.optimizer.step()

    def run_backbone(self) -> list[plain_model.Layer]:
        with torch.no_grad(), self.ours.cohort.autocast():
            return plain_model.backbone(self.weights, self.ours.clips_NCTHW, **self.backbone_sizes)

    def decode(self, layers: list[plain_model.Layer]) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self._decode(layers, **self.dropout).float(), self.ours.labels_N).backward()

    def logits(self) -> Tensor:
        with torch.no_grad():
            return self._decode(self.run_backbone())

    def _decode(self, layers: list[plain_model.Layer], **dropout: float) -> Tensor:
        decoder, num_frames = self.ours.settings.model.decoder, self.ours.settings.data.num_frames
        with self.ours.cohort.autocast():
            features = plain_model.gather_features(layers, decoder.num_layers, num_frames)
            heads, grid = decoder.num_heads, self.ours.backbone.grid
            return plain_model.decoder(self.trained, features, num_heads=heads, grid=grid, **dropout)


class PlainProcess:
    """The plain algorithm in a process of its own, with or without the settings of py/python.sh."""

    def __init__(self, args: argparse.Namespace, precision: str, *, with_settings: bool = False) -> None:
        env = {name: value for name, value in os.environ.items() if with_settings or name not in PROGRAM_SETTINGS}
        self._process = subprocess.Popen(
            [*own_command(args, args.batch), "--plain", precision],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        self.difference = float(self._read())

    def do(self, what: str) -> Callable[[], object]:
        """Returns a function that has the process do it, and waits."""

        def ask() -> None:
            assert self._process.stdin is not None
            print(what, file=self._process.stdin, flush=True)
            self._read()

        return ask

    def end(self) -> None:
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the plain side ended with {self._process.wait()}")
        return line


def serve_plain(settings: Settings, precision: str) -> None:
    """The other end of PlainProcess: first how far its logits are from ours, then a line for each word that is done."""
    ours = Ours(settings, precision)
    plain = Plain(ours)
    print((ours.logits() - plain.logits()).abs().max().item(), flush=True)
    layers = plain.run_backbone()
    ways = {"step": plain.step, "decoder": lambda: plain.decode(layers), "backbone": plain.run_backbone}
    for word in sys.stdin:
        ways[word.strip()]()
        print(word.strip(), flush=True)


def own_command(args: argparse.Namespace, batch: int) -> list[str]:
    return [sys.executable, __file__, "--preset", args.preset, "--frames", str(args.frames), "--batch", str(batch)]


def fill_zeros(model: nn.Module) -> None:
    """Gives parameters that start at zero a value, so that no part of the model can hide an error."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.detach().any():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


# --- limits of the machine ---


class Matmuls:
    """The backbone's own matrix products with its weights, and nothing else."""

    def __init__(self, backbone: VisionTransformer, num_images: int) -> None:
        self.num_tokens = 1 + backbone.grid[0] * backbone.grid[1]
        width = len(backbone.class_embedding)
        hidden = backbone.transformer.resblocks[0].mlp.get_parameter("c_fc.weight").shape[0]
        self.num_images, self.width, self.num_layers = num_images, width, len(backbone.transformer.resblocks)
        rows = num_images * self.num_tokens
        shapes = [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]
        self.products = [
            (torch.randn(rows, k), torch.randn(n, k), torch.empty(rows, n)) for k, n in shapes
        ]  # weights are (out, in), as in a linear layer
        self.num_operations = self.num_layers * sum(2 * rows * k * n for k, n in shapes)

    def __call__(self) -> None:
        for _ in range(self.num_layers):
            for x, weight, out in self.products:
                torch.mm(x, weight.T, out=out)

    def count_backbone(self, num_decoder_layers: int, num_clips: int, num_patch_values: int) -> int:
        """Returns the operations of the whole backbone: with attention, patch embedding and neighbour maps."""
        pairs = self.num_images * self.num_tokens**2
        attention = self.num_layers * 4 * pairs * self.width
        num_patches = self.num_tokens - 1
        maps = num_decoder_layers * 2 * 2 * (self.num_images - num_clips) * num_patches**2 * self.width
        return (
            self.num_operations + attention + maps + 2 * self.num_images * num_patches * num_patch_values * self.width
        )


# --- memory ---


def read_memory(field: str) -> int:
    """Returns bytes of a field of /proc/self/status, such as VmRSS (now) or VmHWM (peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def print_peak(settings: Settings, way: str) -> None:
    """Prints the bytes that two steps take at most above the built model."""
    ours = Ours(settings, "fp32")
    one: Ours | Plain = ours if way == "ours" else Plain(ours)
    built = read_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(2):
        one.step()
    print(read_memory("VmHWM") - built)


def weigh(way: str, args: argparse.Namespace, batch: int) -> int:
    """Returns what `print_peak` finds in a process of its own."""
    own = [*own_command(args, batch), "--peak", way]
    output = subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True).stdout
    return int(output.split()[-1])


# --- the loader, through the program ---


def wait_share(settings: Settings, folder: Path, num_workers: int, num_steps: int) -> float:
    """Returns the share of its time that training waits for data, first step left out, on clips of 340 x 256."""
    from clips import make_clip  # test/py, which make_settings put into the path

    num_clips = settings.train.batch_size * num_steps
    folder.mkdir()
    for i in range(8):
        make_clip(folder / f"{i}.mp4", num_frames=150, size=(340, 256), options={"preset": "medium", "g": "250"})
    (folder / "train.txt").write_text("".join(f"{folder}/{i % 8}.mp4 {i % 400}\n" for i in range(num_clips)))
    sizes = ("width", "num_layers", "num_heads", "patch_size", "input_size", "mlp_factor")
    backbone = {name: getattr(settings.model.backbone, name) for name in sizes}
    decoder = settings.model.decoder
    config = {
        "data": {
            "train_list": "train.txt",
            "num_classes": 400,
            "num_frames": settings.data.num_frames,
            "num_workers": num_workers,
        },
        "model": {
            "backbone": {"preset": "custom", **backbone, "weights": "random"},
            "decoder": {name: getattr(decoder, name) for name in ("num_layers", "qkv_dim", "num_heads")},
        },
        "train": {"steps": num_steps, "batch_size": settings.train.batch_size, "precision": "fp32"},
        "eval": {"every": None},
        "run": {"print_every": 1, "tensorboard": False},
        "launch": {"device": "cpu"},
    }
    (folder / "wait.yaml").write_text(json.dumps(config))
    command = [ROOT / "scripts" / "coldframe", "train", "--config", folder / "wait.yaml", "--json"]
    done = subprocess.run([*command, "--run-dir", folder / "run"], stdout=subprocess.PIPE, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [event for event in events if event["kind"] == "step"][1:]
    return sum(event["data_seconds"] for event in steps) / sum(event["step_seconds"] for event in steps)


# --- figures ---


def asked(about: dict[str, object], least: float, goal: float) -> dict[str, float]:
    """Returns what is asked of a figure of the full size; nothing of the small one, which only shows that all runs."""
    return {} if about["preset"] == "small" else {"least": least, "goal": goal}


def bench_speed(settings: Settings, args: argparse.Namespace, about: dict[str, object], rounds: int) -> None:
    """Emits the figures of float32: step, decoder, backbone."""
    ours = Ours(settings, "fp32")
    plain, tuned = PlainProcess(args, "fp32"), PlainProcess(args, "fp32", with_settings=True)
    difference = plain.difference
    assert difference < 1e-5, f"logits differ by {difference} from the plain algorithm's"
    features, layers = ours.run_backbone(), Plain(ours).run_backbone()
    num_images = len(ours.clips_NCTHW) * settings.data.num_frames
    matmuls = Matmuls(ours.backbone, num_images)
    decoder_layers = layers[len(layers) - settings.model.decoder.num_layers :]

    def make_maps() -> None:
        for layer in decoder_layers:
            neighbour_maps(layer["q"].transpose(1, 2), layer["k"].transpose(1, 2), settings.data.num_frames)

    ways: dict[str, Callable[[], object]] = {
        "plain step": plain.do("step"),
        "tuned step": tuned.do("step"),
        "step": ours.step,
        "plain decoder": plain.do("decoder"),
        "decoder": lambda: ours.decode(features),
        "plain backbone": plain.do("backbone"),
        "backbone": ours.run_backbone,
        "maps": make_maps,
        "matmuls": matmuls,
        "update": lambda: ours.trial.update(0, 1),
    }
    seconds = measure(ways, rounds=rounds)
    plain.end()
    tuned.end()
    best = {f"{name.replace(' ', '_')}_seconds": min(values) for name, values in seconds.items()}
    emit("step against the plain algorithm", ratio(seconds["plain step"], seconds["step"]), **asked(about, 1.45, 1.8),
         logits_differ=difference, **best, **about)  # fmt: skip
    emit("the same, the plain side under the program's settings too", ratio(seconds["tuned step"], seconds["step"]))
    parts = ratio(seconds["plain decoder"], seconds["decoder"])
    emit("decoder forward and backward against the plain algorithm", parts, **asked(about, 5.5, 9.0), **about)
    with_maps = [one + other for one, other in zip(seconds["decoder"], seconds["maps"], strict=True)]
    emit("the same, with the neighbour maps that our backbone computes", ratio(seconds["plain decoder"], with_maps))
    emit("backbone against the plain algorithm", ratio(seconds["plain backbone"], seconds["backbone"]), **about)
    clips, patch_values = len(ours.clips_NCTHW), ours.backbone.conv1.weight[0].numel()
    operations = matmuls.count_backbone(len(decoder_layers), clips, patch_values)
    ideal = [value * operations / matmuls.num_operations for value in seconds["matmuls"]]
    rate = matmuls.num_operations / min(seconds["matmuls"])
    emit("backbone, share of the matmul rate", ratio(ideal, seconds["backbone"]), **asked(about, 0.85, 0.95),
         matmul_operations_per_second=rate, **about)  # fmt: skip


def bench_half(settings: Settings, args: argparse.Namespace, about: dict[str, object], rounds: int) -> None:
    """Emits the step in bfloat16 where the processor has the instructions."""
    name = "step in bf16 against the plain algorithm in bf16 autocast"
    if not cpu_has_bf16():
        print(json.dumps({"name": name, "ratio": None, "skipped": "this CPU has no bfloat16 instructions"}), flush=True)
        return
    ours = Ours(settings, "bf16")
    assert ours.backbone.conv1.weight.dtype == DTYPES["bf16"]
    plain = PlainProcess(args, "bf16")
    seconds = measure({"plain": plain.do("step"), "ours": ours.step}, rounds=rounds)
    plain.end()
    emit(name, ratio(seconds["plain"], seconds["ours"]), **asked(about, 1.4, 1.8), **about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="ViT-B/16", choices=BACKBONES)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a small backbone and few rounds, to see that it runs")
    parser.add_argument("--peak", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--plain", choices=("fp32", "bf16"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.preset = "small"
    with tempfile.TemporaryDirectory(prefix="coldframe-") as name:
        settings = make_settings(args.preset, args.frames, args.batch, Path(name))
        if args.peak:
            print_peak(settings, args.peak)
            return
        if args.plain:
            serve_plain(settings, args.plain)
            return
        about = {"preset": args.preset, "frames": args.frames, "batch": args.batch, "threads": torch.get_num_threads(),
                 "keeps_freed_memory": os.environ.get("MALLOC_MMAP_MAX_") == "0"}  # fmt: skip
        bench_speed(settings, args, about, 2 if args.quick else 5)
        bench_half(settings, args, about, 2 if args.quick else 5)
        peaks = SimpleNamespace(**{way: weigh(way, args, batch=4) for way in ("plain", "ours")})
        emit("peak memory above the built model, plain over ours", peaks.plain / peaks.ours, **asked(about, 3.3, 5.0),
             plain_bytes=peaks.plain, ours_bytes=peaks.ours, **{**about, "batch": 4})  # fmt: skip
        for num_workers in (1, 2):
            share = wait_share(settings, Path(name) / f"wait-{num_workers}", num_workers, 6)
            emit("data wait, share of a step", share, **asked(about, 0.05, 0.01), **about, workers=num_workers)


if __name__ == "__main__":
    main()
