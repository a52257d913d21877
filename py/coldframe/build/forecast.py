"""What a configuration will cost, before anything is built: parameters, operations and memory.

Memory is that of the Python process (on CUDA, of the device): counted tensors plus few measured constants.
`coldframe bench memory` compares it with what real steps take, test_forecast.py with the tensors that they make.

Shapes: N clips of a shard, T frames, L tokens of a frame (P patches and the class token), C channels
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coldframe.decoders.evl.columns import column_groups
from coldframe.machine.device import plan_device
from coldframe.settings import Backbone, Settings

FLOAT_BYTES = 4
ITEM_BYTES = {"fp32": FLOAT_BYTES, "bf16": 2, "fp16": 2}
# The interpreter, torch with its thread pools and torch._dynamo (which the first optimizer imports), the libraries for
# decoding: what a tiny model's peak leaves after its tensors, on Linux with torch 2.13 (CPU build).
PROCESS_BYTES = 375e6
# On CUDA: the context is the driver's and not torch's; cuBLAS keeps a workspace for each of two threads, forward and
# backward (torch's default for Hopper, 32 MiB). Without recorded launches an H200 took 1.14, 1.10 and 0.99 of the
# forecast (demo; ViT-B/16, batch 1 and 4; fp16).
CUDA_BYTES = 67e6
# Clips that lie ready: the batch in use, the one being joined, and what the workers have put into shared memory.
BATCHES_IN_FLIGHT = 3


def describe_models(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what `describe_model` says of each of these settings: the verb `forecast`. Raises UserError where what is
    to read the videos is not installed here."""
    wanted = [Settings.from_json(settings) for settings in trials]
    if any(each.data.reader != "pyav" and each.data.features is None and not each.data.dummy for each in wanted):
        from coldframe.video.torchcodec import choose_reader  # it loads FFmpeg, which all others can do without

        choose_reader("torchcodec")
    return {"models": [describe_model(each) for each in wanted]}


def describe_model(settings: Settings) -> dict[str, Any]:
    """Returns parameters (total, trained), multiply-adds a view, and bytes to train and to evaluate on one device.

    A cohort takes `shared_bytes` once, the most of `features_bytes` and of `transient_bytes` that any trial has, and
    the sum of `trial_bytes`.
    """
    backbone, decoder = count_backbone(settings.model.backbone), count_decoder(settings)
    backbone_flops, decoder_flops = count_multiply_adds(settings)
    return {
        "parameters_total": backbone + decoder,
        "parameters_trained": decoder + (0 if settings.model.backbone.freeze else _count_tuned(settings, backbone)),
        "flops_per_view": backbone_flops + decoder_flops,
        "backbone_flops_per_view": backbone_flops,
        "decoder_flops_per_view": decoder_flops,
        "memory": _describe_memory(settings, backbone, decoder),
    }


def count_backbone(backbone: Backbone) -> int:
    """Returns the parameters of the backbone, from sizes alone, as those of the decoder: a sweep asks for hundreds."""
    C, L = backbone.width, 1 + (backbone.input_size // backbone.patch_size) ** 2
    embedding = 3 * backbone.patch_size**2 * C + C + C + L * C + 2 * C  # of patches, class and places; the first norm
    return embedding + backbone.num_layers * _count_block(backbone)


def _count_block(backbone: Backbone) -> int:
    C, hidden = backbone.width, round(backbone.mlp_factor * backbone.width)
    return 4 * C**2 + 4 * C + 2 * C * hidden + hidden + C + 2 * 2 * C


def count_decoder(settings: Settings) -> int:
    """Returns the parameters of the trained part."""
    decoder, temporal = settings.model.decoder, settings.model.temporal
    T, _, C = _tokens(settings)
    hidden = round(decoder.mlp_factor * C)
    layer = 4 * C * decoder.qkv_dim + 3 * decoder.qkv_dim + C + 2 * C * hidden + hidden + C + 3 * 2 * C
    layer += temporal.conv * 4 * C + temporal.position_embedding * T * C
    layer += temporal.cross_attention * 2 * (2 * _side(settings) - 1) ** 2 * C
    return decoder.num_layers * layer + C + 2 * C + (C + 1) * settings.data.num_classes


def _describe_memory(settings: Settings, backbone: int, decoder: int) -> dict[str, Any]:
    device, precision = plan_device(settings.launch.device, settings.train.precision)
    itemsize, on_cpu = ITEM_BYTES[precision], device == "cpu"
    train, frozen = settings.train, settings.model.backbone.freeze
    trained = decoder if frozen else decoder + _count_tuned(settings, backbone)
    process = PROCESS_BYTES if on_cpu else CUDA_BYTES
    backbone_bytes = backbone * (itemsize if frozen else FLOAT_BYTES)
    views = settings.eval.batch_size * settings.eval.spatial_views * settings.eval.temporal_views
    # Weights and Adam's two moments, the running mean, and gradients where they wait for the next part of the batch.
    replays = not on_cpu and settings.launch.cuda_graphs and not prevents_replay(settings)
    waiting = trained if train.micro_batches > 1 or replays else 0
    trial = (3 + (train.ema_decay is not None)) * decoder + 2 * (trained - decoder) + waiting
    passing, backward = count_transients(settings, trained - waiting, precision)
    parts = {
        "shared_bytes": round(process + backbone_bytes) + _clip_bytes(settings, train.batch_size),
        "features_bytes": count_features(settings, precision),
        "trial_bytes": trial * FLOAT_BYTES,
        "transient_bytes": passing + backward if on_cpu else max(passing, backward),
    }
    evaluation = _clip_bytes(settings, views) + _pass_bytes(settings, views, itemsize)
    evaluation += replays * (parts["features_bytes"] + parts["transient_bytes"])  # where recorded launches work
    return {
        "device": device,
        "precision": precision,
        **parts,
        "training_bytes": sum(parts.values()),
        "evaluation_bytes": round(process + backbone_bytes) + parts["trial_bytes"] + evaluation,
    }


def prevents_replay(settings: Settings) -> list[str]:
    """Returns the keys, with their values, because of which a step's launches are not recorded (cuda_graphs.py)."""
    train, backbone = settings.train, settings.model.backbone
    reasons = {
        f"train.micro_batches: {train.micro_batches}": train.micro_batches > 1,
        "train.compile: true": train.compile,
        "model.backbone.freeze: false": not backbone.freeze,
    }
    return [key for key, is_there in reasons.items() if is_there]


def count_features(settings: Settings, precision: str) -> int:
    """Returns the bytes of the features of one part of the batch, as decoders read them."""
    return _feature_bytes(settings, _shard(settings), ITEM_BYTES[precision])


def count_pass(settings: Settings, num_clips: int, precision: str) -> int:
    """Returns the bytes of a pass over so many clips for a feature cache: the clips, their features, and the rows that
    these are put into."""
    live = replace(settings, data=replace(settings.data, features=None))
    clips = num_clips * 3 * settings.data.num_frames * settings.data.size**2 * FLOAT_BYTES
    return 2 * clips + _pass_bytes(live, num_clips, ITEM_BYTES[precision]) + 2 * _raw_bytes(live, num_clips)


def count_transients(settings: Settings, num_gradients: int, precision: str) -> tuple[int, int]:
    """Returns the most bytes besides the features in the backbone's pass and in backward with its fresh gradients.

    They are never alive at once. On a CPU both count all the same: peaks fit the sum and not the larger one, probably
    because glibc's heap does not fit the second into the room that the first leaves between the features. With CUDA's
    allocator, which reuses its blocks, the larger one counts.
    """
    shard, itemsize = _shard(settings), ITEM_BYTES[precision]
    features = _feature_bytes(settings, shard, itemsize)
    is_last = settings.train.micro_batches == 1  # else the features of the part before are still there
    passing = _pass_bytes(settings, shard, itemsize) - is_last * features
    return passing, _backward_bytes(settings, shard, num_gradients * FLOAT_BYTES, itemsize)


def _shard(settings: Settings) -> int:
    return max(1, settings.train.batch_size // settings.train.micro_batches)


def _count_tuned(settings: Settings, backbone: int) -> int:
    """Returns how many of the backbone's parameters are trained when it is not frozen."""
    chosen = settings.model.backbone
    if chosen.train_blocks is None:
        return backbone
    return min(chosen.train_blocks, chosen.num_layers) * _count_block(chosen)


def _side(settings: Settings) -> int:
    return settings.model.backbone.input_size // settings.model.backbone.patch_size


def _tokens(settings: Settings) -> tuple[int, int, int]:
    """Returns (T, P, C)."""
    return settings.data.num_frames, _side(settings) ** 2, settings.model.backbone.width


def count_multiply_adds(settings: Settings) -> tuple[int, int]:
    """Returns the multiply-adds of one view's forward pass in the backbone and in the decoder with its head.

    Each is counted once, as the paper's GFLOPs are. The decoder is counted with its projections absorbed
    (evl/model.py), so it is below the paper's. From stored features (data.features) only blocks that run again count.
    """
    backbone, decoder = settings.model.backbone, settings.model.decoder
    T, P, C = _tokens(settings)
    L = P + 1
    block = L * C * (4 * C + 2 * round(backbone.mlp_factor * C)) + 2 * L * L * C
    embedding, num_blocks = P * 3 * backbone.patch_size**2 * C, backbone.num_layers
    if settings.data.features is not None:
        embedding, num_blocks = 0, 0 if settings.features.form == "maps" else decoder.num_layers
    layer = 2 * T * L * C * decoder.num_heads + 2 * C * round(decoder.mlp_factor * C) + 4 * C * decoder.qkv_dim
    if settings.model.temporal.conv:
        layer += 3 * T * L * C
    if settings.model.temporal.cross_attention:
        side = _side(settings)
        layer += 2 * (T - 1) * P * P * C + 2 * (T - 1) * P * side * (2 * side - 1) * C
    return T * (embedding + num_blocks * block), decoder.num_layers * layer + C * settings.data.num_classes


def _clip_bytes(settings: Settings, num_clips: int) -> int:
    """Returns the clips that lie ready; of stored features the rows take their place."""
    if settings.data.features is not None:
        return BATCHES_IN_FLIGHT * _raw_bytes(settings, num_clips)
    return BATCHES_IN_FLIGHT * num_clips * 3 * settings.data.num_frames * settings.data.size**2 * FLOAT_BYTES


def _token_bytes(settings: Settings, num_clips: int) -> int:
    """Returns one float32 tensor (N, T, L, C)."""
    T, P, C = _tokens(settings)
    return num_clips * T * (P + 1) * C * FLOAT_BYTES


def _map_bytes(settings: Settings, num_clips: int) -> int:
    """Returns the attention maps of one block in one direction, float32; 0 where nobody looks at them."""
    T, P, _ = _tokens(settings)
    return num_clips * (T - 1) * P * P * FLOAT_BYTES if settings.model.temporal.cross_attention else 0


def _skewed_share(settings: Settings) -> tuple[float, float]:
    """Returns how large the skewed maps are, and what making one group of columns takes, in maps (motion.py, skew)."""
    side = _side(settings)
    groups = column_groups(side)
    columns = groups[0].stop
    return (side + columns - 1) / side, (1 + (side + columns) / side) / len(groups)


def _raw_bytes(settings: Settings, num_clips: int) -> int:
    """Returns the features of the last blocks as the backbone gives them."""
    layer = _token_bytes(settings, num_clips) + 2 * _map_bytes(settings, num_clips)
    return settings.model.decoder.num_layers * layer


def _feature_bytes(settings: Settings, num_clips: int, itemsize: int) -> int:
    """Returns the features as decoders read them: tokens in float32, skewed maps in the precision."""
    skewed = 2 * _map_bytes(settings, num_clips) * _skewed_share(settings)[0] * itemsize / FLOAT_BYTES
    return round(settings.model.decoder.num_layers * (_token_bytes(settings, num_clips) + skewed))


def _pass_bytes(settings: Settings, num_clips: int, itemsize: int) -> int:
    """Returns the most that is alive until the features are ready, they included.

    That is in the last block's mlp, beside the old stream, which is the features before: its new stream, norm, packed
    query, key and value (they wait for the maps), hidden layer and output. Or when all maps are being skewed.
    """
    raw, tokens, maps = (of(settings, num_clips) for of in (_raw_bytes, _token_bytes, _map_bytes))
    skewing = raw + _feature_bytes(settings, num_clips, itemsize) - settings.model.decoder.num_layers * tokens
    skewing += round(maps * _skewed_share(settings)[1])
    if settings.data.features is not None and settings.features.form == "maps":
        return skewing
    before = raw - tokens - 2 * maps
    stream = settings.model.decoder.num_layers == 1 or itemsize != FLOAT_BYTES
    mlp = (6 + stream + settings.model.backbone.mlp_factor) * tokens * itemsize / FLOAT_BYTES
    return max(skewing, before + round(mlp))


def _backward_bytes(settings: Settings, num_clips: int, gradient: int, itemsize: int) -> int:
    """Returns what backward holds at its widest besides the features.

    Of each decoder layer its own tokens and two rows of scores a head stay until backward has passed it; gradients
    come as it goes. On the way are one layer's tokens' gradient and what the motion term reads of it.
    """
    tokens, temporal = _token_bytes(settings, num_clips), settings.model.temporal
    num_layers, num_heads = settings.model.decoder.num_layers, settings.model.decoder.num_heads
    width = settings.model.backbone.width
    has_own = temporal.conv or temporal.position_embedding or temporal.cross_attention
    layer = has_own * tokens + 2 * num_heads * tokens // width
    passing = round(tokens * (has_own + 0.5 * temporal.cross_attention) + 6 * num_heads * tokens / width)
    if not settings.model.backbone.freeze:
        graph, num_blocks = _graph_bytes(settings, num_clips, itemsize)
        passing += round((2 + settings.model.backbone.mlp_factor) * tokens)
        first = num_layers * layer + graph + min(gradient, count_decoder(settings) * FLOAT_BYTES)
        return passing + max(first, graph // num_blocks + gradient)
    return passing + max(num_layers * layer + gradient // num_layers, layer + gradient)


def _graph_bytes(settings: Settings, num_clips: int, itemsize: int) -> tuple[int, int]:
    """Returns what a trained backbone keeps for backward, and in how many blocks.

    Of each block the stream twice, both norms, packed query, key and value, their mix twice, and the mlp's hidden layer
    before, within and after QuickGELU; of each map all heads.
    """
    backbone = settings.model.backbone
    num_blocks = backbone.num_layers if backbone.train_blocks is None else backbone.train_blocks
    block = (9 + 3 * backbone.mlp_factor) * _token_bytes(settings, num_clips) * itemsize / FLOAT_BYTES
    num_mapped = min(num_blocks, settings.model.decoder.num_layers)
    total = round(num_blocks * block + num_mapped * 2 * backbone.num_heads * _map_bytes(settings, num_clips))
    return total, num_blocks


def describe_launches(settings: Settings, device: str) -> list[str]:
    """Returns a note where launches were to be recorded (launch.cuda_graphs) and something stands against it."""
    against = prevents_replay(settings)
    if device == "cpu" or not settings.launch.cuda_graphs or not against:
        return []
    return [
        f"launch.cuda_graphs has no effect under {' and '.join(against)}: a step's launches are recorded with "
        "train.micro_batches: 1, without compile and over a frozen backbone only."
    ]
