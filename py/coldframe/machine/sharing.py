"""Shared memory, and sockets in a folder for temporary files: the way of clips from loader workers to the training."""

from __future__ import annotations

import errno
import math
import mmap
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import torch
from torch import Tensor

from coldframe.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
# sockaddr_un holds 108 bytes on Linux and 104 elsewhere; multiprocessing appends /pymp-XXXXXXXX/listener-XXXXXXXX.
LONGEST_FOLDER_BYTES = 103 - 32
_NOT_THERE = (errno.ENOSPC, errno.ENOENT, errno.ENOSYS, errno.EACCES, errno.EROFS)


def empty_shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Returns a tensor to be written here and read by another process. On Linux its memory has no name, so that nothing
    is left of it however both end, and no size of /dev/shm limits it."""
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.empty(0, dtype=dtype).set_(_shared_storage(num_bytes), 0, shape)  # type: ignore[call-overload,no-any-return]


def _shared_storage(num_bytes: int) -> torch.UntypedStorage:
    if not hasattr(os, "memfd_create"):
        return torch.UntypedStorage._new_shared(num_bytes)  # type: ignore[no-untyped-call,no-any-return]
    descriptor = os.memfd_create("coldframe")
    try:
        # It makes the memory that long, and keeps a descriptor of its own.
        return torch.UntypedStorage._new_shared_fd_cpu(descriptor, num_bytes)  # type: ignore[attr-defined,no-any-return]
    finally:
        os.close(descriptor)


def count_semaphores(num_workers: int) -> int:
    """Returns how many a loader has: torch and multiprocessing make 8, and 3 for each worker."""
    return 8 + 3 * num_workers


def has_semaphores(count: int) -> bool:
    """Returns whether there is room for so many semaphores."""
    try:
        _held = [multiprocessing.Semaphore() for _ in range(count)]
    except OSError as error:
        if lacks_semaphores(error):
            return False
        raise
    return True


def no_room(count: int) -> UserError:
    """Returns what to tell a user whose loader workers need so many semaphores."""
    found = "is not there"
    if SHARED_MEMORY.is_dir():
        found = f"has {shutil.disk_usage(SHARED_MEMORY).free // 1024} KiB free"
    return UserError(
        f"{SHARED_MEMORY}  {found}, and the semaphores of loader workers take {count * mmap.PAGESIZE // 1024} KiB "
        "here. Make room there, start the container with --shm-size=64m, or set data.num_workers: 0."
    )


def lacks_semaphores(error: OSError) -> bool:
    """Returns whether workers could not be started because semaphores, which are files there, cannot be made."""
    return error.errno in _NOT_THERE and error.filename is None


def shorten_sockets() -> None:
    """Makes multiprocessing put its sockets where their names fit.

    Under a long TMPDIR a worker could hand over nothing, and say so to nobody: it fails in a thread of its queue.
    """
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if config.get("tempdir") is not None or _fits(tempfile.gettempdir()):
        return
    short = next((place for place in ("/tmp", "/var/tmp") if os.access(place, os.W_OK | os.X_OK)), None)
    if short is None:
        raise UserError(
            f"TMPDIR  {tempfile.gettempdir()} is too long a name for the sockets of loader workers "
            f"({LONGEST_FOLDER_BYTES} bytes are allowed). Set TMPDIR to a shorter one, or data.num_workers: 0."
        )
    config["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir=short)
    multiprocessing.util.Finalize(None, shutil.rmtree, args=[config["tempdir"], True], exitpriority=-100)


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) <= LONGEST_FOLDER_BYTES


def obey_parent_alone() -> None:
    """Lets SIGTERM end this worker when its parent sends it, and nobody else.

    A scheduler signals every process of a job, and the main one decides then. But a worker that hangs over a file is
    ended by its loader's SIGTERM, which Python would hear only after the call that hangs: hence a thread.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "linux":  # sigwaitinfo tells the sender
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def wait() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
