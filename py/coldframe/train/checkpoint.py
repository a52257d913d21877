"""Checkpoints: saved whole or not at all, and checked when they are loaded.

A checkpoint is a folder `step-N`: `checkpoint.json` (step, configuration, classes, backbone hash, scalar states), and
for each trial `TRIAL.safetensors` (trained weights) and `TRIAL.optimizer.safetensors` (Adam's moments, step counts);
with `train.ema_decay` also `TRIAL.ema.safetensors`, the weights' running mean, which is what results are made with;
with `data.labels: multi` what targets/thresholds.py says.
It holds no time and no path of its own, so that equal runs write equal bytes. Random states need no bytes: every draw
is a function of the seed in the configuration and the step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldframe.backbones.clip.tower import check_finite, some
from coldframe.errors import UserError
from coldframe.machine import files
from coldframe.machine.files import remove, sync_folder, write_text, writing_folder
from coldframe.train.cohort import Cohort
from coldframe.train.targets import thresholds
from coldframe.train.trial import Trial

FORMAT = 1  # of all that is stored: src/config/stored-format.ts
LATEST = "latest"
BEST = "best"  # of the evaluations so far, with `run.keep_best`
_NAME = re.compile(r"step-(0|[1-9][0-9]*)")
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
OLDER = "take an older checkpoint of the same run"


def save(folder: Path, cohort: Cohort, header: dict[str, Any], keep: int | None, spared: Collection[int] = ()) -> Path:
    """Returns the path of the checkpoint of `header["step"]`: on the disk whole before `latest` names it and before
    anything older goes.

    `keep` newest checkpoints stay, all with None, and those of the `spared` steps. Raises UserError when the disk does
    not take it, what was there stays; or where something else has the name.
    """
    target, latest = folder / f"step-{header['step']}", folder / LATEST
    _refuse_foreign(target)
    _refuse_foreign_name(latest)
    with writing_folder(target) as partial:  # a run that was taken back to an earlier step passes here again
        _write(partial, cohort, header)
    _point(latest, target.name)
    prune(folder, header["step"], keep, spared)
    return target


def prune(folder: Path, step: int, keep: int | None, spared: Collection[int]) -> None:
    """Removes the checkpoints up to a step but the `keep` newest (all with None) and those of the `spared` steps."""
    if keep is None:
        return
    # A run that was taken back has later ones too: they do not count, else this one could be the oldest.
    passed = [path for path in list_checkpoints(folder) if _step_of(path) <= step]
    for old in passed[:-keep]:
        if _step_of(old) not in spared:
            remove(old)


def name_best(folder: Path, step: int | None) -> None:
    """Makes `best` name the checkpoint of a step, or of None go. Raises UserError where the user has something of that
    name."""
    best = folder / BEST
    if step is not None:
        _refuse_foreign_name(best)
        _point(best, f"step-{step}")
    elif best.is_symlink() or follow(best) != best:
        best.unlink()


def _refuse_foreign(target: Path) -> None:
    """Raises UserError where a user's own files have the name that a checkpoint takes."""
    if target.exists() and not (target / "checkpoint.json").is_file():
        raise UserError(f"{target}  exists, and is no checkpoint. Move it away, or name another folder.")


def _refuse_foreign_name(link: Path) -> None:
    if link.exists() and not link.is_symlink() and follow(link) == link:
        what = "last" if link.name == LATEST else "best"
        raise UserError(f"{link}  exists, and is not what names the {what} checkpoint. Move it away.")


def _write(partial: Path, cohort: Cohort, header: dict[str, Any]) -> None:
    trials = {}
    for trial in cohort.trials:
        weights = {name: parameter.detach().cpu().contiguous() for name, parameter in trial.named_parameters()}
        save_file(weights, partial / f"{trial.name}.safetensors")
        save_file(_optimizer_tensors(trial), partial / f"{trial.name}.optimizer.safetensors")
        if trial.average:
            average = {name: tensor.cpu().contiguous() for name, tensor in trial.average.items()}
            save_file(average, partial / f"{trial.name}.ema.safetensors")
        trials[trial.name] = {"scaler": trial.scaler.state_dict()}
    thresholds.write(partial, cohort.trials)
    text = json.dumps({"format": FORMAT, **header, "trials": trials}, indent=1, allow_nan=False)
    (partial / "checkpoint.json").write_text(text + "\n", encoding="utf-8")
    for file in partial.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone; a run folder is read by others too


def _optimizer_tensors(trial: Trial) -> dict[str, Tensor]:
    state = trial.optimizer.state
    return {
        f"{moment}.{name}": state[parameter][moment].detach().cpu().contiguous()
        for name, parameter in trial.named_parameters()
        for moment in MOMENTS
        if parameter in state
    }


def _point(latest: Path, name: str) -> None:
    """Makes `latest` (or `best`) name a checkpoint: by a link, or by a small file on a disk that has no links (exFAT,
    some network disks)."""
    link = latest.with_name(f"{latest.name}.partial-link")
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(name)
    except OSError:
        write_text(latest, f"{name}\n")
        return
    link.replace(latest)
    sync_folder(latest.parent)


def follow(path: Path) -> Path:
    """Returns the checkpoint that a `latest` or `best` which is a file names; any other path as it is."""
    if path.name not in (LATEST, BEST) or not path.is_file():
        return path
    with path.open("rb") as file:
        name = file.read(100).decode(errors="replace").strip()
    return path.with_name(name) if _NAME.fullmatch(name) else path


def recover(folder: Path) -> None:
    """Clears up after a save that was killed half-way; a checkpoint that was being replaced comes back. What has other
    names is not ours. Only for who holds the run's lock: another's save looks like one that was killed."""
    for path in [*folder.glob("step-*.partial"), *folder.glob("step-*.replaced")]:
        if _NAME.fullmatch(path.stem):
            files.recover(path.with_suffix(""))


def find_latest(folder: Path) -> Path | None:
    """Returns the checkpoint that was saved last, or None when the folder holds no whole one."""
    latest = follow(folder / LATEST)
    if (latest / "checkpoint.json").is_file():
        return latest.resolve()
    return next(reversed(list_checkpoints(folder)), None)


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the whole checkpoints of a folder, the oldest first; copies under other names (step-5000-best) are the
    user's."""
    named = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted((path for path in named if (path / "checkpoint.json").is_file()), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def read_header(path: Path) -> dict[str, Any]:
    """Returns checkpoint.json of a checkpoint folder. Raises UserError that names what is missing or broken."""
    path = follow(path)
    file = path / "checkpoint.json"
    if not file.is_file():
        raise UserError(
            f"{path}  is no checkpoint: it has no checkpoint.json. Give a folder such as RUN/checkpoints/latest."
        )
    try:
        header: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}  cannot be read: {error}. Take an older checkpoint of the same folder.") from error
    stored = header.get("format", 1)
    if not isinstance(stored, int) or not 1 <= stored <= FORMAT:
        raise UserError(
            f"{file}  has format {stored!r}; this version of coldframe reads formats up to {FORMAT}. Use the version "
            "that wrote it, or update this one."
        )
    return header


def load_weights(path: Path, trial: Trial, source: str, training: bool) -> None:
    """Puts the weights that trial `source` of a checkpoint had into a trial; unless `training` goes on with them, their
    running mean where there is one.

    Raises UserError listing every weight that is missing, left over or of another size.
    """
    file = path / f"{source}.safetensors" if training else _result_file(path, source)
    put_weights(trial, _load(file), file)


def _result_file(path: Path, source: str) -> Path:
    average = path / f"{source}.ema.safetensors"
    return average if average.is_file() else path / f"{source}.safetensors"


def put_weights(trial: Trial, weights: dict[str, Tensor], file: Path) -> None:
    """Puts weights under our names into a trial. Raises UserError listing every one that does not fit, or that is not
    finite; `file` is where they come from."""
    problems = []
    parameters = dict(trial.named_parameters())
    for name in sorted(parameters.keys() | weights.keys()):
        if name not in weights:
            problems.append(f"{name} is missing in the file")
        elif name not in parameters:
            problems.append(f"{name} has no place in the configured model")
        elif weights[name].shape != parameters[name].shape:
            have, want = tuple(weights[name].shape), tuple(parameters[name].shape)
            problems.append(f"{name} is {have} in the file and {want} in the configured model")
    if problems:
        raise UserError(
            f"{file}  does not fit the configured model:\n  "
            + "\n  ".join(problems)
            + "\nUse the configuration it was trained with."
        )
    check_finite(weights, file, advice=OLDER)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def load_optimizer(path: Path, trial: Trial, source: str, header: dict[str, Any]) -> None:
    """Puts what training goes on with, beside the weights, into a trial: Adam's state, the weights' running mean and
    the gradient scaler that trial `source` of a checkpoint had. Raises UserError where some of Adam's state is missing
    or is not that of the trial: it would go on all the same, to other numbers."""
    file = path / f"{source}.optimizer.safetensors"
    tensors = _load(file)
    _check_moments(trial, tensors, file)
    state: dict[int, dict[str, Tensor]] = {}
    for index, name in enumerate(trial.optimizer_names()):
        moments = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS if f"{moment}.{name}" in tensors}
        if moments:
            state[index] = moments
    average = path / f"{source}.ema.safetensors"
    if trial.settings.train.ema_decay is not None and average.is_file():
        stored = _load(average)
        check_finite(stored, average, advice=OLDER)
        trial.average = {name: stored[name].to(parameter.device) for name, parameter in trial.named_parameters()}
    trial.optimizer.load_state_dict({"state": state, "param_groups": trial.optimizer.state_dict()["param_groups"]})
    scaler = header["trials"][source]["scaler"]
    if scaler:  # empty: it was trained in another precision than fp16
        trial.scaler.load_state_dict(scaler)


def _check_moments(trial: Trial, tensors: dict[str, Tensor], file: Path) -> None:
    shapes = {
        f"{moment}.{name}": torch.Size() if moment == "step" else parameter.shape
        for name, parameter in trial.named_parameters()
        for moment in MOMENTS
    }
    odd = sorted(
        name
        for name in shapes.keys() | tensors.keys()
        if name not in tensors or tensors[name].shape != shapes.get(name)
    )
    if tensors and odd:  # without any: no step was taken before it
        raise UserError(
            f"{file}  is not the optimizer's state of the configured model: {some(odd)} are missing, left over or of "
            "another size. Take an older checkpoint of the same run, or its weights alone with run.init_from."
        )
    check_finite(tensors, file, advice=OLDER)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the trained weights in a .safetensors file, or in a checkpoint folder that holds one trial."""
    path = follow(path)
    if not path.is_dir():
        return _load(path)
    names = list(read_header(path)["trials"])
    if len(names) > 1:
        raise UserError(f"{path}  holds the trials {', '.join(names)}. Give one's file: {path}/TRIAL.safetensors.")
    return _load(_result_file(path, names[0]))


def _load(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}  cannot be read: {error}. Take another checkpoint of the same run.") from error
