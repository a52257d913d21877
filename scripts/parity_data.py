"""The data kinds of parity.py: frame indices, crops, samplers, the whole item, RandAugment. All bytes must be equal."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from coldframe.data.augment import (
    RandAugment,
    apply_operation,
    crop_corners,
    draw_argument,
    eval_views,
    training_view,
)
from coldframe.data.clips import DummyClips, normalize_
from coldframe.data.loader import eval_loader, train_loader
from coldframe.video.frames import training_indices, view_indices

Fixture = dict[str, Any]
PIXEL_LIMIT = 1e-5  # normalised pixels; upstream normalises before it resizes, we after


def replay_data(fixture: Fixture, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yields (quantity, difference, limit); counts of cases that differ have limit 0."""
    yield "training frames (cases that differ)", _count(map(_same_training_frames, fixture["train_indices"])), 0.0
    yield "evaluation frames (cases that differ)", _count(map(_same_views, fixture["eval_indices"])), 0.0
    yield "test crops (cases that differ)", _count(map(_same_crops, fixture["spatial_crops"])), 0.0
    yield "training order (cases that differ)", _count(map(_same_train_order, fixture["train_sampler"])), 0.0
    yield "evaluation order (cases that differ)", _count(map(_same_eval_order, fixture["val_sampler"])), 0.0
    yield "whole items", max(_item_difference(item) for item in fixture["pipeline"]), PIXEL_LIMIT


def replay_rand_augment(fixture: Fixture, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yields (quantity, difference, limit) in grey levels; a wrong argument counts as 255."""
    image = Image.fromarray(fixture["image"].numpy())
    yield "operations", max(_operation_difference(image, case) for case in fixture["ops"]), 0.0
    yield "policies", max(_policy_difference(case) for case in fixture["policies"]), 0.0


def _count(same: Iterable[bool]) -> float:
    return float(sum(not one for one in same))


def _stride(case: Fixture) -> int | None:
    return None if case["sampling_rate"] == -1 else case["sampling_rate"]


def _same_training_frames(case: Fixture) -> bool:
    rng = np.random.RandomState(case["seed"])
    return training_indices(case["length"], case["num_frames"], _stride(case), rng) == case["indices"]


def _same_views(case: Fixture) -> bool:
    return view_indices(case["length"], case["num_frames"], _stride(case), case["temporal_views"]) == case["indices"]


def _same_crops(case: Fixture) -> bool:
    size = case["spatial_size"]
    corners = crop_corners(case["height"], case["width"], size, case["spatial_views"])
    return [[top, left, size, size] for top, left in corners] == case["crops_top_left_h_w"]


def _same_train_order(case: Fixture) -> bool:
    """Each rank takes its contiguous share of every batch; a resumed run takes the batches that are left."""
    size, share, first = case["batch_size"], case["per_rank_batch"], case["resume_step"]
    videos = DummyClips(case["dataset_len"], num_classes=1, num_frames=1, size=1, seed=0)
    batches = train_loader(
        videos,
        seed=0,
        start_step=first,
        num_steps=first + case["num_batches"],
        batch_size=size,
        num_workers=0,
        rank=case["rank"],
        world_size=size // share,
    )
    return [index for batch in batches for index in batch.indices.tolist()] == case["order"]


def _same_eval_order(case: Fixture) -> bool:
    videos = DummyClips(case["dataset_len"], num_classes=1, num_frames=1, size=1, seed=0, num_views=1)
    batches = eval_loader(videos, batch_size=2, num_workers=0, rank=case["rank"], world_size=case["world_size"])
    return [index for batch in batches for index in batch.indices.tolist()] == case["order"]


def _item_difference(item: Fixture) -> float:
    frames = item["frames_uint8"].numpy()[np.argsort(item["pts"], kind="stable")]
    size, num_frames, stride = item["spatial_size"], item["num_frames"], _stride(item)
    if item["train"]:
        py_rng, np_rng = random.Random(item["seed"]), np.random.RandomState(item["seed"])
        chosen = training_indices(len(frames), num_frames, stride, np_rng)
        clips = training_view(frames[chosen], size, None, False, py_rng, np_rng)
    else:
        views = view_indices(len(frames), num_frames, stride, item["temporal_views"])
        clips = eval_views(frames, views, size, item["spatial_views"])
        clips = clips[0] if item["returned_a_list"] else clips
    found = normalize_(clips, item["mean"], item["std"])
    return (found - item["output"]).abs().max().item() if found.shape == item["output"].shape else float("inf")


def _operation_difference(image: Image.Image, case: Fixture) -> float:
    argument = draw_argument(case["name"], case["magnitude"], random.Random(case["random_seed"]))
    if ([] if argument is None else [argument]) != case["args"]:
        return 255.0
    picture = apply_operation(case["name"], image, argument, lambda: Image.Resampling.BICUBIC)
    return _levels(np.asarray(picture), case["output"])


def _policy_difference(case: Fixture) -> float:
    augment = RandAugment(case["policy"], case["interpolation"])
    rngs = random.Random(case["random_seed"]), np.random.RandomState(case["numpy_seed"])
    return _levels(augment(case["frames"].numpy(), *rngs), case["output"])


def _levels(found: np.ndarray, expected: torch.Tensor) -> float:
    return float(np.abs(found.astype(int) - expected.numpy().astype(int)).max())
