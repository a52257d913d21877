"""Parts that backbones and decoders have in common."""

from __future__ import annotations

import torch
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


class QuickGELU(nn.Module):
    """The sigmoid approximation of GELU that CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(QUICK_GELU_SLOPE * x)
