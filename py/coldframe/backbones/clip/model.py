"""The frozen image backbone: CLIP's vision tower up to its last block, and what a decoder needs of it.

EVL reads block outputs, so `ln_post` and `proj` of CLIP are not here (arXiv 2208.03550, section 3.1).
Parameter names are those of OpenAI's `visual` module, with one more, `conv1.bias`: upstream's patch embedding has a
bias, zero from CLIP's files and trained when the backbone is fine-tuned.
"""

# Shapes: N clips, T frames, B = N*T images, L = 1 + P tokens (class token first), P = h*w patches, C channels, H heads,
# D = C/H channels a head

from contextlib import nullcontext
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coldframe.errors import UserError

Activation = Literal["quick_gelu", "gelu"]
FRAMES_A_LAUNCH = 64  # of ViT-B/16: 118 MB of scores
QUICK_GELU_SLOPE = 1.702  # openai/CLIP clip/model.py, QuickGELU


def on_gpu(x: Tensor) -> bool:
    """Returns whether x is where the number of operations counts more than their arithmetic: not on a CPU."""
    return x.device.type != "cpu"


class LayerFeatures(NamedTuple):
    """What one block hands to the decoder. Shared by all trials of a cohort: never changed in place.

    The maps are attention of frame t's patches over the patches of frame t-1 (`previous`, t = 1..T-1) and of frame t+1
    (`next`, t = 0..T-2), softmax over the last axis, mean over heads. Averaging here is exact: no trained weight stands
    between softmax and mean (arXiv 2208.03550 section 3.3; upstream model.py, TemporalCrossAttention).
    """

    out_NTLC: Tensor  # noqa: N815
    previous_NTPP: Tensor | None  # noqa: N815
    next_NTPP: Tensor | None  # noqa: N815


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
        self.grid = (self.input_size[0] // self.patch_size[0], self.input_size[1] // self.patch_size[1])
        self.conv1 = nn.Conv2d(3, width, self.patch_size, stride=self.patch_size)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + self.grid[0] * self.grid[1], width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, num_layers, num_heads, round(mlp_factor * width), activation)

    def forward(self, video_NCTHW: Tensor, *, num_layers: int, with_maps: bool) -> list[LayerFeatures]:
        """Returns the features of the last `num_layers` blocks, earliest first, in float32 (float64 stays float64).

        `video_NCTHW` is a normalised clip. Maps are None without `with_maps` and for a single frame. Builds a graph
        only where parameters require gradients.

        Raises UserError when the frame size or the number of layers does not fit this backbone.
        """
        blocks = self.transformer.resblocks
        if not 0 < num_layers <= len(blocks):
            raise UserError(f"{num_layers} decoder layers need as many backbone blocks; the backbone has {len(blocks)}")
        num_frames = video_NCTHW.shape[2]
        x_BLC = self.ln_pre(self.embed(video_NCTHW))
        features = []
        for i, block in enumerate(blocks):
            x_BLC, query, key = block(x_BLC)
            if i >= len(blocks) - num_layers:
                maps = neighbour_maps(query, key, num_frames) if with_maps and num_frames > 1 else (None, None)
                features.append(LayerFeatures(_split_frames(_widen(x_BLC), num_frames), *maps))
            del query, key  # else the packed projection stays in memory during the next block
        return features

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
        class_B1C = self.class_embedding.to(tokens_BPC.dtype).expand(len(tokens_BPC), 1, -1)
        return torch.cat([class_B1C, tokens_BPC], dim=1) + self.positional_embedding


def neighbour_maps(query_BHLD: Tensor, key_BHLD: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """Returns the maps over the previous and over the next frame's patches, (N, T-1, P, P) each, float32."""
    query = _split_frames(query_BHLD[:, :, 1:], num_frames)
    key = _split_frames(key_BHLD[:, :, 1:], num_frames)
    return mean_attention(query[:, 1:], key[:, :-1]), mean_attention(query[:, :-1], key[:, 1:])


def mean_attention(query_NTHPD: Tensor, key_NTHPD: Tensor) -> Tensor:
    """Returns softmax(q k^T / sqrt(D)) averaged over heads, (N, T, P, P) float32.

    Part by part: all at once would hold H times the memory. On a CPU a part is a frame, so that its heads' scores stay
    in the cache; on a GPU it is as many as keep the launches few.
    """
    num_frames, size = query_NTHPD.shape[1], 1
    if on_gpu(query_NTHPD):
        query_NTHPD, key_NTHPD, size = query_NTHPD.flatten(0, 1)[None], key_NTHPD.flatten(0, 1)[None], FRAMES_A_LAUNCH
    parts = [
        _attend(query_THPD, key_THPD).mean(dim=1)
        for queries, keys in zip(query_NTHPD, key_NTHPD, strict=True)
        for query_THPD, key_THPD in zip(queries.split(size), keys.split(size), strict=True)
    ]
    return _split_frames(torch.cat(parts), num_frames)


def _attend(query_THPD: Tensor, key_THPD: Tensor) -> Tensor:
    """Returns softmax(q k^T / sqrt(D)) over the keys, (T, H, P, P) float32 at least."""
    scores = (query_THPD * query_THPD.shape[-1] ** -0.5) @ key_THPD.transpose(-1, -2)
    maps_THPP: Tensor = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return maps_THPP


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
    return backbone


def _widen(x: Tensor) -> Tensor:
    """Returns x in float32 at least, as upstream's model.py hands the features of a half precision backbone over."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _split_frames(x: Tensor, num_frames: int) -> Tensor:
    """Returns x (N*T, ...) as (N, T, ...)."""
    return x.reshape(-1, num_frames, *x.shape[1:])


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
