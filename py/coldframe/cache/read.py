"""Reads a feature cache in the place of the backbone: what trials need of every clip was stored once.

A cache is a folder: `features.json` (manifest.py) and shards, safetensors files with `clips` (a row a record) and
`crc32`. Record r of part `train` is view r % V of clip r // V; record r of part `val` is video r, its views in a row.
"""

# Shapes: N clips, V views, S stored numbers of a clip; tokens (N, T, L, C) as in backbones/interface.py

from __future__ import annotations

import bisect
import json
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import RawIOBase
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from coldframe.assembly import batches
from coldframe.backbones.interface import Backbone, Layer, Norm, Relations, run_blocks
from coldframe.backbones.shape import Wants
from coldframe.cache.manifest import (
    Layout,
    Manifest,
    Part,
    describe_key,
    describe_parts,
    find_differences,
    read_manifest,
)
from coldframe.data.clips import Batch, Listed, VideoList, read_list
from coldframe.data.labels import stack_labels
from coldframe.data.source import Source, find_replaced
from coldframe.errors import UserError
from coldframe.machine import ranks
from coldframe.machine.environment import count_cpus
from coldframe.settings import Settings
from coldframe.video.frames import BadVideo

Rows = npt.NDArray[Any]
BATCHES_AHEAD = 1
_MEND = "`coldframe features build` mends the cache."
# Threads: they wait for the disk, copy or compute checksums, all without Python's lock.
NUM_READERS = max(4, min(16, count_cpus()))


class StoredFeatures(nn.Module):
    """Takes the backbone's place in a cohort: from stored rows to the layers that the backbone would give.

    Keeps only the blocks that have to run again: none for `maps`.
    """

    def __init__(self, layout: Layout, backbone: Backbone) -> None:
        super().__init__()
        self.layout = layout
        self.shape = backbone.shape(layout.num_frames)
        self.tail = backbone.tail(0 if layout.form == "maps" else layout.num_layers)

    def forward(self, stored_NS: Tensor, wants: Wants) -> dict[int, Layer]:
        """Returns the wanted layers, earliest first, in float32."""
        rows = self.layout.split(stored_NS)
        if self.layout.form == "maps":
            norm = self.tail.final_norm if wants.final_norm else None
            return {i: self._read(rows[i], wants.relations, norm) for i in sorted(wants.layers)}
        if self.layout.form == "inputs":
            return self._from_inputs([row[0] for row in rows[-wants.depth :]], wants)
        return run_blocks(self.tail, self._enter(rows[0][0]), self.layout.num_layers, wants)

    def _read(self, row: list[Tensor], relations: bool, norm: Norm | None) -> Layer:
        tokens, *maps = (part.to(torch.float32).contiguous() for part in (row if relations else row[:1]))
        return Layer(tokens, Relations(*maps) if maps else None, self.shape, norm)

    def _from_inputs(self, inputs: list[Tensor], wants: Wants) -> dict[int, Layer]:
        """A layer's output is the next one's input, so only the last block runs; relations take less of the others."""
        layers = {}
        for i, (x_NTLC, next_NTLC) in enumerate(pairwise(inputs), -len(inputs)):
            if i in wants.layers:
                relations = self.tail.relate(i, self._enter(x_NTLC)) if wants.relations else None
                norm = self.tail.final_norm if wants.final_norm else None
                layers[i] = Layer(next_NTLC.to(torch.float32).contiguous(), relations, self.shape, norm)
        last = replace(wants, layers=frozenset({-1}))  # what enters the last block is a layer already
        return layers | run_blocks(self.tail, self._enter(inputs[-1]), 1, last)

    def _enter(self, x_NTLC: Tensor) -> Tensor:
        """Returns x in the blocks' precision; a copy, as blocks may work in place."""
        return x_NTLC.to(self.tail.dtype, copy=True)


class Cache:
    """A whole cache that fits the configuration, ready to be read; of its parts, those of the lists in use."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.layout = manifest.layout
        self._shards: dict[str, _Header] = {}
        self._checked: set[tuple[str, int]] = set()

    def describe(self) -> dict[str, Any]:
        """Returns what is stored, in numbers of records and bytes on the disk."""
        parts, layout = self.manifest.parts, self.layout
        return {
            "folder": str(self.folder),
            "form": layout.form,
            "precision": layout.precision,
            "num_layers": layout.num_layers,
            "num_records": {name: part.num_records for name, part in parts.items()},
            "num_bad": sum(len(part.bad) for part in parts.values()),
            "bytes": sum(shard.size_bytes for part in parts.values() for shard in part.shards),
        }

    def read(self, name: str, record: int, row: Rows) -> str | None:
        """Fills `row` with a record, in one read; returns the reason where there is none.

        A record's checksum is compared when this process reads it for the first time. Raises UserError where it
        differs.
        """
        part = self.manifest.parts[name]
        if record in part.bad:
            return part.bad[record]
        shard = part.shards[bisect.bisect_right(part.shards, record, key=lambda shard: shard.first) - 1]
        file = self.folder / shard.file
        try:
            if shard.file not in self._shards:
                self._shards[shard.file] = _read_shard_header(file, shard.num_records)
            header = self._shards[shard.file]
            place = record - shard.first
            with file.open("rb", buffering=0) as stream:
                stream.seek(header.start + place * row.nbytes)
                num_read = read_fully(stream, row.data.cast("B"))
        except OSError as error:
            raise UserError(f"{file}  cannot be read: {error}. {_MEND}") from error
        if num_read == row.nbytes and (name, record) in self._checked:
            return None
        if num_read != row.nbytes or zlib.crc32(row.data.cast("B")) != header.checksums[place]:
            raise UserError(f"{file}  record {place} is damaged. {_MEND}")
        self._checked.add((name, record))
        return None

    def training_batches(self, settings: Settings, list_file: str, step: int, pin: bool) -> Iterator[Batch]:
        """Yields the batches of steps `step`.. to the end, this rank's share of each: clips in the order of training
        without a cache, rows (N, S) for clips, the view of each a function of (data.seed, step, position)."""
        train, num_views = settings.train, settings.features.train_views
        items = read_list(list_file)
        repeats = settings.data.clips_per_video
        num_videos = train.batch_size // repeats
        share = num_videos // ranks.world_size()
        mine = range(ranks.rank() * share, (ranks.rank() + 1) * share)
        find_items = batches.training_order(settings, items)

        def places() -> Iterator[list[tuple[int, int]]]:
            for number in range(step, train.steps):
                batch = []
                for i, index in zip(mine, find_items(number * num_videos + mine.start, share), strict=True):
                    first = choose_view(settings.data.seed, number, i * repeats, num_views)
                    batch += [(index * num_views + (first + r) % num_views, index) for r in range(repeats)]
                yield batch

        return self._batches("train", items, places(), pin, batches.num_labels(settings))

    def evaluation_batches(self, settings: Settings, list_file: str, pin: bool) -> tuple[Iterator[Batch], int]:
        """Returns the batches of one pass over a list, this rank's share of it, rows (N, V, S) for clips, and how many
        videos the list has."""
        items, size = read_list(list_file), settings.eval.batch_size
        mine = range(ranks.rank(), len(items), ranks.world_size())
        places = ([(index, index) for index in mine[first : first + size]] for first in range(0, len(mine), size))
        return self._batches("val", items, places, pin, batches.num_labels(settings)), len(items)

    def _batches(
        self,
        name: str,
        items: VideoList,
        wanted: Iterator[list[tuple[int, int]]],
        pin: bool,
        num_labels: int | None,
    ) -> Iterator[Batch]:
        """Yields a batch for each list of (record, index), read ahead by threads while others are computed on.

        With `pin` they read right into pinned memory. Batches are torch's own tensors, and no views of NumPy's: torch
        gives such memory away again only when a GPU is through with its copy.
        """
        num_views = self.manifest.parts[name].num_views
        shape: tuple[int, ...] = (self.layout.numbers,) if name == "train" else (num_views, self.layout.numbers)
        dtype = torch.float16 if self.layout.precision == "fp16" else torch.float32
        pool = ThreadPoolExecutor(NUM_READERS, "features")
        ahead: deque[_Reading] = deque()
        try:
            for places in wanted:
                clips = torch.empty((len(places), *shape), dtype=dtype, pin_memory=pin)
                rows = zip(places, clips.numpy(), strict=True)
                found = [pool.submit(self.read, name, record, row) for (record, _), row in rows]
                ahead.append(_Reading([items[index] for _, index in places], [i for _, i in places], clips, found))
                if len(ahead) > BATCHES_AHEAD:
                    yield ahead.popleft().finish(pin, num_labels)
            while ahead:
                yield ahead.popleft().finish(pin, num_labels)
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Reading:
    """A batch on its way."""

    items: list[Listed]
    indices: list[int]
    clips: Tensor
    found: list[Future[str | None]]

    def finish(self, pin: bool, num_labels: int | None) -> Batch:
        """Returns the batch when all its rows are there, bad records left out."""
        reasons = [future.result() for future in self.found]
        good = [i for i, reason in enumerate(reasons) if reason is None]
        bad = [BadVideo(item.name, why) for item, why in zip(self.items, reasons, strict=True) if why is not None]
        for place, i in enumerate(good):
            if place < i:  # moves up into the place of a bad one
                self.clips[place] = self.clips[i]
        labels = stack_labels([self.items[i].label for i in good], num_labels)
        indices = torch.tensor([self.indices[i] for i in good], dtype=torch.int64)
        return Batch(self.clips[: len(good)], labels.pin_memory() if pin else labels, indices, bad)


def choose_view(seed: int, step: int, position: int, num_views: int) -> int:
    """Returns the stored view of a place of the training order: a function of its arguments and nothing else."""
    return int(np.random.SeedSequence([seed, step, position]).generate_state(1)[0]) % num_views


class _Header(NamedTuple):
    """Where the rows of a shard begin, in bytes; the checksum of each, and the video it is of (none in older ones)."""

    start: int
    checksums: Rows
    sources: Source | None


def read_fully(stream: RawIOBase, buffer: memoryview) -> int:
    """Returns how many bytes were read into the buffer: all, but for the end of the file. One call of the system gives
    2 GiB at most."""
    num_read = 0
    while num_read < len(buffer) and (more := stream.readinto(buffer[num_read:])):
        num_read += more
    return num_read


def _read_shard_header(file: Path, num_records: int) -> _Header:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(min(length, file.stat().st_size))  # a damaged length may be any number
        try:
            header = json.loads(text)

            def read(name: str, count: int) -> Rows:
                start, end = header[name]["data_offsets"]
                stream.seek(8 + length + start)
                return np.frombuffer(stream.read(end - start), "<i8", count)

            sources = read("sources", 3 * num_records).reshape(-1, 3) if "sources" in header else None
            return _Header(8 + length + int(header["clips"]["data_offsets"][0]), read("crc32", num_records), sources)
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{file}  has a damaged header. {_MEND}") from error


def open_cache(settings: list[Settings], backbone_sha256: str, lists: dict[str, str | None]) -> Cache:
    """Returns the cache of `data.features`, which serves all of the given trials and lists.

    Raises UserError with every reason why it does not: nothing there, built for something else, not whole.
    """
    assert settings[0].data.features is not None
    folder = Path(settings[0].data.features)
    have = read_manifest(folder)
    if have is None:
        raise UserError(f"data.features  {folder} holds no feature cache. Run `coldframe features build` first.")
    layouts = [Layout.of(each) for each in settings]
    problems: list[str] = []
    for each, layout in zip(settings, layouts, strict=True):
        key, parts = describe_key(each, backbone_sha256), describe_parts(each, lists)
        problems += find_differences(have, Manifest(layout, key, have.computed_in, parts))
    wanted = describe_parts(settings[0], lists)
    for name, part in wanted.items():
        missing = [f"data.{part.role}_list: the cache holds no features of this list"]
        problems += _find_damage(folder, have.parts[name]) if name in have.parts else missing
    if not problems:  # else the lists may be others, too
        for name, part in wanted.items():
            problems += describe_replaced(folder, have.parts[name], read_list(str(lists[part.role])))
    if problems:
        lines = "\n  ".join(dict.fromkeys(problems))
        raise UserError(
            f"data.features  {folder} is not a cache of this configuration:\n  {lines}\n"
            "Take the cache's values, run `coldframe features build` (for other values with another data.features), "
            "or train without (data.features: null)."
        )
    return Cache(folder, replace(have, parts=have.by_role(wanted)))


def _find_damage(folder: Path, part: Part) -> list[str]:
    problems = []
    if part.num_missing:
        problems.append(f"{part.role}: {part.num_missing} of {part.num_records} records are not built yet")
    for shard in part.shards:
        file = folder / shard.file
        size = file.stat().st_size if file.is_file() else None
        if size != shard.size_bytes:
            problems.append(f"{file} " + ("is missing" if size is None else f"has {size} of {shard.size_bytes} bytes"))
    return problems


def find_replaced_records(folder: Path, part: Part, items: VideoList) -> list[int]:
    """Returns the records whose videos have become others since they were computed."""
    records: list[int] = []
    known: list[Source] = []
    for shard in part.shards:
        sources = _read_shard_header(folder / shard.file, shard.num_records).sources
        if sources is not None:
            records += range(shard.first, shard.first + shard.num_records)
            known.append(sources)
    if not known:
        return []
    num_views = part.num_records // len(items)
    paths = [items[record // num_views].path for record in records]
    return [records[place] for place in find_replaced(paths, np.concatenate(known), NUM_READERS)]


def describe_replaced(folder: Path, part: Part, items: VideoList) -> list[str]:
    """Returns a line about videos that have become others since, none where there are none."""
    num_views = part.num_records // max(1, len(items))
    videos = sorted({record // num_views for record in find_replaced_records(folder, part, items)})
    if not videos:
        return []
    return [
        f"{part.role}: {len(videos)} videos were changed after the cache was built, such as {items[videos[0]].name}"
    ]
