"""What went wrong, and whose it is: `{kind: user|bug, code, message}` as the other side of the bridge is told it.

The kind decides the exit code and the code what a program does next; the message is for people alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any


class UserError(Exception):
    """The user can mend it: the message says where, what was found, what is allowed and what to do.

    `code` is what programs go by: `invalid`, `in_use` (another process holds it), `file_system`, `bad_video`.
    """

    def __init__(self, message: str, code: str = "invalid") -> None:
        super().__init__(message)
        self.code = code


class WorkerDied(RuntimeError):  # noqa: N818 (it tells what happened)
    """A loader worker is gone. Mostly the kernel killed it for lack of memory, so that starting again may help."""


class PeerLost(RuntimeError):  # noqa: N818 (it tells what happened)
    """Another rank of the training is gone, or stands still. Never the cause: that is how the other one ended."""


# What is found, and what to do. Any other number gives the system's own words.
_FOUND = {
    errno.ENOSPC: "the disk is full. Free some room there; the same command goes on.",
    errno.EDQUOT: "the quota of this disk is used up. Free some room there; the same command goes on.",
    errno.EROFS: "lies on a read-only file system. Name a place that can be written.",
    errno.EACCES: "may not be used: the permission is missing. Change its permissions, or name another place.",
    errno.EPERM: "may not be changed: the system does not permit it. Change its permissions, or name another place.",
    errno.ENOENT: "does not exist, or cannot be made there. Name another place.",
    errno.ENOTDIR: "lies below a file, and only a folder can hold it. Name another place.",
    errno.EISDIR: "is a folder, and a file is needed. Name another place.",
    errno.EEXIST: "exists already, and is not what is needed there. Remove it, or name another place.",
    errno.ENOTEMPTY: "is not empty. Empty it, or name another place.",
    errno.ENAMETOOLONG: "is too long a name for this file system. Name a shorter place.",
    errno.EFBIG: "is larger than this file system or `ulimit -f` allows. Name another place.",
    errno.EIO: "cannot be read or written: the disk reports an error. Check the disk, or name another place.",
    errno.EMFILE: "cannot be opened: too many files are open. Raise `ulimit -n`, or lower data.num_workers.",
    errno.ENFILE: "cannot be opened: the machine has too many files open. Close other programs.",
    errno.ESTALE: "is gone from the network disk. Mount it again; the same command goes on.",
}
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # the user's also where nothing says which file it was


def explain(error: OSError, path: str | os.PathLike[str] | None = None) -> str:
    """Returns `path  what was found. What to do.` of an error of the file system; `path` where the error has none."""
    place = error.filename if error.filename is not None else path
    where = "disk" if place is None else os.fsdecode(place) if isinstance(place, (str, bytes, os.PathLike)) else place
    found = _FOUND.get(error.errno or 0)
    return f"{where}  {found or f'cannot be used: {error.strerror or error}. Mend it, or name another place.'}"


def describe(error: BaseException) -> dict[str, str]:
    """Returns kind, code and message."""
    if (death := _find_death(error)) is not None:
        return {"kind": "bug", "code": "worker_died", "message": death}
    if isinstance(error, PeerLost):
        return {"kind": "bug", "code": "peer_lost", "message": str(error)}
    if _is_out_of_memory(error):
        advice = (
            "Raise train.micro_batches, or lower train.batch_size (eval.batch_size during evaluation) "
            "or data.num_workers."
        )
        return {"kind": "user", "code": "out_of_memory", "message": f"memory  {error}. {advice}"}
    if isinstance(error, UserError):
        return {"kind": "user", "code": error.code, "message": str(error)}
    if isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_ERRORS):
        return {"kind": "user", "code": "file_system", "message": explain(error)}
    return {"kind": "bug", "code": "bug", "message": f"{type(error).__name__}: {error}"}


def _is_out_of_memory(error: BaseException) -> bool:
    # By name: torch may not be imported. On the CPU torch raises a plain RuntimeError (c10/core/impl/alloc_cpu.cpp).
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error))
    )


def _find_death(error: BaseException) -> str | None:
    """Returns what is known of a loader worker's death that led to the error: its first cause knows the signal."""
    told = None
    for one in chain(error):
        if isinstance(one, WorkerDied) or (isinstance(one, RuntimeError) and _is_of_a_worker(one.__traceback__)):
            told = str(one).strip()
    return told


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and what it came of."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_of_a_worker(traceback: TracebackType | None) -> bool:
    """Returns whether torch raised it over a dead worker: in its SIGCHLD handler, which breaks into any line, or where
    it waits for workers. Its type is a plain RuntimeError."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame: Any = None if traceback is None else traceback.tb_frame
    place = None if frame is None else (frame.f_globals.get("__name__"), frame.f_code.co_name)
    return place in (
        ("torch.utils.data._utils.signal_handling", "handler"),
        ("torch.utils.data.dataloader", "_try_get_data"),
    )
