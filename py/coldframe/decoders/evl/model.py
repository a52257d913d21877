"""The trained part of EVL: temporal modules, decoder and classifier on frozen features (arXiv 2208.03550, section 3).

Parameter names are upstream's (`decoder.*`, `proj.*`), so its checkpoints load as they are. Features are shared by all
trials of a cohort: nothing here writes to them.
"""

# Shapes: N clips, T frames, L = 1 + P tokens (class token first), P = h*w patches, M = T*L tokens of a clip,
# C channels, H heads, D = qkv_dim/H channels a head

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coldframe.backbones.interface import Layer, Layers
from coldframe.backbones.layers import LayerNorm, QuickGELU, on_gpu
from coldframe.backbones.shape import Wants
from coldframe.decoders.evl.attention import attend
from coldframe.decoders.evl.motion import TemporalCrossAttention, skew_relations
from coldframe.errors import UserError


class Attention(nn.Module):
    """Attention of a clip's single query over all its tokens."""

    def __init__(self, width: int, qkv_dim: int, num_heads: int) -> None:
        super().__init__()
        if qkv_dim % num_heads:
            raise UserError(f"decoder qkv_dim {qkv_dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, qkv_dim)
        self.k_proj = nn.Linear(width, qkv_dim)
        self.v_proj = nn.Linear(width, qkv_dim)
        self.out_proj = nn.Linear(qkv_dim, width)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query_NC: Tensor, tokens_NMC: Tensor, norm: LayerNorm) -> Tensor:
        """Returns the mix (N, C) of the normalised tokens.

        With one query a clip, q (W_k y + b_k) = (W_k^T q) y + constant, and sum_m a_m (W_v y_m) = W_v sum_m a_m y_m:
        W_k and W_v act on one vector a head instead of on every token, D times fewer operations. The constant
        drops out of the softmax, so b_k has no influence; `0 * b_k` gives it the gradient it truly has, exact zero,
        where the plain way trains it on rounding noise.
        """
        heads = (self.num_heads, -1)
        query_NHD = (self.q_proj(query_NC) + 0 * self.k_proj.bias).view(query_NC.shape[0], *heads)
        key_weight_HDC = self.k_proj.weight.view(*heads, query_NC.shape[1])
        value_weight_HDC = self.v_proj.weight.view(*heads, query_NC.shape[1])
        query_NHC = torch.einsum("nhd,hdc->nhc", query_NHD * query_NHD.shape[-1] ** -0.5, key_weight_HDC)
        with torch.autocast(
            tokens_NMC.device.type, enabled=False
        ):  # bound by reading the tokens: a cast would only cost
            query_NHC = query_NHC.to(tokens_NMC.dtype)
            mixed_NHC: Tensor = MixNormalised.apply(  # type: ignore[no-untyped-call]
                query_NHC, tokens_NMC, norm.weight, norm.bias, norm.eps
            )
        value_NHD = torch.einsum("nhc,hdc->nhd", mixed_NHC, value_weight_HDC)
        out_NC: Tensor = self.out_proj(value_NHD.flatten(1) + self.v_proj.bias)
        return out_NC


class MixNormalised(torch.autograd.Function):
    """Softmax attention of H queries a clip over layer-normed tokens that are never written down.

    With x = (t - mean) * r the token's normal form and y = x * scale + shift, a score is q y = r (Q t - mean sum(Q))
    plus a constant, Q = q * scale, and the mix is sum_m a_m y_m = scale * sum_m a_m x_m + shift. Backward, the norm's
    own sums over channels are the scores and their gradients, so that the tokens' gradient is one GEMM and one
    multiple of the tokens. Layer norm as an operation of its own reads and writes the tokens twice as often, and keeps
    them twice.
    """

    @staticmethod
    def forward(ctx: Any, query_NHC: Tensor, tokens_NMC: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        mean_NM, inverse_NM = _moments(tokens_NMC, eps)
        scores_NHM = _dot_normal(query_NHC * scale, tokens_NMC, mean_NM, inverse_NM)
        attention_NHM = scores_NHM.softmax(dim=2)
        mixed_NHC = _sum_normal(attention_NHM, tokens_NMC, mean_NM, inverse_NM)
        ctx.save_for_backward(query_NHC, tokens_NMC, scale, mean_NM, inverse_NM, scores_NHM, attention_NHM, mixed_NHC)
        return mixed_NHC * scale + shift

    @staticmethod
    def backward(ctx: Any, grad_NHC: Tensor) -> tuple[Tensor | None, ...]:
        query_NHC, tokens_NMC, scale, mean_NM, inverse_NM, scores_NHM, attention_NHM, mixed_NHC = ctx.saved_tensors
        grad_attention_NHM = _dot_normal(grad_NHC * scale, tokens_NMC, mean_NM, inverse_NM)
        centred_NHM = grad_attention_NHM - (attention_NHM * grad_attention_NHM).sum(dim=2, keepdim=True)
        grad_scores_NHM = attention_NHM * centred_NHM
        pulled_NHC = _sum_normal(grad_scores_NHM, tokens_NMC, mean_NM, inverse_NM)
        grad_scale = (pulled_NHC * query_NHC + mixed_NHC * grad_NHC).sum(dim=(0, 1))
        grad_tokens_NMC = None
        if ctx.needs_input_grad[1]:
            weights_NKM = torch.cat([grad_scores_NHM, attention_NHM], dim=1)
            vectors_NKC = torch.cat([query_NHC, grad_NHC], dim=1) * scale
            # The two means over channels that layer norm's gradient takes away.
            along = torch.cat([scores_NHM, grad_attention_NHM], dim=1)
            along_NM = (weights_NKM * along).sum(dim=1) / tokens_NMC.shape[2]
            level_N1M = vectors_NKC.mean(dim=2)[:, None] @ weights_NKM
            factor_NM1 = (-along_NM * inverse_NM.square())[..., None]
            offset_N1M = (-level_N1M * inverse_NM[:, None]) - factor_NM1.transpose(1, 2) * mean_NM[:, None]
            weights_NKM = torch.cat([weights_NKM * inverse_NM[:, None], offset_N1M], dim=1)
            vectors_NKC = torch.cat([vectors_NKC, torch.ones_like(vectors_NKC[:, :1])], dim=1)
            grad_tokens_NMC = tokens_NMC * factor_NM1
            grad_tokens_NMC.baddbmm_(weights_NKM.transpose(1, 2), vectors_NKC)
        return pulled_NHC * scale, grad_tokens_NMC, grad_scale, grad_NHC.sum(dim=(0, 1)), None


def _moments(tokens_NMC: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns each token's mean and the inverse of its standard deviation, (N, M) both."""
    if on_gpu(tokens_NMC):
        variance_NM, mean_NM = torch.var_mean(tokens_NMC, dim=2, correction=0)
        return mean_NM, variance_NM.add_(eps).rsqrt_()
    # Its output is of no use here, but it is six times faster than var_mean on a CPU.
    _, mean_NM1, inverse_NM1 = torch.native_layer_norm(tokens_NMC, tokens_NMC.shape[2:], None, None, eps)
    return mean_NM1.squeeze(2), inverse_NM1.squeeze(2)


def _dot_normal(vectors_NHC: Tensor, tokens_NMC: Tensor, mean_NM: Tensor, inverse_NM: Tensor) -> Tensor:
    """Returns the products (N, H, M) of vectors and the tokens' normal forms."""
    products_NHM = vectors_NHC @ tokens_NMC.transpose(1, 2)
    products_NHM.sub_(vectors_NHC.sum(dim=2, keepdim=True) * mean_NM[:, None])
    return products_NHM.mul_(inverse_NM[:, None])


def _sum_normal(weights_NHM: Tensor, tokens_NMC: Tensor, mean_NM: Tensor, inverse_NM: Tensor) -> Tensor:
    """Returns the weighted sums (N, H, C) of the tokens' normal forms."""
    scaled_NHM = weights_NHM * inverse_NM[:, None]
    return (scaled_NHM @ tokens_NMC).sub_(scaled_NHM @ mean_NM[..., None])


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
        query_NC = query_NC + self.attn(self.norm1(query_NC), tokens_NMC, self.norm3)
        update_NC: Tensor = self.mlp(self.norm2(query_NC))
        return query_NC + update_NC


class TemporalConvolution(nn.Conv1d):
    """Depthwise convolution over time, kernel 3, zero padding (section 3.3)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, kernel_size=3, padding=1, groups=width)

    def forward(self, x_NTLC: Tensor, position_TC: Tensor | None = None) -> Tensor:
        """Returns the tokens plus their convolution and their frame's position, a new tensor (N, T, L, C)."""
        if on_gpu(x_NTLC):
            moved_NTLC: Tensor = AddConvolution.apply(  # type: ignore[no-untyped-call]
                x_NTLC, self.weight, self.bias, position_TC
            )
            return moved_NTLC
        weight_C131 = self.weight[..., None]
        # As (N, C, T, L) the tokens are a channels-last image: no copy.
        y_NCTL = F.conv2d(x_NTLC.permute(0, 3, 1, 2), weight_C131, self.bias, padding=(1, 0), groups=self.groups)
        moved_NTLC = x_NTLC + y_NCTL.permute(0, 2, 3, 1)
        return moved_NTLC if position_TC is None else moved_NTLC.add_(position_TC[:, None])


class AddConvolution(torch.autograd.Function):
    """x + convolution + position for a GPU, where cuDNN's depthwise kernels take many times what reading x takes.

    y[t] = x[t] + b + position[t] + w0 x[t-1] + w1 x[t] + w2 x[t+1], in the tokens' own precision: operations bound by
    memory, to which a cast would only add.
    """

    @staticmethod
    def forward(ctx: Any, x_NTLC: Tensor, weight_C13: Tensor, bias_C: Tensor, position_TC: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_NTLC, weight_C13)
        start = bias_C if position_TC is None else (bias_C + position_TC)[:, None]
        return _combine_frames(start, x_NTLC, weight_C13.permute(2, 1, 0))

    @staticmethod
    def backward(ctx: Any, grad_NTLC: Tensor) -> tuple[Tensor | None, ...]:
        x_NTLC, weight_C13 = ctx.saved_tensors
        num_clips, num_frames, num_tokens, num_channels = x_NTLC.shape
        has_previous_NT = grad_NTLC.new_ones(num_clips, num_frames)
        has_previous_NT[:, 0] = 0
        # Frame by frame a neighbour is the next row; where it is another clip's, the row is left out.
        grad_FK, x_FK = (y.reshape(num_clips * num_frames, -1) for y in (grad_NTLC, x_NTLC))
        used_F = has_previous_NT.flatten()[1:]
        before_K, _ = _sum_products(grad_FK[1:], x_FK[:-1], used_F)
        after_K, _ = _sum_products(grad_FK[:-1], x_FK[1:], used_F)
        same, level = _sum_products(grad_NTLC.flatten(1), x_NTLC.flatten(1), grad_NTLC.new_ones(num_clips))
        taps = [sums.view(-1, num_channels).sum(dim=0) for sums in (before_K, same, after_K)]
        grad_position_TC = level.view(num_frames, num_tokens, num_channels).sum(dim=1)
        grad_x_NTLC = None
        if ctx.needs_input_grad[0]:
            grad_x_NTLC = _combine_frames(grad_NTLC.new_zeros(()), grad_NTLC, weight_C13.permute(2, 1, 0).flip(0))
        grad_weight_C13, grad_bias_C = torch.stack(taps, dim=1)[:, None], grad_position_TC.sum(dim=0)
        return grad_x_NTLC, grad_weight_C13, grad_bias_C, grad_position_TC if ctx.needs_input_grad[3] else None


def _combine_frames(start: Tensor, x_NTLC: Tensor, taps_31C: Tensor) -> Tensor:
    """Returns start + x[t] + taps[0] x[t-1] + taps[1] x[t] + taps[2] x[t+1], (N, T, L, C)."""
    previous_1C, same_1C, next_1C = taps_31C.contiguous()
    sum_NTLC = torch.addcmul(start, x_NTLC, 1 + same_1C)
    sum_NTLC[:, 1:].addcmul_(x_NTLC[:, :-1], previous_1C)
    sum_NTLC[:, :-1].addcmul_(x_NTLC[:, 1:], next_1C)
    return sum_NTLC


def _sum_products(grad_RK: Tensor, x_RK: Tensor, used_R: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sums over rows, (K,) each, of grad * x where `used` is 1 and not 0, and of grad alone.

    They are the gradients of a layer norm's scale and shift, at mean 0 and inverse deviation `used`: the operation that
    reads both tensors once and writes no product down.
    """
    used_R1, shape = used_R[:, None], grad_RK.shape[1:]
    scale = shift = grad_RK.new_empty(shape)  # without the tokens' gradient only their shape is looked at
    given = (grad_RK, x_RK, shape, torch.zeros_like(used_R1), used_R1, scale, shift)
    _, products_K, sums_K = torch.ops.aten.native_layer_norm_backward(*given, [False, True, True])
    return products_K, sums_K


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
        self.grid = grid
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

    def forward(self, layers: Layers) -> Tensor:
        """Returns the clip's query after the last layer, (N, C)."""
        num_layers = len(self.decoder_layers)
        query_NC = self.cls_token.expand(layers[-1].tokens_NTLC.shape[0], -1)
        for i, decoder_layer in enumerate(self.decoder_layers):
            query_NC = decoder_layer(query_NC, self.frame_features(i, layers[i - num_layers]))
        return query_NC

    def frame_features(self, i: int, layer: Layer) -> Tensor:
        """Returns what decoder layer i attends to: tokens plus their temporal terms, (N, T*L, C)."""
        given_NTLC = tokens_NTLC = layer.tokens_NTLC
        num_frames = tokens_NTLC.shape[1]
        position_TC = self.temporal_pos_embed[i] if self.temporal_pos_embed else None
        if position_TC is not None and len(position_TC) != num_frames:
            raise UserError(f"clips have {num_frames} frames; the temporal position embedding has {len(position_TC)}")
        if self.temporal_conv:
            tokens_NTLC = self.temporal_conv[i](tokens_NTLC, position_TC)
        elif position_TC is not None:
            tokens_NTLC = tokens_NTLC + position_TC[:, None]
        if self.cross_attention and num_frames > 1:
            own_NTLC = tokens_NTLC.clone() if tokens_NTLC is given_NTLC else tokens_NTLC
            tokens_NTLC = self.cross_attention[i](own_NTLC, layer.share(skew_relations))
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

    @property
    def wants(self) -> Wants:
        """The outputs of as many of the last blocks as there are decoder layers."""
        return Wants.last(len(self.decoder.decoder_layers), bool(self.decoder.cross_attention))

    @property
    def classifier(self) -> tuple[str, str]:
        """Names of upstream."""
        return "proj.2.weight", "proj.2.bias"

    def undecayed(self) -> set[str]:
        """Returns the names of the temporal position embeddings."""
        return {name for name, _ in self.named_parameters() if "temporal_pos_embed" in name}

    def prepare(self, layers: Layers) -> None:
        """Asks for skewed relations: they depend on no trained weight."""
        if self.decoder.cross_attention and layers[-1].shape.frames > 1:
            for i in self.wants.layers:
                layers[i].share(skew_relations)

    def attend(self, layers: Layers, hidden_T: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns logits and where the query looks: attention.py."""
        return attend(self, layers, hidden_T)

    def forward(self, layers: Layers) -> Tensor:
        """Returns logits (N, num_classes) in the tokens' dtype.

        Raises UserError when the number of frames does not fit the temporal position embedding.
        """
        self.prepare(layers)
        tokens_NTLC = layers[-1].tokens_NTLC
        precision: AbstractContextManager[object] = nullcontext()
        if on_gpu(tokens_NTLC):
            # The query has one row a clip: casting a layer's weights for it would take longer than the products. Only
            # the motion term, whose maps are cast by now, is left in half precision.
            precision = torch.autocast(tokens_NTLC.device.type, enabled=False)
        with precision:
            logits: Tensor = self.proj(self.decoder(layers))
        return logits.to(tokens_NTLC.dtype)
