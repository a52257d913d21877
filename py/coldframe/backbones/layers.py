"""Parts that backbones and decoders have in common."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUICK_GELU_SLOPE = 1.702  # openai/CLIP clip/model.py, QuickGELU


def on_gpu(x: Tensor) -> bool:
    """Returns whether x is where the number of operations counts more than their arithmetic: not on a CPU."""
    return x.device.type != "cpu"


class LayerNorm(nn.LayerNorm):
    """Layer norm computed in float32 whatever the input's dtype, as CLIP and upstream do."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.elementwise_affine:  # torch's kernels compute in float32 by themselves, without a copy
            return super().forward(x)
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class ConstantNorm(nn.Module):
    """A layer norm that nothing trains: neither a parameter nor part of the state that weights are known by."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        # On the CPU even where a module is made on `meta`: no state that is put in brings them.
        self.register_buffer("weight", torch.ones(width, device="cpu"), persistent=False)
        self.register_buffer("bias", torch.zeros(width, device="cpu"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns x normalised in float32 at least."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, weight.shape, weight, bias)

    def put(self, weight: Tensor | float, bias: Tensor | float) -> None:
        """Takes over scale and shift."""
        for name, value in (("weight", weight), ("bias", bias)):
            getattr(self, name).copy_(torch.as_tensor(value))


class QuickGELU(nn.Module):
    """The sigmoid approximation of GELU that CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(QUICK_GELU_SLOPE * x)
