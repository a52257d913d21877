"""Whether probabilities are to be believed: reliability, expected calibration error, temperature scaling.

Shapes: N videos; K classes
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

NUM_BINS = 15  # as arXiv 1706.04599
LOWEST, HIGHEST = 0.05, 20.0  # of a temperature; at either end the videos cannot tell it
MAX_STEPS = 60
ROWS = 4096  # scored at a time: of a large list the exponentials would take as much again as the scores


def calibrate(scores: Floats, labels: npt.NDArray[Any], fit: tuple[Floats, npt.NDArray[Any]] | None) -> dict[str, Any]:
    """Returns reliability and error of probabilities, as they are and with a temperature, and that temperature.

    It is fitted on the scores and labels of another list (`fit`). Without one it is fitted on this list, and what is
    told of it is measured on halves (every second video) that took no part in fitting their own temperature. Of videos
    with several labels (labels (N, K)) every class of every video counts by itself, and there is no temperature.
    """
    if labels.ndim == 2:
        return {"before": measure(scores.ravel(), labels.ravel().astype(bool)), "after": None, "temperature": None}
    before = measure(scores.max(axis=1), scores.argmax(axis=1) == labels) | {"nll": _mean_loss(scores, labels, 1.0)}
    temperature = fit_temperature(*(fit or (scores, labels)))
    if not LOWEST * 1.01 < temperature < HIGHEST / 1.01:
        return {"before": before, "after": None, "temperature": None}
    if fit is not None:
        scaled, loss = scale(scores, temperature), _mean_loss(scores, labels, temperature)
    else:
        scaled, loss = np.empty(scores.shape), 0.0
        for own in (np.arange(len(labels)) % 2 == 0, np.arange(len(labels)) % 2 == 1):
            if own.all() or not own.any():
                return {"before": before, "after": None, "temperature": None}
            other = fit_temperature(scores[~own], labels[~own])
            scaled[own] = scale(scores[own], other)
            loss += _mean_loss(scores[own], labels[own], other) * own.mean()
    after = measure(scaled.max(axis=1), scaled.argmax(axis=1) == labels) | {"nll": loss}
    return {"before": before, "after": after, "temperature": temperature}


def measure(confidence_N: Floats, is_right_N: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Returns the expected calibration error (0..1) and its bins of equal width, those with videos: [from, to, videos,
    mean confidence, share that is right]."""
    places = np.minimum((confidence_N * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    counts = np.bincount(places, minlength=NUM_BINS)
    confidence = np.bincount(places, confidence_N, NUM_BINS) / np.maximum(1, counts)
    right = np.bincount(places, is_right_N, NUM_BINS) / np.maximum(1, counts)
    bins = [
        [place / NUM_BINS, (place + 1) / NUM_BINS, int(counts[place]), float(confidence[place]), float(right[place])]
        for place in np.flatnonzero(counts).tolist()
    ]
    return {"ece": float((counts * np.abs(confidence - right)).sum() / counts.sum()), "bins": bins}


def scale(scores_NK: Floats, temperature: float) -> Floats:
    """Returns probabilities as a softmax of their logarithms over the temperature: of a single view that is the softmax
    of its logits over it (arXiv 1706.04599, section 4.2)."""
    return np.exp(_log_scaled(scores_NK, 1 / temperature))


def _log_scaled(scores_NK: Floats, sharpness: float) -> Floats:
    logits_NK = sharpness * np.log(np.maximum(scores_NK.astype(np.float64), 1e-12))
    logits_NK -= logits_NK.max(axis=1, keepdims=True)
    return np.asarray(logits_NK - np.log(np.exp(logits_NK).sum(axis=1, keepdims=True)))


def _mean_loss(scores_NK: Floats, labels_N: npt.NDArray[Any], temperature: float) -> float:
    """Returns the mean negative log-likelihood of the labels."""
    total = 0.0
    for at in range(0, len(labels_N), ROWS):
        log_NK = _log_scaled(scores_NK[at : at + ROWS], 1 / temperature)
        total -= float(np.take_along_axis(log_NK, labels_N[at : at + ROWS, None], axis=1).sum())
    return total / len(labels_N)


def fit_temperature(scores_NK: Floats, labels_N: npt.NDArray[Any]) -> float:
    """Returns the temperature under which the labels are likeliest, by Newton's method on its inverse, in which their
    loss is convex; where a step would leave the range that is left, by halving it."""
    logits_NK = np.log(np.maximum(scores_NK, 1e-12))
    own = float(np.take_along_axis(logits_NK, labels_N[:, None], axis=1).sum(dtype=np.float64))
    low, high, sharpness = 1 / HIGHEST, 1 / LOWEST, 1.0
    for _ in range(MAX_STEPS):
        slope, curvature = _expect(logits_NK, sharpness)
        slope -= own
        low, high = (low, sharpness) if slope > 0 else (sharpness, high)
        step = sharpness - slope / curvature if curvature > 0 else 0.0
        found = step if low < step < high else float(np.sqrt(low * high))
        if abs(found - sharpness) <= 1e-6 * sharpness:
            break
        sharpness = found
    return 1 / found


def _expect(logits_NK: Floats, sharpness: float) -> tuple[float, float]:
    """Returns mean and variance of the logits under the scaled probabilities, each the sum over the videos."""
    mean = variance = 0.0
    for at in range(0, len(logits_NK), ROWS):
        rows = logits_NK[at : at + ROWS]
        weights = np.exp(sharpness * (rows - rows.max(axis=1, keepdims=True)))
        weights /= weights.sum(axis=1, keepdims=True)
        means = (weights * rows).sum(axis=1)
        mean += float(means.sum(dtype=np.float64))
        variance += float(((weights * rows * rows).sum(axis=1) - means**2).sum(dtype=np.float64))
    return mean, variance
