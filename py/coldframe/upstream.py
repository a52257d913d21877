"""The original's checkpoints, `checkpoint-N.pth`, both ways (upstream checkpoint.py, save_checkpoint).

A file holds `model` (names with DDP's `module.`), `optimizer`, `lr_sched`, `loss_scaler` and `next_step`. Optimizer
states carry no names: state i belongs to the model's i-th parameter, the i-th key of `model` (it has no buffers).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import weights
from .checkpoint import MOMENTS
from .cohort import Trial, learning_rate
from .errors import UserError
from .files import writing

PREFIX = "module."
BACKBONE = "backbone."


class UpstreamCheckpoint(NamedTuple):
    """A file in our names. `moments`: exp_avg, exp_avg_sq and step by parameter; empty without an optimizer."""

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    scaler: dict[str, Any]
    step: int
    total_steps: int | None


def read(path: Path) -> UpstreamCheckpoint:
    """Returns a checkpoint of the original. Raises UserError that says what the file is not."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the restricted unpickler trips over strange bytes with any kind of error
        raise UserError(f"{path}  cannot be read as a checkpoint of the original: {_first_line(error)}") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
        raise UserError(f"{path}  is no checkpoint of the original: it has no `model`. Give a checkpoint-N.pth.")
    names = [name.removeprefix(PREFIX) for name in stored["model"]]
    moments: dict[str, dict[str, Tensor]] = {}
    if "optimizer" in stored:
        states = stored["optimizer"]["state"]
        for moment in MOMENTS:
            by_name = {names[i]: torch.as_tensor(state[moment]) for i, state in states.items()}
            moments[moment] = _steps_in_our_names(by_name) if moment == "step" else _in_our_names(by_name)
    return UpstreamCheckpoint(
        _in_our_names(dict(zip(names, stored["model"].values(), strict=True))),
        moments,
        stored.get("loss_scaler", {}),
        stored.get("next_step", 0),
        stored.get("lr_sched", {}).get("T_max"),
    )


def write(path: Path, trial: Trial, step: int) -> None:
    """Writes a trial as the original's checkpoint of `step`; its --resume_path loads it."""
    ours = {name: parameter.detach().cpu() for name, parameter in trial.named_parameters()}
    model = _in_their_names(ours)
    state = trial.optimizer.state
    known = [(name, parameter) for name, parameter in trial.named_parameters() if parameter in state]
    moments = {
        moment: _in_their_names({name: state[parameter][moment].detach().cpu() for name, parameter in known})
        for moment in ("exp_avg", "exp_avg_sq")
    }
    steps = {id(parameter): state[parameter]["step"].detach().cpu() for _, parameter in known}
    counted = next(iter(steps.values()), torch.tensor(0.0))
    lr = learning_rate(step, trial.settings.train)
    group = {key: value for key, value in trial.optimizer.param_groups[0].items() if key not in ("params", "lr_scale")}
    names = list(model)
    optimizer = {
        "state": {
            i: {"step": counted.clone(), **{moment: moments[moment][name] for moment in moments}}
            for i, name in enumerate(names)
            if name in moments["exp_avg"]
        },
        "param_groups": [
            {**group, "fused": None, "lr": lr, "initial_lr": trial.settings.train.lr, "params": list(range(len(names)))}
        ],
    }
    stored = {
        "model": {PREFIX + name: tensor.clone() for name, tensor in model.items()},
        "optimizer": optimizer,
        "lr_sched": _cosine_state(trial, step, lr),
        "loss_scaler": trial.scaler.state_dict(),
        "next_step": step,
    }
    with writing(path) as partial, partial.open("wb") as file:
        torch.save(stored, file)


def load_optimizer(stored: UpstreamCheckpoint, trial: Trial) -> None:
    """Puts the original's Adam state and gradient scaler into a trial."""
    state = {
        index: {moment: stored.moments[moment][name].clone() for moment in MOMENTS}
        for index, name in enumerate(trial.optimizer_names())
        if name in stored.moments["exp_avg"]
    }
    trial.optimizer.load_state_dict({"state": state, "param_groups": trial.optimizer.state_dict()["param_groups"]})
    if trial.scaler.is_enabled() and stored.scaler:
        trial.scaler.load_state_dict(stored.scaler)


def _in_our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    theirs = {name.removeprefix(BACKBONE): tensor for name, tensor in state.items() if name.startswith(BACKBONE)}
    head = {name: tensor for name, tensor in state.items() if not name.startswith(BACKBONE)}
    return head | {BACKBONE + name: tensor for name, tensor in weights.from_upstream(theirs).items()}


def _steps_in_our_names(steps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Step counts have no channels to pack: q's stands for the packed projection."""
    as_vectors = {name: step.reshape(1) for name, step in steps.items() if not name.endswith("patch_embed.proj.weight")}
    named = {name: vector[0] for name, vector in _in_our_names(as_vectors).items()}
    if f"{BACKBONE}patch_embed.proj.weight" in steps:
        named[f"{BACKBONE}conv1.weight"] = steps[f"{BACKBONE}patch_embed.proj.weight"]
    return named


def _in_their_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the state in upstream's names and in the order of its parameters: the backbone comes first there."""
    ours = {name.removeprefix(BACKBONE): tensor for name, tensor in state.items() if name.startswith(BACKBONE)}
    head = {name: tensor for name, tensor in state.items() if not name.startswith(BACKBONE)}
    theirs = weights.to_upstream(ours) if ours else {}
    return {BACKBONE + name: theirs[name] for name in sorted(theirs, key=_backbone_place)} | head


def _backbone_place(name: str) -> tuple[int, int]:
    """Returns where a backbone parameter stands in upstream's vision_transformer.py: embeddings, blocks, ln_pre."""
    stem = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
    if name in stem:
        return 0, stem.index(name)
    if name.startswith("ln_pre"):
        return 2, name.endswith("bias")
    _, block, rest = name.split(".", 2)
    modules = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2")
    module, kind = rest.rsplit(".", 1)
    return 1, int(block) * 2 * len(modules) + 2 * modules.index(module) + (kind == "bias")


def _cosine_state(trial: Trial, step: int, lr: float) -> dict[str, Any]:
    train = trial.settings.train
    return {
        "T_max": train.steps,
        "eta_min": 0.0,
        "base_lrs": [train.lr],
        "last_epoch": step,
        "_step_count": step + 1,
        "_get_lr_called_within_step": False,
        "_last_lr": [lr],
    }


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
