"""Where EVL's query looks: its attention written out, which model.py never does, and without frames that are hidden."""

# Shapes: N clips, T frames, L tokens of a frame (class token first), M = T*L tokens of a clip, C channels, H heads,
# D = qkv_dim/H channels a head, Y decoder layers; K classes

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from coldframe.backbones.interface import Layers

if TYPE_CHECKING:
    from coldframe.decoders.evl.model import EVL, Attention, DecoderLayer


def attend(model: EVL, layers: Layers, hidden_T: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns logits (N, K), as the model gives them, and the attention (Y, N, H, T, L) of its one query: weights that
    sum to one over the tokens of a clip. Frames that are `hidden_T` have none: no layer sees them."""
    decoder, num_layers = model.decoder, len(model.decoder.decoder_layers)
    num_clips, num_frames, num_tokens, _ = layers[-1].tokens_NTLC.shape
    hidden_M = None if hidden_T is None else hidden_T.repeat_interleave(num_tokens)
    query_NC, found = decoder.cls_token.expand(num_clips, -1), []
    for i, layer in enumerate(cast("Iterable[DecoderLayer]", decoder.decoder_layers)):
        tokens_NMC = layer.norm3(decoder.frame_features(i, layers[i - num_layers]))
        mixed_NC, attention_NHM = _mix(layer.attn, layer.norm1(query_NC), tokens_NMC, hidden_M)
        query_NC = query_NC + mixed_NC
        query_NC = query_NC + layer.mlp(layer.norm2(query_NC))
        found.append(attention_NHM.view(num_clips, -1, num_frames, num_tokens))
    return model.proj(query_NC), torch.stack(found)


def _mix(attn: Attention, query_NC: Tensor, tokens_NMC: Tensor, hidden_M: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns the mix (N, C) of the tokens, and the weights (N, H, M) that it is made with."""
    heads = (attn.num_heads, -1)
    query_NHD = attn.q_proj(query_NC).unflatten(-1, heads)
    keys_NMHD, values_NMHD = (linear(tokens_NMC).unflatten(-1, heads) for linear in (attn.k_proj, attn.v_proj))
    scores_NHM = torch.einsum("nhd,nmhd->nhm", query_NHD * query_NHD.shape[-1] ** -0.5, keys_NMHD)
    if hidden_M is not None:
        scores_NHM = scores_NHM.masked_fill(hidden_M, float("-inf"))
    attention_NHM = scores_NHM.softmax(dim=2)
    mixed_NHD = torch.einsum("nhm,nmhd->nhd", attention_NHM, values_NMHD)
    return attn.out_proj(mixed_NHD.flatten(1)), attention_NHM
