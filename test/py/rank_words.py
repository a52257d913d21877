"""Cases of test_ranks.py: what ranks say to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from coldframe import errors
from coldframe.machine import ranks


def gather(folder: Path) -> Any:
    return ranks.gather({"rank": ranks.rank(), "places": (ranks.local_rank(), ranks.local_world_size())})


def reduce(folder: Path) -> Any:
    """Two at once, which may overlap."""
    first, second = torch.full((3,), 1.0 + ranks.rank()), torch.full((2,), 10.0)
    handles = [ranks.reduce_(first), ranks.reduce_(second)]
    for handle in handles:
        handle.wait()
    return first.tolist(), second.tolist(), ranks.waiting_since()


def lose(folder: Path) -> Any:
    """The last case: rank 1 leaves, and the others are told no more than that."""
    if ranks.rank() == 1:
        ranks.end()
        return ranks.world_size()
    try:
        ranks.barrier()
    except errors.PeerLost as error:
        return errors.describe(error), ranks.waiting_since()


CASES = {"gather": gather, "reduce": reduce, "lose": ((2,), lose)}
