"""Mixing the clips of a batch: mixup and cutmix.

Shapes: N clips, C channels (3), T frames, H, W pixels; K classes
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from coldframe.settings import Settings
from coldframe.train.schedule import shard_size, stream_seed


def mix_batch(clips_NCTHW: Tensor, labels: Tensor, settings: Settings, step: int) -> tuple[Tensor, Tensor]:
    """Returns the batch after mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899) with itself, each shard reversed:
    partners go through the model together, so that they are the same on one rank with many shards and on many ranks.

    Targets are class weights (N, num_classes), of clips with several labels the share of the clip that has each; labels
    come back untouched when both are off. With both on, a coin decides for each step. The draws are a function of
    (data.seed, step): all trials of a cohort share the mixed clips.
    """
    train = settings.train
    if train.mixup == 0 and train.cutmix == 0:
        return clips_NCTHW, labels
    generator = torch.Generator().manual_seed(stream_seed(settings.data.seed, "mix", step))
    use_cutmix = train.cutmix > 0 and (train.mixup == 0 or torch.rand((), generator=generator).item() < 0.5)
    kept = _sample_beta(train.cutmix if use_cutmix else train.mixup, generator)
    partner = _reverse_shards(clips_NCTHW, settings)
    if use_cutmix:
        height, width = clips_NCTHW.shape[-2:]
        side = math.sqrt(1 - kept)
        top, bottom = _cut(height, side, generator)
        left, right = _cut(width, side, generator)
        mixed = clips_NCTHW.clone()
        mixed[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = torch.lerp(partner, clips_NCTHW, kept)
    hot = F.one_hot(labels, settings.data.num_classes) if labels.ndim == 1 else labels
    targets = hot.to(clips_NCTHW.dtype)
    return mixed, torch.lerp(_reverse_shards(targets, settings), targets, kept)


def _reverse_shards(batch: Tensor, settings: Settings) -> Tensor:
    size = shard_size(settings.train)
    return torch.cat([batch[start : start + size].flip(0) for start in range(0, len(batch), size)] or [batch])


def _sample_beta(alpha: float, generator: torch.Generator) -> float:
    """Returns a draw from Beta(alpha, alpha) as a ratio of two gamma variates from the given generator."""
    shape = torch.full((2,), alpha, dtype=torch.float64)
    first, second = torch._standard_gamma(shape, generator=generator).tolist()
    return float(first / (first + second))


def _cut(length: int, side: float, generator: torch.Generator) -> tuple[int, int]:
    centre = int(torch.randint(length, (), generator=generator).item())
    half = int(length * side) // 2
    return max(0, centre - half), min(length, centre + half)
