"""What stands between a backbone and a decoder, in numbers: the tokens that the one gives, and what the other reads.

Apart from interface.py, as forecasts ask without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

FLOAT_BYTES = 4  # of a number of the tokens and relations that decoders read


@dataclass(frozen=True)
class TokenShape:
    """A clip's tokens: `frames` steps of time, each of `prefix` tokens (a class token, registers) and then patches row
    by row."""

    frames: int
    prefix: int
    rows: int
    columns: int
    channels: int

    @property
    def num_patches(self) -> int:
        return self.rows * self.columns

    @property
    def num_tokens(self) -> int:
        """Of one step of time."""
        return self.prefix + self.num_patches

    @property
    def clip_bytes(self) -> int:
        """What the tokens of one clip take after one block, as decoders read them."""
        return self.frames * self.num_tokens * self.channels * FLOAT_BYTES

    @property
    def relation_bytes(self) -> int:
        """What one clip's relations of one block take in one direction."""
        return (self.frames - 1) * self.num_patches**2 * FLOAT_BYTES


@dataclass(frozen=True)
class Wants:
    """What is read of a backbone. `layers` are outputs of blocks counted from the end, -1 the last one's; `relations`
    asks for what each of these blocks attends to in neighbouring frames, `final_norm` for the norm that the backbone
    has behind its last block, to be put behind any of them."""

    layers: frozenset[int]
    relations: bool = False
    final_norm: bool = False

    @classmethod
    def last(cls, num_layers: int, relations: bool = False, final_norm: bool = False) -> Wants:
        """Returns the outputs of the last blocks."""
        return cls(frozenset(range(-num_layers, 0)), relations, final_norm)

    def __or__(self, other: Wants) -> Wants:
        return Wants(self.layers | other.layers, self.relations or other.relations, self.final_norm or other.final_norm)

    @property
    def depth(self) -> int:
        """How many of the last blocks that reaches."""
        return -min(self.layers)


class BackboneSizes(Protocol):
    """What a backbone costs, from its numbers alone. Multiply-adds are those of one step of time; memory is told in
    tensors as large as the tokens of all clips, in the precision that the backbone computes in."""

    @property
    def num_layers(self) -> int: ...

    @property
    def num_heads(self) -> int:
        """Returns how many maps a block that is trained keeps of each of its relations."""

    def shape(self, num_frames: int) -> TokenShape:
        """Returns the shape of the tokens of clips with so many frames."""

    def count_parameters(self) -> int: ...

    def count_block(self) -> int:
        """Returns the parameters of one block."""

    def count_entering(self) -> int:
        """Returns the multiply-adds from pixels to what enters the first block."""

    def count_running(self) -> int:
        """Returns the multiply-adds of one block."""

    @property
    def alive_tensors(self) -> float:
        """Returns how many tensors are alive where a block has the most, what entered the last but one not counted."""

    @property
    def kept_tensors(self) -> float:
        """Returns how many a block that is trained keeps for backward."""

    @property
    def backward_tensors(self) -> float:
        """Returns how many are on their way in backward through a block."""
