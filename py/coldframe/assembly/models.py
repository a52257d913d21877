"""From settings to the backbone with its weights and to the trained part."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import torch

from coldframe.assembly.sizes import size_backbone
from coldframe.backbones.clip import weights
from coldframe.backbones.clip.model import Activation, VisionTransformer, init_random
from coldframe.decoders.evl.model import EVL
from coldframe.decoders.interface import Decoder
from coldframe.decoders.linear.model import Linear
from coldframe.decoders.linear.sizes import Frames, Pool
from coldframe.errors import UserError
from coldframe.machine.files import hash_file
from coldframe.machine.lending import share
from coldframe.machine.precision import DTYPES
from coldframe.settings import Backbone, Settings


def make_backbone(settings: Settings) -> VisionTransformer:
    """Returns the backbone without weights, on the current default device (`meta` to count only)."""
    return build_vision(settings.model.backbone)


def build_vision(backbone: Backbone) -> VisionTransformer:
    """Returns the same from the section of the settings that says it all."""
    activation = cast(Activation, backbone.activation)
    return VisionTransformer(**vars(size_backbone(backbone)), activation=activation)  # sizes have the same names


def make_decoder(settings: Settings) -> Decoder:
    """Returns the trained part with fresh weights from torch's global generator, on the current default device."""
    return _make_linear(settings) if settings.model.decoder.kind == "linear" else _make_evl(settings)


def _make_linear(settings: Settings) -> Linear:
    decoder = settings.model.decoder
    return Linear(
        shape=size_backbone(settings.model.backbone).shape(settings.data.num_frames),
        num_layers=decoder.num_layers,
        pool=cast(Pool, decoder.pool),
        frames=cast(Frames, decoder.frames),
        num_classes=settings.data.num_classes,
    )


def _make_evl(settings: Settings) -> EVL:
    decoder, temporal = settings.model.decoder, settings.model.temporal
    shape = size_backbone(settings.model.backbone).shape(settings.data.num_frames)
    return EVL(
        num_frames=shape.frames,
        grid=(shape.rows, shape.columns),
        width=shape.channels,
        num_layers=decoder.num_layers,
        qkv_dim=decoder.qkv_dim,
        num_heads=decoder.num_heads,
        mlp_factor=decoder.mlp_factor,
        mlp_dropout=decoder.mlp_dropout,
        head_dropout=settings.model.head.dropout,
        num_classes=settings.data.num_classes,
        temporal_conv=temporal.conv,
        temporal_position_embedding=temporal.position_embedding,
        temporal_cross_attention=temporal.cross_attention,
        query_init=cast(Literal["zero", "normal"], decoder.query_init),
    )


def build_backbone(
    settings: Settings, device: torch.device, precision: str
) -> tuple[VisionTransformer, str, list[str]]:
    """Returns the backbone on its device, the SHA-256 of its weights as loaded, and notes for the user. Of the ranks of
    a node one reads the weights, and all have the same memory.

    Raises UserError when the weights file is not what the configuration says.
    """
    backbone, digest, notes = share(lambda: _read_backbone(settings, precision))
    return backbone.to(device), digest, notes


def _read_backbone(settings: Settings, precision: str) -> tuple[VisionTransformer, str, list[str]]:
    chosen = settings.model.backbone
    with torch.device("meta"):
        backbone = make_backbone(settings)
    # Every weight is put in below: torch's own random ones would cost seconds, and so would what `to_empty` imports.
    empty = {name: torch.empty(each.shape, dtype=each.dtype) for name, each in backbone.state_dict().items()}
    backbone.load_state_dict(empty, assign=True)
    notes: list[str] = []
    if chosen.weights == "random":
        init_random(backbone, chosen.random_seed)
        if chosen.preset not in ("tiny", "custom"):
            notes.append(f"model.backbone.weights is random: {chosen.preset} has no knowledge of images.")
    else:
        notes += _load_weights(backbone, settings)
    digest = hash_weights(backbone)
    if chosen.freeze:
        backbone.freeze(DTYPES[precision])
    elif chosen.train_blocks is not None:
        backbone.tune(chosen.train_blocks)
    return backbone, digest, notes


def _load_weights(backbone: VisionTransformer, settings: Settings) -> list[str]:
    chosen = settings.model.backbone
    if chosen.weights_sha256 is not None:
        found = hash_file(chosen.weights)
        if found != chosen.weights_sha256.lower():
            raise UserError(
                f"{chosen.weights}  has SHA-256 {found}; model.backbone.weights_sha256 is {chosen.weights_sha256}. "
                "The file is another one or damaged: fetch it again, or correct the key."
            )
    tensors = weights.read_tensors(Path(chosen.weights))
    notes = weights.put_backbone(backbone, weights.from_public(tensors, chosen.weights), chosen.weights)
    norm = weights.find_final_norm(tensors, chosen.weights)
    if norm is not None:
        backbone.put_final_norm(*norm)
    return notes


def hash_weights(backbone: VisionTransformer) -> str:
    """Returns the SHA-256 over names and float32 bytes: the same for one set of weights in any file format."""
    return hash_state(backbone.state_dict())


def hash_state(state: Mapping[str, torch.Tensor]) -> str:
    """Returns the same of a backbone's weights under our names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
