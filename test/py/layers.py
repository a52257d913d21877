"""A backbone's layers, for tests that compare their tensors."""

from __future__ import annotations

from torch import Tensor

from coldframe.backbones.interface import Backbone, Layer, run
from coldframe.backbones.shape import Wants


def last_layers(backbone: Backbone, video_NCTHW: Tensor, num_layers: int, relations: bool = False) -> list[Layer]:
    """Returns the outputs of a backbone's last blocks, earliest first."""
    return list(run(backbone, video_NCTHW, Wants.last(num_layers, relations)).values())


def tensors_of(layer: Layer) -> tuple[Tensor, ...]:
    """Returns a layer's tokens, and its relations where it has any."""
    return (layer.tokens_NTLC, *(layer.relations or ()))
