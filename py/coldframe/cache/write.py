"""Computes a feature cache from videos: what it will cost, then shard by shard, going on where it stopped."""

# Shapes: N clips, V views, S stored numbers of a clip, C = 3 channels, T frames, H, W pixels

from __future__ import annotations

import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from torch import Tensor
from torch.utils.data import Dataset

from coldframe.assembly import batches, models
from coldframe.assembly.forecast import count_pass
from coldframe.backbones.interface import run_blocks
from coldframe.backbones.shape import Wants
from coldframe.cache.manifest import (
    STORED_DTYPES,
    Layout,
    Manifest,
    Part,
    Shard,
    describe_key,
    describe_parts,
    find_differences,
    read_manifest,
)
from coldframe.cache.read import StoredFeatures, find_replaced_records
from coldframe.data.clips import DummyClips, EvalViews, Item, TrainClips, normalize_, read_list
from coldframe.data.loader import eval_loader
from coldframe.data.source import describe_source
from coldframe.errors import UserError
from coldframe.machine import environment
from coldframe.machine.device import choose_device, choose_precision
from coldframe.machine.files import hash_file, writing
from coldframe.machine.lock import RunLock
from coldframe.machine.precision import autocast
from coldframe.settings import Settings
from coldframe.video.frames import BadVideo

SHARD_BYTES = 256 * 2**20
# Clips of one backbone pass, as many as keep a device busy; passes begin at multiples of it, so that a record's bytes
# do not depend on where a build was interrupted. A GPU with less memory takes fewer.
CLIPS_A_PASS = {"cpu": 2, "cuda": 16}
USABLE_MEMORY = 0.8  # of what is free on a GPU: the forecast of a pass is near, not exact
# What a kill leaves of ours; a folder may hold other files of that ending.
_LEFTOVER = re.compile(r"(train|val)-[0-9a-f]{12}-\d{8}(\.safetensors)?\.partial|features\.json\.partial")
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

    def __init__(self, settings: Settings, lists: dict[str, str | None]) -> None:
        """Raises UserError when the folder holds a cache of something else."""
        assert settings.data.features is not None
        self.folder, self.lists = Path(settings.data.features), lists
        self.settings = replace(settings, data=replace(settings.data, clips_per_video=1))  # each view by itself
        self.device = torch.device(choose_device(settings.launch.device))
        self.precision, self.notes = choose_precision(settings.train.precision, str(self.device))
        self.backbone, self._backbone_sha256, more = models.build_backbone(settings, self.device, self.precision)
        self.notes += more
        self.manifest = self._take_up()
        self.layout = self.manifest.layout
        self.clips_a_pass = settings.features.batch_size or self._fit_pass()
        self.new_bad: list[tuple[str, BadVideo]] = []  # with the list of each
        self._part = ""  # whose rows `_rows` takes up, the first `_num_pending` of which no shard holds yet
        self._rows: npt.NDArray[Any] = np.empty((0, 0))
        self._sources = np.empty((0, 3), np.int64)  # of what video each of them is
        self._num_pending = 0
        self._work: Iterator[None] | None = None
        self._lock: RunLock | None = None

    def _fit_pass(self) -> int:
        if self.device.type == "cpu":
            return CLIPS_A_PASS["cpu"]
        free = environment.describe_memory(self.device)["free_bytes"]
        return choose_pass(self.settings, self.precision, int(USABLE_MEMORY * free))

    def _take_up(self) -> Manifest:
        key, parts = describe_key(self.settings, self._backbone_sha256), describe_parts(self.settings, self.lists)
        self._names = list(parts)
        wanted = Manifest(Layout.of(self.settings), key, self.precision, parts)
        have = read_manifest(self.folder)
        if have is None:
            return wanted
        differences = find_differences(have, wanted)
        if differences:
            lines = "\n  ".join(differences)
            raise UserError(
                f"data.features  {self.folder} holds a cache of another configuration:\n  {lines}\n"
                "Give another folder, take the cache's values, or remove the folder to build it anew."
            )
        return replace(have, parts=parts | have.parts)

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
        parts, clip_bytes = self.parts, self.layout.clip_bytes
        sizes = {name: part.num_records * part.num_views * clip_bytes for name, part in parts.items()}
        missing = {name: part.num_missing * part.num_views for name, part in parts.items()}
        remaining = sum(missing.values()) * clip_bytes
        free = shutil.disk_usage(_existing(self.folder)).free
        return {
            "folder": str(self.folder),
            "form": self.layout.form,
            "precision": self.layout.precision,
            "num_layers": self.layout.num_layers,
            "clip_bytes": clip_bytes,
            "num_clips": {name: part.num_records * part.num_views for name, part in parts.items()},
            "bytes": {**{"train": 0, "val": 0}, **sizes, "total": sum(sizes.values())},
            "remaining_bytes": remaining,
            "free_bytes": free,
            "fits": remaining <= free,
            "seconds": self._measure(sum(missing.values()), progress, train_on) if remaining else None,
            "notes": self.notes,
        }

    def _measure(self, num_missing: int, progress: Callable[[], None], train_on: TrainOn) -> dict[str, Any]:
        """Returns seconds to build what is missing, and seconds of a training epoch without and with the cache."""
        clips, item_seconds = self._try_clips()
        stored, pass_seconds = self._time(lambda: self._encode(clips), progress)
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
        """Returns how far the cache is after about `seconds` more, at least a pass, and the unreadable videos met."""
        if self._work is None:
            self._lock = RunLock(self.folder, "data.features")
            self.manifest = self._take_up()  # again: another process may have built since
            self._work = self._build()
        self.new_bad, end = [], time.monotonic() + seconds
        while True:
            done = next(self._work, self) is self
            progress()
            if done or time.monotonic() >= end:
                break
        parts = self.parts.values()
        return {
            "done": done,
            "num_done": sum(part.num_records - part.num_missing for part in parts) + self._num_pending,
            "num_total": sum(part.num_records for part in parts),
            "num_videos": {"train": 0, "val": 0} | {name: self._num_videos(name) for name in self.parts},
            "num_bad": sum(len(part.bad) for part in parts),
            "bad": [{"list": name, "path": video.path, "reason": video.reason} for name, video in self.new_bad],
        }

    def _num_videos(self, name: str) -> int:
        num_views = self.settings.features.train_views if name == "train" else 1
        return self.parts[name].num_records // num_views

    def _build(self) -> Iterator[None]:
        yield from self._verify()
        self.new_bad += self._known_bad()
        for leftover in self.folder.glob("*.partial"):
            if _LEFTOVER.fullmatch(leftover.name):
                leftover.unlink()
        self.manifest.write(self.folder)
        for name, part in self.parts.items():
            for gap in list(part.gaps()):
                yield from self._fill(name, gap)

    def _known_bad(self) -> list[tuple[str, BadVideo]]:
        """Returns what an earlier start found unreadable, so that limits hold over all of them."""
        found = []
        for name, part in self.parts.items():
            items, num_views = read_list(str(self.lists[name])), part.num_records // self._num_videos(name)
            for record, reason in part.bad.items():
                found.append((name, BadVideo(items[record // num_views].name, reason)))
        return found

    def _verify(self) -> Iterator[None]:
        """Drops shards whose bytes are not those that were written, or whose videos have become others: they are built
        again."""
        for name, part in self.parts.items():
            for shard in list(part.shards):
                file = self.folder / shard.file
                if not file.is_file() or hash_file(file) != shard.sha256:
                    part.drop(shard)
                yield
            replaced = find_replaced_records(self.folder, part, read_list(str(self.lists[name])))
            for shard in list(part.shards):
                if any(shard.first <= record < shard.first + shard.num_records for record in replaced):
                    part.drop(shard)
            yield

    def _dataset(self, name: str, records: range) -> Records:
        list_file = self.lists[name]
        assert list_file is not None
        items = read_list(list_file)
        if name == "train":
            return Records(batches.training_clips(self.settings, items), records, self.settings.features.train_views)
        return Records(batches.evaluation_clips(self.settings, items), records, None)

    def _fill(self, name: str, gap: range) -> Iterator[None]:
        """Computes the records of a gap; yields after every pass."""
        part = self.parts[name]
        records_a_pass = max(1, self.clips_a_pass // part.num_views)
        limit = max(1, SHARD_BYTES // (part.num_views * self.layout.clip_bytes * records_a_pass)) * records_a_pass
        shape = (min(limit, len(gap)), part.num_views * self.layout.numbers)
        self._part, self._rows, self._num_pending = name, np.empty(shape, STORED_DTYPES[self.layout.precision]), 0
        self._sources = np.empty((shape[0], 3), np.int64)
        items, num_views = read_list(str(self.lists[name])), part.num_records // self._num_videos(name)
        dataset = cast(EvalViews, self._dataset(name, gap))  # a loader asks for length, items and shape
        num_workers = environment.count_workers(self.settings.data.num_workers)
        loaded = eval_loader(dataset, batch_size=records_a_pass, num_workers=num_workers)
        for start, batch in zip(range(gap.start, gap.stop, records_a_pass), loaded, strict=True):
            num_records = min(records_a_pass, gap.stop - start)
            good = (batch.indices - start).tolist()
            missing = sorted(set(range(num_records)) - set(good))
            rows = self._rows[self._num_pending : self._num_pending + num_records]
            rows[missing] = 0
            for i in range(num_records):
                source = describe_source(items[(start + i) // num_views].path)
                self._sources[self._num_pending + i] = source
            if good:
                encoded_NS = self._encode(batch.clips.view(-1, *batch.clips.shape[-4:]))
                rows[good] = encoded_NS.reshape(len(good), -1).numpy()
            part.bad.update((start + i, video.reason) for i, video in zip(missing, batch.bad, strict=True))
            self.new_bad += [(name, video) for video in batch.bad]
            self._num_pending += num_records
            if self._num_pending == len(self._rows) or start + num_records == gap.stop:
                self.flush()
            yield

    def _encode(self, clips_NCTHW: Tensor) -> Tensor:
        """Returns rows (N, S) on the CPU, in the cache's precision. A GPU that has not the memory that it had takes
        smaller passes."""
        while True:
            try:
                return self._encode_passes(clips_NCTHW)
            except torch.OutOfMemoryError:
                if self.device.type == "cpu" or self.clips_a_pass == 1:
                    raise
            torch.cuda.empty_cache()
            self.clips_a_pass //= 2

    @torch.no_grad()
    def _encode_passes(self, clips_NCTHW: Tensor) -> Tensor:
        rows = []
        for part in clips_NCTHW.split(self.clips_a_pass):  # type: ignore[no-untyped-call]
            clips = normalize_(part.to(self.device, copy=True), self.settings.data.mean, self.settings.data.std)
            with autocast(self.device, self.precision):
                tensors = self._stored_tensors(clips)
            numbers = torch.cat([tensor.reshape(len(part), -1) for tensor in tensors], dim=1)
            rows.append(numbers.to(torch.float16 if self.layout.precision == "fp16" else torch.float32).cpu())
        rows_NS = torch.cat(rows)
        if not rows_NS.isfinite().all():
            raise UserError("features.precision  is fp16, and a feature is too large for it. Set fp32.")
        return rows_NS

    def _stored_tensors(self, clips_NCTHW: Tensor) -> list[Tensor]:
        """Returns what a row is made of, earliest layer first: of layers their tokens and relations, or the tokens that
        enter layers, which the layers before give. The backbone runs as far as that takes."""
        backbone, layout = self.backbone, self.layout
        if layout.form == "maps":
            layers = backbone(clips_NCTHW, Wants.last(layout.num_layers, layout.has_maps))
            return [tensor for layer in layers.values() for tensor in (layer.tokens_NTLC, *(layer.relations or ()))]
        first = -layout.num_layers - 1
        wants = Wants(frozenset(range(first, first + len(layout.shapes))))
        layers = run_blocks(backbone, backbone.enter(clips_NCTHW), backbone.num_layers, wants)
        return [layer.tokens_NTLC for layer in layers.values()]

    def flush(self) -> None:
        """Writes what is computed as a shard, be it a short one, and then notes it."""
        rows = self._rows[: self._num_pending]
        if not len(rows):
            return
        part = self.parts[self._part]
        first, name = next(part.gaps()).start, next(name for name in self._names if self.manifest.parts[name] is part)
        file = self.folder / f"{name}-{first:08d}.safetensors"
        checksums = np.array([zlib.crc32(row.data.cast("B")) for row in rows], dtype=np.int64)
        with writing(file) as partial:
            sources = self._sources[: self._num_pending]
            save_file({"clips": rows, "crc32": checksums, "sources": sources}, partial)
            partial.chmod(0o644)  # safetensors writes for the owner alone
            shard = Shard(file.name, first, len(rows), partial.stat().st_size, hash_file(partial))
        part.shards = sorted([*part.shards, shard], key=lambda shard: shard.first)
        self._num_pending = 0
        self.manifest.write(self.folder)

    def close(self) -> None:
        """Ends the loader's workers and lets the next builder in."""
        self._work = None
        if self._lock is not None:
            self._lock.release()


def choose_pass(settings: Settings, precision: str, free_bytes: int) -> int:
    """Returns the clips of a pass that fit into so many bytes, a power of two so that it hangs on little; at least
    one."""
    size = CLIPS_A_PASS["cuda"]
    while size > 1 and count_pass(settings, size, precision) > free_bytes:
        size //= 2
    return size


def _existing(folder: Path) -> Path:
    """Returns the folder or the nearest one above that exists: the disk it will lie on."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
