"""An hour of video: what is seen when is right within a window, and memory is that of a minute."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import make_demo_labels as demo
from coldframe.session import Session
from coldframe.train.targets.thresholds import Thresholds
from coldframe.video.parts import Part
from long import write_long
from small import settings_json

MINUTE, FPS, WINDOW = 60, 5, 2.0  # seconds
NUM_CLIPS, MARGIN = 6, 0.15
# In a process of its own, whose peak is told at the end (KiB).
WATCH = """
import json, resource, sys
from coldframe.session import Session
settings, checkpoint, path, window = json.loads(sys.argv[1])
session = Session()
session.open("predict", [{"name": "main", "settings": settings}], {"train": None, "val": None}, None, None, checkpoint)
assert session.open_timeline(path, False, None, window, 0.0, 0.0, None)["reason"] is None
segments, reply = [], {"done": False}
while not reply["done"]:
    reply = session.advance_timeline(1, 1)
    segments += reply["segments"]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"segments": segments, "seconds": reply["seconds"], "peak": peak}))
"""


def train(folder: Path) -> dict[str, Any]:
    """Trains on the demo's clips with several labels, from a feature cache, and returns the settings."""
    demo.make_data_set(folder, {"train": 120, "val": 40}, num_workers=2)
    lists = {}
    for split in ("train", "val"):
        pairs = [line.split(" ") for line in (folder / f"{split}.txt").read_text().splitlines()]
        lists[split] = str(folder / f"{split}.tsv")
        Path(lists[split]).write_text("".join(f"{folder / path}\t{label}\n" for path, label in pairs))
    settings = settings_json(
        **{"data__dummy": False, "data__labels": "multi", "data__num_classes": len(demo.CLASSES)},
        **{"data__num_frames": 2, "data__stride": 4, "data__size": 64, "data__features": str(folder / "features")},
        **{"data__train_list": lists["train"], "data__val_list": lists["val"], "eval__temporal_views": 1},
        **{"model__backbone__input_size": 64, "model__backbone__width": 128, "model__backbone__num_heads": 4},
        **{"model__decoder__kind": "linear", "model__decoder__pool": "patches", "model__decoder__num_layers": 2},
        **{"train__steps": 600, "train__batch_size": 16, "train__lr": 5e-2, "eval__batch_size": 8},
    )
    builder = Session()
    builder.forecast_features(settings, lists)
    while not builder.build_features(1000)["done"]:
        pass
    builder.close()
    session = Session()
    session.open("train", [{"name": "main", "settings": settings}], lists, None, str(folder / "run"))
    session.advance(settings["train"]["steps"])
    session.save()
    assert session.evaluate(1000, str(folder / "scores"))["results"]["main"]["map"] > 0.9
    session.close()
    settings["data"]["features"] = None
    return settings


def choose_clips(folder: Path, settings: dict[str, Any], checkpoint: str) -> list[int]:
    """Returns held-out clips in which the right colours are seen from begin to end: the timeline is asked when."""
    session = Session()
    none = {"train": None, "val": None}
    session.open("predict", [{"name": "main", "settings": settings}], none, None, None, checkpoint)
    least = next(iter(session.running.thresholds().values()))
    session.running.cohort.trials[0].thresholds = Thresholds(0, [0.0] * len(least))  # every class is told
    parts = [Part.of_seconds(start, start + 0.4) for start in (0, 0.4, 0.8)]

    def is_sure(index: int) -> bool:
        path, labels = str(folder / demo.clip_path("val", index)), demo.labels_of("val", index)
        found = session.predict([path] * len(parts), 1, [list(part) for part in parts])["predictions"]
        classes = [one for video in found for one in video["classes"]]
        named = [(one["label"] in labels, one["probability"] - least[one["label"]]) for one in classes]
        return all(above > MARGIN if is_there else above < -MARGIN for is_there, above in named)

    chosen = list(islice((index for index in range(40) if is_sure(index)), NUM_CLIPS))
    session.close()
    return chosen


def watch(settings: dict[str, Any], checkpoint: str, path: Path) -> dict[str, Any]:
    arguments = json.dumps([settings, checkpoint, str(path), WINDOW])
    ended = subprocess.run([sys.executable, "-c", WATCH, arguments], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def join_blocks(blocks: list[int], clips: list[int], label: int) -> list[tuple[int, int]]:
    """Returns from when to when a colour is to be seen."""
    spans: list[tuple[int, int]] = []
    for i, block in enumerate(blocks):
        if label not in demo.labels_of("val", clips[block]):
            continue
        start, end = i * MINUTE, (i + 1) * MINUTE
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, end))
    return spans


@pytest.mark.slow
def test_an_hour_is_told_right_within_a_window_in_the_memory_of_a_minute(tmp_path: Path) -> None:
    settings, checkpoint = train(tmp_path), str(tmp_path / "run" / "checkpoints" / "latest")
    clips = choose_clips(tmp_path, settings, checkpoint)
    assert len(clips) == NUM_CLIPS
    paths = [tmp_path / demo.clip_path("val", index) for index in clips]
    blocks = [i * 5 % NUM_CLIPS for i in range(60)]
    write_long(tmp_path / "hour.mp4", paths, blocks, MINUTE, FPS)
    write_long(tmp_path / "minute.mp4", paths, blocks[:1], MINUTE, FPS)
    hour, minute = (watch(settings, checkpoint, tmp_path / f"{name}.mp4") for name in ("hour", "minute"))
    assert (hour["seconds"], minute["seconds"]) == (3600, 60)
    for label in range(len(demo.CLASSES)):
        found = [(one["start"], one["end"]) for one in hour["segments"] if one["label"] == label]
        expected = join_blocks(blocks, clips, label)
        assert len(found) == len(expected)
        assert [place for span in found for place in span] == pytest.approx(
            [place for span in expected for place in span], abs=WINDOW
        )
    assert hour["peak"] < 1.2 * minute["peak"]
