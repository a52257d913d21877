"""What stands between a backbone and a decoder, in numbers: the tokens that the one gives, and what the other reads.

Apart from interface.py, as forecasts ask without torch.
"""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(frozen=True)
class Wants:
    """What is read of a backbone. `layers` are outputs of blocks counted from the end, -1 the last one's; `relations`
    asks for what each of these blocks attends to in neighbouring frames."""

    layers: frozenset[int]
    relations: bool = False

    @classmethod
    def last(cls, num_layers: int, relations: bool = False) -> Wants:
        """Returns the outputs of the last blocks."""
        return cls(frozenset(range(-num_layers, 0)), relations)

    def __or__(self, other: Wants) -> Wants:
        return Wants(self.layers | other.layers, self.relations or other.relations)

    @property
    def depth(self) -> int:
        """How many of the last blocks that reaches."""
        return -min(self.layers)
