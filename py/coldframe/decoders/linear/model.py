"""A linear layer on pooled tokens: the plainest trained part, as DINOv2's linear probe of videos (arXiv 2304.07193).

Each frame gives its class token, the mean of its patches, or both, of the last blocks side by side, each through the
backbone's final norm. Frames are averaged, so that their order does not count, or stand side by side.
"""

# Shapes: N clips, T frames, L tokens of a frame (a prefix, then P patches), C channels, F features of a frame

from __future__ import annotations

import torch
from torch import Tensor, nn

from coldframe.backbones.interface import Layer, Layers
from coldframe.backbones.shape import TokenShape, Wants
from coldframe.decoders.linear.sizes import Frames, Pool, Sizes
from coldframe.errors import UserError


def read_class(layer: Layer) -> Tensor:
    """Returns the class tokens (N, T, C)."""
    return _normalise(layer, layer.tokens_NTLC[:, :, 0])


def read_patches(layer: Layer) -> Tensor:
    """Returns the means over patches (N, T, C)."""
    return _normalise(layer, layer.tokens_NTLC)[:, :, layer.shape.prefix :].mean(dim=2)


def _normalise(layer: Layer, tokens: Tensor) -> Tensor:
    assert layer.norm is not None, "it is wanted"
    return layer.norm(tokens)


READERS = {"class": (read_class,), "patches": (read_patches,), "both": (read_class, read_patches)}


class Linear(nn.Module):
    """The trained part. Initialised from torch's global generator, which the caller seeds."""

    def __init__(self, *, shape: TokenShape, num_layers: int, pool: Pool, frames: Frames, num_classes: int) -> None:
        super().__init__()
        if pool != "patches" and shape.prefix == 0:
            raise UserError(f"model.decoder.pool  is {pool}; this backbone has no class token. Set it to patches.")
        sizes = Sizes(shape, num_layers, pool, frames, num_classes)
        self.wants: Wants = sizes.wants
        self.readers, self.is_ordered = READERS[pool], frames == "concat"
        self.proj = nn.Linear(sizes.num_inputs, num_classes)
        nn.init.normal_(self.proj.weight, std=0.01)
        nn.init.zeros_(self.proj.bias)

    @property
    def classifier(self) -> tuple[str, str]:
        return "proj.weight", "proj.bias"

    def undecayed(self) -> set[str]:
        return set()

    def prepare(self, layers: Layers) -> None:
        """Asks for what is pooled: it depends on no trained weight."""
        for i in self.wants.layers:
            for read in self.readers:
                layers[i].share(read)

    def forward(self, layers: Layers) -> Tensor:
        """Returns logits (N, num_classes), in float32 whatever autocast does: one row a clip is soon multiplied."""
        with torch.autocast(layers[-1].tokens_NTLC.device.type, enabled=False):
            pooled = [layers[i].share(read) for i in sorted(self.wants.layers) for read in self.readers]
            frames_NTF = torch.cat(pooled, dim=2)
            clips_NF = frames_NTF.flatten(1) if self.is_ordered else frames_NTF.mean(dim=1)
            logits: Tensor = self.proj(clips_NF)
        return logits
