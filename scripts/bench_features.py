"""Times a training step from cached features against a full step of our own, for each form and precision.

    py/python.sh scripts/bench_features.py [--device cpu] [--precision fp32] [--preset ViT-B/16] [--frames 8]
                                            [--batch 4] [--quick]

py/python.sh gives the program's own environment. A full step starts from normalised clips in memory: decoding, which a
cache saves too, is not in the ratio. The cached step reads real shards, through what training reads them with. On a GPU
the precision is fp16 and the batch 16 unless others are asked for.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from coldframe.assembly import models
from coldframe.cache.read import Cache, StoredFeatures, open_cache
from coldframe.cache.write import Extraction
from coldframe.data.clips import Batch
from coldframe.data.loader import to_device
from coldframe.machine.precision import DTYPES
from coldframe.settings import Features, Settings
from coldframe.train.cohort import Cohort
from coldframe.train.trial import build_trial
from timing import describe_gpu, emit, measure, pace, place, ratio

BACKBONES = {  # width, num_layers, num_heads, patch_size (src/config/schema.ts, PRESETS)
    "ViT-B/16": (768, 12, 12, 16),
    "ViT-L/14": (1024, 24, 16, 14),
    "small": (192, 12, 3, 32),
}
WAYS = [(form, precision) for form in ("maps", "inputs", "one") for precision in ("fp16", "fp32")]


def add_options(parser: argparse.ArgumentParser, batch: int, batch_of: str = "") -> None:
    """Adds what the benches of a model's steps are asked; `batch`: clips where nothing is said, 16 on a GPU."""
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", choices=DTYPES, help="fp32 on a CPU, fp16 on a GPU")
    parser.add_argument("--preset", default="ViT-B/16", choices=BACKBONES)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch", type=int, help=f"{batch_of}{batch} on a CPU, 16 on a GPU")
    parser.add_argument("--quick", action="store_true", help="a small backbone and few rounds, to see that it runs")


def make_settings(preset: str, num_frames: int, batch_size: int, folder: Path) -> Settings:
    """Returns the recipe of a preset, on noise instead of videos."""
    sys.path.append(str(Path(__file__).parent.parent / "test" / "py"))
    from small import settings

    width, num_layers, num_heads, patch_size = BACKBONES[preset]
    (folder / "list.txt").write_text("".join(f"noise\t{i}\n" for i in range(2 * batch_size)))
    sizes = {"width": width, "num_layers": num_layers, "num_heads": num_heads, "patch_size": patch_size}
    backbone = {
        f"model__backbone__{key}": value for key, value in {**sizes, "input_size": 224, "mlp_factor": 4}.items()
    }
    decoder = {"num_layers": 4, "qkv_dim": width, "num_heads": width // 64, "mlp_factor": 4}
    made: Settings = settings(
        **backbone,
        **{f"model__decoder__{key}": value for key, value in decoder.items()},
        data__num_frames=num_frames,
        data__size=224,
        data__num_classes=400,
        data__train_list=str(folder / "list.txt"),
        train__batch_size=batch_size,
        train__steps=10**6,
    )
    return made


def on_device(settings: Settings, device: str, precision: str) -> Settings:
    """Returns the settings for a device and a precision."""
    launch, train = replace(settings.launch, device=device), replace(settings.train, precision=precision)
    return replace(settings, launch=launch, train=train)


class FullStep:
    """Backbone, decoder and optimizer on one batch."""

    def __init__(self, settings: Settings) -> None:
        device, precision = torch.device(settings.launch.device), settings.train.precision
        backbone, _, _ = models.build_backbone(settings, device, precision)
        trial = build_trial("main", settings, backbone, device, precision)
        self.cohort, self.step = Cohort([trial], backbone, device, precision), 0
        data, batch_size = settings.data, settings.train.batch_size
        self.clips_NCTHW = torch.randn(batch_size, 3, data.num_frames, data.size, data.size).to(device)
        self.labels_N = torch.arange(batch_size, device=device)

    def __call__(self) -> None:
        self.cohort.step(self.step, self.clips_NCTHW, self.labels_N)
        self.step += 1


class CachedStep:
    """The same from a cache on disk."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        lists: dict[str, str | None] = {"train": str(folder / "list.txt"), "val": None}
        name = f"{settings.features.form}-{settings.features.precision}"
        settings = replace(settings, data=replace(settings.data, features=str(folder / name), dummy=True))
        extraction = Extraction(settings, lists)
        while not extraction.advance(60, lambda: None)["done"]:
            pass
        extraction.close()
        self.cache: Cache = open_cache([settings], next(iter(extraction.manifest.key.values())), lists)
        self.device, precision = extraction.device, extraction.precision
        trial = build_trial("main", settings, extraction.backbone, self.device, precision)
        source = StoredFeatures(self.cache.layout, extraction.backbone)
        self.cohort, self.step = Cohort([trial], source, self.device, precision), 0
        pin, list_file = self.device.type == "cuda", str(folder / "list.txt")
        batches = self.cache.training_batches(settings, list_file, 0, pin)
        self.batches: Iterator[Batch] = to_device(batches, self.device)
        self.wait_seconds: list[float] = []

    def __call__(self) -> None:
        started = time.perf_counter()
        batch = next(self.batches)
        self.wait_seconds.append(time.perf_counter() - started)
        self.cohort.step(self.step, batch.clips, batch.labels)
        self.step += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, batch=4)
    args = parser.parse_args()
    on_cpu, preset = args.device == "cpu", "small" if args.quick else args.preset
    precision, batch = args.precision or ("fp32" if on_cpu else "fp16"), args.batch or (4 if on_cpu else 16)
    end = place(args.device, precision)
    with tempfile.TemporaryDirectory(prefix="coldframe-") as name:
        settings = on_device(make_settings(preset, args.frames, batch, Path(name)), args.device, precision)
        steps: dict[str, CachedStep] = {}
        for form, stored in WAYS:
            changed = replace(settings, features=Features(form, stored, train_views=1))
            steps[f"{form} {stored}"] = CachedStep(changed, Path(name))
        how = pace(args.device, quick=args.quick, warmup=2)
        seconds = measure({"full": FullStep(settings), **steps}, **how)
        for key, step in steps.items():
            about = {
                "preset": preset,
                "frames": args.frames,
                "batch": batch,
                "clip_bytes": step.cache.layout.clip_bytes,
                **describe_gpu(args.device),
            }
            waits = step.wait_seconds[how["warmup"] :]
            wait = sum(waits) / max(1e-9, sum(seconds[key]) * how.get("repeats", 1))
            timing = {"full_seconds": min(seconds["full"]), "step_seconds": min(seconds[key]), "data_wait": wait}
            # The other forms trade time for room: they run one block again, or all that the decoder reads.
            goals = {"least": 9.0, "goal": 14.0} if not end and key.startswith("maps") else {}
            gain = ratio(seconds["full"], seconds[key])
            emit(f"step from cached features, {key}{end}", gain, **goals, **about, **timing)
            step.batches.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
