"""The resolved configuration as frozen dataclasses.

No defaults live here: TypeScript owns them (src/config/schema.ts), and a key that is missing or unknown means that the
two sides disagree, which is a bug and never the user's mistake. Hence every key stands here, also the few that
TypeScript alone reads, such as `run.save_every`.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Data:
    train_list: str | None
    val_list: str | None
    root: str | None
    train_root: str | None
    val_root: str | None
    classes: str | None
    num_classes: int
    labels: str
    balance: str
    num_frames: int
    stride: int
    sampling: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str | None
    mirror: bool
    interpolation: str
    num_workers: int
    short_clips: str
    reader: str
    clips_per_video: int
    seed: int
    features: str | None
    on_bad_video: str
    max_bad_fraction: float
    dummy: bool


@dataclass(frozen=True)
class Backbone:
    preset: str
    width: int
    num_layers: int
    num_heads: int
    patch_size: int
    input_size: int
    mlp_factor: float
    activation: str
    weights: str
    weights_sha256: str | None
    random_seed: int
    train_blocks: int | None
    freeze: bool


@dataclass(frozen=True)
class Decoder:
    kind: str
    num_layers: int
    pool: str
    frames: str
    qkv_dim: int
    num_heads: int
    mlp_factor: float
    mlp_dropout: float
    query_init: str


@dataclass(frozen=True)
class Temporal:
    conv: bool
    position_embedding: bool
    cross_attention: bool


@dataclass(frozen=True)
class Head:
    dropout: float


@dataclass(frozen=True)
class Model:
    backbone: Backbone
    decoder: Decoder
    temporal: Temporal
    head: Head


@dataclass(frozen=True)
class Features:
    form: str
    precision: str
    train_views: int
    batch_size: int | None


@dataclass(frozen=True)
class Prepare:
    short_side: int | None
    gop: int
    crf: int
    preset: str


@dataclass(frozen=True)
class Train:
    steps: int
    batch_size: int
    micro_batches: int
    lr: float
    backbone_lr: float | None
    weight_decay: float
    decay_all: bool
    warmup_steps: int
    clip_grad_norm: float | None
    precision: str
    seed: int
    compile: bool
    class_weights: str
    label_smoothing: float
    mixup: float
    cutmix: float
    ema_decay: float | None


@dataclass(frozen=True)
class Eval:
    spatial_views: int
    temporal_views: int
    batch_size: int
    every: int | None
    thresholds: str | None
    temperature: float


@dataclass(frozen=True)
class Run:
    print_every: int
    save_every: int
    save_minutes: float | None
    keep_checkpoints: int | None
    keep_best: bool
    init_from: str | None
    tensorboard: bool
    wandb: str | None
    mlflow: str | None


@dataclass(frozen=True)
class Launch:
    device: str
    devices: int
    nodes: int
    rendezvous: str | None
    max_restarts: int
    hang_seconds: float
    stall_seconds: float
    cuda_graphs: bool

    @property
    def num_ranks(self) -> int:
        """How many processes train together, on all nodes."""
        return self.devices * self.nodes


@dataclass(frozen=True)
class Settings:
    data: Data
    model: Model
    features: Features
    prepare: Prepare
    train: Train
    eval: Eval
    run: Run
    launch: Launch

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Settings:
        """Returns the settings of a resolved configuration. Raises TypeError when keys are missing or unknown."""
        return _build(cls, value, "")


@lru_cache
def _hints(kind: typing.Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind)  # evaluates strings, which a sweep of hundreds of settings would wait for


def _build(kind: type[T], value: dict[str, Any], where: str) -> T:
    hints = _hints(typing.cast(typing.Hashable, kind))
    wrong = [f"{where}{key}: unknown" for key in value.keys() - hints.keys()]
    wrong += [f"{where}{key}: missing" for key in hints.keys() - value.keys()]
    if wrong:
        raise TypeError(f"the configuration from TypeScript does not fit settings.py: {', '.join(sorted(wrong))}")
    fields = {}
    for key, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            fields[key] = _build(typing.cast(type[Any], hint), value[key], f"{where}{key}.")
        else:
            fields[key] = tuple(value[key]) if isinstance(value[key], list) else value[key]
    return kind(**fields)
