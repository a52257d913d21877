# Shapes: H height, W width
"""Turning and mirroring frames as the display matrix of a file asks, as players show them."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, TypeVar

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

Array = TypeVar("Array", bound=np.ndarray[Any, Any])


class Upright(NamedTuple):
    """transposed: rows become columns; then flipped: rows from bottom to top, columns from right to left."""

    transposed: bool = False
    flipped_rows: bool = False
    flipped_columns: bool = False

    @property
    def is_mirrored(self) -> bool:
        return self.transposed ^ self.flipped_rows ^ self.flipped_columns

    def apply(self, image: Array) -> Array:
        """Returns the image (H, W, ...) upright, as a view."""
        if not any(self):
            return image
        turned = image.swapaxes(0, 1) if self.transposed else image
        rows, columns = (slice(None, None, -1 if flipped else 1) for flipped in self[1:])
        return turned[rows, columns]  # type: ignore[return-value]


_PLAIN = Upright()


def read_upright(frame: VideoFrame) -> Upright:
    """Returns what the frame's display matrix asks for, rounded to quarter turns (ISO/IEC 14496-12 6.2.2)."""
    side_data = frame.side_data
    if not len(side_data):  # nearly always; the look-up itself would cost more than the whole check of a frame's place
        return _PLAIN
    data = side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if data is None:
        return _PLAIN
    # A point (x, y) of the picture, y downwards, is shown at (a x + c y, b x + d y).
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Upright(False, d < 0, a < 0)
    return Upright(True, b < 0, c < 0)
