"""Makes a data set with several labels a clip: the demo's moving shapes, labelled with the colours that they have.

    python scripts/make_demo_labels.py --out data/demo-labels

The shapes of a clip take its colours in turn, up to two of four; in a clip without a label they are grey. A clip is a
function of (split, index) alone, as in make_demo_clips.py, whose shapes, motions and pictures these are.
"""

import argparse
import cmath
import math
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np

import make_demo_clips as demo

CLASSES = ("blue", "purple", "orange", "green")
HUES = (-0.25, 0.25, 0.75, 1.25)  # of the classes, half turns in the Cb-Cr plane
HUE_JITTER, CHROMA = 0.1, 80.0
SPLITS = ("train", "select", "val")  # by their places the streams of draws differ
NUM_LABELS, SHARES = (0, 1, 2), (0.1, 0.4, 0.5)
NUM_FRAMES = 40


def labels_of(split: str, index: int) -> list[int]:
    """Returns the labels of a clip, in rising order."""
    rng = np.random.default_rng([SPLITS.index(split), index])
    count = int(rng.choice(NUM_LABELS, p=SHARES))
    return sorted(int(label) for label in rng.choice(len(CLASSES), count, replace=False))


def plan_clip(split: str, index: int) -> demo.Clip:
    """Returns a clip of the demo, its shapes in the colours of the labels."""
    clip = demo.plan_clip(SPLITS.index(split), "train", index)
    rng, labels = np.random.default_rng([SPLITS.index(split), index, 1]), labels_of(split, index)
    shapes = []
    for number, shape in enumerate(clip.shapes):
        hue = HUES[labels[number % len(labels)]] if labels else 0.0
        chroma = cmath.rect(CHROMA if labels else 0.0, math.pi * (hue + rng.uniform(-HUE_JITTER, HUE_JITTER)))
        colour = (shape.colours[0][0], round(128 + chroma.real), round(128 + chroma.imag))
        shapes.append(replace(shape, colours=(colour,) * demo.NUM_SECTORS))
    return replace(clip, shapes=tuple(shapes), num_frames=NUM_FRAMES, tone_hz=None)


def make_one(task: tuple[Path, str, int]) -> None:
    """Makes the clip (data root, split, index) where it is not there yet."""
    out, split, index = task
    path = out / clip_path(split, index)
    if path.exists():
        return
    try:
        demo.write_clip(path, plan_clip(split, index))
    except av.FFmpegError as error:  # PyAV's errors do not survive the way between processes
        raise OSError(f"{path}  cannot be written: {error}") from None


def clip_path(split: str, index: int) -> str:
    """Returns the path of a clip relative to the data root."""
    return f"{split}/{index:05d}.mp4"


def make_data_set(out: Path, counts: dict[str, int], num_workers: int) -> None:
    """Makes the clips that are not there yet, and the lists."""
    for split in counts:
        (out / split).mkdir(parents=True, exist_ok=True)
    tasks = [(out, split, index) for split, count in counts.items() for index in range(count)]
    with ProcessPoolExecutor(num_workers, get_context("spawn"), demo.start_worker) as pool:
        for _ in demo.show_progress(pool.map(make_one, tasks, chunksize=4), len(tasks)):
            pass
    for split, count in counts.items():
        labels = [",".join(map(str, labels_of(split, index))) or "-" for index in range(count)]
        lines = [f"{clip_path(split, index)} {label}\n" for index, label in enumerate(labels)]
        demo.write_text(out / f"{split}.txt", "".join(lines))
    demo.write_text(out / "classes.txt", "".join(f"{name}\n" for name in CLASSES))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Makes clips with up to two colours each, and lists with their labels."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set; made or continued")
    parser.add_argument("--train", type=int, default=300, help="training clips (%(default)s)")
    parser.add_argument("--select", type=int, default=100, help="clips to choose on (%(default)s)")
    parser.add_argument("--val", type=int, default=100, help="held-out clips (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)")
    options = parser.parse_args(arguments)
    make_data_set(options.out, {split: getattr(options, split) for split in SPLITS}, options.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
