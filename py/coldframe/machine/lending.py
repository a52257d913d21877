"""Models that one process of a node has read, and that the others have without reading or copying them.

Their tensors lie in memory that has no name: it is gone with the last process that has it, however that ends. Each maps
it for itself, so that a page is shared until somebody writes into it.
"""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from coldframe.machine import ranks

T = TypeVar("T")
ALIGNMENT = 64  # bytes, as torch's own allocator on a CPU


class _Place(NamedTuple):
    """Where a tensor lies, and what it is."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_parameter: bool
    requires_grad: bool


def share(build: Callable[[], T]) -> T:
    """Returns what `build` does, anything that pickles with contiguous tensors on the CPU in it: the first rank of each
    node calls it, and the others get the same. Where memory without a name is unknown, every rank calls it."""
    if ranks.local_world_size() == 1 or not hasattr(os, "memfd_create"):
        return build()
    descriptor, offer = -1, None
    if ranks.local_rank() == 0:
        descriptor = os.memfd_create("coldframe")
        text = io.BytesIO()
        lender = _Lender(text, descriptor)
        lender.dump(build())
        offer = f"/proc/{os.getpid()}/fd/{descriptor}", lender.end, text.getvalue()
    found = ranks.gather(offer)[ranks.rank() - ranks.local_rank()]
    assert found is not None, "the first rank of a node lends"
    path, size, pickled = found
    memory = torch.from_file(path, shared=False, size=size, dtype=torch.uint8)
    taken: T = _Taker(pickled, memory).load()
    ranks.barrier()  # now all have it
    if offer is not None:
        os.close(descriptor)
    return taken


class _Lender(pickle.Pickler):
    """Writes tensors into the memory, and all else as pickle does."""

    def __init__(self, text: io.BytesIO, descriptor: int) -> None:
        super().__init__(text)
        self.descriptor, self.end = descriptor, 0
        self._places: dict[int, _Place] = {}

    def persistent_id(self, value: Any) -> _Place | None:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self._places:
            start = math.ceil(self.end / ALIGNMENT) * ALIGNMENT
            self._write(value, start)
            kind = isinstance(value, nn.Parameter), value.requires_grad
            self._places[id(value)] = _Place(start, tuple(value.shape), value.dtype, *kind)
        return self._places[id(value)]

    def _write(self, value: Tensor, start: int) -> None:
        data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        self.end = start + len(data)
        os.ftruncate(self.descriptor, self.end)
        while data:  # a call writes 2 GiB at most
            num_written = os.pwrite(self.descriptor, data, start)
            data, start = data[num_written:], start + num_written


class _Taker(pickle.Unpickler):
    """Finds tensors in the memory."""

    def __init__(self, text: bytes, memory: Tensor) -> None:
        super().__init__(io.BytesIO(text))
        self._memory = memory
        self._taken: dict[_Place, Tensor] = {}

    def persistent_load(self, place: _Place) -> Tensor:
        if place not in self._taken:
            num_bytes = math.prod(place.shape) * place.dtype.itemsize
            piece = self._memory[place.start : place.start + num_bytes].view(place.dtype).view(place.shape)
            is_trained = place.requires_grad
            self._taken[place] = (
                nn.Parameter(piece, is_trained) if place.is_parameter else piece.requires_grad_(is_trained)
            )
        return self._taken[place]
