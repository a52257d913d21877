"""The confusion matrix as a picture, for TensorBoard.

Shapes: K classes; H, W pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MOST_CLASSES = 1000  # a picture of more is no use, and its counts take memory
_MOST_NAMED = 60  # beyond, names would be larger than their rows
_MOST_COUNTED = 20  # beyond, counts would be larger than their cells
_TEXT_PIXELS = 12
_DARK = np.array([16, 78, 139])  # of a share of one; none is white


def spread_confusions(confusion: Sequence[Sequence[int]], num_classes: int) -> NDArray[np.int64]:
    """Returns how many videos of each class (rows) were taken for each (columns), from (true, predicted, count)."""
    counts_KK = np.zeros((num_classes, num_classes), np.int64)
    for true, predicted, count in confusion:
        counts_KK[true, predicted] = count
    return counts_KK


def draw_confusions(counts_KK: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.uint8]:
    """Returns a picture (H, W, 3): true classes are rows, what they were taken for columns, and a cell is
    the darker the larger its share of its row is. Names and counts where there is room for them."""
    num_classes = len(counts_KK)
    cell = max(2, min(32, 800 // num_classes))
    shares_KK = counts_KK / np.maximum(1, counts_KK.sum(axis=1, keepdims=True))
    colours = np.rint(255 + shares_KK[:, :, None] * (_DARK - 255)).astype(np.uint8)
    cells = Image.fromarray(colours.repeat(cell, axis=0).repeat(cell, axis=1))
    if num_classes <= _MOST_COUNTED:
        _write_counts(cells, counts_KK, shares_KK, cell)
    labels = [_shorten(name) for name in names] if num_classes <= _MOST_NAMED else []
    margin = max([4, *(int(_font().getlength(label)) + 8 for label in labels)])
    picture = Image.new("RGB", (margin + cells.width + 4, 20 + cells.height + margin), "white")
    picture.paste(cells, (margin, 20))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((margin - 1, 19, margin + cells.width, 20 + cells.height), outline=(160, 160, 160))
    draw.text((4, 2), "rows: true, columns: predicted", fill="black", font=_font())
    for place, label in enumerate(labels):
        middle = place * cell + cell // 2
        draw.text((margin - 4, 20 + middle), label, fill="black", font=_font(), anchor="rm")
        column = Image.new("RGB", (margin, _TEXT_PIXELS + 4), "white")
        ImageDraw.Draw(column).text((margin - 4, 8), label, fill="black", font=_font(), anchor="rm")
        turned = column.rotate(90, expand=True)
        picture.paste(turned, (margin + middle - turned.width // 2, 20 + cells.height + 2))
    return np.asarray(picture)


def _write_counts(cells: Image.Image, counts_KK: NDArray[np.int64], shares_KK: NDArray[Any], cell: int) -> None:
    draw = ImageDraw.Draw(cells)
    for row, column in np.argwhere(counts_KK):
        place = (column * cell + cell // 2, row * cell + cell // 2)
        colour = "white" if shares_KK[row, column] > 0.5 else "black"
        draw.text(place, str(counts_KK[row, column]), fill=colour, font=_font(), anchor="mm")


def _font() -> Any:
    return ImageFont.load_default(_TEXT_PIXELS)


def _shorten(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:22]}.."
