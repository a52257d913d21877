"""What every decoder, a trained part, tells of its cost: without torch, as forecasts ask it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from coldframe.backbones.shape import Wants


class Backward(NamedTuple):
    """Bytes that backward holds besides the layers that are read. It goes through `num_parts` parts of a decoder, one
    after the other: each keeps `kept` until then, and `passing` is on its way in one of them."""

    num_parts: int
    kept: int
    passing: int


class DecoderSizes(Protocol):
    """What a decoder costs, from its numbers alone; memory of so many clips."""

    @property
    def wants(self) -> Wants:
        """Returns what the decoder reads of a backbone."""

    def count_parameters(self) -> int: ...

    def count_multiply_adds(self) -> int:
        """Returns those of one view's forward pass."""

    def shared_bytes(self, num_clips: int, itemsize: int) -> float:
        """Returns what it asks one layer to share, in place of its relations; numbers that may be in the precision of
        training take `itemsize`."""

    def sharing_bytes(self, num_clips: int) -> int:
        """Returns what making that takes besides."""

    def backward(self, num_clips: int) -> Backward: ...
