"""Checkpoints: atomic save, checked load.

A checkpoint is a folder `step-N`: `checkpoint.json` (step, configuration, classes, backbone hash, scalar states), and
for each trial `TRIAL.safetensors` (trained weights) and `TRIAL.optimizer.safetensors` (Adam's moments, step counts);
with `train.ema_decay` also `TRIAL.ema.safetensors`, the weights' running mean, which is what results are made with.
It holds no time and no path of its own, so that equal runs write equal bytes. Random states need no bytes: every draw
is a function of the seed in the configuration and the step.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .cohort import Cohort, Trial
from .errors import UserError

FORMAT = 1
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save(folder: Path, cohort: Cohort, header: dict[str, Any], keep: int | None) -> Path:
    """Returns the path of the checkpoint of `header["step"]`, written beside, synced, renamed, then named by `latest`.

    `keep` newest checkpoints stay, all with None. Raises UserError when the disk does not take it; what was there
    stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recover(folder)
    target = folder / f"step-{header['step']}"
    partial = folder / f"{target.name}.partial"
    partial.mkdir()
    try:
        _write(partial, cohort, header)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"{target}  cannot be written: {error}. Free some room; the same command goes on.") from error
    replaced = folder / f"{target.name}.replaced"
    if target.exists():  # a run that was taken back to an earlier step passes here again
        target.rename(replaced)
    partial.rename(target)
    _sync(folder)
    _point_latest(folder, target.name)
    shutil.rmtree(replaced, ignore_errors=True)
    if keep is not None:
        # A run that was taken back has later ones too: they do not count, else this one could be the oldest.
        passed = [path for path in list_checkpoints(folder) if _step_of(path) <= header["step"]]
        for old in passed[:-keep]:
            shutil.rmtree(old)
    return target


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
    text = json.dumps({"format": FORMAT, **header, "trials": trials}, indent=1, allow_nan=False)
    (partial / "checkpoint.json").write_text(text + "\n", encoding="utf-8")
    for file in partial.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone; a run folder is read by others too
        _sync(file)
    _sync(partial)


def _optimizer_tensors(trial: Trial) -> dict[str, Tensor]:
    state = trial.optimizer.state
    return {
        f"{moment}.{name}": state[parameter][moment].detach().cpu().contiguous()
        for name, parameter in trial.named_parameters()
        for moment in MOMENTS
        if parameter in state
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point_latest(folder: Path, name: str) -> None:
    link = folder / "latest.partial-link"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    link.replace(folder / "latest")
    _sync(folder)


def recover(folder: Path) -> None:
    """Clears up after a save that was killed half-way; a checkpoint that was being replaced comes back."""
    for leftover in folder.glob("*.partial"):
        shutil.rmtree(leftover)
    for replaced in folder.glob("*.replaced"):
        target = replaced.with_suffix("")
        if target.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(target)


def find_latest(folder: Path) -> Path | None:
    """Returns the checkpoint that was saved last, or None when the folder holds no whole one."""
    recover(folder)
    latest = folder / "latest"
    if (latest / "checkpoint.json").is_file():
        return latest.resolve()
    return next(reversed(list_checkpoints(folder)), None)


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the whole checkpoints of a folder, the oldest first."""
    whole = [path for path in folder.glob("step-*") if (path / "checkpoint.json").is_file()]
    return sorted(whole, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def read_header(path: Path) -> dict[str, Any]:
    """Returns checkpoint.json of a checkpoint folder. Raises UserError that names what is missing or broken."""
    file = path / "checkpoint.json"
    if not file.is_file():
        raise UserError(
            f"{path}  is no checkpoint: it has no checkpoint.json. Give a folder such as RUN/checkpoints/latest."
        )
    try:
        header: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}  cannot be read: {error}. Take an older checkpoint of the same folder.") from error
    if header.get("format") != FORMAT:
        raise UserError(
            f"{file}  has format {header.get('format')!r}; this version of coldframe reads format {FORMAT}."
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
    """Puts weights under our names into a trial. Raises UserError listing every one that does not fit; `file` is
    where they come from."""
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
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def load_optimizer(path: Path, trial: Trial, source: str, header: dict[str, Any]) -> None:
    """Puts what training goes on with, beside the weights, into a trial: Adam's state, the weights' running mean and
    the gradient scaler that trial `source` of a checkpoint had."""
    tensors = _load(path / f"{source}.optimizer.safetensors")
    state: dict[int, dict[str, Tensor]] = {}
    for index, name in enumerate(trial.optimizer_names()):
        moments = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS if f"{moment}.{name}" in tensors}
        if moments:
            state[index] = moments
    average = path / f"{source}.ema.safetensors"
    if trial.settings.train.ema_decay is not None and average.is_file():
        stored = _load(average)
        trial.average = {name: stored[name].to(parameter.device) for name, parameter in trial.named_parameters()}
    trial.optimizer.load_state_dict({"state": state, "param_groups": trial.optimizer.state_dict()["param_groups"]})
    scaler = header["trials"][source]["scaler"]
    if scaler:  # empty: it was trained in another precision than fp16
        trial.scaler.load_state_dict(scaler)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the trained weights in a .safetensors file, or in a checkpoint folder that holds one trial."""
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
