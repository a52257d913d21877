"""Shared memory, and sockets in a folder for temporary files: the way of clips from loader workers to the training."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

from coldframe.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
SMALL_BYTES = 64 * 1024  # semaphores and labels, a page each
# sockaddr_un holds 108 bytes on Linux and 104 elsewhere; multiprocessing appends /pymp-XXXXXXXX/listener-XXXXXXXX.
LONGEST_FOLDER_BYTES = 103 - 32
_NOT_THERE = (errno.ENOSPC, errno.ENOENT, errno.ENOSYS, errno.EACCES, errno.EROFS)


class NoRoom(RuntimeError):  # noqa: N818 (it tells what happened)
    """A worker found no shared memory for what it has decoded."""


def free_bytes() -> int | None:
    """Returns what is free of the shared memory, None where it is no folder."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None


def refuse_small(needed_bytes: int) -> None:
    """Raises UserError where workers would soon find no room for what they have decoded."""
    free = free_bytes()
    if free is not None and free < needed_bytes + SMALL_BYTES:
        raise no_room(needed_bytes)
    try:
        multiprocessing.Semaphore()
    except OSError as error:
        if lacks_semaphores(error):
            raise no_room(needed_bytes) from error
        raise


def no_room(needed_bytes: int) -> UserError:
    """Returns what to tell the user."""
    free = free_bytes()
    found = "is not there" if free is None else f"has {free / 2**20:.1f} MiB free"
    return UserError(
        f"{SHARED_MEMORY}  {found}, and loader workers pass their clips through shared memory, about "
        f"{max(0.1, needed_bytes / 2**20):.1f} MiB here. Start the container with --shm-size=2g (Docker gives 64 MB), "
        "or set data.num_workers: 0."
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
