"""The demo's motions as parts of longer files: a part that began or ended elsewhere would show two of them."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from coldframe.video.frames import read_frames
from coldframe.video.parts import Part
from make_demo_clips import draw_frames, plan_clip, to_frame
from make_demo_parts import HEADER, list_parts, make_parts, plan_files

PROJECT = Path(__file__).parent.parent.parent


def test_every_part_is_its_clip_and_nothing_else(tmp_path):
    make_parts(tmp_path, {"train": 12, "val": 1}, 3, 2)
    lines = (tmp_path / "train.txt").read_text().removeprefix(HEADER).splitlines()
    assert len(lines) == 12
    clips = [clip for group in plan_files(3, "train", 12) for clip in group]
    planned = {plan_clip(3, "train", index).background.tobytes() for index in range(12)}
    assert {clip.background.tobytes() for clip in clips} == planned
    for line, clip in zip(lines, clips, strict=True):
        path, label, start, end = line.split(" ")
        frames = read_frames(str(tmp_path / path), lambda n: list(range(n)), Part.of_seconds(start, end))
        assert (int(label), len(frames)) == (clip.label, clip.num_frames)
        pictures = list(draw_frames(clip))
        for number in (0, -1):
            drawn = to_frame(pictures[number]).to_ndarray(format="rgb24").astype(float)
            assert np.abs(frames[number] - drawn).mean() < 12


def test_parts_of_a_file_follow_each_other():
    clips = next(plan_files(0, "train", 20))
    times = [line.split(" ")[2:] for line in list_parts("a.mp4", clips)]
    assert [end.strip() for _, end in times[:-1]] == [start for start, _ in times[1:]]
    assert times[0][0] == "0.000000"


@pytest.mark.slow
def test_a_training_on_parts_learns_the_motions(tmp_path):
    """From a feature cache, so that the backbone and the decoder of videos work once for every part."""
    make_parts(tmp_path / "clips", {"train": 400, "val": 60}, 0, os.cpu_count() or 1)
    lists = {"train_list": "clips/train.txt", "val_list": "clips/val.txt", "classes": "clips/classes.txt"}
    config = {
        "extends": str(PROJECT / "configs/demo.yaml"),
        "data": {**lists, "features": "features"},
        "features": {"precision": "fp16"},
        "model": {"decoder": {"num_layers": 1}},
        "eval": {"temporal_views": 1, "every": 300},
    }
    (tmp_path / "parts.yaml").write_text(json.dumps(config))
    run_coldframe(tmp_path, "features", "build", "--config", "parts.yaml")
    events = run_coldframe(tmp_path, "train", "--config", "parts.yaml", "--run-dir", "run")
    (result,) = [event for event in events if event["kind"] == "evaluated"]
    assert (result["num_videos"], result["num_bad"]) == (60, 0)
    assert result["top1"] > 0.9


def run_coldframe(folder, *words):
    """Returns the events that a command prints."""
    command = [PROJECT / "scripts/coldframe", *words, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads that wait for busy cores take longer than one
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in ended.stdout.splitlines()]
