"""What is seen when: windows over a video give what `predict` gives of such parts, in one pass, also of streams."""

from __future__ import annotations

import http.server
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from camera import serve_camera
from clips import make_clip
from coldframe.data import stream
from coldframe.data.stream import FrameStream
from coldframe.errors import UserError
from coldframe.evaluate.timeline import Segment, Segments, Smoother, Window, Windows
from coldframe.session import Session
from coldframe.settings import Settings
from coldframe.video.frames import BadVideo
from coldframe.video.parts import Part
from small import settings_json

FRAME = 40_000  # microseconds, at 25 frames a second


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("timeline")
    make_clip(out / "24.mp4", num_frames=24, gop=6)
    make_clip(out / "24.ts", num_frames=24, gop=6)
    make_clip(out / "4.mp4", num_frames=4)
    return out


def open_session(**changes: Any) -> Session:
    session = Session()
    settings = settings_json(data__dummy=False, data__num_classes=5, **changes)
    session.open("predict", [{"name": "main", "settings": settings}], {"train": None, "val": None}, None, None)
    return session


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    session = open_session(eval__spatial_views=3)
    yield session
    session.close()


def watch(session: Session, path: Path | str, **options: Any) -> dict[str, Any]:
    """Returns all that is found, gathered from calls that are over at once."""
    chosen = {"window_seconds": None, "overlap": 0.5, "smooth_seconds": 0, "threshold": 0, "part": None}
    opened = session.open_timeline(str(path), **{"is_stream": False, **chosen, **options})
    assert opened["reason"] is None, opened["reason"]
    windows, segments, num_calls = [], [], 0
    while True:
        reply = session.advance_timeline(0.001, 5)
        num_calls += 1
        windows += reply["windows"]
        segments += reply["segments"]
        if reply["done"]:
            return {**opened["windows"], **reply, "windows": windows, "segments": segments, "num_calls": num_calls}


def by_label(classes: list[dict[str, Any]]) -> list[float]:
    return [one["probability"] for one in sorted(classes, key=lambda one: one["label"])]


def predict_parts(session: Session, path: Path, parts: list[tuple[float, float]]) -> list[list[float]]:
    times = [list(Part.of_seconds(*part)) for part in parts]
    found = session.predict([str(path)] * len(parts), 5, times)["predictions"]
    return [by_label(one["classes"]) for one in found]


def test_a_window_is_what_predict_says_of_that_part(session: Session, folder: Path) -> None:
    found = watch(session, folder / "24.mp4")
    # Three frames, every second one: a window spans five, and the next one begins two later.
    assert (found["window_seconds"], found["hop_seconds"], found["num_frames"]) == (5 / 25, 2 / 25, 24)
    spans = [(round(window["start"] * 25), round(window["end"] * 25)) for window in found["windows"]]
    assert spans == [(first, first + 5) for first in range(0, 20, 2)] + [(19, 24)]
    expected = predict_parts(session, folder / "24.mp4", [(a / 25, b / 25) for a, b in spans[:-1]])
    scores = [by_label(window["classes"]) for window in found["windows"]]
    torch.testing.assert_close(torch.tensor(scores[:-1]), torch.tensor(expected), atol=1e-6, rtol=0)
    # The last takes the frames at hand: 18, 20 and 22 in the place of 19, 21 and 23.
    torch.testing.assert_close(torch.tensor(scores[-1]), torch.tensor(scores[-2]), atol=1e-6, rtol=0)
    mean = torch.tensor(scores).mean(dim=0)
    torch.testing.assert_close(torch.tensor(by_label(found["classes"])), mean, atol=1e-6, rtol=0)
    assert len({tuple(row) for row in scores}) > 5
    assert found["num_calls"] > 1


def test_a_video_shorter_than_a_window_is_what_predict_says_of_it(session: Session, folder: Path) -> None:
    found = watch(session, folder / "4.mp4")
    (window,) = found["windows"]
    assert (window["start"], window["end"]) == (0, 4 / 25)
    (whole,) = session.predict([str(folder / "4.mp4")], 5)["predictions"]
    assert by_label(window["classes"]) == pytest.approx(by_label(whole["classes"]), abs=1e-6)


def test_longer_windows_have_the_views_of_predict(folder: Path) -> None:
    session = open_session(eval__temporal_views=2, eval__spatial_views=1)
    found = watch(session, folder / "24.mp4", window_seconds=10 / 25, overlap=0.0)
    spans = [(window["start"], window["end"]) for window in found["windows"]]
    assert [(round(a * 25), round(b * 25)) for a, b in spans] == [(0, 10), (10, 20), (14, 24)]
    expected = predict_parts(session, folder / "24.mp4", spans[:2])
    scores = [by_label(window["classes"]) for window in found["windows"][:2]]
    torch.testing.assert_close(torch.tensor(scores), torch.tensor(expected), atol=1e-6, rtol=0)
    session.close()


def test_a_part_is_gone_through_in_the_times_of_its_file(session: Session, folder: Path) -> None:
    whole = watch(session, folder / "24.mp4")
    found = watch(session, folder / "24.mp4", part=[8 * FRAME, 17 * FRAME])
    spans = [(round(window["start"] * 25), round(window["end"] * 25)) for window in found["windows"]]
    assert spans == [(8, 13), (10, 15), (12, 17)]
    for window, same in zip(found["windows"], whole["windows"][4:7], strict=True):  # in other batches than those
        assert by_label(window["classes"]) == pytest.approx(by_label(same["classes"]), abs=1e-6)
    assert (found["segments"][0]["start"], found["segments"][-1]["end"]) == (8 / 25, 17 / 25)
    opened = session.open_timeline(str(folder / "24.mp4"), False, [10**7, 2 * 10**7], None, 0.5, 0.0, None)
    assert opened["reason"] is None
    assert "not a single frame" in session.advance_timeline(10, 5)["reason"]


def test_a_part_is_read_from_the_keyframe_before_it(folder: Path) -> None:
    stream, other = (FrameStream(str(folder / "24.mp4"), part=Part(20 * FRAME, 22 * FRAME)) for _ in range(2))
    keys = [frame.key_frame for _, frame in stream._read_from(20 * FRAME)]  # what is decoded, the part's or not
    assert (len(keys), keys[0]) == (6, True)
    assert [time for time, _ in other.read()] == [20 * FRAME, 21 * FRAME]


def test_tsn_asks_how_long_a_window_is(folder: Path) -> None:
    session = open_session(data__sampling="tsn")
    with pytest.raises(UserError, match=r"--window  is not set: data.sampling is tsn"):
        watch(session, folder / "24.mp4")
    assert len(watch(session, folder / "24.mp4", window_seconds=0.4, overlap=0.0)["windows"]) == 3
    session.close()


# ---- smoothing and segments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_windows", "half"), [(1, 0), (7, 0), (7, 1), (7, 2), (3, 2), (2, 4)])
def test_smoothing_is_the_mean_around_each_window(num_windows: int, half: int) -> None:
    scores = torch.rand(num_windows, 3, generator=torch.Generator().manual_seed(num_windows))
    smoother, found = Smoother(2 * half + 1), []
    for i in range(num_windows):
        found += smoother.take(Window(i, i + 1), scores[i])
        assert len(found) == max(0, i + 1 - half)
    found += smoother.finish()
    assert [window.start for window, _ in found] == list(range(num_windows))
    for i, (_, smoothed) in enumerate(found):
        torch.testing.assert_close(smoothed, scores[max(0, i - half) : i + half + 1].mean(dim=0))


def cut(rows: list[list[float]], thresholds: float | list[float]) -> list[Segment]:
    """Returns the segments of windows of 4 that begin every 2; they speak for 3, 2, ... and the last to the end."""
    segments = Segments(0, thresholds)
    found = [one for i, row in enumerate(rows) for one in segments.take(Window(2 * i, 2 * i + 4), torch.tensor(row))]
    return found + segments.finish(2 * len(rows) + 2)


def test_windows_of_one_class_are_a_segment_from_half_way_to_half_way() -> None:
    found = cut([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5], [0.875, 0.125], [0.625, 0.375]], 0.625)
    assert found == [Segment(0, 5, 0, 0.75), Segment(5, 7, 1, 0.75), Segment(9, 14, 0, 0.75)]


def test_classes_of_several_labels_have_segments_of_their_own() -> None:
    found = cut([[0.5, 0.5], [0.25, 0.5], [0.5, 0.125]], [0.5, 0.25])
    assert found == [Segment(0, 3, 0, 0.5), Segment(0, 5, 1, 0.5), Segment(5, 8, 0, 0.5)]


@pytest.mark.parametrize(
    ("stride", "seconds", "overlap", "expected"),
    [(16, None, 0.5, (113, 64)), (16, None, 0.0, (113, 112)), (16, None, 0.9, (113, 16)), (4, 8.0, 0.5, (200, 100))],
)
def test_windows_share_frames(stride: int, seconds: float | None, overlap: float, expected: tuple[int, int]) -> None:
    settings = Settings.from_json(settings_json(data__num_frames=8, data__stride=stride))
    windows = Windows.plan(settings, Fraction(25), seconds, overlap)
    assert (windows.span, windows.hop) == expected


# ---- streams ---------------------------------------------------------------------------------------------------------


def serve_once(data: bytes) -> str:
    """Returns the address of a connection that sends the bytes and ends."""
    server = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        connection, _ = server.accept()
        with server, connection:
            connection.sendall(data)

    threading.Thread(target=send, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def make_address(folder: Path, web: str) -> Callable[[str], str]:
    def make(kind: str) -> str:
        if kind == "rtsp":
            return serve_camera(folder / "24.mp4")
        return serve_once((folder / "24.ts").read_bytes()) if kind == "tcp" else f"{web}/24.{kind}"

    return make


@pytest.mark.parametrize("kind", ["tcp", "mp4", "ts", "rtsp"])
def test_a_stream_gives_what_its_file_gives(
    session: Session, folder: Path, make_address: Callable[[str], str], kind: str
) -> None:
    expected = watch(session, folder / ("24.mp4" if kind in ("mp4", "rtsp") else "24.ts"))
    found = watch(session, make_address(kind), is_stream=True)
    assert found["header_seconds"] is None
    assert [window["start"] for window in found["windows"]] == [window["start"] for window in expected["windows"]]
    scores = [[by_label(window["classes"]) for window in all_of["windows"]] for all_of in (found, expected)]
    torch.testing.assert_close(torch.tensor(scores[0]), torch.tensor(scores[1]), atol=1e-6, rtol=0)


def test_a_stream_that_falls_silent_ends_with_all_that_came(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_TIMEOUT_SECONDS", 1.0)
    live = FrameStream(serve_camera(folder / "24.mp4", falls_silent=True), is_stream=True)
    assert [time for time, _ in live.read()] == [FRAME * index for index in range(24)]
    assert live.broken == "cannot be read on: nothing came for 1 s"
    live.close()


def test_a_stream_ends_where_one_wants_it_to(session: Session, make_address: Callable[[str], str]) -> None:
    session.open_timeline(make_address("tcp"), True, None, None, 0.5, 0.0, 0.0)
    running: Any = session.running.timeline
    while running.num_windows < 2:
        session.advance_timeline(0.001, 5)
    found = session.close_timeline(5)
    assert (found["done"], found["classes"] is None) == (True, False)
    assert found["num_windows"] <= running.num_windows
    assert found["segments"][-1]["end"] == found["seconds"]
    assert session.running.timeline is None


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("{web}/none.mp4", r"cannot be opened: .*404"),
        ("{web}/list.m3u8", r"cannot be opened|not a single frame|has no video"),
        ("tcp://127.0.0.1:1", "cannot be opened: Connection refused"),
        ("/dev/video77", "is a camera, and this build of PyAV reads none. Let ffmpeg send it"),
    ],
)
def test_what_cannot_be_opened_says_why(session: Session, folder: Path, web: str, address: str, reason: str) -> None:
    # A playlist from the network does not lead to files of this machine.
    (folder / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{folder / '24.ts'}\n#EXT-X-ENDLIST\n"
    )
    opened = session.open_timeline(address.format(web=web), True, None, None, 0.5, 0.0, None)
    found = opened["reason"] or session.advance_timeline(10, 5)["reason"]
    assert found is not None
    assert re.search(reason, found), found


def test_damage_is_counted_and_what_is_left_is_seen(session: Session, folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "24.mp4").read_bytes())
    data[3000:4500] = random.Random(1).randbytes(1500)
    (tmp_path / "torn.mp4").write_bytes(data)
    found = watch(session, tmp_path / "torn.mp4")
    assert found["num_damaged"] > 0
    assert found["windows"]
    (tmp_path / "cut.mp4").write_bytes(data[:2000])
    with pytest.raises(BadVideo, match="moov atom"):
        FrameStream(str(tmp_path / "cut.mp4"))


def test_time_goes_on_where_the_clock_of_a_recording_begins_anew(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "twice.ts").write_bytes(2 * (folder / "24.ts").read_bytes())
    times = [time for time, _ in FrameStream(str(tmp_path / "twice.ts")).read()]
    assert len(times) == 48
    assert times == [i * FRAME for i in range(48)]
