"""Two evaluations of the same videos: which of them is right where (McNemar's test).

Without torch, so that `compare` need not wait for it. Shapes: N videos; K classes
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coldframe.evaluate.scores import read_scores


def pair(first: str, other: str, is_same_list: bool) -> dict[str, Any]:
    """Returns num_first and num_other videos of two files of scores, num_shared of them, and of those both, only_first,
    only_other and neither that are right, with McNemar's `p`; or `reason`, why they cannot be paired.

    Videos of the same list are known by their places in it, others by their paths, and must have the same labels.
    """
    tables = [read_scores(file) for file in (first, other)]
    if any(table["labels"].ndim > 1 for table in tables):
        return {"reason": "videos with several labels are not right or wrong as a whole"}
    key = "indices" if is_same_list else "paths"
    if any(key not in table for table in tables):
        return {"reason": "an older version wrote scores, and did not name the videos"}
    keys = [table[key] for table in tables]
    if any(len(np.unique(each)) < len(each) for each in keys):
        return {"reason": "a video stands twice in a list"}
    shared, *places = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    labels = [table["labels"][place] for table, place in zip(tables, places, strict=True)]
    if (labels[0] != labels[1]).any():
        return {"reason": "the same videos have other labels"}
    hits = [table["scores"][place].argmax(axis=1) == labels[0] for table, place in zip(tables, places, strict=True)]
    only_first, only_other = int((hits[0] & ~hits[1]).sum()), int((hits[1] & ~hits[0]).sum())
    return {
        "reason": None,
        "num_first": len(keys[0]),
        "num_other": len(keys[1]),
        "num_shared": len(shared),
        "both": int((hits[0] & hits[1]).sum()),
        "only_first": only_first,
        "only_other": only_other,
        "neither": int((~hits[0] & ~hits[1]).sum()),
        "p": mcnemar(only_first, only_other),
    }


def mcnemar(only_first: int, only_other: int) -> float:
    """Returns how probable a difference at least so large is where both are right equally often (McNemar, Psychometrika
    12, 1947; exact and two-sided): videos on which they differ fall to either side as a coin does."""
    num_different = only_first + only_other
    term = total = 1
    for i in range(min(only_first, only_other)):
        term = term * (num_different - i) // (i + 1)  # the binomial coefficient of i + 1
        total += term
    return min(1.0, 2 * total / (1 << num_different))
