"""The original's checkpoints, `checkpoint-N.pth`, both ways (upstream checkpoint.py, save_checkpoint).

A file holds `model` (names with DDP's `module.`), `optimizer`, `lr_sched`, `loss_scaler` and `next_step`. Optimizer
states carry no names: state i belongs to the model's i-th parameter, the i-th key of `model` (it has no buffers).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coldframe.backbones.clip import weights
from coldframe.errors import UserError
from coldframe.machine.files import writing
from coldframe.train.checkpoint import MOMENTS
from coldframe.train.schedule import learning_rate
from coldframe.train.trial import Trial

PREFIX = "module."
BACKBONE = "backbone."


class UpstreamCheckpoint(NamedTuple):
    """A file in our names. `moments`: exp_avg, exp_avg_sq and step by parameter; empty without an optimizer. `rules`:
    the weight decay and the peak learning rate of each parameter, as far as the file tells."""

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    scaler: dict[str, Any]
    step: int
    total_steps: int | None
    rules: dict[str, tuple[float, float]]


def read(path: Path) -> UpstreamCheckpoint:
    """Returns a checkpoint of the original. Raises UserError that says what the file is not."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the restricted unpickler trips over strange bytes with any kind of error
        raise UserError(f"{path}  cannot be read as a checkpoint of the original: {_first_line(error)}") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
        raise UserError(f"{path}  is no checkpoint of the original: it has no `model`. Give a checkpoint-N.pth.")
    model = {name.removeprefix(PREFIX): tensor for name, tensor in stored["model"].items()}
    moments, rules = _read_optimizer(stored.get("optimizer"), model, path)
    return UpstreamCheckpoint(
        _in_our_names(model),
        moments,
        stored.get("loss_scaler", {}),
        stored.get("next_step", 0),
        stored.get("lr_sched", {}).get("T_max"),
        rules,
    )


def _read_optimizer(
    optimizer: dict[str, Any] | None, model: dict[str, Tensor], path: Path
) -> tuple[dict[str, dict[str, Tensor]], dict[str, tuple[float, float]]]:
    """Returns moments and rules in our names. Raises UserError where states are not those of the model's parameters in
    their order: numbered by other groups of parameters, say."""
    if optimizer is None:
        return {}, {}
    names, states = list(model), optimizer["state"]
    for i, state in states.items():
        if i >= len(names) or torch.as_tensor(state["exp_avg"]).shape != model[names[i]].shape:
            raise UserError(
                f"{path}  numbers its optimizer's states otherwise than its parameters: state {i} is of another size. "
                "Start from its weights alone with run.init_from."
            )
    by_moment = {
        moment: {names[i]: torch.as_tensor(state[moment]) for i, state in states.items()} for moment in MOMENTS
    }
    moments = {
        moment: _numbers_in_our_names(found) if moment == "step" else _in_our_names(found)
        for moment, found in by_moment.items()
    }
    groups = [(g, i) for g in optimizer.get("param_groups", []) for i in g["params"] if i < len(names)]
    decays, rates = (
        _numbers_in_our_names({names[i]: torch.tensor(group[key]) for group, i in groups if key in group})
        for key in ("weight_decay", "initial_lr")
    )
    return moments, {name: (float(decays[name]), float(rates[name])) for name in decays.keys() & rates.keys()}


def write(path: Path, trial: Trial, step: int) -> list[str]:
    """Writes a trial as the original's checkpoint of `step`; its --resume_path loads it. Returns what the original
    cannot go on with. Raises UserError for what its files cannot hold."""
    chosen, kind = trial.settings.model.backbone, trial.settings.model.decoder.kind
    if kind != "evl":
        raise UserError(
            f"model.decoder.kind  is {kind}; the original knows EVL alone, and its checkpoints hold nothing else. "
            "Convert one that was trained with kind: evl, or use this one here."
        )
    refuse_many_labels(trial, path)
    if not chosen.freeze and chosen.train_blocks is not None:
        raise UserError(
            f"model.backbone.train_blocks  is {chosen.train_blocks}; the original's checkpoints hold all of the "
            "backbone or nothing of it. Convert one that was trained with train_blocks: null or freeze: true."
        )
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
    groups = _describe_groups(trial, step, model)
    optimizer = {
        "state": {
            i: {"step": counted.clone(), **{moment: moments[moment][name] for moment in moments}}
            for i, name in enumerate(model)
            if name in moments["exp_avg"]
        },
        "param_groups": groups,
    }
    stored = {
        "model": {PREFIX + name: tensor.clone() for name, tensor in model.items()},
        "optimizer": optimizer,
        "lr_sched": _cosine_state(trial, step, [group["lr"] for group in groups]),
        "loss_scaler": trial.scaler.state_dict(),
        "next_step": step,
    }
    with writing(path) as partial, partial.open("wb") as file:
        torch.save(stored, file)
    return _describe_limits(trial)


def refuse_many_labels(trial: Trial, path: Path) -> None:
    """Raises UserError where a clip has several labels: the original's softmax makes other numbers of its logits."""
    if trial.settings.data.labels == "multi":
        raise UserError(
            f"data.labels  is multi; the original trains a softmax over one label a clip, and {path} would be of such "
            "a model. Convert one of data.labels: single; weights alone go over with run.init_from."
        )


def _describe_groups(trial: Trial, step: int, model: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Returns the optimizer's groups, each with its own rate and decay; parameters by their place in the model, as the
    original's only group has them."""
    train, names = trial.settings.train, trial.optimizer_names()
    group_of = [number for number, group in enumerate(trial.optimizer.param_groups) for _ in group["params"]]
    numbers = dict(zip(names, group_of, strict=True))
    # q, k and v are in the group of the packed projection that they come from.
    marks = _in_their_names(
        {name: torch.tensor(float(numbers[name])).expand(value.shape) for name, value in trial.named_parameters()}
    )
    groups = []
    for number, group in enumerate(trial.optimizer.param_groups):
        kept = {key: value for key, value in group.items() if key not in ("params", "lr_scale")}
        rates = {"lr": learning_rate(step, train) * group["lr_scale"], "initial_lr": train.lr * group["lr_scale"]}
        members = [i for i, name in enumerate(model) if int(marks[name].flatten()[0]) == number]
        groups.append({**kept, "fused": None, **rates, "params": members})
    return groups


def _describe_limits(trial: Trial) -> list[str]:
    train, notes = trial.settings.train, []
    if len(trial.optimizer.param_groups) > 1:
        notes.append(
            "The original has one rate and one weight decay for all parameters. This training has several (decay_all, "
            "backbone_lr): its --resume_path refuses the file, and --pretrain takes the weights alone."
        )
    without = dict(  # noqa: C408
        warmup_steps=0, clip_grad_norm=None, class_weights="none", label_smoothing=0, mixup=0, cutmix=0, ema_decay=None
    )
    unknown = [f"train.{key}" for key, off in without.items() if getattr(train, key) != off]
    unknown += ["data.balance"] if trial.settings.data.balance != "none" else []
    if unknown:
        notes.append(f"The original knows no {', '.join(unknown)}: to go on there is another training.")
    return notes


def compare_rules(stored: UpstreamCheckpoint, trial: Trial, path: Path) -> list[str]:
    """Returns a note where the file's training had other rates or decays than the configuration, which counts."""
    train, differing = trial.settings.train, []
    for group in trial.optimizer.param_groups:
        own = (group["weight_decay"], train.lr * group["lr_scale"])
        members = {id(parameter) for parameter in group["params"]}
        for name in (name for name, parameter in trial.named_parameters() if id(parameter) in members):
            theirs = stored.rules.get(name, own)
            if any(abs(a - b) > 1e-6 * max(abs(a), abs(b)) for a, b in zip(theirs, own, strict=True)):
                differing.append(
                    f"{name}: decay {theirs[0]:g}, rate {theirs[1]:g} there, {own[0]:g} and {own[1]:g} here"
                )
    if not differing:
        return []
    return [
        f"{path} was trained with another weight decay or rate for {len(differing)} parameters ({differing[0]}). Those "
        "of the configuration are used: train.lr, backbone_lr, weight_decay, decay_all."
    ]


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


def _numbers_in_our_names(steps: dict[str, Tensor]) -> dict[str, Tensor]:
    """One number a parameter has no channels to pack: q's stands for the packed projection."""
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


def _cosine_state(trial: Trial, step: int, rates: list[float]) -> dict[str, Any]:
    train = trial.settings.train
    return {
        "T_max": train.steps,
        "eta_min": 0.0,
        "base_lrs": [train.lr * group["lr_scale"] for group in trial.optimizer.param_groups],
        "last_epoch": step,
        "_step_count": step + 1,
        "_get_lr_called_within_step": False,
        "_last_lr": rates,
    }


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
