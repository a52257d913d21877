"""Whether videos have changed since something was made from them: a few numbers of each file, and their comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

Source = npt.NDArray[np.int64]  # size in bytes, modification time in ns, digest of a sample; -1, 0, 0 where none was
NO_SOURCE = (-1, 0, 0)
SAMPLE_BYTES = 256 * 1024  # from the beginning, the middle and the end
MAX_READ = 1000  # copied folders have new times: so many of their files are read, evenly spread


def describe_source(path: str) -> tuple[int, int, int]:
    """Returns size, time and digest of a file as it is now."""
    try:
        status = Path(path).stat()
        return status.st_size, status.st_mtime_ns, _digest(path, status.st_size)
    except OSError:
        return NO_SOURCE


def find_replaced(paths: Sequence[str], known: Source, num_threads: int) -> list[int]:
    """Returns the places of those files that are no longer what `known` (a row each) says. Files that are not there
    now are not: what was made of them stays true."""
    with ThreadPoolExecutor(num_threads, "sources") as pool:
        seen = list(pool.map(_measure, paths))
        replaced = [i for i, now in enumerate(seen) if now is not None and now[0] != known[i, 0]]
        touched = [i for i, now in enumerate(seen) if now is not None and _is_touched(now, known[i])]
        step = max(1, -(-len(touched) // MAX_READ))
        read = touched[::step]
        digests = pool.map(lambda i: describe_source(paths[i])[2], read)
        replaced += [i for i, digest in zip(read, digests, strict=True) if digest != known[i, 2]]
    return sorted(replaced)


def _is_touched(now: tuple[int, int], known: Source) -> bool:
    return bool(now[0] == known[0] and now[1] != known[1])


def _measure(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _digest(path: str, size: int) -> int:
    digest = hashlib.blake2b(digest_size=8)
    with Path(path).open("rb") as file:
        for start in sorted({0, max(0, size - SAMPLE_BYTES) // 2, max(0, size - SAMPLE_BYTES)}):
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
    return int.from_bytes(digest.digest(), "little") >> 1
