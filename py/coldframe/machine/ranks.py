"""The processes (ranks) that train one run together, and what they ask of each other.

A process by itself is rank 0 of 1: it waits for nobody, and torch.distributed is never asked. Whatever waits for other
ranks goes through here, so that `waiting_since` tells a rank that waits from one that hangs.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from torch import Tensor

from coldframe.errors import PeerLost

T = TypeVar("T")


@dataclass(frozen=True)
class _Place:
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # within the node
    local_world_size: int = 1


_place = _Place()
_waiting_since: float | None = None
_waited_seconds = 0.0


def rank() -> int:
    """Returns which of the ranks this process is."""
    return _place.rank


def world_size() -> int:
    """Returns how many ranks there are, on all nodes."""
    return _place.world_size


def local_rank() -> int:
    """Returns which of its node's ranks this process is."""
    return _place.local_rank


def local_world_size() -> int:
    """Returns how many ranks this node has."""
    return _place.local_world_size


def is_first() -> bool:
    """Returns whether this is the rank that writes."""
    return _place.rank == 0


def waiting_since() -> float | None:
    """Returns since when (time.monotonic) this process waits for other ranks, None while it does not."""
    return _waiting_since


def waited_seconds() -> float:
    """Returns how long this process has waited for other ranks so far."""
    return _waited_seconds


def start(timeout_seconds: float) -> None:
    """Joins the ranks that torchrun's environment names; a rank that lets the others wait for longer is given up.

    Tensors on a GPU go over NCCL, everything else over gloo.
    """
    global _place
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    place = _Place(*(int(os.environ[name]) for name in names))
    if place.world_size == 1:
        return
    import torch
    import torch.distributed as dist

    if place.local_world_size == place.world_size and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one node: no network, and no name of this host, is asked
    backend = "gloo"
    if torch.cuda.is_available():
        if place.local_rank < torch.cuda.device_count():
            torch.cuda.set_device(place.local_rank)
        backend = "cpu:gloo,cuda:nccl" if dist.is_nccl_available() else "gloo"
    with waiting():
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    _place = place


def end() -> None:
    """Leaves the other ranks; this process is by itself again."""
    global _place
    if _place.world_size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()
    _place = _Place()


@contextmanager
def waiting() -> Iterator[None]:
    """Marks what is done meanwhile as waiting for other ranks."""
    global _waiting_since, _waited_seconds
    before = _waiting_since
    _waiting_since = since = before or time.monotonic()
    try:
        yield
    finally:
        _waiting_since = before
        if before is None:
            _waited_seconds += time.monotonic() - since


class Handle(Protocol):
    """A reduction under way."""

    def wait(self) -> None:
        """Returns when the tensor holds the sum; on a GPU, when what is launched from now on will find it there."""


class _Nothing:
    def wait(self) -> None:
        pass


class _Work:
    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self) -> None:
        with _meeting():
            self._work.wait()


_NOTHING = _Nothing()


def reduce_(flat: Tensor) -> Handle:
    """Begins to replace a tensor by its sum over the ranks. All ranks begin theirs in the same order."""
    if _place.world_size == 1:
        return _NOTHING
    import torch.distributed as dist

    with _meeting():
        return _Work(dist.all_reduce(flat, async_op=True))


def gather(mine: T) -> list[T]:
    """Returns what every rank gave, on every rank; of values that pickle."""
    if _place.world_size == 1:
        return [mine]
    import torch.distributed as dist

    found: list[Any] = [None] * _place.world_size
    with _meeting():
        dist.all_gather_object(found, mine)
    return found


def barrier() -> None:
    """Returns when every rank has come here."""
    gather(None)


@contextmanager
def _meeting() -> Iterator[None]:
    """Marks this rank as waiting. Where another one is gone the error says that and no more: its end has the cause."""
    with waiting():
        try:
            yield
        except RuntimeError as error:
            me = f"rank {_place.rank} on {socket.gethostname()}"
            raise PeerLost(f"{me} waited for another rank, which is gone or stands still: {error}") from error
