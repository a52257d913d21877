"""A cache that several builders compute: the share of each, in a folder of its own, and how it becomes one cache."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coldframe.cache.manifest import (
    Layout,
    Manifest,
    Part,
    describe_parts,
    find_differences,
    read_manifest,
)
from coldframe.cache.shards import count_limit, join_pieces, read_items, verify
from coldframe.errors import UserError
from coldframe.machine.files import sync_folder
from coldframe.machine.lock import RunLock
from coldframe.settings import Settings

WHOLE_SHARDS = 4  # of each of several builders: from so many on, their borders are those of shards


@dataclass(frozen=True)
class Share:
    """What one of several builders computes, in a folder of its own: the `index`-th part of `count`."""

    folder: Path
    index: int
    count: int

    def of(self, num_records: int, limit: int, records_a_pass: int) -> range:
        """Returns its records: full passes, and where there are many shards, full ones, which are then only moved."""
        unit = limit if num_records >= WHOLE_SHARDS * self.count * limit else records_a_pass
        num_units = -(-num_records // unit)
        first, end = (num_units * place // self.count * unit for place in (self.index, self.index + 1))
        return range(min(first, num_records), min(end, num_records))


class Merge:
    """Takes up what builders have computed, and verifies all of the cache."""

    def __init__(self, settings: Settings, lists: dict[str, str | None], folders: list[Path], most_clips: int) -> None:
        """`most_clips`: of a pass of the builders, by which their shards end."""
        assert settings.data.features is not None
        self._lists, self._folders, self._most_clips = lists, folders, most_clips
        self._folder = Path(settings.data.features)
        self._names = list(describe_parts(settings, lists))
        self._manifest: Manifest | None = None
        self._lock: RunLock | None = None
        self._work: Iterator[None] | None = None
        self._num_done = 0

    def advance(self, seconds: float, progress: Callable[[], None]) -> dict[str, Any]:
        """Returns how far it is after about `seconds` more. Once it is done: how many records are missing, not
        there, damaged, or of videos that have changed, and all videos that could not be read."""
        if self._work is None:
            self._lock = RunLock(self._folder, "data.features")
            self._work = self._merge()
        end = time.monotonic() + seconds
        while not (done := next(self._work, self) is self) and time.monotonic() < end:
            self._num_done += 1
            progress()
        parts = {} if self._manifest is None else self._manifest.by_role(self._names)
        return {
            "done": done,
            "num_done": self._num_done,
            "num_total": max(self._num_done, len(self._folders) + sum(len(part.shards) for part in parts.values())),
            "num_records": sum(part.num_records for part in parts.values()),
            "num_missing": sum(part.num_missing for part in parts.values()),
            "num_videos": {"train": 0, "val": 0} | {role: len(read_items(self._lists, role)) for role in parts if done},
            "bad": [bad for role, part in parts.items() for bad in self._tell_bad(role, part)] if done else [],
        }

    def _tell_bad(self, role: str, part: Part) -> list[dict[str, str]]:
        items = read_items(self._lists, role)
        num_views = part.num_records // len(items)
        return [
            {"list": role, "path": items[record // num_views].name, "reason": reason}
            for record, reason in sorted(part.bad.items())
        ]

    def _merge(self) -> Iterator[None]:
        manifest = read_manifest(self._folder)
        for folder in self._folders:
            theirs = read_manifest(folder)
            if theirs is None:
                continue
            if manifest is None:  # the first one says what is computed
                empty = {name: replace(part, shards=[], bad={}) for name, part in theirs.parts.items()}
                manifest = replace(theirs, parts=empty)
            refuse_other(folder, theirs, manifest, as_part=True)
            for name, part in theirs.parts.items():
                self._take(folder, part, manifest.parts.setdefault(name, replace(part, shards=[], bad={})))
            sync_folder(self._folder)
            manifest.write(self._folder)
            yield
        if manifest is None:
            raise UserError(f"data.features  {self._folder} holds no feature cache, and none of its parts does.")
        self._manifest = manifest
        for role, part in manifest.by_role(self._names).items():
            yield from verify(self._folder, part, read_items(self._lists, role))
        manifest.write(self._folder)
        for name in self._names:
            limit = count_limit(manifest.parts[name], manifest.layout.clip_bytes, self._most_clips)
            yield from join_pieces(self._folder, manifest, name, limit)

    def _take(self, folder: Path, theirs: Part, ours: Part) -> None:
        """Moves shards. One that is there already was moved by an earlier start, which did not come to note it."""
        known = {shard.first for shard in ours.shards}
        for shard in theirs.shards:
            if (folder / shard.file).is_file():
                (folder / shard.file).replace(self._folder / shard.file)
            if shard.first not in known:
                records = range(shard.first, shard.first + shard.num_records)
                ours.bad.update({record: why for record, why in theirs.bad.items() if record in records})
                ours.shards.append(shard)
        ours.shards.sort(key=lambda shard: shard.first)

    def close(self) -> None:
        """Lets the next builder in."""
        self._work = None
        if self._lock is not None:
            self._lock.release()


def plan(settings: Settings, lists: dict[str, str | None]) -> dict[str, Any]:
    """Returns bytes and room of a cache, from sizes alone: the machine that asks need not be one that computes."""
    assert settings.data.features is not None
    folder = Path(settings.data.features)
    parts = describe_parts(settings, lists)
    have = read_manifest(folder)
    if have is not None:
        parts |= {name: part for name, part in have.parts.items() if name in parts}
    layout = Layout.of(settings) if have is None else have.layout
    by_role = {part.role: part for part in parts.values()}
    return {**describe_sizes(folder, layout, by_role), "seconds": None, "notes": []}


def describe_sizes(folder: Path, layout: Layout, parts: dict[str, Part]) -> dict[str, Any]:
    """Returns bytes (whole, and still to be built) and the free disk's."""
    clip_bytes = layout.clip_bytes
    sizes = {name: part.num_records * part.num_views * clip_bytes for name, part in parts.items()}
    remaining = sum(part.num_missing * part.num_views for part in parts.values()) * clip_bytes
    free = shutil.disk_usage(_existing(folder)).free
    return {
        "folder": str(folder),
        "form": layout.form,
        "precision": layout.precision,
        "num_layers": layout.num_layers,
        "clip_bytes": clip_bytes,
        "num_clips": {name: part.num_records * part.num_views for name, part in parts.items()},
        "bytes": {**{"train": 0, "val": 0}, **sizes, "total": sum(sizes.values())},
        "remaining_bytes": remaining,
        "free_bytes": free,
        "fits": remaining <= free,
    }


def refuse_other(folder: Path, have: Manifest, wanted: Manifest, as_part: bool = False) -> None:
    """Raises UserError where a folder holds a cache of something else."""
    differences = find_differences(have, wanted, as_part)
    if differences:
        lines = "\n  ".join(differences)
        raise UserError(
            f"data.features  {folder} holds a cache of another configuration:\n  {lines}\n"
            "Give another folder, take the cache's values, or remove the folder to build it anew."
        )


def _existing(folder: Path) -> Path:
    """Returns the folder or the nearest one above that exists: the disk it will lie on."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
