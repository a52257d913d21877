# Lists, sampling order, clips and their loading.
# Shapes: N clips, V views (spatial-major), 3 = RGB channels, T frames, H height, W width, S = size (pixels, square)
"""Datasets and loaders whose every item is a function of (seed, step, position) and of nothing else."""

from __future__ import annotations

import ctypes
import math
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from coldframe.augment import RandAugment, eval_views, training_view
from coldframe.video import BadVideo, read_frames, training_indices, view_indices

Place = tuple[int, int, int]  # (step, position in the batch of all devices, index in the list)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Item:
    clip: Tensor | BadVideo
    label: int
    index: int
    seconds: float


class Batch(NamedTuple):
    """What was asked for, less the bad videos: clips (N, 3, T, S, S) in training, (N, V, 3, T, S, S) in evaluation,
    float32 in 0..255; labels and indices (N,) int64; bad; item_seconds: time spent in items, over all workers."""

    clips: Tensor
    labels: Tensor
    indices: Tensor
    bad: list[BadVideo]
    item_seconds: float


# ---- lists and order -------------------------------------------------------------------------------------------------


class VideoList(Sequence[tuple[str, int]]):
    """(path, label) pairs of a list in normalised form, kept as bytes: workers share them, and a million lines cost
    the size of the file rather than two million Python objects."""

    def __init__(self, data: bytes) -> None:
        self._bytes = np.frombuffer(data, dtype=np.uint8)
        ends = np.flatnonzero(self._bytes == ord("\n"))
        if data and not data.endswith(b"\n"):
            ends = np.append(ends, len(data))
        self._bounds = np.concatenate([[-1], ends])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> tuple[str, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, int] | list[tuple[str, int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        line = self._bytes[self._bounds[index] + 1 : self._bounds[index + 1]].tobytes()
        path, label = line.decode("utf-8").rsplit("\t", 1)
        return path, int(label)


def read_list(path: str | Path) -> VideoList:
    """Returns the pairs of a normalised list: `<path>\\t<label>` a line, UTF-8, no comments."""
    return VideoList(Path(path).read_bytes())


def sample_order(num_items: int, seed: int, start: int, count: int) -> list[int]:
    """Returns the items of places start..start+count-1 in the endless training order.

    One permutation of all items after the other, as upstream's create_train_loader; seed 0 gives exactly upstream's
    (permutation e from a generator seeded with e). Any place is reached without the ones before.
    """
    order: list[int] = []
    while len(order) < count:
        epoch, place = divmod(start + len(order), num_items)
        order += _epoch_order(num_items, seed, epoch)[place : place + count - len(order)].tolist()
    return order


@lru_cache(maxsize=2)
def _epoch_order(num_items: int, seed: int, epoch: int) -> Tensor:
    mixed = epoch if seed == 0 else int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    return torch.randperm(num_items, generator=torch.Generator().manual_seed(mixed))


def normalize_(clips: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns clips (..., 3, T, H, W), from 0..255 to (clips / 255 - mean) / std, in place and in one pass.

    Upstream normalises before it resizes; both are affine, so the order does not matter and one pass over the batch
    (on the device) replaces several over whole frames.
    """
    mean_C, std_C = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    scale, shift = (
        value.to(clips.device, clips.dtype).reshape(3, 1, 1, 1) for value in (1 / (255 * std_C), -mean_C / std_C)
    )
    return torch.addcmul(shift, clips, scale, out=clips)


# ---- datasets --------------------------------------------------------------------------------------------------------


class TrainClips(Dataset[Item]):
    """Training clips addressed by (step, position, index): a video drawn twice gives two different clips."""

    def __init__(
        self,
        items: Sequence[tuple[str, int]],
        *,
        num_frames: int,
        stride: int | None,
        size: int,
        seed: int,
        augment: str | None = None,
        interpolation: str = "bicubic",
        mirror: bool = False,
        repeat_last: bool = False,
    ) -> None:
        self.items = items
        self.shape = (3, num_frames, size, size)
        self._num_frames, self._stride, self._size, self._seed, self._mirror = num_frames, stride, size, seed, mirror
        self._repeat_last = repeat_last
        self._augment = RandAugment(augment, interpolation) if augment else None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Place) -> Item:
        started = time.perf_counter()
        step, position, index = place
        path, label = self.items[index]
        words = [int(word) for word in np.random.SeedSequence([self._seed, step, position]).generate_state(3)]
        clip: Tensor | BadVideo
        try:
            frames = read_frames(
                path,
                lambda n: training_indices(
                    n, self._num_frames, self._stride, np.random.RandomState(words[0]), repeat_last=self._repeat_last
                ),
            )
            rngs = random.Random(words[1]), np.random.RandomState(words[2])
            clip = training_view(frames, self._size, self._augment, self._mirror, *rngs)
        except BadVideo as bad:
            clip = bad
        return Item(clip, label, index, time.perf_counter() - started)


class EvalViews(Dataset[Item]):
    """All test views of a video, addressed by its index; no randomness."""

    def __init__(
        self,
        items: Sequence[tuple[str, int]],
        *,
        num_frames: int,
        stride: int | None,
        size: int,
        spatial_views: int,
        temporal_views: int,
    ) -> None:
        if spatial_views not in (1, 3):
            raise ValueError(f"eval.spatial_views  is {spatial_views}. 1 and 3 are allowed.")
        self.items = items
        self.shape = (spatial_views * temporal_views, 3, num_frames, size, size)
        self._num_frames, self._stride, self._size = num_frames, stride, size
        self._spatial_views, self._temporal_views = spatial_views, temporal_views

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        started = time.perf_counter()
        path, label = self.items[index]
        views: list[list[int]] = []

        def choose(num_available: int) -> list[int]:
            chosen = view_indices(num_available, self._num_frames, self._stride, self._temporal_views)
            needed = sorted({i for view in chosen for i in view})
            views[:] = [[needed.index(i) for i in view] for view in chosen]
            return needed

        clip: Tensor | BadVideo
        try:
            clip = eval_views(read_frames(path, choose), views, self._size, self._spatial_views)
        except BadVideo as bad:
            clip = bad
        return Item(clip, label, index, time.perf_counter() - started)


class DummyClips(Dataset[Item]):
    """Noise instead of videos (data.dummy), a function of (seed, index); for speed tests. Upstream's are all zero,
    which hides what depends on values. Stands in for either dataset: num_views None gives training clips."""

    def __init__(
        self, num_items: int, *, num_classes: int, num_frames: int, size: int, seed: int, num_views: int | None = None
    ) -> None:
        clip = (3, num_frames, size, size)
        self.shape = clip if num_views is None else (num_views, *clip)
        self._num_items, self._num_classes, self._seed = num_items, num_classes, seed

    def __len__(self) -> int:
        return self._num_items

    def __getitem__(self, place: Place | int) -> Item:
        started = time.perf_counter()
        index = place if isinstance(place, int) else place[2]
        word = int(np.random.SeedSequence([self._seed, index]).generate_state(1)[0])
        noise = torch.randint(256, self.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(word))
        return Item(noise.float(), index % self._num_classes, index, time.perf_counter() - started)


# ---- loaders ---------------------------------------------------------------------------------------------------------


def train_loader(
    clips: TrainClips | DummyClips,
    *,
    seed: int,
    start_step: int,
    num_steps: int,
    batch_size: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Yields one Batch for each of steps start_step..num_steps-1: this rank's slice of batch_size (of all ranks) clips.

    The same bytes for any num_workers and from wherever it starts; torch's global random state is left alone. Closing
    the iterator ends the workers. A batch without a readable video has N = 0.
    """
    if batch_size % world_size:
        raise ValueError(f"train.batch_size  is {batch_size}. It must be a multiple of the {world_size} processes.")
    per_rank = batch_size // world_size

    def batches() -> Iterator[list[Place]]:
        for step in range(start_step, num_steps):
            first = rank * per_rank
            order = sample_order(len(clips), seed, step * batch_size + first, per_rank)
            yield [(step, first + i, index) for i, index in enumerate(order)]

    return _load(clips, batches(), (num_steps - start_step) * per_rank, per_rank, num_workers, pin_memory)


def eval_loader(
    views: EvalViews | DummyClips,
    *,
    batch_size: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Yields Batches of up to batch_size videos, all views of each; every world_size-th video from rank on (upstream
    create_val_loader), each exactly once."""
    mine = range(rank, len(views), world_size)
    batches = (list(mine[i : i + batch_size]) for i in range(0, len(mine), batch_size))
    return _load(views, batches, len(mine), batch_size, num_workers, pin_memory)


def _load(
    dataset: TrainClips | EvalViews | DummyClips,
    batches: Iterable[list[Any]],
    num_places: int,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
) -> Iterator[Batch]:
    """Yields whole batches, each decoded by all workers together: the first is there sooner, and what lies ready is
    about two batches rather than two per worker."""
    chunk = math.ceil(batch_size / max(1, num_workers))
    loader = DataLoader(
        dataset,
        batch_sampler=(batch[i : i + chunk] for batch in batches for i in range(0, len(batch), chunk)),  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=partial(_collate, dataset.shape),
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else the loader draws from the global one, and a trial's dropout would follow
    )
    parts: list[Batch] = []
    for part in loader:
        parts.append(part)
        num_seen = sum(len(part.labels) + len(part.bad) for part in parts)
        if num_seen == min(batch_size, num_places):
            yield _join(parts, pin_memory)
            parts, num_places = [], num_places - num_seen


def _collate(shape: tuple[int, ...], items: list[Item]) -> Batch:
    good = [(item.clip, item.label, item.index) for item in items if isinstance(item.clip, Tensor)]
    clips = torch.stack([clip for clip, _, _ in good]) if good else torch.empty(0, *shape)
    return Batch(
        clips,
        torch.tensor([label for _, label, _ in good], dtype=torch.int64),
        torch.tensor([index for _, _, index in good], dtype=torch.int64),
        [item.clip for item in items if isinstance(item.clip, BadVideo)],
        sum(item.seconds for item in items),
    )


def _join(parts: list[Batch], pin_memory: bool) -> Batch:
    clips, labels, indices = (
        torch.cat(column) if len(parts) > 1 else column[0]
        for column in ([p.clips for p in parts], [p.labels for p in parts], [p.indices for p in parts])
    )
    if pin_memory:
        clips, labels, indices = clips.pin_memory(), labels.pin_memory(), indices.pin_memory()
    return Batch(clips, labels, indices, [b for p in parts for b in p.bad], sum(p.item_seconds for p in parts))


def _start_worker(worker_id: int) -> None:
    """Leaves interrupts to the main process (Ctrl-C reaches the whole process group), and dies with it.

    Linux counts the thread that started the worker as its parent: start loaders from a thread that lasts.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
