"""Small resolved settings for tests, as TypeScript would hand them over."""

from __future__ import annotations

import copy
from typing import Any

from coldframe.settings import Settings

BASE: dict[str, Any] = {
    "data": {
        "train_list": None,
        "val_list": None,
        "root": None,
        "train_root": None,
        "val_root": None,
        "classes": None,
        "num_classes": 5,
        "labels": "single",
        "balance": "none",
        "num_frames": 3,
        "stride": 2,
        "sampling": "dense",
        "size": 24,
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "augment": None,
        "mirror": False,
        "interpolation": "bicubic",
        "num_workers": 0,
        "short_clips": "recipe",
        "reader": "pyav",
        "clips_per_video": 1,
        "seed": 0,
        "features": None,
        "on_bad_video": "skip",
        "max_bad_fraction": 0.01,
        "dummy": True,
    },
    "model": {
        "backbone": {
            "preset": "custom",
            "width": 32,
            "num_layers": 3,
            "num_heads": 2,
            "patch_size": 8,
            "input_size": 24,
            "mlp_factor": 2,
            "activation": "quick_gelu",
            "weights": "random",
            "weights_sha256": None,
            "random_seed": 0,
            "train_blocks": None,
            "freeze": True,
        },
        "decoder": {
            "kind": "evl",
            "num_layers": 2,
            "pool": "class",
            "frames": "mean",
            "qkv_dim": 16,
            "num_heads": 4,
            "mlp_factor": 3,
            "mlp_dropout": 0.5,
            "query_init": "zero",
        },
        "temporal": {"conv": True, "position_embedding": True, "cross_attention": True},
        "head": {"dropout": 0.5},
    },
    "features": {"form": "maps", "precision": "fp16", "train_views": 1, "batch_size": None},
    "prepare": {"short_side": 256, "gop": 4, "crf": 23, "preset": "superfast"},
    "train": {
        "steps": 6,
        "batch_size": 4,
        "micro_batches": 1,
        "lr": 1e-3,
        "backbone_lr": None,
        "weight_decay": 0.05,
        "decay_all": True,
        "warmup_steps": 0,
        "clip_grad_norm": None,
        "precision": "fp32",
        "seed": 0,
        "compile": False,
        "class_weights": "none",
        "label_smoothing": 0,
        "mixup": 0,
        "cutmix": 0,
        "ema_decay": None,
    },
    "eval": {
        "spatial_views": 1,
        "temporal_views": 2,
        "batch_size": 3,
        "every": None,
        "thresholds": None,
        "temperature": 1,
    },
    "run": {
        "print_every": 1,
        "save_every": 2,
        "save_minutes": None,
        "keep_checkpoints": 3,
        "keep_best": False,
        "init_from": None,
        "tensorboard": False,
        "wandb": None,
        "mlflow": None,
    },
    "launch": {
        **{"device": "cpu", "devices": 1, "nodes": 1, "rendezvous": None, "max_restarts": 0},
        **{"hang_seconds": 30, "stall_seconds": 60, "cuda_graphs": True},
    },
}


def settings_json(**changes: Any) -> dict[str, Any]:
    """Returns the base with changes such as `train__lr=0.1`."""
    result = copy.deepcopy(BASE)
    for key, value in changes.items():
        *sections, name = key.split("__")
        place = result
        for section in sections:
            place = place[section]
        assert name in place, key
        place[name] = value
    return result


def settings(**changes: Any) -> Settings:
    return Settings.from_json(settings_json(**changes))
