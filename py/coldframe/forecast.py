"""What a configuration will cost, before anything is built: parameters, operations and memory.

Shapes: N clips of a shard, T frames, L tokens of a frame (P patches and the class token), C channels
"""

from __future__ import annotations

from typing import Any

import torch

from . import build
from .cohort import DTYPES
from .environment import choose_device, choose_precision
from .settings import Settings

FLOAT_BYTES = 4
# The interpreter, torch and its thread pools before any model, measured on Linux with torch 2.13 (CPU build).
PROCESS_BYTES = 420e6
# Clips that lie ready: the batch in use, the one being joined, and what the workers have put into shared memory.
BATCHES_IN_FLIGHT = 3


def describe_model(settings: Settings) -> dict[str, Any]:
    """Returns parameters (total, trained), multiply-adds a view, and bytes to train and to evaluate on one device."""
    with torch.device("meta"):
        backbone = sum(parameter.numel() for parameter in build.make_backbone(settings).parameters())
        decoder = sum(parameter.numel() for parameter in build.make_decoder(settings).parameters())
    frozen = settings.model.backbone.freeze
    device = choose_device(settings.launch.device)
    precision, _ = choose_precision(settings.train.precision, device)
    trained = decoder if frozen else decoder + backbone
    weights = (backbone * DTYPES[precision].itemsize if frozen else 0) + trained * FLOAT_BYTES
    states = 3 * trained * FLOAT_BYTES  # gradient and Adam's two moments
    shard = max(1, settings.train.batch_size // settings.train.micro_batches)
    views = settings.eval.batch_size * settings.eval.spatial_views * settings.eval.temporal_views
    base = round(PROCESS_BYTES + weights + states)
    batch = settings.train.batch_size
    return {
        "parameters_total": backbone + decoder,
        "parameters_trained": trained,
        "flops_per_view": count_multiply_adds(settings),
        "memory": {
            "device": str(device),
            "precision": precision,
            "training_bytes": base + _clip_bytes(settings, batch) + _step_bytes(settings, shard, precision),
            "evaluation_bytes": base + _clip_bytes(settings, views) + _feature_bytes(settings, views, precision),
        },
    }


def _tokens(settings: Settings) -> tuple[int, int, int]:
    """Returns (T, P, C)."""
    backbone = settings.model.backbone
    return settings.data.num_frames, (backbone.input_size // backbone.patch_size) ** 2, backbone.width


def count_multiply_adds(settings: Settings) -> int:
    """Returns the multiply-adds of one view's forward pass, each counted once, as the paper's GFLOPs are.

    The decoder is counted with its projections absorbed (evl.py), so it is below the paper's.
    """
    backbone, decoder = settings.model.backbone, settings.model.decoder
    T, P, C = _tokens(settings)
    L = P + 1
    mlp = round(backbone.mlp_factor * C)
    block = L * C * (4 * C + 2 * mlp) + 2 * L * L * C
    image = P * 3 * backbone.patch_size**2 * C + backbone.num_layers * block
    layer = 2 * T * L * C * decoder.num_heads + 2 * C * round(decoder.mlp_factor * C) + 4 * C * decoder.qkv_dim
    if settings.model.temporal.conv:
        layer += 3 * T * L * C
    if settings.model.temporal.cross_attention:
        side = backbone.input_size // backbone.patch_size
        maps = 2 * (T - 1) * P * P * C
        layer += maps + 2 * (T - 1) * P * side * (2 * side - 1) * C
    return T * image + decoder.num_layers * layer + C * settings.data.num_classes


def _clip_bytes(settings: Settings, num_clips: int) -> int:
    return BATCHES_IN_FLIGHT * num_clips * 3 * settings.data.num_frames * settings.data.size**2 * FLOAT_BYTES


def _feature_bytes(settings: Settings, num_clips: int, precision: str) -> int:
    """Returns the features of the last blocks with their maps, and the widest moment of the backbone's forward."""
    T, P, C = _tokens(settings)
    tokens = num_clips * T * (P + 1)
    maps = 2 * num_clips * max(0, T - 1) * P * P * FLOAT_BYTES if settings.model.temporal.cross_attention else 0
    kept = settings.model.decoder.num_layers * (tokens * C * FLOAT_BYTES + maps)
    # In the mlp: the stream, its norm, the hidden layer before, within and after QuickGELU.
    widest = tokens * C * (2 + 3 * settings.model.backbone.mlp_factor) * DTYPES[precision].itemsize
    return round(kept + widest)


def _step_bytes(settings: Settings, num_clips: int, precision: str) -> int:
    """Returns the features plus what backward needs: of each decoder layer its tokens before and after the norm."""
    T, P, C = _tokens(settings)
    tokens = num_clips * T * (P + 1)
    temporal = settings.model.temporal
    copies = 3 + temporal.conv + temporal.position_embedding + temporal.cross_attention
    side = settings.model.backbone.input_size // settings.model.backbone.patch_size
    skewed = 2 * num_clips * max(0, T - 1) * P * side * (2 * side - 1) * FLOAT_BYTES if temporal.cross_attention else 0
    saved = settings.model.decoder.num_layers * (copies * tokens * C * FLOAT_BYTES + skewed)
    if not settings.model.backbone.freeze:
        mlp_factor = settings.model.backbone.mlp_factor
        saved += round(
            settings.model.backbone.num_layers * tokens * C * (8 + 3 * mlp_factor) * DTYPES[precision].itemsize
        )
    return saved + _feature_bytes(settings, num_clips, precision)
