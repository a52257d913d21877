"""Computes a feature cache from videos: what it will cost, then shard by shard, going on where it stopped."""

# Shapes: N clips, V views, S stored numbers of a clip, C = 3 channels, T frames, H, W pixels

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from coldframe.assembly import batches, models
from coldframe.cache.manifest import (
    STORED_DTYPES,
    Layout,
    Manifest,
    Part,
    Shard,
    describe_key,
    describe_parts,
    read_manifest,
)
from coldframe.cache.parts import Share, describe_sizes, refuse_other
from coldframe.cache.passes import Passes
from coldframe.cache.read import StoredFeatures
from coldframe.cache.shards import Writer, count_limit, join_pieces, name_shard, read_items, verify, write_shard
from coldframe.data.clips import Batch, DummyClips, EvalViews, Item, TrainClips
from coldframe.data.loader import eval_loader, to_device
from coldframe.data.source import describe_source
from coldframe.errors import UserError
from coldframe.machine import environment
from coldframe.machine.device import choose_device, choose_precision
from coldframe.machine.lock import RunLock
from coldframe.settings import Settings
from coldframe.video.frames import BadVideo

# What a kill leaves of ours; a folder may hold other files of that ending.
_LEFTOVER = re.compile(r"(train|val-[0-9a-f]{12})-\d{8}\.safetensors\.partial|features\.json\.partial")
NUM_MEASURED = 4  # videos that the forecast tries


class Records(Dataset[Item]):
    """The records from `first` on as the loader sees them: `item.index` is the record's number."""

    def __init__(self, clips: TrainClips | EvalViews | DummyClips, records: range, num_train_views: int | None) -> None:
        self.shape, self.num_labels = clips.shape, clips.num_labels
        self._clips, self._records, self._num_train_views = clips, records, num_train_views

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, place: int) -> Item:
        record = self._records[place]
        if self._num_train_views is None:
            item = self._clips[record]  # type: ignore[index]
        else:  # a view's draws are those of step `view`, position `index`: a function of (data.seed, view, index)
            index, view = divmod(record, self._num_train_views)
            item = self._clips[view, index, index]  # type: ignore[index]
        return replace(item, index=record)


# Training stands above this room: it gives a function of the rows of a pass, which gives a step on them.
TrainOn = Callable[["Extraction", Tensor], Callable[[], object]]


class Extraction:
    """A cache that is being built."""

    def __init__(self, settings: Settings, lists: dict[str, str | None], share: Share | None = None) -> None:
        """Raises UserError when the folder, or that of its share, holds a cache of something else."""
        assert settings.data.features is not None
        self._whole, self._share = Path(settings.data.features), share
        self.folder, self.lists = self._whole if share is None else share.folder, lists
        self.settings = replace(settings, data=replace(settings.data, clips_per_video=1))  # each view by itself
        self.device = torch.device(choose_device(settings.launch.device))
        self.precision, self.notes = choose_precision(settings.train.precision, str(self.device))
        self.backbone, self._backbone_sha256, more = models.build_backbone(settings, self.device, self.precision)
        self.notes += more
        self.manifest = self._take_up(self.folder)
        self.layout = self.manifest.layout
        self.passes = Passes(self.settings, self.layout, self.backbone, self.device, self.precision)
        self._wanted = self._find_wanted()
        self.new_bad: list[tuple[str, BadVideo]] = []  # with the list of each
        self._rows: npt.NDArray[Any] = np.empty((0, 0))  # of a shard, the first `_num_pending` of them are computed
        self._sources = np.empty((0, 3), np.int64)  # of what video each of them is
        self._flush_rows: Callable[[], None] = lambda: None
        self._num_pending, self._num_writing = 0, 0
        self._writer = Writer()
        self._seconds = {"decode": 0.0, "compute": 0.0, "write": 0.0}  # waited for each
        self._began, self._num_encoded = 0.0, 0
        self._work: Iterator[None] | None = None
        self._lock: RunLock | None = None

    @property
    def clips_a_pass(self) -> int:
        return self.passes.clips_a_pass

    def _take_up(self, folder: Path) -> Manifest:
        wanted = self._describe_wanted()
        self._names = list(wanted.parts)
        have = read_manifest(folder)
        if have is None:
            return wanted
        refuse_other(folder, have, wanted)
        return replace(have, parts=wanted.parts | have.parts)

    def _describe_wanted(self) -> Manifest:
        key, parts = describe_key(self.settings, self._backbone_sha256), describe_parts(self.settings, self.lists)
        return Manifest(Layout.of(self.settings), key, self.precision, parts)

    def _find_wanted(self) -> dict[str, list[range]]:
        """Returns the records to compute of each list, done or not; of a share what the whole cache lacks."""
        if self._share is None:
            return {role: [range(part.num_records)] for role, part in self.parts.items()}
        wanted = {}
        for role, part in self._take_up(self._whole).by_role(self._names).items():
            limit = count_limit(part, self.layout.clip_bytes, self.passes.most_clips)
            mine = self._share.of(part.num_records, limit, max(1, self.passes.most_clips // part.num_views))
            wanted[role] = [both for gap in part.gaps() if (both := _intersect(gap, mine))]
        return wanted

    def _find_missing(self, role: str) -> list[range]:
        gaps = list(self.parts[role].gaps())
        return [both for wanted in self._wanted[role] for gap in gaps if (both := _intersect(gap, wanted))]

    def stored_features(self) -> StoredFeatures:
        """Returns what training reads the rows with."""
        return StoredFeatures(self.layout, self.backbone)

    @property
    def parts(self) -> dict[str, Part]:
        """The parts to build, train and val; the cache may hold others."""
        return self.manifest.by_role(self._names)

    # --- forecast ---

    def forecast(self, progress: Callable[[], None], train_on: TrainOn) -> dict[str, Any]:
        """Returns bytes (whole, and still to be built), the free disk's, and seconds measured on a few of the clips;
        None for the seconds when everything is built. `train_on` gives a step on rows, to be timed."""
        sizes = describe_sizes(self.folder, self.layout, self.parts)
        missing = sum(part.num_missing * part.num_views for part in self.parts.values())
        return {
            **sizes,
            "seconds": self._measure(missing, progress, train_on) if missing else None,
            "notes": self.notes,
        }

    def _measure(self, num_missing: int, progress: Callable[[], None], train_on: TrainOn) -> dict[str, Any]:
        """Returns seconds to build what is missing, and seconds of a training epoch without and with the cache."""
        clips, item_seconds = self._try_clips()
        stored, pass_seconds = self._time(lambda: self.passes.encode(clips), progress)
        _, step_seconds = self._time(train_on(self, stored), progress)
        num_cpus = environment.count_cpus()
        workers = max(1, environment.count_workers(self.settings.data.num_workers))
        decode, encode, ready = item_seconds / workers, pass_seconds / len(clips), step_seconds / len(clips)
        # Decoding runs beside a GPU, and takes its share of the cores that a CPU computes on.
        clip = max(decode, encode) if self.device.type == "cuda" else item_seconds / num_cpus + encode
        live = max(decode, encode + ready) if self.device.type == "cuda" else clip + ready
        train = self.parts.get("train")
        num_videos = 0 if train is None else train.num_records // self.settings.features.train_views
        build_seconds, saved = num_missing * clip, num_videos * (live - ready)
        return {
            "build": build_seconds,
            "epoch_without": num_videos * live,
            "epoch_with": num_videos * ready,
            "pay_back_epochs": build_seconds / saved if saved > 0 else None,
            "measured_clips": len(clips),
        }

    def _try_clips(self) -> tuple[Tensor, float]:
        """Returns clips (N, C, T, H, W), 0..255, of a few videos spread over the list, and the seconds of one."""
        name = "train" if "train" in self.parts else "val"
        records = self._dataset(name, range(self.parts[name].num_records))
        picks = sorted({len(records) * (2 * i + 1) // (2 * NUM_MEASURED) for i in range(NUM_MEASURED)})
        items = [records[pick] for pick in picks]
        good = [item for item in items if isinstance(item.clip, Tensor)]
        if not good:
            raise UserError(f"{items[0].clip}. None of {len(items)} videos that were tried could be read.")
        clips = torch.cat([item.clip.view(-1, *item.clip.shape[-4:])[:1] for item in good])  # type: ignore[union-attr]
        return clips[: self.clips_a_pass], sum(item.seconds for item in good) / len(good)

    def _time(self, work: Callable[[], Any], progress: Callable[[], None]) -> tuple[Any, float]:
        work()  # imports and allocations of the first time
        self._wait()
        progress()
        started = time.perf_counter()
        result = work()
        self._wait()
        progress()
        return result, time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    # --- build ---

    def advance(self, seconds: float, progress: Callable[[], None]) -> dict[str, Any]:
        """Returns how far the cache, or its share, is after about `seconds` more, at least a pass, and the unreadable
        videos met; clips a second, and the seconds that were spent waiting for videos, for passes and for the disk."""
        if self._work is None:
            self._lock = RunLock(self.folder, "data.features")
            self.manifest = self._take_up(self.folder)  # again: another process may have built since
            self._wanted = self._find_wanted()
            self._work = self._build()
        self.new_bad, end = [], time.monotonic() + seconds
        while True:
            done = next(self._work, self) is self
            progress()
            if done or time.monotonic() >= end:
                break
        num_total = sum(len(records) for wanted in self._wanted.values() for records in wanted)
        num_missing = sum(len(records) for role in self.parts for records in self._find_missing(role))
        elapsed = time.perf_counter() - self._began
        return {
            "done": done,
            "num_done": num_total - num_missing + self._num_pending + self._num_writing,
            "num_total": num_total,
            "num_videos": {"train": 0, "val": 0} | {name: self._num_videos(name) for name in self.parts},
            "num_bad": sum(len(part.bad) for part in self.parts.values()),
            "bad": [{"list": name, "path": video.path, "reason": video.reason} for name, video in self.new_bad],
            "clips_per_second": self._num_encoded / elapsed if self._num_encoded else None,
            "waited_seconds": dict(self._seconds),
            "most_clips": self.passes.most_clips,
        }

    def _num_videos(self, name: str) -> int:
        num_views = self.settings.features.train_views if name == "train" else 1
        return self.parts[name].num_records // num_views

    def _build(self) -> Iterator[None]:
        for role, part in self.parts.items():
            yield from verify(self.folder, part, read_items(self.lists, role))
        self.new_bad += self._known_bad()
        for leftover in self.folder.glob("*.partial"):
            if _LEFTOVER.fullmatch(leftover.name):
                leftover.unlink()
        self.manifest.write(self.folder)
        self._began = time.perf_counter()
        for role in self.parts:
            for gap in self._find_missing(role):
                yield from self._fill(role, gap)
        self.flush()
        if self._share is None:
            for name in self._names:
                yield from join_pieces(self.folder, self.manifest, name, self._count_limit(self.manifest.parts[name]))

    def _count_limit(self, part: Part) -> int:
        return count_limit(part, self.layout.clip_bytes, self.passes.most_clips)

    def _known_bad(self) -> list[tuple[str, BadVideo]]:
        """Returns what an earlier start found unreadable, so that limits hold over all of them."""
        found = []
        for name, part in self.parts.items():
            items, num_views = read_items(self.lists, name), part.num_records // self._num_videos(name)
            for record, reason in part.bad.items():
                found.append((name, BadVideo(items[record // num_views].name, reason)))
        return found

    def _dataset(self, name: str, records: range) -> Records:
        items = read_items(self.lists, name)
        if name == "train":
            return Records(batches.training_clips(self.settings, items), records, self.settings.features.train_views)
        return Records(batches.evaluation_clips(self.settings, items), records, None)

    def _fill(self, name: str, gap: range) -> Iterator[None]:
        """Computes the records of a gap; yields after every pass. While a pass is computed, the videos of the next one
        are decoded and brought to a GPU, the rows of the one before are taken up, and a shard is written."""
        part = self.parts[name]
        records_a_pass = max(1, self.clips_a_pass // part.num_views)
        dataset = cast(EvalViews, self._dataset(name, gap))  # a loader asks for length, items and shape
        num_workers = environment.count_workers(self.settings.data.num_workers)
        is_gpu = self.device.type == "cuda"
        loaded = eval_loader(dataset, batch_size=records_a_pass, num_workers=num_workers, pin_memory=is_gpu)
        coming = to_device(loaded, self.device)
        waiting: Callable[[], None] | None = None
        for start in range(gap.start, gap.stop, records_a_pass):
            batch = self._timed("decode", partial(next, coming))
            records = range(start, min(start + records_a_pass, gap.stop))
            begun = self._begin_pass(name, records, batch, gap)
            if waiting is not None:
                waiting()
            waiting = begun
            yield
        if waiting is not None:
            waiting()
        assert next(coming, None) is None, "the loader gave more than was asked for"

    def _begin_pass(self, name: str, records: range, batch: Batch, gap: range) -> Callable[[], None]:
        """Returns what takes up the rows of these records, once they are there."""
        rows_of = None
        if len(batch.indices):
            clips = batch.clips.view(-1, *batch.clips.shape[-4:])
            rows_of = self._timed("compute", lambda: self.passes.start(clips))
        good, bad = (batch.indices.cpu() - records.start).tolist(), batch.bad
        return lambda: self._take(name, records, good, bad, rows_of, gap)

    def _take(
        self,
        name: str,
        records: range,
        good: list[int],
        bad: list[BadVideo],
        rows_of: Callable[[], Tensor] | None,
        gap: range,
    ) -> None:
        part = self.parts[name]
        if self._num_pending == 0:
            self._begin_shard(name, records.start, gap)
        missing = sorted(set(range(len(records))) - set(good))
        rows = self._rows[self._num_pending : self._num_pending + len(records)]
        rows[missing] = 0
        items, num_views = read_items(self.lists, name), part.num_records // self._num_videos(name)
        for place, record in enumerate(records):
            self._sources[self._num_pending + place] = describe_source(items[record // num_views].path)
        if rows_of is not None:
            rows[good] = self._timed("compute", rows_of).reshape(len(good), -1).numpy()
        part.bad.update((records[i], video.reason) for i, video in zip(missing, bad, strict=True))
        self.new_bad += [(name, video) for video in bad]
        self._num_pending += len(records)
        self._num_encoded += len(records) * part.num_views
        if self._num_pending == len(self._rows):
            self._flush_rows()

    def _begin_shard(self, name: str, first: int, gap: range) -> None:
        """Makes room for the rows up to the next place where a shard begins."""
        part = self.parts[name]
        limit = self._count_limit(part)
        end = min(first // limit * limit + limit, gap.stop)
        shape = (end - first, part.num_views * self.layout.numbers)
        self._rows = np.empty(shape, STORED_DTYPES[self.layout.precision])
        self._sources = np.empty((shape[0], 3), np.int64)
        self._flush_rows = partial(self._write, name, first)

    def _write(self, name: str, first: int) -> None:
        """Begins to write the pending rows as a shard, be it a short one; it is noted when it is there."""
        part = self.parts[name]
        rows, sources = self._rows[: self._num_pending], self._sources[: self._num_pending]
        key = next(key for key in self._names if self.manifest.parts[key] is part)
        write = partial(write_shard, self.folder / name_shard(key, first), first, rows, sources)
        self._timed("write", partial(self._writer.submit, write, partial(self._note, part)))
        self._num_pending, self._num_writing = 0, len(rows)

    def _note(self, part: Part, shard: Shard) -> None:
        part.shards = sorted([*part.shards, shard], key=lambda shard: shard.first)
        self._num_writing = 0
        self.manifest.write(self.folder)

    def _timed(self, what: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        try:
            return work()
        finally:
            self._seconds[what] += time.perf_counter() - started

    def flush(self) -> None:
        """Writes what is computed as a shard, be it a short one, and waits until it is noted."""
        if self._num_pending:
            self._flush_rows()
        self._timed("write", self._writer.wait)

    def close(self) -> None:
        """Ends the loader's workers and lets the next builder in."""
        self._work = None
        self._writer.close()
        if self._lock is not None:
            self._lock.release()


def _intersect(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))
