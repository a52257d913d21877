"""From settings to models and loaders: the one place that knows both the configuration and the rooms it configures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch

from coldframe.backbones.clip import weights
from coldframe.backbones.clip.model import Activation, VisionTransformer, fold, freeze, init_random
from coldframe.backbones.clip.tower import check_finite
from coldframe.data.clips import Batch, DummyClips, EvalViews, TrainClips, VideoList, read_list
from coldframe.data.loader import count_ready_bytes, eval_loader, train_loader
from coldframe.decoders.evl.model import EVL
from coldframe.errors import UserError
from coldframe.machine.environment import count_workers
from coldframe.machine.sharing import refuse_small
from coldframe.settings import Backbone, Settings
from coldframe.train import checkpoint, upstream
from coldframe.train.cohort import DTYPES, Cohort, Trial, stream_seed
from coldframe.video.torchcodec import choose_reader


def make_backbone(settings: Settings) -> VisionTransformer:
    """Returns the backbone without weights, on the current default device (`meta` to count only)."""
    return build_vision(settings.model.backbone)


def build_vision(backbone: Backbone) -> VisionTransformer:
    """Returns the same from the section of the settings that says it all."""
    return VisionTransformer(
        width=backbone.width,
        num_layers=backbone.num_layers,
        num_heads=backbone.num_heads,
        patch_size=backbone.patch_size,
        input_size=backbone.input_size,
        mlp_factor=backbone.mlp_factor,
        activation=cast(Activation, backbone.activation),
    )


def make_decoder(settings: Settings) -> EVL:
    """Returns the trained part with fresh weights from torch's global generator, on the current default device."""
    backbone, decoder, temporal = settings.model.backbone, settings.model.decoder, settings.model.temporal
    side = backbone.input_size // backbone.patch_size
    return EVL(
        num_frames=settings.data.num_frames,
        grid=(side, side),
        width=backbone.width,
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
    """Returns the backbone on its device, the SHA-256 of its weights as loaded, and notes for the user.

    Raises UserError when the weights file is not what the configuration says.
    """
    chosen = settings.model.backbone
    with torch.device("meta"):
        backbone = make_backbone(settings)
    backbone.to_empty(device="cpu")  # every weight is put in below: torch's own random ones would cost seconds
    notes: list[str] = []
    if chosen.weights == "random":
        init_random(backbone, chosen.random_seed)
        if chosen.preset not in ("tiny", "custom"):
            notes.append(f"model.backbone.weights is random: {chosen.preset} has no knowledge of images.")
    else:
        notes += _load_weights(backbone, settings)
    digest = hash_weights(backbone)
    if chosen.freeze:
        freeze(backbone if precision == "fp32" else fold(backbone), DTYPES[precision])
    elif chosen.train_blocks is not None:
        backbone.requires_grad_(False)
        for block in backbone.transformer.resblocks[-chosen.train_blocks :]:
            block.requires_grad_(True)
    return backbone.to(device), digest, notes


def _load_weights(backbone: VisionTransformer, settings: Settings) -> list[str]:
    chosen = settings.model.backbone
    if chosen.weights_sha256 is not None:
        found = weights.sha256_file(chosen.weights)
        if found != chosen.weights_sha256.lower():
            raise UserError(
                f"{chosen.weights}  has SHA-256 {found}; model.backbone.weights_sha256 is {chosen.weights_sha256}. "
                "The file is another one or damaged: fetch it again, or correct the key."
            )
    state = weights.load_backbone(chosen.weights)
    return weights.put_backbone(backbone, state, chosen.weights)


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


def build_trial(
    name: str, settings: Settings, backbone: VisionTransformer, device: torch.device, precision: str
) -> Trial:
    """Returns a trial with fresh weights, a function of its seed only."""
    torch.manual_seed(stream_seed(settings.train.seed, "init"))
    decoder = make_decoder(settings).to(device)
    return Trial(name, settings, decoder, None if settings.model.backbone.freeze else backbone, precision)


def compile_models(cohort: Cohort) -> None:
    """Turns torch.compile on, in place; parameter names stay."""
    cohort.backbone.compile()
    for trial in cohort.trials:
        trial.model.compile()


def count_parameters(cohort: Cohort) -> dict[str, int]:
    """Returns how many parameters there are in all, and how many of them are trained."""
    trained = sum(parameter.numel() for trial in cohort.trials for _, parameter in trial.named_parameters())
    frozen = sum(parameter.numel() for parameter in cohort.backbone.parameters()) if cohort.frozen else 0
    return {"total": trained + frozen, "trained": trained}


def choose_trials(trials: list[dict[str, Any]], path: Path | None) -> list[dict[str, Any]]:
    """Returns those of the trials that a checkpoint holds, all without one. A single one may have another name there.

    Raises UserError when it holds none of them.
    """
    if path is None or path.is_file():
        return trials
    held = list(checkpoint.read_header(path)["trials"])
    if len(trials) == len(held) == 1:
        return trials
    chosen = [trial for trial in trials if trial["name"] in held]
    if not chosen:
        wanted = ", ".join(trial["name"] for trial in trials)
        raise UserError(f"{path}  holds the trials {', '.join(held)} and none of {wanted}. Take another checkpoint.")
    return chosen


def restore(
    cohort: Cohort,
    path: Path,
    backbone_sha256: str,
    classes: list[str] | None,
    training: bool,
    notes: list[str] | None = None,
) -> int:
    """Returns the step of the checkpoint that the cohort now stands at; with the optimizers when `training`. What the
    user should know of it goes into `notes`.

    Raises UserError when backbone, classes or shapes are not those of the checkpoint.
    """
    if path.is_file():
        return _restore_upstream(cohort, path, training, [] if notes is None else notes)
    header = checkpoint.read_header(path)
    whole = not cohort.frozen and cohort.trials[0].settings.model.backbone.train_blocks is None
    if not whole and header["backbone_sha256"] != backbone_sha256:
        raise UserError(
            f"{path}  was trained on other backbone weights (SHA-256 {header['backbone_sha256'][:16]}... there, "
            f"{backbone_sha256[:16]}... here). Set model.backbone.weights to the file it was trained with."
        )
    if classes is not None and header["classes"] is not None and classes != header["classes"]:
        raise UserError(_describe_classes(path, header["classes"], classes))
    for trial in cohort.trials:
        source = trial.name if trial.name in header["trials"] else next(iter(header["trials"]))
        checkpoint.load_weights(path, trial, source, training)
        if training:
            checkpoint.load_optimizer(path, trial, source, header)
    step: int = header["step"]
    return step


def _restore_upstream(cohort: Cohort, path: Path, training: bool, notes: list[str]) -> int:
    stored = upstream.read(path)
    for trial in cohort.trials:
        checkpoint.put_weights(trial, stored.weights, path)
        steps = trial.settings.train.steps
        if training and stored.total_steps not in (None, steps):
            raise UserError(
                f"{path}  was trained on a cosine of {stored.total_steps} steps; train.steps is {steps}. "
                f"Set train.steps: {stored.total_steps}, or start from its weights alone with run.init_from."
            )
        if training and stored.moments:
            for moment, tensors in stored.moments.items():
                numbered = {f"{moment} of {name}": tensor for name, tensor in tensors.items()}
                check_finite(numbered, path, advice=checkpoint.OLDER)
            upstream.load_optimizer(stored, trial)
            notes += upstream.compare_rules(stored, trial, path)
    return stored.step if stored.moments else 0


def _describe_classes(path: Path, theirs: list[str], ours: list[str]) -> str:
    if len(theirs) != len(ours):
        return (
            f"{path}  knows {len(theirs)} classes; data.classes names {len(ours)}. Use the class file of its training."
        )
    label = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
    return (
        f"{path}  has class {label} as {theirs[label]!r}; data.classes has {ours[label]!r}. "
        "Labels must mean the same: use the class file of its training."
    )


def _stride(settings: Settings) -> int | None:
    return None if settings.data.sampling == "tsn" else settings.data.stride


def _dummy_clips(settings: Settings, num_items: int, num_views: int | None) -> DummyClips:
    data = settings.data
    return DummyClips(
        num_items,
        num_classes=data.num_classes,
        num_frames=data.num_frames,
        size=data.size,
        seed=data.seed,
        num_views=num_views,
    )


def training_clips(settings: Settings, items: VideoList) -> TrainClips | DummyClips:
    """Returns the dataset of augmented clips; `data.dummy` needs no list."""
    data = settings.data
    if data.dummy:
        return _dummy_clips(settings, len(items) or settings.train.batch_size, None)
    return TrainClips(
        items,
        num_frames=data.num_frames,
        stride=_stride(settings),
        size=data.size,
        seed=data.seed,
        augment=data.augment,
        interpolation=data.interpolation,
        mirror=data.mirror,
        repeat_last=data.short_clips == "last_frame",
        reader=data.reader,
    )


def refuse_lacking(settings: Settings, mode: str, lists: dict[str, str | None]) -> None:
    """Raises UserError where the machine lacks what reading videos takes, before anything is built: the reader, or for
    a training with evaluations the shared memory of both loaders."""
    data, train, views = settings.data, settings.train, settings.eval
    if data.dummy and mode != "predict":
        return
    if mode == "predict" or data.features is None:
        choose_reader(data.reader)
    num_workers = count_workers(data.num_workers)
    if mode != "train" or data.features is not None or num_workers == 0 or lists["val"] is None:
        return
    clip = (3, data.num_frames, data.size, data.size)
    view = (views.spatial_views * views.temporal_views, *clip)
    num_clips = train.steps * train.batch_size
    needed_bytes = count_ready_bytes(clip, num_clips, train.batch_size, num_workers, data.clips_per_video)
    needed_bytes += count_ready_bytes(view, len(read_list(lists["val"])), views.batch_size, num_workers)
    refuse_small(needed_bytes)


def training_batches(settings: Settings, list_file: str | None, step: int, device: torch.device) -> Iterator[Batch]:
    """Returns the batches of steps `step`.. to the end; `data.dummy` needs no list."""
    data, train = settings.data, settings.train
    items = read_list(list_file) if list_file is not None else VideoList(b"")
    return train_loader(
        training_clips(settings, items),
        seed=data.seed,
        start_step=step,
        num_steps=train.steps,
        batch_size=train.batch_size,
        num_workers=count_workers(data.num_workers),
        clips_per_video=data.clips_per_video,
        pin_memory=device.type == "cuda",
    )


def evaluation_batches(settings: Settings, list_file: str, device: torch.device) -> tuple[Iterator[Batch], int]:
    """Returns the batches of one pass over a list, and how many videos it has."""
    items = read_list(list_file)
    num_workers = count_workers(settings.data.num_workers)
    return _view_batches(settings, items, settings.eval.batch_size, num_workers, device), len(items)


def prediction_batches(settings: Settings, paths: list[str]) -> Iterator[Batch]:
    """Returns a batch of one video for each path, decoded in this process: also where `data.dummy` trained on noise."""
    items = [(path, 0) for path in paths]
    return eval_loader(_video_views(settings, items), batch_size=1, num_workers=0)


def _view_batches(
    settings: Settings,
    items: VideoList | list[tuple[str, int]],
    batch_size: int,
    num_workers: int,
    device: torch.device,
) -> Iterator[Batch]:
    clips = evaluation_clips(settings, items)
    return eval_loader(clips, batch_size=batch_size, num_workers=num_workers, pin_memory=device.type == "cuda")


def evaluation_clips(settings: Settings, items: VideoList | list[tuple[str, int]]) -> EvalViews | DummyClips:
    """Returns the dataset of all test views of each video."""
    data, views = settings.data, settings.eval
    if data.dummy:
        return _dummy_clips(settings, len(items), views.spatial_views * views.temporal_views)
    return _video_views(settings, items)


def _video_views(settings: Settings, items: VideoList | list[tuple[str, int]]) -> EvalViews:
    data, views = settings.data, settings.eval
    return EvalViews(
        items,
        num_frames=data.num_frames,
        stride=_stride(settings),
        size=data.size,
        spatial_views=views.spatial_views,
        temporal_views=views.temporal_views,
        reader=data.reader,
    )
