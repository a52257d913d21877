"""What every decoder, a trained part, offers to training."""

# Shapes: N clips, K classes; of attention Y layers, H heads, T frames, L tokens of a frame

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from coldframe.backbones.interface import Layers
from coldframe.backbones.shape import Wants


class Decoder(Protocol):
    """A module whose parameters are all of a trial that is trained, the backbone aside. It keeps no running statistics,
    as batch norm does: checkpoints would lack them, and each of several ranks would have its own."""

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


@runtime_checkable
class Attends(Protocol):
    """A decoder that can say where it looks, besides."""

    def attend(self, layers: Layers, hidden_T: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns logits (N, K), as a call gives them, and attention (Y, N, H, T, L), weights that sum to one over T
        and L. Frames that are `hidden_T` (bool) have none: the answer is that of the others."""
