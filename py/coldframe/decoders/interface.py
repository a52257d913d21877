"""What every decoder, a trained part, offers to training."""

# Shapes: N clips, K classes

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Protocol

import torch
from torch import Tensor, nn

from coldframe.backbones.interface import Layers
from coldframe.backbones.shape import Wants


class Decoder(Protocol):
    """A module whose parameters are all of a trial that is trained, the backbone aside."""

    @property
    def wants(self) -> Wants:
        """Returns what it reads of a backbone."""

    def prepare(self, layers: Layers) -> None:
        """Asks the layers to share what depends on no weight of this decoder: a cohort calls it once a batch, before
        any `forward`, and what several trials ask for is made once. The layers' relations are gone afterwards."""

    def __call__(self, layers: Layers) -> Tensor:
        """Returns logits (N, K). Changes nothing in place: the layers are those of all trials."""

    @property
    def classifier(self) -> tuple[str, str]:
        """Returns the names of weight and bias of its last layer, a row a class."""

    def undecayed(self) -> Set[str]:
        """Returns the names of the parameters with more than one axis that `train.decay_all: false` spares."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def train(self, mode: bool) -> object: ...

    def to(self, device: torch.device) -> object: ...

    def compile(self) -> None: ...
