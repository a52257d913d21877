"""What the linear decoder costs, from its sizes: parameters, multiply-adds and memory, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coldframe.backbones.shape import FLOAT_BYTES, TokenShape, Wants
from coldframe.decoders.sizes import Backward

Pool = Literal["class", "patches", "both"]
Frames = Literal["mean", "concat"]


@dataclass(frozen=True)
class Sizes:
    """Of model.py's Linear, as `DecoderSizes` in decoders/sizes.py says."""

    shape: TokenShape
    num_layers: int
    pool: Pool
    frames: Frames
    num_classes: int

    @property
    def wants(self) -> Wants:
        return Wants.last(self.num_layers, final_norm=True)

    @property
    def num_pooled(self) -> int:
        """How many vectors a frame of one layer gives."""
        return 2 if self.pool == "both" else 1

    @property
    def num_inputs(self) -> int:
        """What the linear layer reads of a clip."""
        num_frames = self.shape.frames if self.frames == "concat" else 1
        return num_frames * self.num_layers * self.num_pooled * self.shape.channels

    def count_parameters(self) -> int:
        return (self.num_inputs + 1) * self.num_classes

    def count_multiply_adds(self) -> int:
        """The mean over patches once a token, and the linear layer."""
        num_patches = 0 if self.pool == "class" else self.shape.num_patches
        pooling = self.num_layers * self.shape.frames * num_patches * self.shape.channels
        return pooling + self.num_inputs * self.num_classes

    def shared_bytes(self, num_clips: int, itemsize: int) -> float:
        """The pooled vectors, in float32 whatever the precision."""
        return num_clips * self.shape.frames * self.num_pooled * self.shape.channels * FLOAT_BYTES

    def sharing_bytes(self, num_clips: int) -> int:
        """All tokens of a layer, normalised, where patches are read."""
        return 0 if self.pool == "class" else num_clips * self.shape.clip_bytes

    def backward(self, num_clips: int) -> Backward:
        """What the linear layer read, of all frames and of the clip."""
        pooled = self.num_layers * round(self.shared_bytes(num_clips, FLOAT_BYTES))
        return Backward(1, pooled + num_clips * self.num_inputs * FLOAT_BYTES, 0)
