"""The shards of a cache: written, checked again, and joined where interruptions have left pieces."""

# Shapes: N clips, S stored numbers of a clip

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from coldframe.cache.manifest import Manifest, Part, Shard
from coldframe.cache.read import find_replaced_records
from coldframe.data.clips import VideoList, read_list
from coldframe.machine import environment
from coldframe.machine.files import hash_file, writing

SHARD_BYTES = 256 * 2**20
MAX_READERS = 8  # of shards that are read again


def count_limit(part: Part, clip_bytes: int, clips_a_pass: int) -> int:
    """Returns the records of a whole shard, full passes: shards begin at its multiples. It hangs on no machine's memory
    where `clips_a_pass` is the most of one."""
    records_a_pass = max(1, clips_a_pass // part.num_views)
    return max(1, SHARD_BYTES // (part.num_views * clip_bytes * records_a_pass)) * records_a_pass


def write_shard(file: Path, first: int, rows_NS: npt.NDArray[Any], sources: npt.NDArray[np.int64]) -> Shard:
    """Returns what a manifest says of it. `sources`: of what video each row is."""
    checksums = np.array([zlib.crc32(row.data.cast("B")) for row in rows_NS], dtype=np.int64)
    with writing(file) as partial:
        save_file({"clips": rows_NS, "crc32": checksums, "sources": sources}, partial)
        partial.chmod(0o644)  # safetensors writes for the owner alone
        return Shard(file.name, first, len(rows_NS), partial.stat().st_size, hash_file(partial))


def name_shard(name: str, first: int) -> str:
    """Returns the file of a shard of the part `name` of a manifest."""
    return f"{name}-{first:08d}.safetensors"


def verify(folder: Path, part: Part, items: VideoList) -> Iterator[None]:
    """Drops shards whose bytes are not those that were written, or whose videos have become others: they are built
    again. Several are read at once; yields after each."""
    shards = list(part.shards)
    with ThreadPoolExecutor(min(MAX_READERS, environment.count_cpus())) as pool:
        for shard, is_sound in zip(shards, pool.map(lambda each: _is_sound(folder, each), shards), strict=True):
            if not is_sound:
                part.drop(shard)
            yield
    replaced = set(find_replaced_records(folder, part, items))
    for shard in list(part.shards):
        if not replaced.isdisjoint(range(shard.first, shard.first + shard.num_records)):
            part.drop(shard)
    yield


def _is_sound(folder: Path, shard: Shard) -> bool:
    file = folder / shard.file
    return file.is_file() and hash_file(file) == shard.sha256


def join_pieces(folder: Path, manifest: Manifest, name: str, limit: int) -> Iterator[None]:
    """Makes one shard of the pieces that stops, kills and several builders have left of it, so that a cache has the
    same files however it came to be; yields after each."""
    part = manifest.parts[name]
    for first in sorted({shard.first // limit * limit for shard in part.shards}):
        end = min(first + limit, part.num_records)
        pieces = [shard for shard in part.shards if first <= shard.first < end]
        if len(pieces) == 1 or sum(piece.num_records for piece in pieces) != end - first:
            continue  # whole already; or an older version's, which begin elsewhere or tell no sources
        loaded = [load_file(folder / piece.file) for piece in pieces]
        if not all("sources" in each for each in loaded):
            continue
        rows, sources = (np.concatenate([each[key] for each in loaded]) for key in ("clips", "sources"))
        whole = write_shard(folder / name_shard(name, first), first, rows, sources)
        part.shards = sorted([whole, *(s for s in part.shards if s not in pieces)], key=lambda shard: shard.first)
        manifest.write(folder)
        for piece in pieces:
            if piece.file != whole.file:
                (folder / piece.file).unlink()
        yield


def read_items(lists: dict[str, str | None], role: str) -> VideoList:
    """Returns the videos of a list that there is."""
    return read_list(str(lists[role]))


class Writer:
    """Writes shards in a thread, in order, while the next one is computed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "shards")
        self._last: tuple[Any, Callable[[Shard], None]] | None = None

    def submit(self, write: Callable[[], Shard], note: Callable[[Shard], None]) -> None:
        """Begins a write once the one before has ended; `note` is called here, with what became of it, before the next
        one begins."""
        self.wait()
        self._last = self._pool.submit(write), note

    def wait(self) -> None:
        """Waits for what is being written. Raises what went wrong with it."""
        if self._last is None:
            return
        (future, note), self._last = self._last, None
        note(future.result())

    def close(self) -> None:
        self._pool.shutdown()
