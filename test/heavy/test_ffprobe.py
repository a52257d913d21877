"""What a probe tells of videos, against ffprobe, a program of others that decodes and counts every frame.

`make test-ffprobe` installs it. CLIPS=DIR adds a folder's files: `variants` must be probed right, `broken` be named.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from clips import cut_by_edit_list, make_clip
from coldframe.data.probe import Probing
from test_video import VARIANTS
from test_video_order import CONTAINERS, OPEN, REORDERED, in_decoding_order, remux

FOLDER = os.environ.get("CLIPS", "")


def find_others(kind: str) -> list[Path]:
    return sorted(path for path in Path(FOLDER, kind).iterdir() if path.is_file()) if FOLDER else []


@pytest.fixture(scope="module")
def probing() -> Iterator[Probing]:
    probing = Probing()
    yield probing
    probing.close()


def ask_ours(probing: Probing, path: Path) -> dict[str, Any]:
    (told,) = probing.advance([{"path": str(path), "parts": None}], "pyav", None, 120, 1, 60)["clips"]
    return told


def ask_ffprobe(path: Path) -> dict[str, Any]:
    """Returns what it says of the first video stream, frames counted by decoding."""
    fields = "stream=codec_name,width,height,avg_frame_rate,nb_read_frames:stream_side_data=rotation"
    command = ["ffprobe", "-v", "quiet", "-count_frames", "-select_streams", "v:0", "-show_entries", fields]
    shown = subprocess.run([*command, "-of", "json", str(path)], capture_output=True, check=True, text=True)
    stream: dict[str, Any] = json.loads(shown.stdout)["streams"][0]
    rotation = next((one["rotation"] for one in stream.get("side_data_list", []) if "rotation" in one), 0)
    size = (stream["width"], stream["height"])
    rate = Fraction(stream["avg_frame_rate"]) if stream["avg_frame_rate"] != "0/0" else Fraction(0)
    return {
        "num_frames": int(stream["nb_read_frames"]),
        "size": size if rotation % 180 == 0 else size[::-1],
        "rate": float(rate),
        "rotation": rotation,
        "codec": stream["codec_name"],
    }


def assert_same(probing: Probing, path: Path, *, has_rate: bool = True) -> None:
    told, theirs = ask_ours(probing, path), ask_ffprobe(path)
    assert told["problem"] is None
    facts = told["facts"]
    ours = {name: facts[name] for name in ("num_frames", "rate", "rotation")}
    ours |= {"size": (facts["width"], facts["height"]), "codec": facts["codec"].replace("libdav1d", "av1")}
    if not has_rate:
        ours["rate"] = theirs["rate"] = 0
    assert ours == {**theirs, "rate": pytest.approx(theirs["rate"], rel=1e-6)}


@pytest.mark.parametrize("name", VARIANTS)
def test_our_own_clips(probing: Probing, tmp_path: Path, name: str) -> None:
    path = make_clip(tmp_path / name, **VARIANTS[name])
    if name == "edit_list.mp4":
        cut_by_edit_list(path, 15, 25)
    # A stream without a container has no rate of its own, and each version of the library makes up another one.
    assert_same(probing, path, has_rate=path.suffix != ".h264")


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv"])
def test_times_of_decoding_and_cuts_inside_open_groups(probing: Probing, tmp_path: Path, suffix: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", gop=16, options=REORDERED)
    path = remux(clip, tmp_path / f"plain.{suffix}", in_decoding_order, CONTAINERS[suffix])
    assert_same(probing, path, has_rate=False)
    assert not ask_ours(probing, path)["facts"]["by_time"]
    clip = make_clip(tmp_path / "open.mp4", num_frames=50, gop=10, options=OPEN)
    cut = remux(clip, tmp_path / f"cut.{suffix}", lambda packets: packets[4:], CONTAINERS[suffix])
    told, theirs = ask_ours(probing, cut), ask_ffprobe(cut)
    assert told["problem"] is None
    assert told["facts"]["num_frames"] == theirs["num_frames"]


@pytest.mark.parametrize("path", find_others("variants"), ids=lambda path: path.name)
def test_clips_of_others(probing: Probing, path: Path) -> None:
    assert_same(probing, path)


@pytest.mark.parametrize("path", find_others("broken"), ids=lambda path: path.name)
def test_broken_clips_of_others_are_named(probing: Probing, path: Path) -> None:
    problem = ask_ours(probing, path)["problem"]
    assert problem["fault"] in ("empty", "not-a-video", "unreadable")
    assert len(problem["reason"]) > 10
