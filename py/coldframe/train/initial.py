"""The first weights of a trial, from another training (`run.init_from`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coldframe.assembly import models
from coldframe.backbones.clip.tower import check_finite
from coldframe.errors import UserError
from coldframe.settings import Settings
from coldframe.train import checkpoint, upstream
from coldframe.train.trial import Trial

BACKBONE = "backbone."
# What the same weights compute depends on, and no weight tells.
UNTOLD = ("model.backbone.num_heads", "model.backbone.activation", "model.decoder.num_heads", "model.decoder.pool")


def initialize(trial: Trial, path: Path, backbone_sha256: str, classes: list[str] | None) -> list[str]:
    """Puts the weights of `run.init_from` into a trial where name and size agree; returns what was left out.

    Upstream's --pretrain: no optimizer, no strict match. Rows of the head follow the names of the classes; other names
    get a fresh head. Raises UserError when nothing fits, and when the weights were trained on other features.
    """
    path = checkpoint.follow(path)
    is_ours = path.is_dir() or path.suffix == ".safetensors"
    found = checkpoint.read_weights(path) if is_ours else upstream.read(path).weights
    check_finite(found, path)
    header = _find_header(path) if is_ours else {}
    _check_features(trial, found, header, path, backbone_sha256)
    notes = _order_head(trial.model.classifier, found, header.get("classes"), classes, path)
    parameters = dict(trial.named_parameters())
    fitting = {name for name in parameters.keys() & found.keys() if parameters[name].shape == found[name].shape}
    if not fitting:
        raise UserError(f"{path}  holds no weight that fits the configured model. Check run.init_from.")
    with torch.no_grad():
        for name in fitting:
            parameters[name].copy_(found[name])
    left = sorted(parameters.keys() - fitting)
    taken = f"{path}: {len(fitting)} of {len(parameters)} weights taken."
    return [taken, *([f"Fresh are {', '.join(left)}."] if left else []), *notes]


def _find_header(path: Path) -> dict[str, Any]:
    """Returns checkpoint.json of a checkpoint, or of the one that a trial's file lies in; empty for a file alone."""
    folder = path if path.is_dir() else path.parent
    return checkpoint.read_header(folder) if (folder / "checkpoint.json").is_file() else {}


def _check_features(
    trial: Trial, found: dict[str, Tensor], header: dict[str, Any], path: Path, backbone_sha256: str
) -> None:
    """Raises UserError where the trial's decoder would read other features than those that the weights learnt from."""
    own = {name.removeprefix(BACKBONE): value for name, value in found.items() if name.startswith(BACKBONE)}
    places = {name for name, _ in trial.named_parameters() if name.startswith(BACKBONE)}
    left = sorted(BACKBONE + name for name in own if BACKBONE + name not in places)
    is_ours = bool(own) and models.hash_state(own) == backbone_sha256
    if left and not is_ours:
        raise UserError(
            f"{path}  holds a backbone that was trained with the rest, and {len(left)} of its weights have no place "
            f"here ({left[0]} ...). Set model.backbone.freeze: false and train as many of its blocks, or take weights "
            "that were trained on this backbone."
        )
    is_whole = trial.backbone is not None and own.keys() >= trial.backbone.state_dict().keys()
    theirs, config = header.get("backbone_sha256"), _config_of(header, path)
    is_known = theirs is None or is_ours or is_whole or theirs == backbone_sha256
    if theirs is not None and not is_known and theirs != _hash_at_size_of(config, trial.settings):
        raise UserError(
            f"{path}  was trained on other backbone weights (SHA-256 {theirs[:16]}... there, {backbone_sha256[:16]}... "
            "here): what it learnt reads other features. Set model.backbone.weights to the file it was trained with."
        )
    is_same_kind = config.get("model", {}).get("decoder", {}).get("kind", "evl") == trial.settings.model.decoder.kind
    for key in UNTOLD:
        section, name = key.split(".")[1:]
        if section == "decoder" and not is_same_kind:
            continue  # of its weights none fits
        there = config.get("model", {}).get(section, {}).get(name)
        here = getattr(getattr(trial.settings.model, section), name)
        if there is not None and there != here:
            raise UserError(
                f"{path}  was trained with {key}: {there}; here it is {here}, which makes another function of the same "
                f"weights. Set {key}: {there}."
            )


def _config_of(header: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the configuration of the trial that the weights are of, empty where it is not known."""
    configs: dict[str, Any] = header.get("config") or {}
    name = next(iter(configs), "") if path.is_dir() else path.name.removesuffix(".safetensors").removesuffix(".ema")
    config: dict[str, Any] = configs.get(name) or {}
    return config


def _hash_at_size_of(config: dict[str, Any], settings: Settings) -> str | None:
    """Returns the hash of this configuration's backbone at the input size of the other: its positions are then others,
    interpolated from the same weights. None where the sizes are equal or not known."""
    size, ours = config.get("model", {}).get("backbone", {}).get("input_size"), settings.model.backbone
    if size in (None, ours.input_size) or ours.weights == "random":
        return None
    resized = replace(settings, model=replace(settings.model, backbone=replace(ours, input_size=size)))
    return models.build_backbone(resized, torch.device("cpu"), "fp32")[1]


def _order_head(
    head: tuple[str, str], found: dict[str, Tensor], theirs: list[str] | None, ours: list[str] | None, path: Path
) -> list[str]:
    """Returns notes; the rows of the head in `found` are then those of our classes, or it has no head."""
    if head[0] not in found or ours is None or theirs == ours:
        return []
    if theirs is None:
        return [f"{path} knows no class names: a label has to mean there what it means in data.classes."]
    if sorted(theirs) == sorted(ours) and len(set(ours)) == len(ours):
        order = [theirs.index(name) for name in ours]
        found.update({name: found[name][order] for name in head})
        return [
            f"{path} has the same classes in another order: the rows of its head were put into that of data.classes."
        ]
    for name in head:
        del found[name]
    return [f"{path} knows other classes ({len(theirs)}) than data.classes ({len(ours)}): the head begins fresh."]
