"""What every backbone offers, what decoders get of it, and the one loop over its blocks."""

# Shapes: N clips, C channels (of pixels 3), T frames, H, W pixels; of tokens T steps of time, L tokens of a step (its
# prefix, then P patches)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from coldframe.backbones.shape import TokenShape, Wants
from coldframe.errors import UserError

R = TypeVar("R")
Norm = Callable[[Tensor], Tensor]


class Relations(NamedTuple):
    """Attention of frame t's patches over the patches of frame t-1 (`previous`, t = 1..T-1) and of frame t+1
    (`following`, t = 0..T-2), softmax over the last axis, mean over heads; float32.

    Averaging here is exact: no trained weight stands between softmax and mean (arXiv 2208.03550 section 3.3; upstream
    model.py, TemporalCrossAttention).
    """

    previous_NTPP: Tensor  # noqa: N815
    following_NTPP: Tensor  # noqa: N815


class Layer:
    """What one block hands to decoders. Shared by all trials of a cohort: never changed in place."""

    def __init__(
        self, tokens_NTLC: Tensor, relations: Relations | None, shape: TokenShape, norm: Norm | None = None
    ) -> None:
        self.tokens_NTLC = tokens_NTLC
        self.relations = relations
        self.shape = shape
        self.norm = norm  # the backbone's final one, where it is wanted
        self._shared: dict[Callable[[Layer], Any], Any] = {}

    def share(self, derive: Callable[[Layer], R]) -> R:
        """Returns what `derive` makes of this layer, made once however many decoders ask. It is for what depends on no
        trained weight; decoders ask in `prepare`, and find it in `forward`."""
        if derive not in self._shared:
            self._shared[derive] = derive(self)
        return cast(R, self._shared[derive])

    def settle(self) -> None:
        """Lets go of what everyone who reads it has by now made something else of."""
        self.relations = None


# By a block's place from the end: -1 is the last block's output. A list of the last layers will do as well.
Layers = Mapping[int, Layer] | Sequence[Layer]


class Source(Protocol):
    """What gives a cohort its layers: a backbone from clips, a cache from its rows. A module, for its parameters."""

    def __call__(self, batch: Tensor, wants: Wants) -> dict[int, Layer]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def compile(self) -> None: ...


class Backbone(Source, Protocol):
    """A frozen part. Tokens are (N, T, L, C), between blocks in the backbone's own precision; blocks are counted from
    the end, so that a backbone of its last blocks alone has the same numbers. Its `forward` is `run`."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def train(self, mode: bool) -> object: ...

    @property
    def num_layers(self) -> int:
        """Returns how many blocks there are."""

    def shape(self, num_frames: int) -> TokenShape:
        """Returns the shape of the tokens of clips with so many frames."""

    @property
    def dtype(self) -> torch.dtype:
        """Returns what tokens have to be in where they enter a block."""

    @property
    def final_norm(self) -> Norm | None:
        """Returns the norm that it was trained with behind its last block, a constant even where blocks learn; None
        where its weights came without one."""

    def enter(self, video_NCTHW: Tensor) -> Tensor:
        """Returns the tokens of normalised clips that enter the first block."""

    def block(self, i: int, tokens_NTLC: Tensor, relations: bool) -> tuple[Tensor, Relations | None]:
        """Returns a block's output and, where they are asked for and there is more than one frame, its relations."""

    def relate(self, i: int, tokens_NTLC: Tensor) -> Relations | None:
        """Returns the relations of a block from what enters it, without running the rest of it."""

    def tail(self, num_blocks: int) -> Backbone:
        """Returns the last blocks alone, with the same weights: all that is needed where tokens come from elsewhere."""

    def freeze(self, dtype: torch.dtype) -> None:
        """Makes it a constant that computes in `dtype`."""

    def tune(self, num_blocks: int) -> None:
        """Makes the last blocks learn, and nothing else."""

    def undecayed(self) -> Set[str]:
        """Returns the names of the parameters with more than one axis that `train.decay_all: false` spares."""


def run(backbone: Backbone, video_NCTHW: Tensor, wants: Wants) -> dict[int, Layer]:
    """Returns the wanted layers of normalised clips. Builds a graph only where parameters require gradients.

    Raises UserError when the frame size or the number of layers does not fit the backbone.
    """
    if wants.depth > backbone.num_layers:
        raise UserError(
            f"{wants.depth} decoder layers need as many backbone blocks; the backbone has {backbone.num_layers}"
        )
    return run_blocks(backbone, backbone.enter(video_NCTHW), backbone.num_layers, wants)


def run_blocks(backbone: Backbone, tokens_NTLC: Tensor, num_blocks: int, wants: Wants) -> dict[int, Layer]:
    """Returns the wanted layers, earliest first, from what enters the last `num_blocks` blocks; layer -num_blocks - 1
    is what enters them. Tokens in float32 (float64 stays float64); the blocks after the last wanted one do not run.
    """
    shape, norm = backbone.shape(tokens_NTLC.shape[1]), backbone.final_norm if wants.final_norm else None
    layers = {}
    if -num_blocks - 1 in wants.layers:
        layers[-num_blocks - 1] = Layer(widen(tokens_NTLC), None, shape, norm)
    for i in range(-num_blocks, max(wants.layers) + 1):
        is_wanted = i in wants.layers
        tokens_NTLC, relations = backbone.block(i, tokens_NTLC, is_wanted and wants.relations)
        if is_wanted:
            layers[i] = Layer(widen(tokens_NTLC), relations, shape, norm)
    return layers


def widen(x: Tensor) -> Tensor:
    """Returns x in float32 at least, as upstream's model.py hands the features of a half precision backbone over."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
