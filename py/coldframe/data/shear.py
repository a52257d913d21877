# Shapes: T frames, H height, W width, 3 = RGB; a box is (top, left, height, width)
"""Pillow's bicubic shear and translation, several times faster and with the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Box = tuple[int, int, int, int]
Matrix = tuple[float, float, float, float, float, float]

_BLOCK = 1 << 15  # values that are worked on at a time: their float64 forms stay in the cache


def slide(frames: Sequence[Pixels], matrix: Matrix, box: Box, fill: tuple[int, ...]) -> list[Pixels] | None:
    """Returns the box of every frame under an affine matrix (Pillow's: from a pixel to its source), or None when that
    is not one of sliding rows or columns."""
    a, b, c, d, e, f = matrix
    if (a, d, e, f) == (1, 0, 1, 0):
        moved = _slide_rows(frames, b, c, box, fill)
        return None if moved is None else list(moved)
    if (a, b, c, e) == (1, 0, 0, 1):
        turned_box = box[1], box[0], box[3], box[2]
        turned = _slide_rows([frame.swapaxes(0, 1) for frame in frames], d, f, turned_box, fill)
        return None if turned is None else [frame.swapaxes(0, 1) for frame in turned]
    return None


def _slide_rows(frames: Sequence[Pixels], slope: float, shift: float, box: Box, fill: tuple[int, ...]) -> Pixels | None:
    """Returns the box of every frame after row y was moved by `slope * y + shift` pixels to the left, or None in the
    rare case that rounding moves the pixels of one row differently (Pillow knows what it does then).

    Pillow's affine transform weighs 16 pixels for each value. Where rows only slide, 12 of the weights are zero, and
    the other four change from row to row but not within one. The arithmetic is that of `bicubic_filter` in Pillow's
    Geometry.c, operation by operation in float64 on the same coordinates; what lies outside is filled.
    """
    top, left, height, width = box
    num_columns = frames[0].shape[1]
    rows_H1, columns_W = np.arange(top, top + height)[:, None] + 0.5, np.arange(left, left + width) + 0.5
    source_HW = (columns_W + slope * rows_H1) + shift
    inside_HW = (source_HW >= 0.0) & (source_HW < num_columns)
    source_HW -= 0.5
    whole_HW = np.floor(source_HW)
    moved_HW = whole_HW.astype(np.int64) - np.arange(left, left + width)
    if (moved_HW != moved_HW[:, :1]).any():
        return None
    source_HW -= whole_HW
    taps_THW3 = _gather(frames, box, moved_HW[:, 0], inside_HW)
    out_THW3 = np.empty((len(frames), height, width, 3), np.uint8)
    step = max(1, _BLOCK // max(1, len(frames) * width * 3))
    for start in range(0, height, step):
        rows = slice(start, start + step)
        out_THW3[:, rows] = _cubic(taps_THW3[:, rows], source_HW[rows, :, None])
    if not inside_HW.all():
        out_THW3[:, ~inside_HW] = fill
    return out_THW3


def _gather(frames: Sequence[Pixels], box: Box, moved: np.ndarray[Any, Any], inside: np.ndarray[Any, Any]) -> Pixels:
    """Returns (T, H, W + 3, 3): of every row the stretch that its pixels inside weigh, edges repeated."""
    top, left, height, width = box
    taps = np.zeros((len(frames), height, width + 3, 3), np.uint8)
    first, num_inside = inside.argmax(axis=1), inside.sum(axis=1)
    for t, frame in enumerate(frames):
        padded = np.concatenate([frame[:, :1], frame[:, :1], frame, frame[:, -1:], frame[:, -1:]], axis=1)
        for y in np.flatnonzero(num_inside):
            # Tap k of pixel x is column x + moved - 1 + k, two more in the padded row.
            start, length = left + first[y] + moved[y] + 1, num_inside[y] + 3
            taps[t, y, first[y] : first[y] + length] = padded[top + y, start : start + length]
    return taps


def _cubic(taps: Pixels, part: Floats) -> Pixels:
    """Returns `b + d (c - a + d (2 (a - b) + c - e + d (b - a + e - c)))` of taps a, b, c, e, cut to 0..255.

    Brackets are whole numbers, exact in any order; only what meets d is float64, through one buffer (mixing the types
    in one numpy call takes twice the time).
    """
    num_frames, num_rows, length = taps.shape[0], taps.shape[1], 3 * (taps.shape[2] - 3)
    values = taps.reshape(num_frames, num_rows, -1).astype(np.int16)
    part = np.repeat(part[:, :, 0], 3, axis=1)
    steps = values[:, :, 3:] - values[:, :, :-3]
    ab, bc, ce = steps[:, :, :length], steps[:, :, 3 : length + 3], steps[:, :, 6:]
    outer = ab + ce
    result = outer.astype(np.float64)
    result *= part
    result -= (buffer := (outer + ab).astype(np.float64))
    result *= part
    buffer[...] = ab + bc
    result += buffer
    result *= part
    buffer[...] = values[:, :, 3 : length + 3]
    result += buffer
    return np.clip(result, 0, 255, out=result).astype(np.uint8).reshape(num_frames, num_rows, -1, 3)
