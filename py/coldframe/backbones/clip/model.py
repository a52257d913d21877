"""The frozen image backbone: CLIP's vision tower up to its last block, and what a decoder needs of it.

EVL reads block outputs, so CLIP's `proj` is not here, and `ln_post` is a constant for decoders that ask for it (arXiv
2208.03550, section 3.1).
Parameter names are those of OpenAI's `visual` module, with one more, `conv1.bias`: upstream's patch embedding has a
bias, zero from CLIP's files and trained when the backbone is fine-tuned.
"""

# Shapes: N clips, T frames, B = N*T images, L = 1 + P tokens (class token first), P = h*w patches, C channels, H heads,
# D = C/H channels a head

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coldframe.backbones.interface import Layer, Relations, run
from coldframe.backbones.layers import QUICK_GELU_SLOPE, ConstantNorm, LayerNorm, QuickGELU, on_gpu
from coldframe.backbones.shape import TokenShape, Wants
from coldframe.errors import UserError

Activation = Literal["quick_gelu", "gelu"]
FRAMES_A_LAUNCH = 64  # of ViT-B/16: 118 MB of scores


class MLP(nn.Sequential):
    """A block's two linear layers, under the names they have in CLIP's files.

    Quick GELU is silu(s x) / s. Where no graph is built, the two products take the slope s in as their factors, so that
    one pass in place is left of three and no tensor of the hidden width besides.
    """

    def __init__(self, width: int, mlp_width: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, mlp_width)
        self.gelu: nn.Module = QuickGELU() if activation == "quick_gelu" else nn.GELU()
        self.c_proj = nn.Linear(mlp_width, width)

    def forward(self, x_BLC: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not isinstance(self.gelu, QuickGELU):
            out_BLC: Tensor = super().forward(x_BLC)  # type: ignore[no-untyped-call]
            return out_BLC
        slope, flat_MC = QUICK_GELU_SLOPE, x_BLC.flatten(0, -2)
        hidden = torch.addmm(self.c_fc.bias, flat_MC, self.c_fc.weight.T, beta=slope, alpha=slope)
        F.silu(hidden, inplace=True)
        out_MC = torch.addmm(self.c_proj.bias, hidden, self.c_proj.weight.T, alpha=1 / slope)
        return out_MC.view_as(x_BLC)


class Attention(nn.Module):
    """Self-attention with the packed projection of `nn.MultiheadAttention`, whose parameter names it keeps."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def project(self, x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, key and value, (B, H, L, D) each, unscaled."""
        num_images, num_tokens, _ = x_BLC.shape
        packed = F.linear(x_BLC, self.in_proj_weight, self.in_proj_bias)
        packed = packed.view(num_images, num_tokens, 3, self.num_heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def forward(self, x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the attention's output (B, L, C), and query and key for the maps."""
        query, key, value = self.project(x_BLC)
        mixed_BHLD = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(mixed_BHLD.transpose(1, 2).flatten(2)), query, key


class Block(nn.Module):
    """One residual attention block."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, activation: Activation) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = MLP(width, mlp_width, activation)
        self.ln_2 = LayerNorm(width)

    def forward(self, x_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the block's output (B, L, C), and query and key (B, H, L, D) of its attention."""
        # A frozen block computes in its own precision; autocast would only widen its norms again.
        with nullcontext() if self.ln_1.elementwise_affine else torch.autocast(x_BLC.device.type, enabled=False):
            attended, query, key = self.attn(self.ln_1(x_BLC))
            x_BLC = x_BLC + attended
            del attended  # else it stays in memory during the MLP
            return x_BLC + self.mlp(self.ln_2(x_BLC)), query, key

    @torch.no_grad()
    def fold(self) -> None:
        """Moves the norms' scales and shifts and quick GELU's slope into the weights that they stand next to.

        Exact algebra, once and in float32: what is rounded to half precision afterwards is one product, and each pass
        over the tokens reads and writes half the bytes.
        """
        attn, mlp = self.attn, self.mlp
        for norm, weight, bias in (
            (self.ln_1, attn.in_proj_weight, attn.in_proj_bias),
            (self.ln_2, mlp.c_fc.weight, mlp.c_fc.bias),
        ):
            bias.add_(weight @ norm.bias)
            weight.mul_(norm.weight)
        width = len(self.ln_1.weight)
        self.ln_1, self.ln_2 = (LayerNorm(width, elementwise_affine=False) for _ in range(2))
        if isinstance(mlp.gelu, QuickGELU):  # silu(s x) / s
            mlp.c_fc.bias.mul_(QUICK_GELU_SLOPE)
            mlp.c_fc.weight.mul_(QUICK_GELU_SLOPE)
            mlp.c_proj.weight.div_(QUICK_GELU_SLOPE)
            mlp.gelu = nn.SiLU(inplace=True)


class Transformer(nn.Module):
    """The blocks, under the name they have in CLIP's files."""

    def __init__(self, width: int, num_layers: int, num_heads: int, mlp_width: int, activation: Activation) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, num_heads, mlp_width, activation) for _ in range(num_layers))


class VisionTransformer(nn.Module):
    """CLIP's vision transformer over the frames of clips.

    `input_size` and `patch_size` are pixels, one number or (height, width). OpenAI trained with `quick_gelu`,
    open_clip's own models mostly with `gelu`; weights do not tell.
    """

    def __init__(
        self,
        *,
        width: int,
        num_layers: int,
        num_heads: int,
        patch_size: int | tuple[int, int],
        input_size: int | tuple[int, int],
        mlp_factor: float = 4.0,
        activation: Activation = "quick_gelu",
    ) -> None:
        super().__init__()
        self.patch_size, self.input_size = _pair(patch_size), _pair(input_size)
        if self.input_size[0] % self.patch_size[0] or self.input_size[1] % self.patch_size[1]:
            raise UserError(f"input size {self.input_size} is not a multiple of the patch size {self.patch_size}")
        if width % num_heads:
            raise UserError(f"backbone width {width} is not a multiple of its {num_heads} heads")
        self.width = width
        self.grid = (self.input_size[0] // self.patch_size[0], self.input_size[1] // self.patch_size[1])
        self.conv1 = nn.Conv2d(3, width, self.patch_size, stride=self.patch_size)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + self.grid[0] * self.grid[1], width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, num_layers, num_heads, round(mlp_factor * width), activation)
        self.ln_post = ConstantNorm(width)
        self.has_ln_post = False  # until one is put in

    @property
    def num_layers(self) -> int:
        return len(self.transformer.resblocks)

    @property
    def dtype(self) -> torch.dtype:
        return self._block(-1).attn.in_proj_weight.dtype

    def shape(self, num_frames: int) -> TokenShape:
        """Returns the shape of the tokens of clips with so many frames."""
        return TokenShape(num_frames, 1, *self.grid, self.width)

    @property
    def final_norm(self) -> ConstantNorm | None:
        """Returns CLIP's `ln_post`."""
        return self.ln_post if self.has_ln_post else None

    def put_final_norm(self, weight: Tensor | float, bias: Tensor | float) -> None:
        """Takes over scale and shift of `ln_post`."""
        self.ln_post.put(weight, bias)
        self.has_ln_post = True

    def forward(self, video_NCTHW: Tensor, wants: Wants) -> dict[int, Layer]:
        """Returns what `run` does of this backbone: a module's own call is what torch.compile compiles."""
        return run(self, video_NCTHW, wants)

    def enter(self, video_NCTHW: Tensor) -> Tensor:
        """Returns the tokens (N, T, L, C) of normalised clips that enter the first block."""
        return _split_frames(self.ln_pre(self.embed(video_NCTHW)), video_NCTHW.shape[2])

    def block(self, i: int, tokens_NTLC: Tensor, relations: bool) -> tuple[Tensor, Relations | None]:
        """Returns a block's output and, where they are asked for and there is more than one frame, its relations."""
        num_frames = tokens_NTLC.shape[1]
        x_BLC, query, key = self.transformer.resblocks[i](tokens_NTLC.flatten(0, 1))
        del tokens_NTLC
        found = neighbour_maps(query, key, num_frames) if relations and num_frames > 1 else None
        return _split_frames(x_BLC, num_frames), found

    def relate(self, i: int, tokens_NTLC: Tensor) -> Relations | None:
        """Returns the relations of a block from what enters it: they take its query and key alone."""
        num_frames, block = tokens_NTLC.shape[1], self._block(i)
        if num_frames == 1:
            return None
        query, key, _ = block.attn.project(block.ln_1(tokens_NTLC.flatten(0, 1)))
        return neighbour_maps(query, key, num_frames)

    def _block(self, i: int) -> Block:
        return cast(Block, self.transformer.resblocks[i])

    def tail(self, num_blocks: int) -> VisionTransformer:
        """Returns the last blocks alone, with the same weights: all that is needed where tokens come from elsewhere."""
        tail = copy.copy(self)
        blocks = self.transformer.resblocks
        transformer = copy.copy(self.transformer)
        transformer._modules = {"resblocks": blocks[len(blocks) - num_blocks :]}
        tail._parameters, tail._modules = {}, {"transformer": transformer, "ln_post": self.ln_post}
        return tail

    def freeze(self, dtype: torch.dtype) -> None:
        """Makes it a constant that computes in `dtype`; in half precision its blocks are folded first."""
        freeze(self if dtype == torch.float32 else fold(self), dtype)

    def tune(self, num_blocks: int) -> None:
        """Makes the last blocks learn, and nothing else."""
        self.requires_grad_(False)
        for block in self.transformer.resblocks[-num_blocks:]:
            block.requires_grad_(True)

    def undecayed(self) -> set[str]:
        """Returns the parameters with more than one axis that are no matrices."""
        return {"positional_embedding"}

    def embed(self, video_NCTHW: Tensor) -> Tensor:
        """Returns the tokens (B, L, C) that enter `ln_pre`: patches and class token with their positions."""
        if tuple(video_NCTHW.shape[3:]) != self.input_size:
            raise UserError(f"frames are {tuple(video_NCTHW.shape[3:])} pixels; the backbone takes {self.input_size}")
        (grid_h, grid_w), (patch_h, patch_w) = self.grid, self.patch_size
        num_clips, num_colours, num_frames = video_NCTHW.shape[:3]
        pixels = video_NCTHW.to(self.conv1.weight.dtype)
        pixels = pixels.reshape(num_clips, num_colours, num_frames, grid_h, patch_h, grid_w, patch_w)
        patches = pixels.permute(0, 2, 3, 5, 1, 4, 6).reshape(num_clips * num_frames, grid_h * grid_w, -1)
        # One GEMM: a convolution would choose its algorithm, and so its rounding, by size and device.
        tokens_BPC = F.linear(patches, self.conv1.weight.flatten(1), self.conv1.bias)
        class_B1C = self.class_embedding.to(tokens_BPC.dtype).expand(tokens_BPC.shape[0], 1, -1)
        return torch.cat([class_B1C, tokens_BPC], dim=1) + self.positional_embedding


def neighbour_maps(query_BHLD: Tensor, key_BHLD: Tensor, num_frames: int) -> Relations:
    """Returns the maps over the previous and over the next frame's patches, (N, T-1, P, P) each, float32."""
    query = _split_frames(query_BHLD[:, :, 1:], num_frames)
    key = _split_frames(key_BHLD[:, :, 1:], num_frames)
    return Relations(mean_attention(query[:, 1:], key[:, :-1]), mean_attention(query[:, :-1], key[:, 1:]))


def mean_attention(query_NTHPD: Tensor, key_NTHPD: Tensor) -> Tensor:
    """Returns softmax(q k^T / sqrt(D)) averaged over heads, (N, T, P, P) float32.

    Part by part: all at once would hold H times the memory. On a CPU a part is a frame, so that its heads' scores stay
    in the cache; on a GPU it is as many as keep the launches few.
    """
    if torch.compiler.is_exporting():  # a loop over clips would fix their number
        return _attend(query_NTHPD, key_NTHPD).mean(dim=2)
    num_frames, size = query_NTHPD.shape[1], 1
    if on_gpu(query_NTHPD):
        query_NTHPD, key_NTHPD, size = query_NTHPD.flatten(0, 1)[None], key_NTHPD.flatten(0, 1)[None], FRAMES_A_LAUNCH
    parts = [
        _attend(query_THPD, key_THPD).mean(dim=1)
        for queries, keys in zip(query_NTHPD, key_NTHPD, strict=True)
        for query_THPD, key_THPD in zip(queries.split(size), keys.split(size), strict=True)
    ]
    return _split_frames(torch.cat(parts), num_frames)


def _attend(query: Tensor, key: Tensor) -> Tensor:
    """Returns softmax(q k^T / sqrt(D)) over the keys, (..., H, P, P) float32 at least, of (..., H, P, D)."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    maps: Tensor = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return maps


def fold(backbone: VisionTransformer) -> VisionTransformer:
    """Returns `backbone` with the same function and its blocks folded: for half precision, before `freeze`."""
    for module in list(backbone.modules()):
        if isinstance(module, Block):
            module.fold()
    return backbone


def freeze(backbone: VisionTransformer, dtype: torch.dtype) -> VisionTransformer:
    """Returns `backbone`, in eval mode and without gradients, its GEMM weights and embeddings in `dtype`.

    Layer norms stay float32 (upstream vision_transformer.py, model_to_fp16).
    """
    backbone.eval().requires_grad_(False)
    for module in backbone.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | Attention):
            module.to(dtype)
    backbone.class_embedding.data = backbone.class_embedding.data.to(dtype)
    backbone.positional_embedding.data = backbone.positional_embedding.data.to(dtype)
    return backbone


@torch.no_grad()
def init_random(backbone: VisionTransformer, seed: int) -> VisionTransformer:
    """Returns `backbone` with random weights that depend on `seed` only; the global generator is left alone.

    Scales are those of CLIP's initialisation (openai/CLIP clip/model.py, initialize_parameters).
    """
    generator = torch.Generator().manual_seed(seed)

    def fill(parameter: Tensor, std: float) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    width = len(backbone.class_embedding)
    residual_std = (2 * width * len(backbone.transformer.resblocks)) ** -0.5
    fill(backbone.class_embedding, width**-0.5)
    fill(backbone.positional_embedding, width**-0.5)
    fill(backbone.conv1.weight, backbone.conv1.weight[0].numel() ** -0.5)
    for module in backbone.modules():
        if isinstance(module, Block):
            fill(module.attn.in_proj_weight, width**-0.5)
            fill(module.attn.out_proj.weight, residual_std)
            fill(module.mlp.get_parameter("c_fc.weight"), (2 * width) ** -0.5)
            fill(module.mlp.get_parameter("c_proj.weight"), residual_std)
    for name, parameter in backbone.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "ln_" in name:
            parameter.fill_(1)
    backbone.put_final_norm(1.0, 0.0)
    return backbone


def _split_frames(x: Tensor, num_frames: int) -> Tensor:
    """Returns x (N*T, ...) as (N, T, ...)."""
    return x.reshape(-1, num_frames, *x.shape[1:])


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
