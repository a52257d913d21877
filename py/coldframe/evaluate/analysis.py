"""What the scores of an evaluation tell beyond accuracy: confusions, videos worth a look, labels that are likely wrong,
and whether probabilities are to be believed (calibration.py). Needs numpy alone.

Shapes: N videos; K classes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coldframe.errors import UserError
from coldframe.evaluate.calibration import calibrate
from coldframe.evaluate.scores import read_scores

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]
Booleans = npt.NDArray[np.bool_]

NUM_NAMED = 3  # classes told of a video
NUM_PAIRS = 200
NUM_MISTAKES = 2000


class Scores(NamedTuple):
    """What `evaluate` stored: probabilities (N, K), labels (N,), of videos with several (N, K) bool, and the names of
    the videos, of parts `PATH#t=START,END`."""

    scores: Floats
    labels: npt.NDArray[Any]
    names: list[str]

    @property
    def is_multi(self) -> bool:
        """Whether a video has any number of labels."""
        return self.labels.ndim == 2


def analyse(file: str, listed: str | None, fit: str | None, num_clips: int) -> dict[str, Any]:
    """Returns what a report shows of a file of scores.

    `listed`: the normalised list that the videos stand in, for files without names. `fit`: scores of another list, on
    which the temperature is fitted. `num_clips`: how many videos each list of them has at most.
    """
    table = load_scores(Path(file), None if listed is None else Path(listed))
    other = None if fit is None else load_scores(Path(fit), None)
    if other is not None and (other.is_multi or other.scores.shape[1:] != table.scores.shape[1:]):
        raise UserError(f"{fit}  has other classes than {file}: the temperature cannot be fitted on it.")
    if table.is_multi:
        return _analyse_several(table, num_clips)
    predicted = table.scores.argmax(axis=1)
    errors = find_label_errors(table.scores, table.labels)
    confusion = count_confusions(table.labels, predicted)
    return {
        "is_multi": False,
        "num_videos": len(table.labels),
        "num_classes": table.scores.shape[1],
        "classes": describe_classes(table.labels, predicted, table.scores),
        "confusion": confusion,
        "order": order_by_confusion(confusion, table.scores.shape[1]),
        "pairs": list_pairs(confusion),
        "mistakes": list_mistakes(table, predicted),
        "calibration": calibrate(table.scores, table.labels, None if other is None else (other.scores, other.labels)),
        "num_label_errors": round(count_label_errors(table.scores, table.labels)),
        "label_errors": [
            describe_clip(table, index) | {"suggested": int(guess), "margin": float(margin)}
            for index, guess, margin in errors
        ],
        "clips": {
            kind: [describe_clip(table, index) for index in order[:num_clips]]
            for kind, order in rank_clips(table.scores, table.labels).items()
        },
    }


def load_scores(file: Path, listed: Path | None) -> Scores:
    """Returns a file of scores. Raises UserError where it is none; rows that are not finite are a broken run's."""
    table = read_scores(file)
    scores, labels = table["scores"], table["labels"]
    if not len(scores) or not np.isfinite(scores).all():
        what = "holds scores that are not finite" if len(scores) else "holds the scores of no video"
        raise UserError(f"{file}  {what}. Evaluate again with a sound checkpoint.")
    names = table["paths"].tolist() if "paths" in table else _name_by_list(listed, table["indices"])
    return Scores(scores, labels, names)


def _name_by_list(listed: Path | None, indices: Integers) -> list[str]:
    """Returns the names that a normalised list gives; where there is none, the places in it."""
    if listed is None:
        return [f"video {index + 1} of the list" for index in indices]
    rows = [line.split("\t") for line in listed.read_text(encoding="utf-8").splitlines()]
    names = [path if not times else f"{path}#t={','.join(times)}" for path, _label, *times in rows]
    return [names[index] for index in indices]


def describe_clip(table: Scores, index: int) -> dict[str, Any]:
    """Returns a video's place, name, labels, and its best classes with their probabilities."""
    scores_K = table.scores[index]
    best = np.argsort(-scores_K, kind="stable")[:NUM_NAMED]
    labels = np.flatnonzero(table.labels[index]) if table.is_multi else [table.labels[index]]
    return {
        "index": int(index),
        "name": table.names[index],
        "labels": [[int(label), float(scores_K[label])] for label in labels],
        "best": [[int(label), float(scores_K[label])] for label in best],
    }


# ---- classes and confusions ------------------------------------------------------------------------------------------


def describe_classes(labels_N: Integers, predicted_N: Integers, scores_NK: Floats) -> list[dict[str, Any]]:
    """Returns of each class that occurs or is predicted how many videos it has, how many of them are right, how many
    are taken for it, and the class that its own are most often taken for."""
    num_classes = scores_NK.shape[1]
    totals = np.bincount(labels_N, minlength=num_classes)
    found = np.bincount(predicted_N, minlength=num_classes)
    correct = np.bincount(labels_N[labels_N == predicted_N], minlength=num_classes)
    worst: dict[int, tuple[int, int]] = {}
    for true, other, count in count_confusions(labels_N, predicted_N):
        if true != other and count > worst.get(true, (0, 0))[1]:
            worst[true] = (other, count)
    return [
        {
            "label": int(label),
            "num_videos": int(totals[label]),
            "num_correct": int(correct[label]),
            "num_predicted": int(found[label]),
            "taken_for": list(worst[int(label)]) if int(label) in worst else None,
        }
        for label in np.flatnonzero(totals + found)
    ]


def count_confusions(labels_N: Integers, predicted_N: Integers) -> list[list[int]]:
    """Returns [true, predicted, count] of all that occur, in the order of labels."""
    size = int(max(labels_N.max(), predicted_N.max())) + 1
    codes, counts = np.unique(labels_N.astype(np.int64) * size + predicted_N, return_counts=True)
    return [
        [int(code // size), int(code % size), int(count)] for code, count in zip(codes.tolist(), counts, strict=True)
    ]


def _weigh_pairs(confusion: list[list[int]]) -> list[tuple[float, int, int, int, int]]:
    """Returns (weight, a, b, count of a taken for b, of b for a) of pairs of classes, the most confused first: the
    share of a's videos taken for b and of b's for a, added."""
    totals: dict[int, int] = {}
    counts: dict[tuple[int, int], int] = {}
    for true, predicted, count in confusion:
        totals[true] = totals.get(true, 0) + count
        if true != predicted:
            counts[true, predicted] = count
    found = []
    for a, b in {(min(pair), max(pair)) for pair in counts}:
        there, back = counts.get((a, b), 0), counts.get((b, a), 0)
        weight = there / max(1, totals.get(a, 0)) + back / max(1, totals.get(b, 0))
        found.append((weight, a, b, there, back))
    return sorted(found, key=lambda pair: (-(pair[3] + pair[4]), -pair[0], pair[1], pair[2]))


def list_pairs(confusion: list[list[int]]) -> list[list[int]]:
    """Returns [a, b, videos of a taken for b, of b for a] of the pairs with most videos, the most first."""
    return [list(pair[1:]) for pair in _weigh_pairs(confusion)[:NUM_PAIRS]]


def list_mistakes(table: Scores, predicted_N: Integers) -> list[list[Any]]:
    """Returns [label, predicted class, name] of wrong videos, the most confident first, at most NUM_MISTAKES."""
    wrong = np.flatnonzero(predicted_N != table.labels)
    order = np.argsort(-table.scores[wrong, predicted_N[wrong]], kind="stable")[:NUM_MISTAKES]
    return [[int(table.labels[i]), int(predicted_N[i]), table.names[i]] for i in wrong[order]]


def order_by_confusion(confusion: list[list[int]], num_classes: int) -> list[int]:
    """Returns the classes so that those stand side by side that are taken for each other.

    Chains of classes are joined, the most confused pair first, each time by the ends that bring the two closest: single
    linkage with an order inside. Chains with most mistakes come first, classes without any last.
    """
    chains: dict[int, list[int]] = {}
    mistakes = [0] * num_classes
    for weight, a, b, there, back in sorted(_weigh_pairs(confusion), key=lambda pair: (-pair[0], pair[1], pair[2])):
        assert weight > 0
        mistakes[a] += there
        mistakes[b] += back
        left, right = chains.setdefault(a, [a]), chains.setdefault(b, [b])
        if left is right:
            continue
        if left.index(a) < len(left) / 2:
            left.reverse()
        if right.index(b) >= len(right) / 2:
            right.reverse()
        left += right
        for label in right:
            chains[label] = left
    distinct = {id(chain): chain for chain in chains.values()}.values()
    ordered = sorted(distinct, key=lambda chain: (-sum(mistakes[label] for label in chain), chain[0]))
    placed = [label for chain in ordered for label in chain]
    return placed + sorted(set(range(num_classes)) - set(placed))


# ---- videos ----------------------------------------------------------------------------------------------------------


def rank_clips(scores_NK: Floats, labels_N: Integers) -> dict[str, list[int]]:
    """Returns the videos in three orders: `worst`, wrong ones by the probability of their label, the smallest first;
    `confused`, by how little the best two classes differ; `uncertain`, by the entropy of all classes."""
    own_N = np.take_along_axis(scores_NK, labels_N[:, None], axis=1)[:, 0]
    wrong_N = scores_NK.argmax(axis=1) != labels_N
    worst = [int(index) for index in np.argsort(own_N, kind="stable") if wrong_N[index]]
    ends_N2 = -np.partition(-scores_NK, 1, axis=1)[:, :2] if scores_NK.shape[1] > 1 else scores_NK
    margin_N = ends_N2[:, 0] - ends_N2[:, -1]
    return {
        "worst": worst,
        "confused": np.argsort(margin_N, kind="stable").tolist(),
        "uncertain": np.argsort(-_entropy(scores_NK), kind="stable").tolist(),
    }


def _entropy(scores_NK: Floats) -> Floats:
    kept = np.maximum(scores_NK, 1e-12)
    return np.asarray(-(kept * np.log(kept)).sum(axis=1))


def find_label_errors(scores_NK: Floats, labels_N: Integers) -> list[tuple[int, int, float]]:
    """Returns (video, class that it rather is, margin) of labels that are likely wrong, the likeliest first.

    Confident learning says how many there are, the normalised margin which: the probability of the label less that of
    the best other class, the lowest first (what cleanlab calls `low_normalized_margin`). The number is a count of few
    videos and as uncertain as one: two standard deviations more are listed, for who looks through them can stop.
    """
    own_N = np.take_along_axis(scores_NK, labels_N[:, None], axis=1)[:, 0]
    margin_N = own_N - scores_NK.max(axis=1)
    guess_N = scores_NK.argmax(axis=1)
    estimate = count_label_errors(scores_NK, labels_N)
    num_errors = round(estimate + 2 * estimate**0.5)
    lowest = [i for i in np.argsort(margin_N, kind="stable")[:num_errors] if guess_N[i] != labels_N[i]]
    return [(int(i), int(guess_N[i]), float(margin_N[i])) for i in lowest]


def count_label_errors(scores_NK: Floats, labels_N: Integers) -> float:
    """Returns how many labels are wrong, as the confident joint estimates it (arXiv 1911.00068, equations 1 to 3).

    The model is confident of a class where its probability is at least the mean of the videos that bear the label. A
    video counts for the most probable class that the model is confident of; the counts of a label are scaled to all of
    its videos, and what then lies off the diagonal is wrong.
    """
    num_classes = scores_NK.shape[1]
    totals_K = np.bincount(labels_N, minlength=num_classes)
    own_N = np.take_along_axis(scores_NK, labels_N[:, None], axis=1)[:, 0].astype(np.float64)
    means_K = np.full(num_classes, np.inf)
    np.divide(np.bincount(labels_N, own_N, num_classes), totals_K, out=means_K, where=totals_K > 0)
    confident_NK = np.where(scores_NK >= means_K - 1e-6, scores_NK, -1.0)
    counts_N = confident_NK.max(axis=1) >= 0
    is_off_N = counts_N & (confident_NK.argmax(axis=1) != labels_N)
    counted_K = np.bincount(labels_N[counts_N], minlength=num_classes)
    off_K = np.bincount(labels_N[is_off_N], minlength=num_classes)
    return float((totals_K * off_K / np.maximum(1, counted_K)).sum())


# ---- videos with several labels --------------------------------------------------------------------------------------


def _analyse_several(table: Scores, num_clips: int) -> dict[str, Any]:
    scores_NK, labels_NK = table.scores.astype(np.float64), table.labels.astype(bool)
    kept = np.clip(scores_NK, 1e-6, 1 - 1e-6)
    loss_N = -np.where(labels_NK, np.log(kept), np.log1p(-kept)).mean(axis=1)
    doubt_N = -(kept * np.log(kept) + (1 - kept) * np.log1p(-kept)).mean(axis=1)
    order = {"worst": np.argsort(-loss_N, kind="stable"), "uncertain": np.argsort(-doubt_N, kind="stable")}
    return {
        "is_multi": True,
        "num_videos": len(labels_NK),
        "num_classes": scores_NK.shape[1],
        "classes": [],
        "confusion": [],
        "order": [],
        "pairs": [],
        "mistakes": [],
        "calibration": calibrate(scores_NK, labels_NK, None),
        "num_label_errors": None,
        "label_errors": [
            describe_clip(table, index) | {"suggested": label, "is_missing": is_missing, "margin": margin}
            for index, label, is_missing, margin in find_errors_of_several(scores_NK, labels_NK)
        ],
        "clips": {kind: [describe_clip(table, index) for index in found[:num_clips]] for kind, found in order.items()},
    }


def find_errors_of_several(scores_NK: Floats, labels_NK: Booleans) -> list[tuple[int, int, bool, float]]:
    """Returns (video, class, whether the label is missing rather than too many, margin) of what is likely wrong.

    Confident learning of each class by itself: a label is missing where the class is as probable as in the videos that
    have it, in the mean, and too many where it is no more probable than in those that have it not.
    """
    found = []
    for label in np.flatnonzero(labels_NK.any(axis=0) & ~labels_NK.all(axis=0)):
        scores_N, has_N = scores_NK[:, label], labels_NK[:, label]
        high, low = scores_N[has_N].mean(), scores_N[~has_N].mean()
        missing, extra = ~has_N & (scores_N >= high), has_N & (scores_N <= low)
        found += [(int(i), int(label), True, float(1 - 2 * scores_N[i])) for i in np.flatnonzero(missing)]
        found += [(int(i), int(label), False, float(2 * scores_N[i] - 1)) for i in np.flatnonzero(extra)]
    return sorted(found, key=lambda error: (error[3], error[0], error[1]))
