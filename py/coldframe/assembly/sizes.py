"""From settings to the sizes of the backbone and of the trained part, without torch: an arm for each kind."""

from __future__ import annotations

from typing import cast

from coldframe.backbones.clip import sizes as clip
from coldframe.backbones.shape import BackboneSizes
from coldframe.decoders.evl import sizes as evl
from coldframe.decoders.linear import sizes as linear
from coldframe.decoders.sizes import DecoderSizes
from coldframe.settings import Backbone, Settings


def size_backbone(backbone: Backbone) -> BackboneSizes:
    """Returns the sizes of the backbone that models.make_backbone makes."""
    return clip.Sizes(
        width=backbone.width,
        num_layers=backbone.num_layers,
        num_heads=backbone.num_heads,
        patch_size=backbone.patch_size,
        input_size=backbone.input_size,
        mlp_factor=backbone.mlp_factor,
    )


def size_decoder(settings: Settings) -> DecoderSizes:
    """Returns the sizes of the trained part that models.make_decoder makes."""
    decoder, temporal = settings.model.decoder, settings.model.temporal
    shape = size_backbone(settings.model.backbone).shape(settings.data.num_frames)
    if decoder.kind == "linear":
        pool, frames = cast(linear.Pool, decoder.pool), cast(linear.Frames, decoder.frames)
        return linear.Sizes(shape, decoder.num_layers, pool, frames, settings.data.num_classes)
    return evl.Sizes(
        shape=shape,
        num_layers=decoder.num_layers,
        qkv_dim=decoder.qkv_dim,
        num_heads=decoder.num_heads,
        mlp_factor=decoder.mlp_factor,
        num_classes=settings.data.num_classes,
        temporal_conv=temporal.conv,
        temporal_position_embedding=temporal.position_embedding,
        temporal_cross_attention=temporal.cross_attention,
    )
