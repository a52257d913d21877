"""What a configuration will cost, before anything is built: parameters, operations and memory.

Memory is that of the Python process (on CUDA, of the device): counted tensors plus few measured constants.
`coldframe bench memory` compares it with what real steps take, test_forecast.py with the tensors that they make.
What backbones and decoders cost by themselves, their sizes.py tell.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coldframe.assembly.sizes import size_backbone, size_decoder
from coldframe.backbones.shape import FLOAT_BYTES, BackboneSizes
from coldframe.machine.device import plan_device
from coldframe.settings import Settings

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
    """Returns parameters (total, trained), multiply-adds a view, and bytes to train and to evaluate on each
    device.

    A cohort takes `shared_bytes` once, the most of `features_bytes` and of `transient_bytes` that any trial has, and
    the sum of `trial_bytes`.
    """
    sizes = size_backbone(settings.model.backbone)
    backbone, decoder = sizes.count_parameters(), size_decoder(settings).count_parameters()
    backbone_flops, decoder_flops = count_multiply_adds(settings)
    return {
        "parameters_total": backbone + decoder,
        "parameters_trained": decoder + (0 if settings.model.backbone.freeze else _count_tuned(settings, sizes)),
        "flops_per_view": backbone_flops + decoder_flops,
        "backbone_flops_per_view": backbone_flops,
        "decoder_flops_per_view": decoder_flops,
        "memory": _describe_memory(settings),
    }


def _describe_memory(settings: Settings) -> dict[str, Any]:
    sizes, decoder = size_backbone(settings.model.backbone), size_decoder(settings).count_parameters()
    device, precision = plan_device(settings.launch.device, settings.train.precision)
    itemsize, on_cpu = ITEM_BYTES[precision], device == "cpu"
    train, frozen = settings.train, settings.model.backbone.freeze
    trained = decoder if frozen else decoder + _count_tuned(settings, sizes)
    process = PROCESS_BYTES if on_cpu else CUDA_BYTES
    backbone_bytes = sizes.count_parameters() * (itemsize if frozen else FLOAT_BYTES)
    views = settings.eval.batch_size * settings.eval.spatial_views * settings.eval.temporal_views
    # Weights and Adam's two moments, the running mean, and gradients where they wait for the next part of the batch.
    replays = not on_cpu and settings.launch.cuda_graphs and not prevents_replay(settings)
    waiting = trained if train.micro_batches > 1 or replays else 0
    trial = (3 + (train.ema_decay is not None)) * decoder + 2 * (trained - decoder) + waiting
    passing, backward = count_transients(settings, trained - waiting, precision)
    # One trial's gradients go round among the ranks while the next one learns.
    passing, backward = (each + (settings.launch.num_ranks > 1) * trained * FLOAT_BYTES for each in (passing, backward))
    parts = {
        "shared_bytes": round(process + backbone_bytes) + _clip_bytes(settings, _share(settings)),
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


def _share(settings: Settings) -> int:
    """Returns the clips of a batch that each rank has."""
    return max(1, settings.train.batch_size // settings.launch.num_ranks)


def _shard(settings: Settings) -> int:
    return max(1, _share(settings) // settings.train.micro_batches)


def _count_tuned(settings: Settings, backbone: BackboneSizes) -> int:
    """Returns how many of the backbone's parameters are trained when it is not frozen."""
    num_blocks = settings.model.backbone.train_blocks
    if num_blocks is None:
        return backbone.count_parameters()
    return min(num_blocks, backbone.num_layers) * backbone.count_block()


def count_multiply_adds(settings: Settings) -> tuple[int, int]:
    """Returns the multiply-adds of one view's forward pass in the backbone and in the decoder with its head.

    Each is counted once, as the paper's GFLOPs are. From stored features (data.features) only blocks that run again
    count.
    """
    backbone, decoder = size_backbone(settings.model.backbone), size_decoder(settings)
    entering, num_blocks = backbone.count_entering(), backbone.num_layers
    if settings.data.features is not None:
        entering, num_blocks = 0, 0 if settings.features.form == "maps" else decoder.wants.depth
    frames = backbone.shape(settings.data.num_frames).frames
    return frames * (entering + num_blocks * backbone.count_running()), decoder.count_multiply_adds()


def _clip_bytes(settings: Settings, num_clips: int) -> int:
    """Returns the clips that lie ready; of stored features the rows take their place."""
    if settings.data.features is not None:
        return BATCHES_IN_FLIGHT * _raw_bytes(settings, num_clips)
    return BATCHES_IN_FLIGHT * num_clips * 3 * settings.data.num_frames * settings.data.size**2 * FLOAT_BYTES


def _token_bytes(settings: Settings, num_clips: int) -> int:
    """Returns one float32 tensor of tokens."""
    return num_clips * size_backbone(settings.model.backbone).shape(settings.data.num_frames).clip_bytes


def _map_bytes(settings: Settings, num_clips: int) -> int:
    """Returns the relations of one block in one direction; 0 where nobody looks at them."""
    shape = size_backbone(settings.model.backbone).shape(settings.data.num_frames)
    return num_clips * shape.relation_bytes if size_decoder(settings).wants.relations else 0


def _raw_bytes(settings: Settings, num_clips: int) -> int:
    """Returns the features of the last blocks as the backbone gives them."""
    layer = _token_bytes(settings, num_clips) + 2 * _map_bytes(settings, num_clips)
    return size_decoder(settings).wants.depth * layer


def _feature_bytes(settings: Settings, num_clips: int, itemsize: int) -> int:
    """Returns the features as decoders read them: tokens in float32, and what they ask layers to share."""
    decoder = size_decoder(settings)
    layer = _token_bytes(settings, num_clips) + decoder.shared_bytes(num_clips, itemsize)
    return round(decoder.wants.depth * layer)


def _pass_bytes(settings: Settings, num_clips: int, itemsize: int) -> int:
    """Returns the most that is alive until the features are ready, they included.

    That is in the last block, beside the old stream, which is the features before. Or when all that is shared is being
    made.
    """
    decoder, depth = size_decoder(settings), size_decoder(settings).wants.depth
    raw, tokens, maps = (of(settings, num_clips) for of in (_raw_bytes, _token_bytes, _map_bytes))
    sharing = raw + _feature_bytes(settings, num_clips, itemsize) - depth * tokens
    sharing += decoder.sharing_bytes(num_clips)
    if settings.data.features is not None and settings.features.form == "maps":
        return sharing
    before = raw - tokens - 2 * maps
    stream = depth == 1 or itemsize != FLOAT_BYTES
    alive = size_backbone(settings.model.backbone).alive_tensors + stream
    return max(sharing, before + round(alive * tokens * itemsize / FLOAT_BYTES))


def _backward_bytes(settings: Settings, num_clips: int, gradient: int, itemsize: int) -> int:
    """Returns what backward holds at its widest besides the features; gradients come as it goes."""
    decoder = size_decoder(settings)
    num_parts, kept, passing = decoder.backward(num_clips)
    if not settings.model.backbone.freeze:
        graph, num_blocks = _graph_bytes(settings, num_clips, itemsize)
        in_block = size_backbone(settings.model.backbone).backward_tensors
        passing += round(in_block * _token_bytes(settings, num_clips))
        first = num_parts * kept + graph + min(gradient, decoder.count_parameters() * FLOAT_BYTES)
        return passing + max(first, graph // num_blocks + gradient)
    return passing + max(num_parts * kept + gradient // num_parts, kept + gradient)


def _graph_bytes(settings: Settings, num_clips: int, itemsize: int) -> tuple[int, int]:
    """Returns what a trained backbone keeps for backward, and in how many blocks; of each map all heads."""
    backbone, num_blocks = size_backbone(settings.model.backbone), settings.model.backbone.train_blocks
    num_blocks = backbone.num_layers if num_blocks is None else num_blocks
    block = backbone.kept_tensors * _token_bytes(settings, num_clips) * itemsize / FLOAT_BYTES
    num_mapped = min(num_blocks, size_decoder(settings).wants.depth)
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
