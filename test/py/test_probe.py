"""What is told of a video before it is trained on: facts, and whether each frame that may be asked for can be read."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clips import make_clip
from coldframe.data.facts import measure
from coldframe.data.probe import Probing, answer, choose_reachable
from coldframe.machine.processes import Workers
from coldframe.video.frames import BadVideo, read_frames, training_indices, view_indices

DENSE = {"num_frames": 3, "stride": 4, "repeat_last": False, "num_views": None}


def ask(path: Path, sampling: dict[str, Any] | None = None, parts: list[list[int]] | None = None) -> dict[str, Any]:
    reply: dict[str, Any] = {}
    for told in answer({"path": str(path), "reader": "pyav", "sampling": sampling, "parts": parts}):
        reply |= told
    return reply


@pytest.mark.parametrize("stride", [1, 4, 7, None])
@pytest.mark.parametrize("num_available", [1, 2, 8, 9, 10, 12, 16, 40])
@pytest.mark.parametrize("repeat_last", [False, True])
def test_what_training_may_pick_is_what_it_does_pick(num_available: int, stride: int | None, repeat_last: bool) -> None:
    rng = np.random.RandomState(0)
    picked = set()
    for _ in range(2000):
        picked.update(training_indices(num_available, 3, stride, rng, repeat_last=repeat_last))
    sampling = {"num_frames": 3, "stride": stride, "repeat_last": repeat_last, "num_views": None}
    assert choose_reachable(num_available, sampling) == sorted(picked)
    views = view_indices(num_available, 3, stride, 4)
    assert choose_reachable(num_available, {**sampling, "num_views": 4}) == sorted({i for view in views for i in view})


def damage(path: Path, frame: int, num_frames: int) -> Path:
    """Returns path, now a clip of keyframes of which one is noise."""
    make_clip(path, num_frames=num_frames, gop=1, b_frames=0)
    import av

    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][frame]
        at, size = packet.pos or 0, packet.size
    data = bytearray(path.read_bytes())
    data[at + 8 : at + size] = np.random.default_rng(0).bytes(size - 8)
    path.write_bytes(data)
    return path


def test_damage_is_a_problem_only_where_the_sampling_reaches_it(tmp_path: Path) -> None:
    sound = ask(make_clip(tmp_path / "sound.mp4"))
    assert (sound["problem"], sound["damage"], sound["facts"]["num_frames"]) == (None, None, 40)
    short = damage(tmp_path / "short.mp4", 7, 9)  # frames 0, 4 and 8 are picked
    with pytest.raises(BadVideo) as refused:
        read_frames(str(short), lambda n: [7])
    told = ask(short)
    assert told["problem"] == {"fault": "unreadable", "reason": refused.value.reason}
    assert told["facts"]["num_frames"] == 9
    one_longer = ask(damage(tmp_path / "longer.mp4", 7, 10), DENSE)
    assert (one_longer["problem"], one_longer["damage"] is None) == (None, False)
    reached = ask(damage(tmp_path / "reached.mp4", 5, 10), DENSE)
    assert reached["problem"]["reason"] == reached["damage"]
    assert ask(short, DENSE)["problem"] is None
    assert ask(short, {**DENSE, "num_views": 1})["problem"] is None
    assert ask(short, {**DENSE, "stride": None})["problem"] is not None


def test_of_parts_nothing_else_is_decoded(tmp_path: Path) -> None:
    """A clip of 40 frames at 25 a second, of which the one at 0.8 s is damaged."""
    clip = damage(tmp_path / "clip.mp4", 20, 40)
    parts = [[0, 800_000], [800_000, 1_000_000], [840_000, 1_600_000], [1_000_000, 1_700_000], [10_000, 30_000]]
    told = ask(clip, parts=parts)
    before, damaged, behind, beyond, empty = (told[str(place)] for place in range(len(parts)))
    assert (before["problem"], before["facts"]["num_frames"], before["facts"]["duration_seconds"]) == (None, 20, 0.8)
    assert (behind["problem"], behind["facts"]["num_frames"]) == (None, 19)
    assert damaged["facts"]["num_frames"] == 5
    assert damaged["problem"]["reason"] == ask(clip)["problem"]["reason"]
    assert beyond["problem"]["reason"] == "ends at 1.6 s, before its part from 1 to 1.7 s"
    assert (beyond["facts"], empty["facts"]) == (None, None)
    assert empty["problem"]["reason"].startswith("has no frame from 0.01 to 0.03 s")
    # Frames 0, 4 and 8 of it are picked, and the damaged one is the second.
    short = ask(clip, DENSE, [[760_000, 1_120_000]])["0"]
    assert (short["problem"], short["damage"] is None) == (None, False)


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    assert ask(Path("/dev/zero"))["problem"]["fault"] == "not-a-file"
    assert ask(tmp_path)["problem"] == {"fault": "not-a-file", "reason": "is a folder, not a file"}


FAULTS = {"missing.mp4": "missing", "empty.mp4": "empty", "text.mp4": "not-a-video", "cut.mp4": "unreadable"}


def test_videos_are_probed_side_by_side_and_those_that_cannot_be_used_named(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=8)
    shutil.copy(clip, tmp_path / "again.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("nothing to see\n" * 99)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:900])
    names = ["clip.mp4", *FAULTS, "again.mp4"]
    probing = Probing()
    try:
        videos = [{"path": str(tmp_path / name), "parts": None} for name in names]
        parts = [[0, 100_000], [0, 10**9]]
        videos += [{"path": str(tmp_path / name), "parts": parts} for name in ("clip.mp4", "cut.mp4")]
        reply = probing.advance(videos[:3], "pyav", DENSE, 0, 2, 60)
        found = reply["clips"]
        reply = probing.advance(videos[3:], "pyav", DENSE, 60, 2, 60)
        found += reply["clips"]
    finally:
        probing.close()
    assert reply["num_left"] == 0
    told = {Path(one["path"]).name: one for one in found if one["part"] is None}
    of_parts = {(Path(one["path"]).name, one["part"][1]): one for one in found if one["part"] is not None}
    assert of_parts["clip.mp4", 100_000]["facts"]["num_frames"] == 3
    assert of_parts["clip.mp4", 10**9]["problem"]["reason"].startswith("ends at 0.32 s")
    assert [of_parts["cut.mp4", end]["problem"] for _, end in parts] == [told["cut.mp4"]["problem"]] * 2
    assert sorted(told) == sorted(names)
    assert {name: one["problem"]["fault"] for name, one in told.items() if one["problem"]} == FAULTS
    assert told["clip.mp4"]["facts"] == told["again.mp4"]["facts"]
    assert told["clip.mp4"]["facts"]["num_frames"] == 8


def test_a_video_that_takes_too_long_is_told_with_what_is_known_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker answers, and then does not go on; the limit runs out as soon as it has answered."""
    worker = """
import pathlib, sys, time
for line in sys.stdin:
    print('{"facts": {"num_frames": 7}, "more": true}', flush=True)
    pathlib.Path(__file__).with_name("answered").touch()
    time.sleep(600)
"""
    (tmp_path / "stuck_worker.py").write_text(worker)

    class Limit(threading.Thread):
        def __init__(self, seconds: float, end: Any) -> None:
            super().__init__(target=self.wait_and, args=(end,))

        def wait_and(self, end: Any) -> None:
            while not (tmp_path / "answered").exists():
                time.sleep(0.01)
            end()

        def cancel(self) -> None:
            pass

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(threading, "Timer", Limit)
    workers = Workers(1, "stuck_worker", "decodes it", 20)
    try:
        reply = workers.submit({}).result(60)
    finally:
        workers.close()
    assert reply == {"facts": {"num_frames": 7}, "reason": "takes longer than 20 s", "is_late": True}


WORKER_OF_PARTS = """
import json, os, sys
for line in sys.stdin:
    parts = json.loads(line)["parts"]
    print(json.dumps({"facts": {}, "more": True}), flush=True)
    for place, (start, end) in enumerate(parts):
        if end == 2:
            os._exit(9)
        told = {"facts": {"num_frames": end}, "problem": None, "damage": None}
        print(json.dumps({str(place): told, "more": place + 1 < len(parts), "anew": True}), flush=True)
"""


def test_parts_behind_the_one_that_ends_its_worker_are_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker_of_parts.py").write_text(WORKER_OF_PARTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    probing = Probing()
    probing._workers = Workers(1, "worker_of_parts", "decodes it", 60)
    try:
        reply = probing.advance([{"path": "a", "parts": [[0, 1], [0, 2], [0, 3]]}], "pyav", None, 60, 1, 60)
    finally:
        probing.close()
    assert reply["num_left"] == 0
    told = [(one["part"], one["facts"] and one["facts"]["num_frames"], one["problem"]) for one in reply["clips"]]
    dead = {"fault": "unreachable", "reason": "ends the process that decodes it with exit code 9"}
    assert told == [([0, 1], 1, None), ([0, 2], None, dead), ([0, 3], 3, None)]


def test_the_limit_is_one_of_each_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A limit that counts how often it is begun, and never runs out."""
    begun: list[float] = []

    class Limit:
        daemon = False

        def __init__(self, seconds: float, end: Any) -> None:
            begun.append(seconds)

        def start(self) -> None:
            pass

        def cancel(self) -> None:
            pass

    (tmp_path / "worker_of_parts.py").write_text(WORKER_OF_PARTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(threading, "Timer", Limit)
    workers = Workers(1, "worker_of_parts", "decodes it", 20)
    try:
        reply = workers.submit({"parts": [[0, 1], [0, 3], [0, 4]]}).result(60)
    finally:
        workers.close()
    assert [reply[str(place)]["facts"]["num_frames"] for place in range(3)] == [1, 3, 4]
    assert begun == [20, 20, 20]  # with the file, and anew after each part but the last


def test_a_limit_ends_what_takes_longer(tmp_path: Path) -> None:
    probing = Probing()
    try:
        clip = str(make_clip(tmp_path / "clip.mp4", num_frames=8))
        video = {"path": clip, "parts": None}
        (told,) = probing.advance([video], "pyav", None, 60, 1, 0.001)["clips"]  # no interpreter starts so quickly
    finally:
        probing.close()
    assert told == {
        "path": clip,
        "part": None,
        "facts": None,
        "damage": None,
        "problem": {"fault": "slow", "reason": "takes longer than 0.001 s"},
    }


def test_how_long_a_video_lasts_is_told_by_its_header_or_its_packets(tmp_path: Path) -> None:
    known = make_clip(tmp_path / "known.mp4", num_frames=50)
    # As a browser records: a header that is written before the end is known. Times are milliseconds.
    times = [40 * i for i in range(20)] + [9000]
    live = make_clip(tmp_path / "live.mkv", times=times, num_frames=21, b_frames=0, container_options={"live": "1"})
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(known.read_bytes()[:2000])
    told = measure([str(path) for path in (known, live, torn)])["videos"]
    assert [video["duration_seconds"] for video in told] == [pytest.approx(2.0), pytest.approx(9.0), None]
    assert told[0]["reason"] is None
    assert "moov atom" in told[2]["reason"]
