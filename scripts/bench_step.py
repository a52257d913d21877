"""Times a training step and its parts against the plain algorithm (plain_model.py), and weighs its memory.

    py/python.sh scripts/bench_step.py [--device cpu] [--preset ViT-B/16] [--frames 8] [--batch 2] [--quick]

On a CPU each side has a process of its own and runs as it would: ours under the settings of allocator and threads of
py/python.sh, the plain one as Python comes. What these settings alone give it is a row of its own. On a GPU, where they
play no part, both are in one process, in fp16, bf16 and fp32, by default with a batch of 16. Clips are noise in memory,
except for the data wait, which trains through the program itself on real clips.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bench_features import BACKBONES, make_settings
from coldframe.machine.device import choose_device, cpu_has_bf16
from coldframe.machine.precision import DTYPES
from coldframe.settings import Settings
from sides import Matmuls, Ours, Plain
from timing import describe_gpu, emit, measure, pace, place, ratio

ROOT = Path(__file__).parent.parent
DEFAULT_BATCH = {"cpu": 2, "cuda": 16}
NUM_WORKERS = {"cpu": (1, 2), "cuda": (4, 14)}
NUM_STEPS = {"cpu": 6, "cuda": 20}
PROGRAM_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # py/python.sh
# How far logits may be from the plain algorithm's on a GPU, in units of the largest.
LIMITS = {"fp32": 1e-4, "fp16": 5e-2, "bf16": 5e-2}
STEP_IN_BF16, HALF_GOALS = "step in bf16 against the plain algorithm in bf16 autocast", (1.4, 1.8)
Ways = dict[str, Callable[[], object]]
Goals = dict[str, tuple[float, float]]


# --- the plain side in a process of its own ---


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

    def ways(self) -> Ways:
        return {what: self._do(what) for what in ("step", "decoder", "backbone")}

    def _do(self, what: str) -> Callable[[], object]:
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
    ways = plain.ways()
    for word in sys.stdin:
        ways[word.strip()]()
        print(word.strip(), flush=True)


def own_command(args: argparse.Namespace, batch: int) -> list[str]:
    return [sys.executable, __file__, "--preset", args.preset, "--frames", str(args.frames), "--batch", str(batch)]


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


def wait_share(settings: Settings, folder: Path, num_workers: int, device: str) -> float:
    """Returns the share of its time that training waits for data, first step left out, on clips of 340 x 256."""
    from clips import make_clip  # test/py, which make_settings put into the path

    num_steps, precision = NUM_STEPS[device], "fp32" if device == "cpu" else "auto"
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
        "train": {"steps": num_steps, "batch_size": settings.train.batch_size, "precision": precision},
        "eval": {"every": None},
        "run": {"print_every": 1, "tensorboard": False},
        "launch": {"device": device},
    }
    (folder / "wait.yaml").write_text(json.dumps(config))
    command = [ROOT / "scripts" / "coldframe", "train", "--config", folder / "wait.yaml", "--json"]
    done = subprocess.run([*command, "--run-dir", folder / "run"], stdout=subprocess.PIPE, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [event for event in events if event["kind"] == "step"][1:]
    return sum(event["data_seconds"] for event in steps) / sum(event["step_seconds"] for event in steps)


# --- figures ---


def asked(about: dict[str, object], goals: tuple[float, float] | None) -> dict[str, float]:
    """Returns what is asked of a figure of the full size; nothing of the small one, which only shows that all runs."""
    return {} if goals is None or about["preset"] == "small" else {"least": goals[0], "goal": goals[1]}


def describe(args: argparse.Namespace) -> dict[str, object]:
    """Returns the details that figures have in common."""
    about = {"preset": args.preset, "frames": args.frames, "batch": args.batch}
    if args.device != "cpu":
        return {**about, **describe_gpu(args.device)}
    return {**about, "threads": torch.get_num_threads(),
            "keeps_freed_memory": os.environ.get("MALLOC_MMAP_MAX_") == "0"}  # fmt: skip


def skip(name: str, why: str) -> None:
    print(json.dumps({"name": name, "ratio": None, "skipped": why}), flush=True)


def time_parts(ours: Ours, plain: Ways, tuned: Ways, matmuls: Matmuls, **how: Any) -> dict[str, list[float]]:
    """Returns the seconds of step, decoder and backbone on both sides, and of the matrix products."""
    features, layers = ours.run_backbone(), Plain(ours).run_backbone()
    ways: Ways = {
        "plain step": plain["step"],
        **tuned,
        "step": ours.step,
        "plain decoder": plain["decoder"],
        "decoder": lambda: ours.decode(features),
        "plain backbone": plain["backbone"],
        "backbone": ours.run_backbone,
        "maps": lambda: ours.make_maps(layers),
        "matmuls": matmuls,
    }
    if ours.device.type == "cpu":  # a scaler of gradients would want fresh ones each time
        ways["update"] = lambda: ours.trial.update(0)
    return measure(ways, **how)


def bench_parts(
    ours: Ours, plain: Ways, about: dict[str, object], difference: float, goals: Goals, tuned: Ways, **how: Any
) -> None:
    """Emits step, decoder and backbone against the plain algorithm, and the backbone against the matrix products."""
    clips, settings = len(ours.clips_NCTHW), ours.settings
    matmuls = Matmuls(ours.backbone, clips * settings.data.num_frames)
    seconds = time_parts(ours, plain, tuned, matmuls, **how)
    end = place(ours.device.type, ours.precision)
    title = STEP_IN_BF16 if ours.precision == "bf16" else "step against the plain algorithm"
    best = {f"{name.replace(' ', '_')}_seconds": min(values) for name, values in seconds.items()}
    emit(title + end, ratio(seconds["plain step"], seconds["step"]), **asked(about, goals.get("step")),
         logits_differ=difference, **best, **about)  # fmt: skip
    if tuned:
        emit("the same, the plain side under the program's settings too", ratio(seconds["tuned step"], seconds["step"]))
    parts = ratio(seconds["plain decoder"], seconds["decoder"])
    emit(f"decoder forward and backward against the plain algorithm{end}", parts, **asked(about, goals.get("decoder")),
         **about)  # fmt: skip
    with_maps = [one + other for one, other in zip(seconds["decoder"], seconds["maps"], strict=True)]
    name = f"the same, with the neighbour maps that our backbone computes{end}"
    emit(name, ratio(seconds["plain decoder"], with_maps))
    parts = ratio(seconds["plain backbone"], seconds["backbone"])
    emit(f"backbone against the plain algorithm{end}", parts, **about)
    patch_values = ours.backbone.conv1.weight[0].numel()
    operations = matmuls.count_backbone(settings.model.decoder.num_layers, clips, patch_values)
    ideal = [value * operations / matmuls.num_operations for value in seconds["matmuls"]]
    rate = matmuls.num_operations / min(seconds["matmuls"])
    emit(f"backbone, share of the matmul rate{end}", ratio(ideal, seconds["backbone"]),
         **asked(about, goals.get("share")), matmul_operations_per_second=rate, **about)  # fmt: skip


# --- on a CPU ---


def bench_cpu(settings: Settings, args: argparse.Namespace) -> None:
    about, how = describe(args), pace("cpu", quick=args.quick)
    bench_single(settings, args, about, how)
    bench_half(settings, args, about, how)
    peaks = SimpleNamespace(**{way: weigh(way, args, batch=4) for way in ("plain", "ours")})
    emit("peak memory above the built model, plain over ours", peaks.plain / peaks.ours, **asked(about, (3.3, 5.0)),
         plain_bytes=peaks.plain, ours_bytes=peaks.ours, **{**about, "batch": 4})  # fmt: skip


def bench_single(
    settings: Settings, args: argparse.Namespace, about: dict[str, object], how: dict[str, object]
) -> None:
    """Emits the figures of float32."""
    ours = Ours(settings, "fp32")
    plain, tuned = PlainProcess(args, "fp32"), PlainProcess(args, "fp32", with_settings=True)
    assert plain.difference < 1e-5, f"logits differ by {plain.difference} from the plain algorithm's"
    goals = {"step": (1.45, 1.8), "decoder": (5.5, 9.0), "share": (0.85, 0.95)}
    bench_parts(ours, plain.ways(), about, plain.difference, goals, {"tuned step": tuned.ways()["step"]}, **how)
    plain.end()
    tuned.end()


def bench_half(settings: Settings, args: argparse.Namespace, about: dict[str, object], how: dict[str, object]) -> None:
    """Emits the step in bfloat16 where the processor has the instructions."""
    if not cpu_has_bf16():
        skip(STEP_IN_BF16, "this CPU has no bfloat16 instructions")
        return
    ours = Ours(settings, "bf16")
    assert ours.backbone.conv1.weight.dtype == DTYPES["bf16"]
    plain = PlainProcess(args, "bf16")
    seconds = measure({"plain": plain.ways()["step"], "ours": ours.step}, **how)
    plain.end()
    emit(STEP_IN_BF16, ratio(seconds["plain"], seconds["ours"]), **asked(about, HALF_GOALS), **about)


# --- on a GPU ---


def bench_gpu(settings: Settings, args: argparse.Namespace, device: torch.device, precision: str) -> None:
    """Emits the figures of one precision; each side has a model of its own, of the same weights."""
    about = describe(args)
    ours, plain = Ours(settings, precision, device), Plain(Ours(settings, precision, device))
    difference = compare(ours, plain)
    take_workspaces(device, ours.backbone.conv1.weight.dtype)
    peaks = SimpleNamespace(ours=weigh_on_gpu(ours), plain=weigh_on_gpu(plain))
    goals = {"step": HALF_GOALS} if precision == "bf16" else {}
    how = pace(device.type, quick=args.quick, repeats=1 if precision == "fp32" else 5)
    bench_parts(ours, plain.ways(), about, difference, goals, {}, **how)
    emit(f"peak memory above the built model, plain over ours{place(device.type, precision)}",
         peaks.plain / peaks.ours, plain_bytes=peaks.plain, ours_bytes=peaks.ours, **about)  # fmt: skip


def compare(ours: Ours, plain: Plain) -> float:
    """Returns how far the logits are from the plain algorithm's, in units of the largest."""
    torch.backends.cudnn.allow_tf32 = False  # which convolutions alone have by default
    wanted = plain.logits().float()
    difference = ((ours.logits() - wanted).abs().max() / wanted.abs().max()).item()
    torch.backends.cudnn.allow_tf32 = True
    assert difference < LIMITS[ours.precision], f"logits differ by {difference} from the plain algorithm's"
    return difference


def take_workspaces(device: torch.device, dtype: torch.dtype) -> None:
    """Has cuBLAS take what it keeps for good, once for forward's thread and once for backward's: it is no side's."""
    x = torch.ones(8, 8, device=device, dtype=dtype, requires_grad=True)
    (x @ x).sum().backward()


def weigh_on_gpu(side: Ours | Plain) -> int:
    """Returns the bytes of tensors that steps take at most above the built model.

    They are several: in float16 the first ones may overflow, and without an update Adam has no moments.
    """
    gc.collect()  # what an earlier side left must not make room meanwhile
    torch.cuda.reset_peak_memory_stats()
    built = torch.cuda.memory_allocated()
    for _ in range(8):
        side.step()
    return torch.cuda.max_memory_allocated() - built


# --- everywhere ---


def bench_wait(settings: Settings, args: argparse.Namespace, folder: Path) -> None:
    """Emits how long training through the program waits for its data, in the precision that it takes by default."""
    on_cpu = args.device == "cpu"
    name = "data wait, share of a step" + place(args.device, "fp32" if on_cpu else "fp16")
    if shutil.which("node") is None:
        skip(name, "there is no Node.js")
        return
    about, goals = describe(args), (0.05, 0.01) if on_cpu else None
    for num_workers in NUM_WORKERS[args.device]:
        share = wait_share(settings, folder / f"wait-{num_workers}", num_workers, args.device)
        emit(name, share, **asked(about, goals), **about, workers=num_workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--preset", default="ViT-B/16", choices=BACKBONES)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--quick", action="store_true", help="a small backbone and few rounds, to see that it runs")
    parser.add_argument("--peak", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--plain", choices=("fp32", "bf16"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch = args.batch or DEFAULT_BATCH[args.device]
    if args.quick:
        args.preset = "small"
    with tempfile.TemporaryDirectory(prefix="coldframe-") as name:
        settings = make_settings(args.preset, args.frames, args.batch, Path(name))
        if args.peak:
            print_peak(settings, args.peak)
        elif args.plain:
            serve_plain(settings, args.plain)
        else:
            if args.device == "cpu":
                bench_cpu(settings, args)
            else:
                for precision in ("fp16", "bf16", "fp32"):  # the program's own default comes first
                    bench_gpu(settings, args, torch.device(choose_device(args.device)), precision)
            bench_wait(settings, args, Path(name))


if __name__ == "__main__":
    main()
