"""The lock of a run folder: one writer at a time."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from coldframe.errors import UserError

WAIT_SECONDS = 10.0


class RunLock:
    """Holds a folder against a second writer for as long as the process lives.

    The kernel drops the lock with the process, so that no stale lock survives a kill. A process that has just been
    killed may need a moment to go, hence the wait. `note` says so where the disk keeps no locks. Raises UserError when
    another process keeps the folder.
    """

    def __init__(self, folder: Path, chosen_by: str = "--run-dir") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.note: str | None = None
        self._descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._take(folder, chosen_by)
        except BaseException:
            os.close(self._descriptor)
            raise
        with suppress(OSError):  # a full disk takes no name: the lock holds all the same
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)

    def _take(self, folder: Path, chosen_by: str) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while not self._try(folder):
            if time.monotonic() > end:
                holder = os.pread(self._descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
                raise UserError(
                    f"{folder}  is in use by {holder}. Wait for it, stop it, or choose another {chosen_by}.",
                    code="in_use",
                )
            time.sleep(0.1)

    def _try(self, folder: Path) -> bool:
        for take in (fcntl.flock, fcntl.lockf):  # a disk may know one kind and not the other
            try:
                take(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except (BlockingIOError, PermissionError):  # lockf may say EACCES for EAGAIN
                return False
            except OSError:
                continue
        self.note = f"{folder}  lies on a disk that keeps no locks: see to it that no other process writes there."
        return True

    def release(self) -> None:
        """Lets the next writer in."""
        os.close(self._descriptor)


_held: dict[str, RunLock] = {}


def hold(folder: Path) -> RunLock:
    """Returns the lock of a run folder, taken now unless this process has it already."""
    name = str(folder.resolve())
    if name not in _held:
        _held[name] = RunLock(folder)
    return _held[name]


def release_held() -> None:
    """Lets the next writers in, wherever `hold` has kept them out."""
    while _held:
        _held.popitem()[1].release()
