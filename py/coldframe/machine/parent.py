"""A child that does not outlive its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int) -> bool:
    """Makes the kernel kill this process when its parent, of that process id, is gone, be it in the middle of a call;
    returns whether it will. Only Linux does. Ends the process at once where the parent has gone before.

    Linux counts the thread that started this process as its parent.
    """
    is_linux = sys.platform == "linux"
    if is_linux:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)
    return is_linux


def leave_with(parent: int) -> None:
    """The same on every system: elsewhere a thread looks whether the parent is still there."""
    if not die_with_parent(parent):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
