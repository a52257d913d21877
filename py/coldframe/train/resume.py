"""A cohort put where a checkpoint stands, ours or the original's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coldframe.backbones.clip.tower import check_finite
from coldframe.errors import UserError
from coldframe.train import checkpoint, upstream
from coldframe.train.cohort import Cohort
from coldframe.train.targets import thresholds


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
        if trial.settings.data.labels == "multi":
            trial.thresholds = thresholds.read(checkpoint.follow(path), source, trial.settings.data.num_classes)
    step: int = header["step"]
    return step


def _restore_upstream(cohort: Cohort, path: Path, training: bool, notes: list[str]) -> int:
    stored = upstream.read(path)
    for trial in cohort.trials:
        upstream.refuse_many_labels(trial, path)
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
