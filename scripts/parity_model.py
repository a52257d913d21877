"""The model kinds of parity.py: one forward and backward, and a training trajectory. Limits come with the fixtures."""

# Shapes: N clips, T frames, L = 1 + P tokens (class token first), C channels, H heads, D channels a head

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from coldframe.backbones.clip.model import VisionTransformer, freeze
from coldframe.backbones.clip.weights import from_public, load_backbone, put_backbone, to_upstream
from coldframe.backbones.interface import Layer, run
from coldframe.backbones.shape import Wants
from coldframe.decoders.evl.model import EVL
from coldframe.settings import Settings, Train
from coldframe.train import upstream
from coldframe.train.cohort import Cohort
from coldframe.train.trial import Trial

Fixture = dict[str, Any]
TIGHTER = 0.1  # what comes before the logits is held ten times closer than the fixture's limit for logits, in float32

# --- models from a fixture ---


def build_backbone(fixture: Fixture, folder: Path) -> VisionTransformer:
    """Returns the fixture's backbone, loaded through the same code as a user's weights file."""
    sizes, mode = fixture["args"]["backbone"], fixture["args"]["backbone_mode"]
    backbone = VisionTransformer(
        width=sizes["feature_dim"],
        num_layers=sizes["num_layers"],
        num_heads=sizes["num_heads"],
        patch_size=tuple(sizes["patch_size"]),
        input_size=tuple(sizes["input_size"]),
        mlp_factor=sizes["mlp_factor"],
    )
    file = fixture.get("clip_full_state_file") or fixture.get("clip_archive")
    state = load_backbone(folder / file) if file else from_public(fixture["clip_visual"], fixture["name"])
    put_backbone(backbone, state, file or fixture["name"])
    if mode == "finetune":
        return backbone
    return freeze(backbone, {"freeze_fp32": torch.float32, "freeze_fp16": torch.float16}[mode])


def build_decoder(fixture: Fixture, grid: tuple[int, int]) -> EVL:
    """Returns the fixture's trained part without dropout, its weights not yet loaded."""
    args = fixture["args"]
    return EVL(
        num_frames=args["num_frames"],
        grid=grid,
        width=args["backbone"]["feature_dim"],
        num_layers=args["decoder_num_layers"],
        qkv_dim=args["decoder_qkv_dim"],
        num_heads=args["decoder_num_heads"],
        mlp_factor=args["decoder_mlp_factor"],
        mlp_dropout=0.0,
        head_dropout=0.0,
        num_classes=args["num_classes"],
        temporal_conv=args["enable_temporal_conv"],
        temporal_position_embedding=args["enable_temporal_pos_embed"],
        temporal_cross_attention=args["enable_temporal_cross_attention"],
    )


def last_layers(
    backbone: VisionTransformer, video_NCTHW: Tensor, num_layers: int, relations: bool = False
) -> list[Layer]:
    """Returns the outputs of the last blocks, earliest first."""
    return list(run(backbone, video_NCTHW, Wants.last(num_layers, relations)).values())


# --- comparisons ---


def differ(found: Tensor, expected: Tensor) -> float:
    """Returns the largest absolute difference, infinite when shapes differ, NaN when either holds one."""
    if found.shape != expected.shape:
        return math.inf
    return (found.detach().double() - expected.double()).abs().max().item() if found.numel() else 0.0


def largest(differences: Iterable[float]) -> float:
    """Returns the largest, where NaN counts as infinite."""
    return max((math.inf if math.isnan(d) else d for d in differences), default=0.0)


def relative(found: Tensor, expected: Tensor) -> float:
    """Returns the largest absolute difference in units of the expected tensor's largest value, at least 1e-3."""
    return differ(found, expected) / max(1e-3, expected.abs().max().item())


def plain_maps(query_NTLHD: Tensor, key_NTLHD: Tensor) -> Tensor:
    """Returns head-mean attention (N, T, P, P), written the plain way."""
    query, key = query_NTLHD[:, :, 1:].double(), key_NTLHD[:, :, 1:].double()
    scores: Tensor = torch.einsum("ntqhd,ntkhd->nthqk", query, key) / query.shape[-1] ** 0.5
    return scores.softmax(-1).mean(2)


# --- kind: case ---


def replay_case(fixture: Fixture, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yields (quantity, difference, limit) of one forward and backward; upstream's README lists the fields."""
    args, atol = fixture["args"], fixture["atol_logits"]
    close = atol if args["backbone_mode"] == "freeze_fp16" else atol * TIGHTER
    backbone = build_backbone(fixture, folder)
    evl = build_decoder(fixture, backbone.grid)
    yield "state_dict keys", float(_count_other_keys(fixture, backbone, evl)), 0.0
    evl.load_state_dict(fixture["trained_state"])
    yield "converted weights (tensors that differ)", float(_count_other_weights(fixture, backbone)), 0.0

    video_NCTHW = fixture["video"]
    with torch.no_grad():
        every = last_layers(backbone, video_NCTHW, args["backbone"]["num_layers"])
        features = last_layers(backbone, video_NCTHW, args["decoder_num_layers"], relations=True)
        pairs = zip(every, fixture["backbone_out_all_layers"], strict=True)
        yield "backbone outputs, all layers", largest(relative(f.tokens_NTLC.flatten(0, 1), e) for f, e in pairs), close
        yield "neighbour maps", _compare_maps(features, fixture), close
        yield from _compare_decoder(evl.eval(), features, fixture, close)
        logits = evl(features)
    yield "logits", differ(logits, fixture["logits"]), atol
    yield "loss", differ(F.cross_entropy(logits, fixture["labels"]), fixture["loss"]), atol
    yield from _compare_training(backbone, evl.train(), fixture, close)


def _count_other_keys(fixture: Fixture, backbone: VisionTransformer, evl: EVL) -> int:
    ours = set(evl.state_dict())
    if fixture["backbone_in_state_dict"]:
        ours |= {f"backbone.{name}" for name in to_upstream(backbone.state_dict())}
    return len(ours ^ set(fixture["state_dict_keys"]))


def _count_other_weights(fixture: Fixture, backbone: VisionTransformer) -> int:
    converted = to_upstream(backbone.state_dict())
    hashes = {
        name: hashlib.sha256(tensor.detach().float().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in converted.items()
    }
    wanted, shapes = fixture["converted_sha256"], fixture["converted_shapes"]
    other = {name for name in hashes.keys() | wanted.keys() if hashes.get(name) != wanted.get(name)}
    return len(other | {name for name in shapes if name in converted and list(converted[name].shape) != shapes[name]})


def _compare_maps(features: list[Layer], fixture: Fixture) -> float:
    num_frames = fixture["args"]["num_frames"]
    differences = []
    for found, expected in zip(features, fixture["features"], strict=True):
        query, key = (expected[x].view(-1, num_frames, *expected[x].shape[1:]) for x in "qk")
        if num_frames == 1:
            differences += [0.0 if found.relations is None else math.inf]
            continue
        assert found.relations is not None
        differences.append(relative(found.relations.previous_NTPP, plain_maps(query[:, 1:], key[:, :-1])))
        differences.append(relative(found.relations.following_NTPP, plain_maps(query[:, :-1], key[:, 1:])))
        differences.append(relative(found.tokens_NTLC.flatten(0, 1), expected["out"]))
    return largest(differences)


def _compare_decoder(
    evl: EVL, features: list[Layer], fixture: Fixture, limit: float
) -> Iterator[tuple[str, float, float]]:
    decoder, query_NC = evl.decoder, evl.decoder.cls_token.expand(len(fixture["video"]), -1)
    tokens, outputs = [], []
    for i, layer in enumerate(decoder.decoder_layers):
        tokens_NMC = decoder.frame_features(i, features[i])
        query_NC = layer(query_NC, tokens_NMC)
        tokens.append(relative(tokens_NMC, fixture["decoder_frame_features"][i]))
        outputs.append(relative(query_NC[:, None], fixture["decoder_layer_out"][i]))
    yield "decoder frame features", largest(tokens), limit
    yield "decoder layer outputs", largest(outputs), limit
    yield "decoder output", relative(query_NC[:, None], fixture["decoder_out"]), limit


def _compare_training(
    backbone: VisionTransformer, evl: EVL, fixture: Fixture, close: float
) -> Iterator[tuple[str, float, float]]:
    args, atol = fixture["args"], fixture["atol_logits"]
    logits = evl(last_layers(backbone, fixture["video"], args["decoder_num_layers"], relations=True))
    loss = F.cross_entropy(logits, fixture["labels"])
    loss.backward()
    yield "logits, train mode without dropout", differ(logits, fixture["logits_train_p0"]), atol
    yield "loss, train mode without dropout", differ(loss, fixture["loss_train_p0"]), atol

    grads = {name: p.grad for name, p in evl.named_parameters() if p.grad is not None}
    ours = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    grads |= {f"backbone.{name}": grad for name, grad in to_upstream(ours).items()} if ours else {}
    # The true gradient of these is zero; what the fixture holds is rounding noise.
    skipped = set(fixture["noise_only_grads"])
    norms = {name: 0.0 if norm is None else norm for name, norm in fixture["grad_norms"].items() if name not in skipped}
    found = {name: grads[name].norm().item() if name in grads else 0.0 for name in norms}
    yield "gradients without counterpart", float(len(grads.keys() - fixture["grad_norms"].keys())), 0.0
    yield "gradient norms", largest(abs(found[n] - norms[n]) / max(1e-3, norms[n]) for n in norms), close
    if "grads" in fixture:
        expected = {name: grad for name, grad in fixture["grads"].items() if name not in skipped and grad is not None}
        pairs = ((grads.get(name, torch.zeros(0)), grad) for name, grad in expected.items())
        yield "gradients", largest(relative(ours, theirs) for ours, theirs in pairs), close


# --- kind: trajectory ---


def replay_trajectory(fixture: Fixture, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yields (quantity, difference, limit) of a training run: from its start, in two shards, and resumed.

    Limits are ten times what upstream differs from itself with other threads or shards, and at least 1e-5.
    """
    spread = 10 * max(fixture["losses_spread"].values())
    limit = max(1e-5, spread)
    rounding = 1e-12  # rates are compared in double precision
    start, done = 0, fixture["num_steps"]

    trial, losses, rates = _train(fixture, folder, start, done, fixture["initial_trained_state"], None, 1)
    yield "losses", _series(losses, fixture["losses"]), limit
    yield "learning rates", _series(rates, fixture["lrs"]), rounding
    yield from _compare_final(trial.model.state_dict(), fixture)

    _, losses, _ = _train(fixture, folder, start, done, fixture["initial_trained_state"], None, 2)
    yield "losses in two shards", _series(losses, fixture["losses_batch_split2"]), limit

    start, stored = fixture["checkpoint_step"], upstream.read(folder / fixture["checkpoint"])
    yield "checkpoint's step", float(abs(stored.step - start)), 0.0
    _, losses, rates = _train(fixture, folder, start, done, stored.weights, stored, 1)
    yield "losses after resuming", _series(losses, fixture["losses_after_resume"]), limit
    yield "learning rates after resuming", _series(rates, fixture["lrs_after_resume"]), rounding


def _compare_final(state: Mapping[str, Tensor], fixture: Fixture) -> Iterator[tuple[str, float, float]]:
    """Adam turns rounding noise into whole steps where a gradient is next to nothing: single weights may stray by one
    step, the mean may not. `k_proj.bias` has nothing but noise."""
    expected = {name: t for name, t in fixture["final_trained_state"].items() if not name.endswith("k_proj.bias")}
    spread = 10 * max(one[name] for one in fixture["final_state_spread"].values() for name in expected)
    strays = largest(differ(state[name], expected[name]) for name in expected)
    yield "final weights, largest", strays, max(fixture["lr"], spread)
    means = ((state[name] - expected[name]).abs().mean().item() for name in expected)
    yield "final weights, mean of the worst tensor", largest(means), 1e-6


def _train(
    fixture: Fixture,
    folder: Path,
    start: int,
    stop: int,
    state: dict[str, Tensor],
    stored: upstream.UpstreamCheckpoint | None,
    micro_batches: int,
) -> tuple[Trial, list[float], list[float]]:
    backbone = build_backbone(fixture, folder)
    evl = build_decoder(fixture, backbone.grid)
    evl.load_state_dict(state)
    trial = Trial("main", _settings(fixture, micro_batches), evl, None, "fp32")
    if stored is not None:
        upstream.load_optimizer(stored, trial)
    cohort = Cohort([trial], backbone, torch.device("cpu"), "fp32")
    losses, rates = [], []
    for step in range(start, stop):
        batch = fixture["batches"][step]
        result = cohort.step(step, fixture["data"][batch], fixture["labels"][batch])["main"]
        losses.append(result.loss)
        rates.append(result.lr)
    return trial, losses, rates


def _settings(fixture: Fixture, micro_batches: int) -> Settings:
    assert fixture["schedule"] == "cosine"
    train = Train(
        steps=fixture["T_max"],
        batch_size=fixture["batch_size"],
        micro_batches=micro_batches,
        lr=fixture["lr"],
        backbone_lr=None,
        weight_decay=fixture["weight_decay"],
        decay_all=True,
        warmup_steps=0,
        clip_grad_norm=None,
        precision="fp32",
        seed=0,
        compile=False,
        label_smoothing=0.0,
        mixup=0.0,
        cutmix=0.0,
        ema_decay=None,
        class_weights="none",
    )
    read = SimpleNamespace(train=train, data=SimpleNamespace(labels="single"))  # all that a cohort reads
    return cast(Settings, read)


def _series(found: list[float], expected: list[float]) -> float:
    return differ(torch.tensor(found, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64))
