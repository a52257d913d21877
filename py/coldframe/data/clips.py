# Shapes: N clips, V views (spatial-major), 3 = RGB channels, T frames, H height, W width, S = size (pixels, square)
"""Lists, the order in which clips are drawn, and datasets: each item follows from (seed, step, position) alone."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from coldframe.data.augment import RandAugment, eval_views, training_view
from coldframe.data.labels import Label, read_label
from coldframe.errors import UserError
from coldframe.video.frames import BadVideo, Frames, training_indices, view_indices
from coldframe.video.parts import Part, name_clip
from coldframe.video.torchcodec import choose_reader

Place = tuple[int, int, int]  # (step, position in the batch of all devices, index in the list)


@dataclass(frozen=True)
class Item:
    clip: Tensor | BadVideo
    label: Label
    index: int
    seconds: float


class Batch(NamedTuple):
    """What was asked for, less the bad videos: clips (N, 3, T, S, S) in training, (N, V, 3, T, S, S) in evaluation,
    float32 in 0..255; labels (N,) int64, or of clips with any number of them (N, K) bool; indices (N,) int64."""

    clips: Tensor
    labels: Tensor
    indices: Tensor
    bad: list[BadVideo]


# ---- lists and order -------------------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """A line of a list: a video, or a part of one."""

    path: str
    label: Label
    part: Part | None = None

    @property
    def name(self) -> str:
        """What it is called where a person has to find it."""
        return name_clip(self.path, self.part)


class VideoList(Sequence[Listed]):
    """The clips of a list in normalised form, kept as bytes: workers share them, and a million lines cost the size of
    the file rather than two million Python objects."""

    def __init__(self, data: bytes) -> None:
        self._bytes = np.frombuffer(data, dtype=np.uint8)
        ends = np.flatnonzero(self._bytes == ord("\n"))
        if data and not data.endswith(b"\n"):
            ends = np.append(ends, len(data))
        self._bounds = np.concatenate([[-1], ends])

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> Listed: ...
    @overload
    def __getitem__(self, index: slice) -> list[Listed]: ...
    def __getitem__(self, index: int | slice) -> Listed | list[Listed]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        line = self._bytes[self._bounds[index] + 1 : self._bounds[index + 1]].tobytes()
        path, label, *times = line.decode("utf-8").split("\t")
        return Listed(path, read_label(label), Part.of_seconds(*times) if times else None)

    def labels(self) -> list[Label]:
        """Returns the labels of all clips."""
        return [read_label(line.split(b"\t", 2)[1].decode()) for line in self._bytes.tobytes().split(b"\n") if line]


def read_list(path: str | Path) -> VideoList:
    """Returns the clips of a normalised list: `<path>\\t<label>` a line, of parts of files `\\t<start>\\t<end>` too
    (seconds), UTF-8, no comments."""
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
    scale, shift = scale_and_shift(tuple(mean), tuple(std), clips.device, clips.dtype)
    return torch.addcmul(shift, clips, scale, out=clips)


@lru_cache(maxsize=8)
def scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Returns the constants (3, 1, 1, 1) of `normalize_`, kept: copying them to a GPU would wait for it every time."""
    mean_C, std_C = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    scale, shift = (value.to(device, dtype).reshape(3, 1, 1, 1) for value in (1 / (255 * std_C), -mean_C / std_C))
    return scale, shift


# ---- datasets --------------------------------------------------------------------------------------------------------


class TrainClips(Dataset[Item]):
    """Training clips addressed by (step, position, index): a video drawn twice gives two different clips."""

    def __init__(
        self,
        items: Sequence[Listed],
        *,
        num_frames: int,
        stride: int | None,
        size: int,
        seed: int,
        augment: str | None = None,
        interpolation: str = "bicubic",
        mirror: bool = False,
        repeat_last: bool = False,
        reader: str = "pyav",
        num_labels: int | None = None,
    ) -> None:
        self.items, self.num_labels = items, num_labels
        self.shape = (3, num_frames, size, size)
        self._num_frames, self._stride, self._size, self._seed, self._mirror = num_frames, stride, size, seed, mirror
        self._repeat_last = repeat_last
        self._augment = RandAugment(augment, interpolation) if augment else None
        self._read = choose_reader(reader)
        self._rng = np.random.RandomState()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Place) -> Item:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: list[Place]) -> list[Item]:
        """Returns the items of places, each a function of its place alone. Clips of one video that stand side by side
        (`data.clips_per_video`) are cut from one decoding of it."""
        videos = groupby(places, key=lambda place: (place[0], place[2]))
        return [item for _, clips in videos for item in self._cut_clips(list(clips))]

    def _cut_clips(self, places: list[Place]) -> list[Item]:
        started = time.perf_counter()
        listed = self.items[places[0][2]]
        seeds = [
            [int(word) for word in np.random.SeedSequence([self._seed, step, position]).generate_state(3)]
            for step, position, _ in places
        ]
        picks: list[list[int]] = []

        def choose(num_available: int) -> list[int]:
            return _unite([self._choose_frames(num_available, self._seeded(words[0])) for words in seeds], picks)

        clips: Sequence[Tensor | BadVideo]
        try:
            frames = self._read(listed.path, choose, listed.part)
            clips = [self._view([frames[i] for i in pick], words) for pick, words in zip(picks, seeds, strict=True)]
        except BadVideo as bad:
            clips = [BadVideo(listed.name, bad.reason)] * len(places)
        seconds = (time.perf_counter() - started) / len(places)
        return [Item(clip, listed.label, place[2], seconds) for clip, place in zip(clips, places, strict=True)]

    def _choose_frames(self, num_available: int, rng: np.random.RandomState) -> list[int]:
        return training_indices(num_available, self._num_frames, self._stride, rng, repeat_last=self._repeat_last)

    def _view(self, frames: list[Frames], words: list[int]) -> Tensor:
        rngs = random.Random(words[1]), self._seeded(words[2])
        return training_view(frames, self._size, self._augment, self._mirror, *rngs)

    def _seeded(self, seed: int) -> np.random.RandomState:
        """Returns one and the same generator, seeded anew: making one takes 0.2 ms, a hundred times as long."""
        self._rng.seed(seed)
        return self._rng


def _unite(chosen: list[list[int]], picks: list[list[int]]) -> list[int]:
    """Returns the indices that occur in any list, ascending; picks then say where those of each list stand."""
    needed = sorted({index for indices in chosen for index in indices})
    place_of = {index: place for place, index in enumerate(needed)}
    picks[:] = [[place_of[index] for index in indices] for indices in chosen]
    return needed


class EvalViews(Dataset[Item]):
    """All test views of a video, addressed by its index; no randomness."""

    def __init__(
        self,
        items: Sequence[Listed],
        *,
        num_frames: int,
        stride: int | None,
        size: int,
        spatial_views: int,
        temporal_views: int,
        reader: str = "pyav",
        num_labels: int | None = None,
    ) -> None:
        if spatial_views not in (1, 3):
            raise UserError(f"eval.spatial_views  is {spatial_views}. 1 and 3 are allowed.")
        self.items, self.num_labels = items, num_labels
        self.shape = (spatial_views * temporal_views, 3, num_frames, size, size)
        self._num_frames, self._stride, self._size = num_frames, stride, size
        self._spatial_views, self._temporal_views = spatial_views, temporal_views
        self._read = choose_reader(reader)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        started = time.perf_counter()
        listed = self.items[index]
        views: list[list[int]] = []

        def choose(num_available: int) -> list[int]:
            return _unite(view_indices(num_available, self._num_frames, self._stride, self._temporal_views), views)

        clip: Tensor | BadVideo
        try:
            frames = self._read(listed.path, choose, listed.part)
            clip = eval_views(frames, views, self._size, self._spatial_views)
        except BadVideo as bad:
            clip = BadVideo(listed.name, bad.reason)
        return Item(clip, listed.label, index, time.perf_counter() - started)


class DummyClips(Dataset[Item]):
    """Noise instead of videos (data.dummy), a function of (seed, index); for speed tests. Upstream's are all zero,
    which hides what depends on values. Stands in for either dataset: num_views None gives training clips."""

    def __init__(
        self,
        num_items: int,
        *,
        num_classes: int,
        num_frames: int,
        size: int,
        seed: int,
        num_views: int | None = None,
        num_labels: int | None = None,
    ) -> None:
        clip = (3, num_frames, size, size)
        self.shape = clip if num_views is None else (num_views, *clip)
        self.num_labels = num_labels
        self._num_items, self._num_classes, self._seed = num_items, num_classes, seed

    def __len__(self) -> int:
        return self._num_items

    def __getitem__(self, place: Place | int) -> Item:
        started = time.perf_counter()
        index = place if isinstance(place, int) else place[2]
        word = int(np.random.SeedSequence([self._seed, index]).generate_state(1)[0])
        noise = torch.randint(256, self.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(word))
        return Item(noise.float(), self.label_of(index), index, time.perf_counter() - started)

    def label_of(self, index: int) -> Label:
        """Returns the label of a clip, each class in turn; of several labels a clip has one or two."""
        label = index % self._num_classes
        return label if self.num_labels is None else tuple({label, index // 2 % self._num_classes})
