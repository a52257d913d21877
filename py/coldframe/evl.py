"""The trained part of EVL: temporal modules, decoder and classifier on frozen features (arXiv 2208.03550, section 3).

Parameter names are upstream's (`decoder.*`, `proj.*`), so its checkpoints load as they are. Features are shared by all
trials of a cohort: nothing here writes to them.
"""

# Shapes: N clips, T frames, L = 1 + P tokens (class token first), P = h*w patches, M = T*L tokens of a clip,
# C channels, H heads, D = qkv_dim/H channels a head

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .clip import LayerFeatures, LayerNorm, QuickGELU


class Attention(nn.Module):
    """Attention of a clip's single query over all its tokens."""

    def __init__(self, width: int, qkv_dim: int, num_heads: int) -> None:
        super().__init__()
        if qkv_dim % num_heads:
            raise ValueError(f"decoder qkv_dim {qkv_dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, qkv_dim)
        self.k_proj = nn.Linear(width, qkv_dim)
        self.v_proj = nn.Linear(width, qkv_dim)
        self.out_proj = nn.Linear(qkv_dim, width)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query_NC: Tensor, tokens_NMC: Tensor) -> Tensor:
        """Returns the mixed tokens (N, C).

        With one query a clip, q (W_k y + b_k) = (W_k^T q) y + constant, and sum_m a_m (W_v y_m) = W_v sum_m a_m y_m:
        W_k and W_v act on one vector a head instead of on every token, D times fewer operations. The constant
        drops out of the softmax, so b_k has no influence; `0 * b_k` gives it the gradient it truly has, exact zero,
        where the plain way trains it on rounding noise.
        """
        heads = (self.num_heads, -1)
        query_NHD = (self.q_proj(query_NC) + 0 * self.k_proj.bias).view(len(query_NC), *heads)
        key_weight_HDC = self.k_proj.weight.view(*heads, query_NC.shape[1])
        value_weight_HDC = self.v_proj.weight.view(*heads, query_NC.shape[1])
        query_NHC = torch.einsum("nhd,hdc->nhc", query_NHD * query_NHD.shape[-1] ** -0.5, key_weight_HDC)
        scores_NHM = query_NHC @ tokens_NMC.transpose(1, 2)
        attention_NHM = scores_NHM.softmax(dim=-1, dtype=tokens_NMC.dtype)
        value_NHD = torch.einsum("nhc,hdc->nhd", attention_NHM @ tokens_NMC, value_weight_HDC)
        out_NC: Tensor = self.out_proj(value_NHD.flatten(1) + self.v_proj.bias)
        return out_NC


class DecoderLayer(nn.Module):
    """One decoder layer: attention over the clip's tokens, then the MLP (section 3.2)."""

    def __init__(self, width: int, qkv_dim: int, num_heads: int, mlp_factor: float, mlp_dropout: float) -> None:
        super().__init__()
        mlp_width = round(mlp_factor * width)
        self.attn = Attention(width, qkv_dim, num_heads)
        fc1, fc2 = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, act=QuickGELU(), dropout=nn.Dropout(mlp_dropout), fc2=fc2))
        self.norm1, self.norm2, self.norm3 = LayerNorm(width), LayerNorm(width), LayerNorm(width)
        for linear in (fc1, fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)

    def forward(self, query_NC: Tensor, tokens_NMC: Tensor) -> Tensor:
        """Returns the clip's query after this layer, (N, C)."""
        query_NC = query_NC + self.attn(self.norm1(query_NC), self.norm3(tokens_NMC))
        update_NC: Tensor = self.mlp(self.norm2(query_NC))
        return query_NC + update_NC


class TemporalConvolution(nn.Conv1d):
    """Depthwise convolution over time, kernel 3, zero padding (section 3.3)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, kernel_size=3, padding=1, groups=width)

    def forward(self, x_NTLC: Tensor) -> Tensor:
        """Returns the convolution (N, T, L, C). As (N, C, T, L) the tokens are a channels-last image: no copy."""
        weight_C131 = self.weight[..., None]
        y_NCTL = F.conv2d(x_NTLC.permute(0, 3, 1, 2), weight_C131, self.bias, padding=(1, 0), groups=self.groups)
        return y_NCTL.permute(0, 2, 3, 1)


class TemporalCrossAttention(nn.Module):
    """Motion term: each patch sums a learned vector per displacement, weighted by where it attends in the neighbour
    frame (section 3.3). `w1` serves the previous frame, `w2` the next; rows are displacements (2h-1) x (2w-1).
    """

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.grid = grid
        num_offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        self.w1 = nn.Parameter(torch.zeros(num_offsets, width))
        self.w2 = nn.Parameter(torch.zeros(num_offsets, width))

    def forward(self, previous_NTPP: Tensor, next_NTPP: Tensor) -> Tensor:
        """Returns motion_NTLC: zero at the class token, and toward frames before the first and after the last.

        Its (q, k) summand is map[q, k] * w[(q_row - k_row + h - 1) * (2w - 1) + q_column - k_column + w - 1] (upstream
        model.py, TemporalCrossAttention).
        """
        device = self.w1.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.w1.dtype
        previous, following = (skew(maps.to(dtype), self.grid) for maps in (previous_NTPP, next_NTPP))
        motion_NTLC: Tensor = OffsetSum.apply(previous, following, self.w1, self.w2)  # type: ignore[no-untyped-call]
        return motion_NTLC


class OffsetSum(torch.autograd.Function):
    """The motion term from skewed maps (h, N, T-1, w, h*(2w-1)).

    For the queries of one grid row, the key rows meet h neighbouring rows of the offset table, a contiguous slice of
    the weight: one GEMM a grid row, where the plain way gathers a (P, P, C) tensor. Autograd would get this right too,
    but fill a whole gradient of the table for every slice (1.4 times the time).
    """

    @staticmethod
    def forward(ctx: Any, previous: Tensor, following: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        ctx.save_for_backward(previous, following, w1, w2)
        height, num_clips, num_pairs, width, _ = previous.shape
        motion_NTLC = previous.new_zeros(num_clips, num_pairs + 1, 1 + height * width, w1.shape[1])
        grid = motion_NTLC[:, :, 1:].view(num_clips, num_pairs + 1, height, width, -1)
        for maps, weight, frames in _directions(previous, following, w1.to(previous.dtype), w2.to(previous.dtype)):
            for i in range(height):
                grid[:, frames, i] += maps[i] @ weight[_offset_rows(i, height, width)]
        return motion_NTLC

    @staticmethod
    def backward(ctx: Any, grad_NTLC: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        previous, following, w1, w2 = ctx.saved_tensors
        height, width, num_columns = previous.shape[0], previous.shape[3], previous.shape[4]
        grad_grid = grad_NTLC[:, :, 1:].unflatten(2, (height, width))  # type: ignore[no-untyped-call]
        grad_maps: list[Tensor | None] = [None, None]
        grad_weights = [torch.zeros_like(w1), torch.zeros_like(w2)]
        for d, (maps, weight, frames) in enumerate(_directions(previous, following, w1, w2)):
            rows = [grad_grid[:, frames, i].flatten(0, 2) for i in range(height)]
            slices = [_offset_rows(i, height, width) for i in range(height)]
            for i in range(height):  # summed in the weight's own precision
                grad_weights[d][slices[i]] += maps[i].reshape(-1, num_columns).T @ rows[i]
            if ctx.needs_input_grad[d]:
                grads = [rows[i] @ weight[slices[i]].to(maps.dtype).T for i in range(height)]
                grad_maps[d] = torch.stack(grads).view_as(maps)
        return *grad_maps, *grad_weights


def _directions(
    previous: Tensor, following: Tensor, w1: Tensor, w2: Tensor
) -> tuple[tuple[Tensor, Tensor, slice], tuple[Tensor, Tensor, slice]]:
    """Returns maps, weight and the frames that have such a neighbour, for both directions."""
    return (previous, w1, slice(1, None)), (following, w2, slice(0, -1))


def _offset_rows(query_row: int, height: int, width: int) -> slice:
    return slice(query_row * (2 * width - 1), (query_row + height) * (2 * width - 1))


def skew(map_NTPP: Tensor, grid: tuple[int, int]) -> Tensor:
    """Returns the map by offsets, (h, N, T, w, h*(2w-1)): query row, clip, frame, query column, then offset row
    (relative to the query row) and offset column; zero where no key has that offset.
    """
    height, width = grid
    num_clips, num_frames = map_NTPP.shape[:2]
    by_cell = map_NTPP.view(num_clips, num_frames, height, width, height, width)
    by_cell = by_cell.flip(4, 5).permute(2, 0, 1, 4, 3, 5)  # query row, N, T, key row, query column, key column
    # Rows of w keys, counted backwards and padded to 2w, then read in rows of 2w - 1: query column j starts j later.
    padded = F.pad(by_cell, (0, width)).flatten(4)[..., : width * (2 * width - 1)]
    by_offset = padded.view(*padded.shape[:4], width, 2 * width - 1)
    return by_offset.transpose(3, 4).flatten(4)


class Decoder(nn.Module):
    """Frame features with temporal modules, one set a layer, and the decoder layers that read them."""

    def __init__(
        self,
        *,
        num_frames: int,
        grid: tuple[int, int],
        width: int,
        num_layers: int,
        qkv_dim: int,
        num_heads: int,
        mlp_factor: float,
        mlp_dropout: float,
        temporal_conv: bool,
        temporal_position_embedding: bool,
        temporal_cross_attention: bool,
    ) -> None:
        super().__init__()
        self.decoder_layers = nn.ModuleList(
            DecoderLayer(width, qkv_dim, num_heads, mlp_factor, mlp_dropout) for _ in range(num_layers)
        )
        layers = range(num_layers)
        self.temporal_conv = nn.ModuleList(TemporalConvolution(width) for _ in layers if temporal_conv)
        self.temporal_pos_embed = nn.ParameterList(
            nn.Parameter(torch.zeros(num_frames, width)) for _ in layers if temporal_position_embedding
        )
        self.cross_attention = nn.ModuleList(
            TemporalCrossAttention(grid, width) for _ in layers if temporal_cross_attention
        )
        self.cls_token = nn.Parameter(torch.zeros(width))

    def forward(self, features: Sequence[LayerFeatures]) -> Tensor:
        """Returns the clip's query after the last layer, (N, C)."""
        query_NC = self.cls_token.expand(len(features[0].out_NTLC), -1)
        for i, (layer, layer_features) in enumerate(zip(self.decoder_layers, features, strict=True)):
            query_NC = layer(query_NC, self.frame_features(i, layer_features))
        return query_NC

    def frame_features(self, i: int, features: LayerFeatures) -> Tensor:
        """Returns what decoder layer i attends to: features plus its temporal terms, (N, T*L, C)."""
        tokens_NTLC = features.out_NTLC
        num_frames = tokens_NTLC.shape[1]
        if self.temporal_conv:
            tokens_NTLC = tokens_NTLC + self.temporal_conv[i](tokens_NTLC)
        if self.temporal_pos_embed:
            position_TC = self.temporal_pos_embed[i]
            if len(position_TC) != num_frames:
                raise ValueError(
                    f"clips have {num_frames} frames; the temporal position embedding has {len(position_TC)}"
                )
            tokens_NTLC = tokens_NTLC + position_TC[:, None]
        if self.cross_attention and num_frames > 1:
            assert features.previous_NTPP is not None
            assert features.next_NTPP is not None
            tokens_NTLC = tokens_NTLC + self.cross_attention[i](features.previous_NTPP, features.next_NTPP)
        return tokens_NTLC.flatten(1, 2)


class EVL(nn.Module):
    """The trained part: decoder and classifier. Initialised from torch's global generator, which the caller seeds.

    `query_init='zero'` is what upstream's released code does (its `_initialize_weights` is never called); with a zero
    class query the first layer's q and k get no gradient at first. 'normal' is the initialiser it meant to call.
    """

    def __init__(
        self,
        *,
        num_frames: int,
        grid: tuple[int, int],
        width: int,
        num_layers: int,
        qkv_dim: int,
        num_heads: int,
        mlp_factor: float,
        mlp_dropout: float,
        head_dropout: float,
        num_classes: int,
        temporal_conv: bool,
        temporal_position_embedding: bool,
        temporal_cross_attention: bool,
        query_init: Literal["zero", "normal"] = "zero",
    ) -> None:
        super().__init__()
        self.decoder = Decoder(
            num_frames=num_frames,
            grid=grid,
            width=width,
            num_layers=num_layers,
            qkv_dim=qkv_dim,
            num_heads=num_heads,
            mlp_factor=mlp_factor,
            mlp_dropout=mlp_dropout,
            temporal_conv=temporal_conv,
            temporal_position_embedding=temporal_position_embedding,
            temporal_cross_attention=temporal_cross_attention,
        )
        self.proj = nn.Sequential(LayerNorm(width), nn.Dropout(head_dropout), nn.Linear(width, num_classes))
        if query_init == "normal":
            nn.init.normal_(self.decoder.cls_token, std=0.02)

    def forward(self, features: Sequence[LayerFeatures]) -> Tensor:
        """Returns logits (N, num_classes) in the features' dtype, from the last decoder_layers blocks, earliest first.

        Raises ValueError when the number of frames does not fit the temporal position embedding.
        """
        logits: Tensor = self.proj(self.decoder(features))
        return logits.to(features[0].out_NTLC.dtype)
