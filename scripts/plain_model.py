"""EVL written down the plain way, for comparison: every einsum of the paper as it stands, every layer's tensors kept.

This is what a straightforward implementation costs (arXiv 2208.03550, section 3; openai/CLIP for the backbone). It
takes the weights of `coldframe.backbones.clip.model` and `coldframe.decoders.evl.model` by name, and test_plain_model
holds it to the fixtures that were computed with upstream, so that what is measured against it is measured against the
original's arithmetic.
"""

# Shapes: N clips, T frames, B = N*T images, L = 1 + P tokens (class token first), P = h*w patches, M = T*L tokens of a
# clip, C channels, H heads, D channels a head

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
Layer = dict[str, Tensor]


def _linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    scale = weights[f"{name}.weight"]
    return F.layer_norm(x.to(scale.dtype), scale.shape, scale, weights[f"{name}.bias"]).to(x.dtype)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Returns the mixed values (N, Q, H*D) of query (N, Q, H, D), key and value (N, K, H, D)."""
    scores = torch.einsum("nqhd,nkhd->nqkh", query / query.shape[-1] ** 0.5, key)
    return torch.einsum("nqkh,nkhd->nqhd", scores.softmax(dim=2), value).flatten(2)


# --- the frozen backbone ---


def backbone(weights: Weights, video_NCTHW: Tensor, *, num_heads: int, patch_size: tuple[int, int]) -> list[Layer]:
    """Returns query, key, value (B, L, H, D), attention output and output (B, L, C) of every block, all kept."""
    images = video_NCTHW.permute(0, 2, 1, 3, 4).flatten(0, 1).to(weights["conv1.weight"].dtype)
    num_images, colours, height, width = images.shape
    patch_h, patch_w = patch_size
    cells = images.view(num_images, colours, height // patch_h, patch_h, width // patch_w, patch_w)
    patches = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    tokens = F.linear(patches, weights["conv1.weight"].flatten(1), weights["conv1.bias"])
    class_token = weights["class_embedding"].view(1, 1, -1).repeat(num_images, 1, 1)
    x = torch.cat([class_token, tokens], dim=1) + weights["positional_embedding"]
    x = _norm(x, weights, "ln_pre")
    layers: list[Layer] = []
    while f"transformer.resblocks.{len(layers)}.ln_1.weight" in weights:
        layers.append(_block(weights, f"transformer.resblocks.{len(layers)}", x, num_heads))
        x = layers[-1]["out"]
    return layers


def _block(weights: Weights, name: str, x: Tensor, num_heads: int) -> Layer:
    y = _norm(x, weights, f"{name}.ln_1")
    matrices = weights[f"{name}.attn.in_proj_weight"].chunk(3)
    biases = weights[f"{name}.attn.in_proj_bias"].chunk(3)
    query, key, value = (
        F.linear(y, matrix, bias).unflatten(2, (num_heads, -1)) for matrix, bias in zip(matrices, biases, strict=True)
    )
    attended = _linear(_attend(query, key, value), weights, f"{name}.attn.out_proj")
    x = x + attended
    hidden = _quick_gelu(_linear(_norm(x, weights, f"{name}.ln_2"), weights, f"{name}.mlp.c_fc"))
    out = x + _linear(hidden, weights, f"{name}.mlp.c_proj")
    return {"q": query, "k": key, "v": value, "attn_out": attended, "out": out}


# --- the trained part ---


def gather_features(layers: Sequence[Layer], num_layers: int, num_frames: int) -> list[Layer]:
    """Returns the last blocks' tensors in float32 with frames apart, (N, T, ...)."""
    return [
        {
            name: x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(0, (-1, num_frames))
            for name, x in layer.items()
        }
        for layer in layers[len(layers) - num_layers :]
    ]


def decoder(
    weights: Weights,
    features: Sequence[Layer],
    *,
    num_heads: int,
    grid: tuple[int, int],
    mlp_dropout: float = 0.0,
    head_dropout: float = 0.0,
) -> Tensor:
    """Returns logits (N, K). Temporal modules that have no weights are left out; dropout acts where it is not zero."""
    x = weights["decoder.cls_token"].view(1, 1, -1).repeat(len(features[0]["out"]), 1, 1)
    for i, layer in enumerate(features):
        tokens = frame_features(weights, i, layer, grid)
        x = _decoder_layer(weights, f"decoder.decoder_layers.{i}", x, tokens, num_heads, mlp_dropout)
    x = F.dropout(_norm(x[:, 0], weights, "proj.0"), head_dropout, training=head_dropout > 0)
    return _linear(x, weights, "proj.2")


def frame_features(weights: Weights, i: int, layer: Layer, grid: tuple[int, int]) -> Tensor:
    """Returns what decoder layer i attends to, (N, M, C): features plus the temporal terms."""
    out = layer["out"]
    num_clips, num_frames, num_tokens, width = out.shape
    tokens = out
    if f"decoder.temporal_conv.{i}.weight" in weights:
        series = out.permute(0, 2, 3, 1).contiguous().flatten(0, 1)  # one series a token
        kernel, bias = weights[f"decoder.temporal_conv.{i}.weight"], weights[f"decoder.temporal_conv.{i}.bias"]
        series = F.conv1d(series, kernel, bias, padding=1, groups=width)
        tokens = tokens + series.view(num_clips, num_tokens, width, num_frames).permute(0, 3, 1, 2).contiguous()
    if f"decoder.temporal_pos_embed.{i}" in weights:
        tokens = tokens + weights[f"decoder.temporal_pos_embed.{i}"].view(1, num_frames, 1, width)
    if f"decoder.cross_attention.{i}.w1" in weights and num_frames > 1:
        tokens = tokens + _motion(weights, f"decoder.cross_attention.{i}", layer, grid)
    return tokens.flatten(1, 2)


def _motion(weights: Weights, name: str, layer: Layer, grid: tuple[int, int]) -> Tensor:
    query, key = layer["q"], layer["k"]
    before = _motion_half(query[:, 1:], key[:, :-1], weights[f"{name}.w1"], grid)
    after = _motion_half(query[:, :-1], key[:, 1:], weights[f"{name}.w2"], grid)
    return F.pad(before, (0, 0, 1, 0, 1, 0)) + F.pad(after, (0, 0, 1, 0, 0, 1))


def _motion_half(query: Tensor, key: Tensor, weight: Tensor, grid: tuple[int, int]) -> Tensor:
    query, key = query[:, :, 1:], key[:, :, 1:]
    scores = torch.einsum("ntqhd,ntkhd->ntqkh", query / query.shape[-1] ** 0.5, key)
    attention = scores.softmax(dim=3).mean(dim=4)
    gathered_PPC = weight[offsets(grid, weight.device)]
    return torch.einsum("ntqk,qkc->ntqc", attention, gathered_PPC.to(attention.dtype))


@cache  # the original keeps them on the device, too
def offsets(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Returns for each query and key patch (P, P) the row of their displacement in the weights."""
    height, width = grid
    rows, columns = (
        index.flatten() for index in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    )
    down = rows[:, None] - rows + height - 1
    right = columns[:, None] - columns + width - 1
    return (down * (2 * width - 1) + right).to(device)


def _decoder_layer(weights: Weights, name: str, x: Tensor, tokens: Tensor, num_heads: int, dropout: float) -> Tensor:
    y = _norm(tokens, weights, f"{name}.norm3")
    query = _linear(_norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn.q_proj").unflatten(2, (num_heads, -1))
    key, value = (_linear(y, weights, f"{name}.attn.{part}_proj").unflatten(2, (num_heads, -1)) for part in "kv")
    x = x + _linear(_attend(query, key, value), weights, f"{name}.attn.out_proj")
    hidden = _quick_gelu(_linear(_norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1"))
    return x + _linear(F.dropout(hidden, dropout, training=dropout > 0), weights, f"{name}.mlp.fc2")
