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
from coldframe.data.probe import Probing, answer, choose_reachable
from coldframe.machine.processes import Workers
from coldframe.video.frames import BadVideo, read_frames, training_indices, view_indices

DENSE = {"num_frames": 3, "stride": 4, "repeat_last": False, "num_views": None}


def ask(path: Path, sampling: dict[str, Any] | None = None) -> dict[str, Any]:
    reply: dict[str, Any] = {}
    for part in answer({"path": str(path), "reader": "pyav", "sampling": sampling}):
        reply |= part
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
        paths = [str(tmp_path / name) for name in names]
        reply = probing.advance(paths[:3], "pyav", DENSE, 0, 2, 60)
        found = reply["videos"]
        reply = probing.advance(paths[3:], "pyav", DENSE, 60, 2, 60)
        found += reply["videos"]
    finally:
        probing.close()
    assert reply["num_left"] == 0
    told = {Path(one["path"]).name: one for one in found}
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


def test_a_limit_ends_what_takes_longer(tmp_path: Path) -> None:
    probing = Probing()
    try:
        clip = str(make_clip(tmp_path / "clip.mp4", num_frames=8))
        (told,) = probing.advance([clip], "pyav", None, 60, 1, 0.001)["videos"]  # no interpreter starts so quickly
    finally:
        probing.close()
    assert told == {
        "path": clip,
        "facts": None,
        "damage": None,
        "problem": {"fault": "slow", "reason": "takes longer than 0.001 s"},
    }
