"""What training minimises, and what a model's numbers mean then: one label a clip, or any number of them.

Shapes: N clips; K classes
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from coldframe.data.labels import ClassCounts
from coldframe.settings import Settings


class OneLabel(NamedTuple):
    """Softmax over the classes and cross entropy; a clip counts by `weights` of its class, None: each the same."""

    smoothing: float
    weights: Tensor | None

    def loss(self, logits_NK: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over the clips; targets are labels (N,) or class weights (N, K)."""
        if self.weights is None:
            return F.cross_entropy(logits_NK, targets, label_smoothing=self.smoothing)
        # Of labels torch's own mean divides by the weights of the batch, which would hang on how the batch is split.
        total = F.cross_entropy(
            logits_NK, targets, weight=self.weights, label_smoothing=self.smoothing, reduction="sum"
        )
        return total / len(targets)

    def count_hits(self, logits_NK: Tensor, targets: Tensor) -> Tensor:
        """Returns how many clips have their best class right."""
        labels_N = targets if targets.ndim == 1 else targets.argmax(dim=1)
        return (logits_NK.argmax(dim=1) == labels_N).sum()

    def scores(self, logits_NK: Tensor) -> Tensor:
        """Returns probabilities that add up to one."""
        return logits_NK.softmax(dim=-1)


class ManyLabels(NamedTuple):
    """A sigmoid for each class and binary cross entropy; `weights` are those of a class's no and of its yes."""

    smoothing: float
    weights: Tensor | None

    def loss(self, logits_NK: Tensor, targets_NK: Tensor) -> Tensor:
        """Returns the mean over clips and classes; targets are 0..1, between them after mixing."""
        targets_NK = targets_NK.to(logits_NK.dtype)
        if self.smoothing:
            targets_NK = torch.lerp(targets_NK, torch.full_like(targets_NK, 0.5), self.smoothing)
        if self.weights is None:
            return F.binary_cross_entropy_with_logits(logits_NK, targets_NK)
        no_K, yes_K = self.weights
        return F.binary_cross_entropy_with_logits(logits_NK, targets_NK, weight=no_K, pos_weight=yes_K / no_K)

    def count_hits(self, logits_NK: Tensor, targets_NK: Tensor) -> Tensor:
        """Returns how many clips have their best class among their labels."""
        best_N1 = logits_NK.argmax(dim=1, keepdim=True)
        return (targets_NK.gather(1, best_N1) >= 0.5).sum()

    def scores(self, logits_NK: Tensor) -> Tensor:
        """Returns the probability of each class by itself."""
        return logits_NK.sigmoid()


Loss = OneLabel | ManyLabels


def make_loss(settings: Settings, counts: ClassCounts | None, device: torch.device) -> Loss:
    """Returns the loss of a trial; `counts` are those of the training list, which balanced weights follow from."""
    train = settings.train
    is_weighted = train.class_weights == "balanced" and counts is not None
    if settings.data.labels == "multi":
        return ManyLabels(train.label_smoothing, balance_answers(counts).to(device) if is_weighted and counts else None)
    return OneLabel(train.label_smoothing, balance_classes(counts).to(device) if is_weighted and counts else None)


def balance_classes(counts: ClassCounts) -> Tensor:
    """Returns (K,): what makes all classes count the same, with a mean of one over the list. A class without a clip,
    which only label smoothing asks of, has one."""
    clips_K = counts.num_each.double()
    num_classes = int((clips_K > 0).sum())
    return torch.where(clips_K > 0, counts.num_clips / (num_classes * clips_K.clamp(min=1)), 1.0).float()


def balance_answers(counts: ClassCounts) -> Tensor:
    """Returns (2, K): what makes the no and the yes of each class count the same, with a mean of one over the list; one
    for a class that all clips have, or none."""
    yes_K = counts.num_each.double()
    answers_2K = torch.stack([counts.num_clips - yes_K, yes_K])
    is_mixed_K = (answers_2K > 0).all(dim=0)
    return torch.where(is_mixed_K, counts.num_clips / (2 * answers_2K.clamp(min=1)), 1.0).float()
