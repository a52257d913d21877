"""The loader against the plain one (plain_data.py), and against what the machine allows, in the same run.

    python scripts/bench_loader.py [--clips DIR] [--prepared DIR] [--quick]

A folder of clips holds g250_*, g30_* and hd_* videos; without one, clips are made under data/bench. One JSON line a
figure: "ratio" is how many times faster ours is, the geometric mean over the clips, round by round.

Both sides run with glibc's allocator as it comes, as a plain program does: under the settings of py/python.sh the plain
test item, which makes every frame a float image, takes a third of its time, and ours the same as without.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from av import CodecContext
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench_clips import make_bench_clips
from coldframe.data.clips import EvalViews, Listed, TrainClips, normalize_
from coldframe.data.loader import train_loader
from coldframe.prepare.transcode import Encoding, transcode
from coldframe.video import frames as video
from coldframe.video.h264 import non_reference_test
from coldframe.video.packets import scan
from coldframe.video.streams import open_video
from plain_data import CLIP_MEAN, CLIP_STD, load_test_item, load_training_item
from timing import Ratio, emit, measure, ratio

SHAPE = {"num_frames": 8, "stride": 16, "size": 224}  # the published K400 recipe, 8 frames
VIEWS = {"spatial_views": 3, "temporal_views": 1}
RECIPE = "rand-m7-n4-mstd0.5-inc1"
SEED = 7
ITEMS_A_ROUND = 4  # each with a window of its own: where it lies decides how much has to be decoded
ALLOCATOR = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")  # what py/python.sh sets
Ways = dict[str, Callable[[], object]]
Clock = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, metavar="DIR", help="videos to measure with instead of made ones")
    parser.add_argument(
        "--prepared", type=Path, metavar="DIR", help="the same file names after `clips prepare`; else made"
    )
    parser.add_argument("--quick", action="store_true", help="one clip of each kind, fewer rounds, no 720p")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count this process's processor time: on a busy machine"
    )
    chosen = parser.parse_args()
    clock = time.process_time if chosen.cpu_time else time.perf_counter
    torch.set_num_threads(1)  # as in a worker
    clips = sorted(p for p in chosen.clips.iterdir() if p.is_file()) if chosen.clips else None
    clips = clips or make_bench_clips(Path("data/bench"), quick=chosen.quick)
    kinds = {kind: [str(p) for p in clips if p.name.startswith(kind)] for kind in ("g250_", "g30_", "hd_")}
    if chosen.quick:
        kinds = {kind: paths[:1] for kind, paths in kinds.items() if kind != "hd_"}
    rounds = 3 if chosen.quick else 7
    bench_training(kinds, rounds, clock)
    bench_test(kinds["g250_"], rounds, clock)
    bench_limits(kinds["g250_"], rounds, clock)
    originals = kinds["g250_"] + kinds["g30_"]
    bench_prepared(originals, chosen.prepared or prepare_clips(originals), rounds, clock)
    if not chosen.cpu_time:
        bench_workers(kinds["g250_"], rounds)
        bench_clips_per_video(kinds["g250_"], rounds)


# ---- one process, one thread -----------------------------------------------------------------------------------------


def bench_training(kinds: dict[str, list[str]], rounds: int, clock: Clock) -> None:
    asked = {"g250_": ("GOP 250", 2.3, 2.6), "g30_": ("GOP 30", 3.0, 3.6), "hd_": ("720p", None, None)}
    for augment in (None, RECIPE):
        for kind, paths in kinds.items():
            name, least, goal = asked[kind]
            if augment is not None:
                name, least, goal = f"{name} with RandAugment", None, None
            if paths:
                sides = [(plain_training(path, augment), our_training(path, augment)) for path in paths]
                compare(f"training item {name}", sides, rounds, clock, least, goal)


def bench_test(paths: list[str], rounds: int, clock: Clock) -> None:
    def plain(path: str) -> Callable[[], Tensor]:
        return lambda: load_test_item(path, **SHAPE, **VIEWS)

    def ours(path: str) -> Callable[[], Tensor]:
        views = EvalViews([Listed(path, 0)], **SHAPE, **VIEWS)
        return lambda: normalize_(views[0].clip, CLIP_MEAN, CLIP_STD)

    compare("test item GOP 250", [(plain(path), ours(path)) for path in paths], rounds, clock, 18, 30, num_items=1)


def prepare_clips(paths: list[str]) -> Path:
    """Returns a folder with what `clips prepare` makes of the clips at its defaults, made once."""
    properties = json.loads(Path("configs/coldframe.schema.json").read_text())["properties"]["prepare"]["properties"]
    encoding = Encoding(**{name: key["default"] for name, key in properties.items()})
    digest = hashlib.sha256(repr((encoding, paths)).encode()).hexdigest()[:12]
    folder = Path("data/bench") / f"prepared-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if not (folder / Path(path).name).exists():
            transcode(path, folder / Path(path).name, encoding)
    return folder


def bench_prepared(paths: list[str], prepared: Path, rounds: int, clock: Clock) -> None:
    """The plain way on the originals against ours on the prepared files: other pixels, so nothing is compared."""
    found = [(path, prepared / Path(path).name) for path in paths if (prepared / Path(path).name).exists()]
    sides = [(plain_training(path, None), our_training(str(ready), None)) for path, ready in found]
    compare("after clips prepare", sides, rounds, clock, 6, 10, same=False)


def compare(
    name: str,
    sides: list[tuple[Callable[[], Tensor], Callable[[], Tensor]]],
    rounds: int,
    clock: Clock,
    least: float | None,
    goal: float | None,
    *,
    same: bool = True,
    num_items: int = ITEMS_A_ROUND,
) -> None:
    """Emits the geometric mean over clips of plain over ours, after a look that both give the same clip."""
    ratios, ours_seconds = [], 0.0
    for plain, ours in sides:
        if same:
            torch.testing.assert_close(ours(), plain(), rtol=0, atol=1e-5)
        ways: Ways = {"plain": repeat(plain, num_items), "ours": repeat(ours, num_items)}
        seconds = measure(ways, rounds=rounds, clock=clock)
        ratios.append([p / o for p, o in zip(seconds["plain"], seconds["ours"], strict=True)])
        ours_seconds += statistics.median(seconds["ours"]) / num_items / len(sides)
    means = [math.prod(turn) ** (1 / len(turn)) for turn in zip(*ratios, strict=True)]
    value = Ratio(statistics.median(means), min(means), max(means))
    emit(name, value, least=least, goal=goal, against="decode everything", clips=len(sides), item_seconds=ours_seconds)


def repeat(item: Callable[[], object], times: int) -> Callable[[], object]:
    return lambda: [item() for _ in range(times)]


def plain_training(path: str, augment: str | None) -> Callable[[], Tensor]:
    words = draw_words()
    return lambda: load_training_item(path, next(words), **SHAPE, augment=augment)


def our_training(path: str, augment: str | None) -> Callable[[], Tensor]:
    clips, steps = TrainClips([Listed(path, 0)], **SHAPE, seed=SEED, augment=augment), iter(range(10**9))
    return lambda: normalize_(clips[next(steps), 0, 0].clip, CLIP_MEAN, CLIP_STD)


def draw_words() -> Iterator[list[int]]:
    """Yields what seeds TrainClips' places (step, 0): both sides draw the same clips, another one in every round."""
    for step in range(10**9):
        yield [int(word) for word in np.random.SeedSequence([SEED, step, 0]).generate_state(3)]


# ---- limits ----------------------------------------------------------------------------------------------------------


def bench_limits(paths: list[str], rounds: int, clock: Clock) -> None:
    """What no loader gets below: decoding the packets that the frames need, and moving the clip's bytes once."""
    clip = torch.zeros(3, SHAPE["num_frames"], SHAPE["size"], SHAPE["size"])
    target = torch.empty_like(clip)
    shares: dict[str, list[float]] = {"bare decode of the needed packets": [], "memcpy of the clip": []}
    for path in paths:
        clips, decode = TrainClips([Listed(path, 0)], **SHAPE, seed=SEED), bare_decode(path)
        ways: Ways = {"item": lambda clips=clips: clips[0, 0, 0], "decode": decode, "copy": lambda: target.copy_(clip)}
        seconds = measure(ways, rounds=rounds, clock=clock)
        for share, way in zip(shares.values(), ("decode", "copy"), strict=True):
            share.append(ratio(seconds[way], seconds["item"]).median)
    for name, share in shares.items():
        emit(f"share of a training item: {name}", statistics.fmean(share), clips=len(paths))


def bare_decode(path: str) -> Callable[[], None]:
    """Returns a function that decodes what item (0, 0) of the path needs; packets lie ready, frames are dropped."""
    words = next(draw_words())
    with open_video(path) as (container, stream):
        table = scan(path, container, stream)
        rng = np.random.RandomState(words[0])
        indices = video.training_indices(len(table.order), SHAPE["num_frames"], SHAPE["stride"], rng)
        positions = {table.order[index] for index in indices}
        runs, droppable = video._runs(table, positions), non_reference_test(stream.codec_context)
        needed = [
            [p for i, p in enumerate(table.kept) if first <= i <= last and (i in positions or not droppable(p))]
            for first, last in runs
        ]
        name, extradata = stream.codec_context.name, stream.codec_context.extradata

    def decode() -> None:
        context = CodecContext.create(name, "r")
        context.extradata, context.thread_count = extradata, 1
        for packets in needed:
            for packet in [*packets, None]:
                context.decode(packet)
            context.flush_buffers()

    return decode


# ---- several workers, several clips ----------------------------------------------------------------------------------


class PlainClips(Dataset[Tensor]):
    """The plain items for a DataLoader."""

    def __init__(self, paths: list[str], num_items: int) -> None:
        self._paths, self._num_items = paths, num_items

    def __len__(self) -> int:
        return self._num_items

    def __getitem__(self, place: int) -> Tensor:
        words = [int(word) for word in np.random.SeedSequence([SEED, place]).generate_state(3)]
        return load_training_item(self._paths[place % len(self._paths)], words, **SHAPE)


def bench_workers(paths: list[str], rounds: int) -> None:
    """Clips a second, start of the workers left out: against the plain loader, where both have two, and against one
    worker of ours, where two cores allow two at most, less what the main process takes."""
    ways = {
        "one": lambda: clip_seconds(our_batches(paths, 1, 4, 1)),
        "two": lambda: clip_seconds(our_batches(paths, 2, 4, 1)),
        "plain": lambda: clip_seconds(plain_batches(paths, 2, 4)),
    }
    turns = [{name: way() for name, way in ways.items()} for _ in range(min(rounds, 4))]
    one, two, plain = ([turn[name] for turn in turns] for name in ways)
    emit("videos/s with 2 workers", ratio(plain, two), least=1.9, goal=2.3, against="decode everything with 2 workers")
    emit("2 workers against 1", ratio(one, two), against="ours with 1 worker")


def bench_clips_per_video(paths: list[str], rounds: int) -> None:
    turns = [[clip_seconds(our_batches(paths, 1, 8, each)) for each in (1, 4)] for _ in range(min(rounds, 4))]
    ones, fours = zip(*turns, strict=True)
    emit("4 clips per video", ratio(list(ones), list(fours)), against="1 clip per video, clips a second")


def our_batches(paths: list[str], num_workers: int, batch_size: int, clips_per_video: int) -> Iterable[Tensor]:
    clips = TrainClips([Listed(path, 0) for path in paths], **SHAPE, seed=SEED)
    batches = train_loader(
        clips,
        seed=SEED,
        start_step=0,
        num_steps=7,
        batch_size=batch_size,
        num_workers=num_workers,
        clips_per_video=clips_per_video,
    )
    return (batch.clips for batch in batches)


def plain_batches(paths: list[str], num_workers: int, batch_size: int) -> Iterable[Tensor]:
    return DataLoader(PlainClips(paths, 7 * batch_size), batch_size, num_workers=num_workers)


def clip_seconds(batches: Iterable[Tensor]) -> float:
    """Returns seconds a clip, from the arrival of the second batch to that of the last: until the second one is there,
    workers start and fill their queues."""
    arrivals = []
    for clips in islice(batches, None):
        arrivals.append(time.perf_counter())
        num_clips = len(clips)
    return (arrivals[-1] - arrivals[1]) / ((len(arrivals) - 2) * num_clips)


if __name__ == "__main__":
    if any(name in os.environ for name in ALLOCATOR):  # read when a process starts, so it starts again
        rest = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
        os.execve(sys.executable, [sys.executable, *sys.argv], rest)
    main()
