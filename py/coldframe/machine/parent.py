"""A child that does not outlive its parent."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> bool:
    """Makes the kernel kill this process when its parent is gone, be it in the middle of a call; returns whether it
    will. Only Linux does.

    Linux counts the thread that started this process as its parent.
    """
    if sys.platform != "linux":
        return False
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return True
