"""What belongs to an optimizer step by its number alone: its learning rate and its random streams."""

from __future__ import annotations

import hashlib
import math

from coldframe.machine import ranks
from coldframe.settings import Train


def stream_seed(*place: int | str) -> int:
    """Returns the 63-bit seed of the random stream that belongs to a place, e.g. (seed, "dropout", step, shard)."""
    digest = hashlib.blake2b("/".join(map(str, place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def shard_size(train: Train) -> int:
    """Returns how many clips go through the model at once: a micro-batch of one rank."""
    return max(1, train.batch_size // (ranks.world_size() * train.micro_batches))


def learning_rate(step: int, train: Train) -> float:
    """Returns the rate used in optimizer step `step` (from 0): linear warm-up, then half a cosine down to zero.

    Without warm-up it is the schedule of upstream's main.py, CosineAnnealingLR(T_max=steps) stepped every step.
    """
    if step < train.warmup_steps:
        return train.lr * (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    return train.lr * 0.5 * (1 + math.cos(math.pi * progress))
