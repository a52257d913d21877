"""A training step's launches on a GPU, recorded once and replayed: CUDA graphs, one for the features and one a trial.

Forward and backward of a decoder are 700 launches that read little: starting them takes longer than they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

F = TypeVar("F")  # what all trials read of a batch
R = TypeVar("R")  # the tensors that launches leave their results in
T = TypeVar("T")


class Recording(Generic[F, R]):
    """The launches of a cohort's step on batches of one size and kind, with memory of their own for the batch.

    `passes` compute from features and targets, a trial each. What they need in between lies in the same memory: they
    are replayed one after the other, in the order of recording.
    """

    def __init__(
        self,
        clips_NCTHW: Tensor,
        targets: Tensor,
        compute_features: Callable[[Tensor], F],
        passes: Mapping[str, Callable[[F, Tensor], R]],
    ) -> None:
        """All must have run before: libraries set themselves up by then."""
        self._clips, self._targets = clips_NCTHW.clone(), targets.clone()
        self._pool = torch.cuda.graph_pool_handle()
        self._features, features = self._record(lambda: compute_features(self._clips))
        self._passes: dict[str, tuple[torch.cuda.CUDAGraph, R]] = {
            name: self._record(lambda work=work: work(features, self._targets))  # type: ignore[misc]
            for name, work in passes.items()
        }

    def _record(self, work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        graph = torch.cuda.CUDAGraph()
        # Another thread copies the next batch meanwhile, which is no part of this.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = work()
        return graph, result

    def start(self, clips_NCTHW: Tensor, targets: Tensor) -> None:
        """Computes the features of a batch."""
        self._clips.copy_(clips_NCTHW)
        self._targets.copy_(targets)
        self._features.replay()

    def run(self, name: str) -> R:
        """Returns what a trial's pass gave when it was recorded, with this batch's numbers in its tensors. Random
        numbers follow from the seed of torch's generator now."""
        graph, result = self._passes[name]
        graph.replay()
        return result

    def drop(self, names: Iterable[str]) -> None:
        """Lets go of the memory of trials."""
        for name in names:
            self._passes.pop(name, None)
