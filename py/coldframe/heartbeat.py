"""Signs of life: how the watchdog on the other side of the bridge knows that a long call goes on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PROGRESS_SECONDS = 0.1  # the log may lie on a network disk: ten touches a second are enough for a watchdog
LIFE_SECONDS = 0.2

_log_fd: int | None = None
_last_progress = 0.0


def begin() -> None:
    """Takes what stderr is now as the log that is touched; before, and in processes of their own, nothing is done."""
    global _log_fd
    _log_fd = os.dup(2)


def progress() -> None:
    """Tells the watchdog that work goes on, by the log's modification time. Cheap."""
    global _last_progress
    now = time.monotonic()
    if _log_fd is not None and now - _last_progress >= PROGRESS_SECONDS:
        _last_progress = now
        with suppress(OSError):
            os.utime(_log_fd)


def last() -> float:
    """Returns a number that stays as it is while there is no progress."""
    return _last_progress


def keep_on() -> threading.Event:
    """Gives signs of life from now until what is returned is set, or to the end: closing waits for disks and networks
    that report no progress."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(LIFE_SECONDS):
            progress()

    threading.Thread(target=beat, daemon=True).start()
    return done


@contextmanager
def beating() -> Iterator[None]:
    """Gives signs of life meanwhile: for one long call of a library."""
    done = keep_on()
    try:
        yield
    finally:
        done.set()
