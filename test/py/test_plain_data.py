"""The plain loader of the bench programs is the original's, and ours gives its clips."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from clips import make_clip
from coldframe.data.clips import EvalViews, Listed, TrainClips, normalize_
from coldframe.video.frames import training_indices
from plain_data import CLIP_MEAN, CLIP_STD, cut_training_clip, cut_views, load_test_item, load_training_item

PARITY = torch.load(Path(__file__).parent.parent / "fixtures" / "parity" / "data.pt", weights_only=True)
SHAPE = {"num_frames": 4, "stride": 5, "size": 48}
KINDS = {
    "b_frames.mp4": {"gop": 250, "num_frames": 60},
    "short_gop.mp4": {"gop": 7, "num_frames": 60},
    "short.mp4": {"num_frames": 9},
    "odd.mp4": {"size": (101, 77), "pixel_format": "yuv444p"},
    "upright.webm": {"codec": "libvpx-vp9", "b_frames": 0, "size": (64, 90)},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return lambda name: str(make_clip(folder / name, **KINDS[name]))


@pytest.mark.parametrize("number", range(len(PARITY["pipeline"])))
def test_the_plain_clip_is_the_originals(number, monkeypatch):
    case = PARITY["pipeline"][number]
    monkeypatch.setattr("plain_data.CLIP_MEAN", tuple(case["mean"]))
    monkeypatch.setattr("plain_data.CLIP_STD", tuple(case["std"]))
    frames = case["frames_uint8"].numpy()[np.argsort(case["pts"])]
    shape = {"num_frames": case["num_frames"], "stride": case["sampling_rate"], "size": case["spatial_size"]}
    if case["train"]:
        rngs = random.Random(case["seed"]), np.random.RandomState(case["seed"])
        chosen = training_indices(len(frames), shape["num_frames"], shape["stride"], rngs[1])
        found = cut_training_clip(frames[chosen], shape["size"], None, *rngs)
    else:
        views = {"spatial_views": case["spatial_views"], "temporal_views": case["temporal_views"]}
        found = cut_views(frames, **shape, **views)
        found = found[0] if case["returned_a_list"] else found
    torch.testing.assert_close(found, case["output"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("augment", [None, "rand-m7-n4-mstd0.5-inc1"], ids=["plain", "augmented"])
@pytest.mark.parametrize("name", KINDS)
def test_our_training_clip_is_the_plain_one(clip, name, augment):
    path = clip(name)
    ours = TrainClips([Listed(path, 0)], **SHAPE, seed=5, augment=augment)
    for step in range(4):
        words = [int(word) for word in np.random.SeedSequence([5, step, 1]).generate_state(3)]
        plain = load_training_item(path, words, **SHAPE, augment=augment)
        found = normalize_(ours[step, 1, 0].clip, CLIP_MEAN, CLIP_STD)
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_our_test_views_are_the_plain_ones(clip, name):
    path, views = clip(name), {"spatial_views": 3, "temporal_views": 2}
    ours = normalize_(EvalViews([Listed(path, 0)], **SHAPE, **views)[0].clip, CLIP_MEAN, CLIP_STD)
    torch.testing.assert_close(ours, load_test_item(path, **SHAPE, **views), rtol=0, atol=1e-5)
