"""What CLIP's vision tower costs, from its sizes: parameters, multiply-adds and memory, without torch."""

# Shapes: L tokens of a frame (the class token, then P patches), C channels

from __future__ import annotations

from dataclasses import dataclass

from coldframe.backbones.shape import TokenShape


@dataclass(frozen=True)
class Sizes:
    """Of model.py's VisionTransformer over square frames, as `BackboneSizes` in backbones/shape.py says."""

    width: int
    num_layers: int
    num_heads: int
    patch_size: int
    input_size: int
    mlp_factor: float

    def shape(self, num_frames: int) -> TokenShape:
        side = self.input_size // self.patch_size
        return TokenShape(num_frames, 1, side, side, self.width)

    @property
    def _hidden(self) -> int:
        return round(self.mlp_factor * self.width)

    def count_parameters(self) -> int:
        C, L = self.width, self.shape(1).num_tokens
        embedding = 3 * self.patch_size**2 * C + C + C + L * C + 2 * C  # of patches, class and places; the first norm
        return embedding + self.num_layers * self.count_block()

    def count_block(self) -> int:
        C, hidden = self.width, self._hidden
        return 4 * C**2 + 4 * C + 2 * C * hidden + hidden + C + 2 * 2 * C

    def count_entering(self) -> int:
        return self.shape(1).num_patches * 3 * self.patch_size**2 * self.width

    def count_running(self) -> int:
        C, L = self.width, self.shape(1).num_tokens
        return L * C * (4 * C + 2 * self._hidden) + 2 * L * L * C

    @property
    def alive_tensors(self) -> float:
        """In a block's mlp, beside the old stream: its new stream, norm, packed query, key and value (they wait for the
        maps), hidden layer and output."""
        return 6 + self.mlp_factor

    @property
    def kept_tensors(self) -> float:
        """The stream twice, both norms, packed query, key and value, their mix twice, and the mlp's hidden layer
        before, within and after its activation."""
        return 9 + 3 * self.mlp_factor

    @property
    def backward_tensors(self) -> float:
        return 2 + self.mlp_factor
