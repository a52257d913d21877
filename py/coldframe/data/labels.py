"""The labels of clips: one each, or with `data.labels: multi` any number; as tensors, and counted by class.

Shapes: N clips; K classes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Label = int | tuple[int, ...]
NO_LABEL = "-"


def read_label(text: str) -> Label:
    """Returns what a normalised list says: `5`, or several as `1,5,9`, none as `-`."""
    if text.isdigit():
        return int(text)
    return () if text == NO_LABEL else tuple(map(int, text.split(",")))


def show_label(label: Label) -> str:
    """Returns what `read_label` reads as this, and a list says."""
    return ",".join(map(str, spread(label))) or NO_LABEL


def spread(label: Label) -> tuple[int, ...]:
    """Returns the labels of a clip, however many."""
    return (label,) if isinstance(label, int) else label


def stack_labels(labels: Sequence[Label], num_labels: int | None) -> Tensor:
    """Returns (N,) int64, or of clips with any number of `num_labels` (N, K) bool."""
    if num_labels is None:
        return torch.tensor(labels, dtype=torch.int64)
    stacked = torch.zeros(len(labels), num_labels, dtype=torch.bool)
    for row, label in zip(stacked, labels, strict=True):
        row[list(spread(label))] = True
    return stacked


class ClassCounts(NamedTuple):
    """How many clips a list has, and how many of each class: `num_each` (K,)."""

    num_clips: int
    num_each: Tensor


def count_classes(labels: Sequence[Label], num_classes: int) -> ClassCounts:
    """Returns how many clips have each label."""
    every = torch.tensor([one for label in labels for one in spread(label)], dtype=torch.int64)
    return ClassCounts(len(labels), torch.bincount(every, minlength=num_classes))
