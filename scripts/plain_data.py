"""The loader as one writes it first, which is how the original does it: decode every frame, convert, pick.

What bench_loader.py measures ours against, and what tests hold ours equal to. It shares no shortcut with coldframe:
only the draws (which frames, which operations, which box) come from there, since both sides must draw the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from coldframe.data.augment import RandAugment, apply_operation, crop_box, crop_corners
from coldframe.video.frames import training_indices, view_indices

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def decode_everything(path: str) -> list[av.VideoFrame]:
    """Returns every frame of a video in the order of its presentation times, one decoder thread."""
    with av.open(path) as container:
        container.streams.video[0].thread_count = 1
        frames = {frame.pts: frame for frame in container.decode(video=0)}
    return [frames[time] for time in sorted(frames)]


def load_training_item(
    path: str, words: Sequence[int], *, num_frames: int, stride: int | None, size: int, augment: str | None = None
) -> Tensor:
    """Returns a normalised training clip (3, T, S, S); words seed the draws of frames, operations and box."""
    decoded = decode_everything(path)
    chosen = training_indices(len(decoded), num_frames, stride, np.random.RandomState(words[0]))
    frames = np.stack([decoded[i].to_rgb().to_ndarray() for i in chosen])
    rngs = random.Random(words[1]), np.random.RandomState(words[2])
    return cut_training_clip(frames, size, augment, *rngs)


def cut_training_clip(
    frames: np.ndarray[Any, Any], size: int, augment: str | None, py_rng: random.Random, np_rng: np.random.RandomState
) -> Tensor:
    """Returns a normalised clip (3, T, S, S) of frames (T, H, W, 3) uint8: float, RandAugment through Pillow,
    normalised whole, cropped, resized."""
    clip = torch.as_tensor(frames).float() / 255
    if augment is not None:
        clip = _augment(clip, RandAugment(augment), py_rng, np_rng)
    clip = ((clip - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(3, 0, 1, 2)
    top, left, height, width = crop_box(clip.shape[2], clip.shape[3], py_rng, np_rng)
    crop = clip[:, :, top : top + height, left : left + width]
    return F.interpolate(crop, size=(size, size), mode="bilinear", align_corners=False)


def _augment(clip_THWC: Tensor, policy: RandAugment, py_rng: random.Random, np_rng: np.random.RandomState) -> Tensor:
    pictures = [Image.fromarray(frame.mul(255).byte().numpy()) for frame in clip_THWC]
    for operation in policy.draw(len(pictures), py_rng, np_rng):
        filters = iter(operation.filters)
        pictures = [
            apply_operation(operation.name, picture, operation.argument, lambda: next(filters))  # noqa: B023
            for picture in pictures
        ]
    return torch.stack([torch.from_numpy(np.array(picture)).float().div(255) for picture in pictures])


def load_test_item(
    path: str, *, num_frames: int, stride: int | None, size: int, spatial_views: int, temporal_views: int
) -> Tensor:
    """Returns normalised test views (V, 3, T, S, S), all temporal views of the first spatial one first."""
    return cut_views(
        np.stack([frame.to_rgb().to_ndarray() for frame in decode_everything(path)]),
        num_frames=num_frames,
        stride=stride,
        size=size,
        spatial_views=spatial_views,
        temporal_views=temporal_views,
    )


def cut_views(
    frames: np.ndarray[Any, Any],
    *,
    num_frames: int,
    stride: int | None,
    size: int,
    spatial_views: int,
    temporal_views: int,
) -> Tensor:
    """Returns the views of all frames (L, H, W, 3) uint8: every one float, normalised and resized, then cut."""
    clip = ((torch.as_tensor(frames).float() / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(
        3, 0, 1, 2
    )
    height, width = clip.shape[2:]
    height, width = (size, width * size // height) if height < width else (height * size // width, size)
    clip = F.interpolate(clip, size=(height, width), mode="bilinear", align_corners=False)
    views = view_indices(clip.shape[1], num_frames, stride, temporal_views)
    corners = crop_corners(height, width, size, spatial_views)
    return torch.stack([clip[:, view, top : top + size, left : left + size] for top, left in corners for view in views])
