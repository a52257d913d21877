"""What EVL costs, from its sizes: parameters, multiply-adds and memory, without torch."""

# Shapes: T frames, L tokens of a frame (a prefix, then P patches), C channels

from __future__ import annotations

from dataclasses import dataclass

from coldframe.backbones.shape import FLOAT_BYTES, TokenShape, Wants
from coldframe.decoders.evl.columns import column_groups
from coldframe.decoders.sizes import Backward


@dataclass(frozen=True)
class Sizes:
    """Of model.py's EVL, as `DecoderSizes` in decoders/sizes.py says."""

    shape: TokenShape
    num_layers: int
    qkv_dim: int
    num_heads: int
    mlp_factor: float
    num_classes: int
    temporal_conv: bool
    temporal_position_embedding: bool
    temporal_cross_attention: bool

    @property
    def wants(self) -> Wants:
        return Wants.last(self.num_layers, self.temporal_cross_attention)

    @property
    def _hidden(self) -> int:
        return round(self.mlp_factor * self.shape.channels)

    def count_parameters(self) -> int:
        T, C, hidden = self.shape.frames, self.shape.channels, self._hidden
        layer = 4 * C * self.qkv_dim + 3 * self.qkv_dim + C + 2 * C * hidden + hidden + C + 3 * 2 * C
        layer += self.temporal_conv * 4 * C + self.temporal_position_embedding * T * C
        offsets = (2 * self.shape.rows - 1) * (2 * self.shape.columns - 1)
        layer += self.temporal_cross_attention * 2 * offsets * C
        return self.num_layers * layer + C + 2 * C + (C + 1) * self.num_classes

    def count_multiply_adds(self) -> int:
        """With the projections absorbed (model.py), so that it is below the paper's."""
        T, L, P, C = self.shape.frames, self.shape.num_tokens, self.shape.num_patches, self.shape.channels
        layer = 2 * T * L * C * self.num_heads + 2 * C * self._hidden + 4 * C * self.qkv_dim
        if self.temporal_conv:
            layer += 3 * T * L * C
        if self.temporal_cross_attention:
            offsets = self.shape.rows * (2 * self.shape.columns - 1)
            layer += 2 * (T - 1) * P * P * C + 2 * (T - 1) * P * offsets * C
        return self.num_layers * layer + C * self.num_classes

    def _map_bytes(self, num_clips: int) -> int:
        """Returns the relations of one block in one direction; 0 where nobody looks at them."""
        return num_clips * self.shape.relation_bytes if self.temporal_cross_attention else 0

    def shared_bytes(self, num_clips: int, itemsize: int) -> float:
        """Skewed maps in both directions (motion.py, skew), in the precision."""
        side = self.shape.columns
        columns: int = column_groups(side)[0].stop
        return 2 * self._map_bytes(num_clips) * ((side + columns - 1) / side) * itemsize / FLOAT_BYTES

    def sharing_bytes(self, num_clips: int) -> int:
        """One group of columns on its way."""
        side = self.shape.columns
        groups = column_groups(side)
        columns: int = groups[0].stop
        return round(self._map_bytes(num_clips) * ((1 + (side + columns) / side) / len(groups)))

    def backward(self, num_clips: int) -> Backward:
        """Of each layer its own tokens and two rows of scores a head stay until backward has passed it; on the way are
        one layer's tokens' gradient and what the motion term reads of it."""
        tokens, width = num_clips * self.shape.clip_bytes, self.shape.channels
        has_own = self.temporal_conv or self.temporal_position_embedding or self.temporal_cross_attention
        kept = has_own * tokens + 2 * self.num_heads * tokens // width
        passing = tokens * (has_own + 0.5 * self.temporal_cross_attention) + 6 * self.num_heads * tokens / width
        return Backward(self.num_layers, kept, round(passing))
