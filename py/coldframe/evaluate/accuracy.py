"""What scores are worth: accuracies of videos with one label, average precision and thresholds of those with several.

Shapes: N videos; K classes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from coldframe.errors import UserError
from coldframe.evaluate.analysis import count_confusions

NO_CHOICE = 0.5  # of a class of which a list shows no video
Numbers = npt.NDArray[np.float64]


def accuracy(scores_NK: Tensor, labels: Tensor, thresholds: Sequence[float] | None = None) -> dict[str, Any]:
    """Returns top1 and top5 (0..1; with fewer than five classes top-K), `per_class`: (label, num_videos, num_correct)
    of each class that occurs, and `confusion`: (label, best class, num_videos) of each pair that occurs.

    `labels` are (N,), or of videos with any number of labels (N, K): then a video is hit where one of its labels is
    among the best, those without a label are in no hit, correct is what reaches the class's threshold, and there are
    map, average_precision, f1 and thresholds, and no `confusion` (`judge_classes`).
    """
    num_classes = scores_NK.shape[1]
    ranked_NK = scores_NK.topk(min(5, num_classes), dim=1).indices
    if labels.ndim == 2:
        hits_NK = labels.gather(1, ranked_NK)[labels.any(dim=1)]
        if not len(hits_NK):
            raise UserError(f"evaluation: none of the {len(labels)} videos has a label, so nothing can be found.")
        return _count_hits(hits_NK) | judge_classes(scores_NK, labels, thresholds)
    hits_NK = ranked_NK == labels[:, None]
    totals = labels.bincount(minlength=num_classes)
    correct = labels[hits_NK[:, 0]].bincount(minlength=num_classes)
    per_class = [[label, int(totals[label]), int(correct[label])] for label in totals.nonzero().flatten().tolist()]
    confusion = count_confusions(labels.numpy(), ranked_NK[:, 0].numpy())
    return {**_count_hits(hits_NK), "per_class": per_class, "confusion": confusion}


def _count_hits(hits_NK: Tensor) -> dict[str, float]:
    return {"top1": hits_NK[:, 0].double().mean().item(), "top5": hits_NK.any(dim=1).double().mean().item()}


def judge_classes(scores_NK: Tensor, labels_NK: Tensor, given: Sequence[float] | None) -> dict[str, Any]:
    """Returns what the scores of each class tell by themselves, and means over the classes that occur.

    `average_precision` stands beside `per_class`, `map` is its mean. `thresholds` (K,) are those with the best F1 on
    these videos; `f1` is the mean with the `given` ones, without any with these.
    """
    scores, labels = scores_NK.double().numpy(), labels_NK.bool().numpy()
    curves = [trace(scores[:, label], labels[:, label]) for label in range(scores.shape[1])]
    chosen = [curve.choose_threshold() for curve in curves]
    used = np.array(chosen if given is None else given)
    found_NK = scores >= used
    totals, correct, num_found = labels.sum(axis=0), (found_NK & labels).sum(axis=0), found_NK.sum(axis=0)
    occurring = np.flatnonzero(totals)
    precisions = [curves[label].average_precision for label in occurring]
    return {
        "map": float(np.mean(precisions)),
        "f1": float(np.mean(2 * correct[occurring] / (totals + num_found)[occurring])),
        "per_class": [[int(label), int(totals[label]), int(correct[label])] for label in occurring],
        "average_precision": precisions,
        "thresholds": chosen,
    }


class Curve(NamedTuple):
    """Of one class: its different scores, highest first, and how many videos with so much or more there are, in all
    and with the label."""

    scores: Numbers
    num_found: npt.NDArray[np.int64]
    num_correct: npt.NDArray[np.int64]

    @property
    def average_precision(self) -> float:
        """The mean of the precisions at the scores, each weighed by the recall that it adds."""
        gains = np.diff(self.num_correct, prepend=0) / self.num_correct[-1]
        return float(np.sum(gains * self.num_correct / self.num_found))

    def choose_threshold(self) -> float:
        """Returns what parts the videos with the best F1, the fewest of those with the same, from the next."""
        total = self.num_correct[-1]
        if total == 0:
            return NO_CHOICE
        last = int(np.argmax(2 * self.num_correct / (self.num_found + total)))
        below = self.scores[last + 1] if last + 1 < len(self.scores) else 0.0
        return float((self.scores[last] + below) / 2)  # between them: the last digits of scores hang on the batch


def trace(scores_N: Numbers, labels_N: npt.NDArray[np.bool_]) -> Curve:
    """Returns the curve of one class."""
    order = np.argsort(-scores_N, kind="stable")
    ranked = scores_N[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # videos with one score are found together
    return Curve(ranked[ends], ends + 1, np.cumsum(labels_N[order])[ends])
