"""Prepared clips: the same frames at the same times, cheap to open anywhere; whole files or none."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from clips import cut_by_edit_list, make_clip, make_sound
from coldframe.data.clips import Listed
from coldframe.errors import UserError
from coldframe.machine.processes import Workers
from coldframe.prepare.clips import Preparation, plan_targets, read_manifest
from coldframe.prepare.transcode import Encoding, _encode, _show, _verify, transcode
from coldframe.video import frames as video
from coldframe.video.frames import BadVideo, read_frames
from coldframe.video.h264 import non_reference_test
from coldframe.video.packets import scan
from coldframe.video.streams import open_video
from small import settings

ENCODING = Encoding(short_side=256, gop=4, crf=18, preset="superfast")
UNEVEN = [0, 40, 47, 90, 300, 301, 340, 999, 1040, 1100, 1140, 1200]


def read_all(path: Path) -> list[np.ndarray]:
    return list(read_frames(str(path), lambda num_frames: list(range(num_frames))))


def read_times(path: Path) -> list[Fraction]:
    """Returns the times of all frames after the first one's, in seconds."""
    with av.open(str(path)) as container:
        stamps = sorted(f.pts * f.time_base for f in container.decode(video=0) if f.pts is not None and f.time_base)
    return [stamp - stamps[0] for stamp in stamps]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = float(np.mean(np.square(one.astype(float) - other)))
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


ODD = {
    "plain": {},
    "without B-frames": {"b_frames": 0},
    "B-frames and a long GOP": {"gop": 40, "b_frames": 3},
    "variable frame rate": {"times": UNEVEN, "num_frames": len(UNEVEN)},
    "turned by 90": {"rotation": 90},
    "turned by -90": {"rotation": -90},
    "turned by 180": {"rotation": 180},
    "sound": {"audio": True},
    "full range": {"pixel_format": "yuvj420p"},
    "4:4:4": {"pixel_format": "yuv444p"},
    "one frame": {"num_frames": 1},
    "two frames": {"num_frames": 2},
}


@pytest.mark.parametrize("options", ODD.values(), ids=ODD.keys())
def test_every_frame_and_time_of_the_original(tmp_path: Path, options: dict[str, Any]) -> None:
    clip = make_clip(tmp_path / "clip.mp4", **options)
    made = transcode(str(clip), tmp_path / "ready.mp4", ENCODING)
    before, after = read_all(clip), read_all(tmp_path / "ready.mp4")
    assert len(after) == len(before) == made.num_frames
    assert (made.height, made.width) == before[0].shape[:2] == after[0].shape[:2]
    assert min(psnr(one, other) for one, other in zip(before, after, strict=True)) > 27
    assert read_times(tmp_path / "ready.mp4") == read_times(clip)
    with av.open(str(tmp_path / "ready.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "ready.mp4"]


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.webm", "libvpx"), ("a.ts", "libx264")])
def test_frames_of_other_containers(tmp_path: Path, name: str, codec: str) -> None:
    clip = make_clip(tmp_path / name, codec=codec)
    transcode(str(clip), tmp_path / "ready.mp4", ENCODING)
    before, after = read_all(clip), read_all(tmp_path / "ready.mp4")
    assert min(psnr(one, other) for one, other in zip(before, after, strict=True)) > 27


def test_frames_that_an_edit_list_hides_stay_hidden(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    cut_by_edit_list(clip, 5, 25)
    made = transcode(str(clip), tmp_path / "ready.mp4", ENCODING)
    before, after = read_all(clip), read_all(tmp_path / "ready.mp4")
    assert len(before) == made.num_frames == 35
    assert min(psnr(one, other) for one, other in zip(before, after, strict=True)) > 27


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p"])
def test_colour_range_and_matrix_are_kept(tmp_path: Path, pixel_format: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2, pixel_format=pixel_format)
    transcode(str(clip), tmp_path / "ready.mp4", ENCODING)

    def read_tags(path: Path) -> tuple[str, int, int]:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            return frame.format.name, frame.color_range, frame.colorspace

    assert read_tags(tmp_path / "ready.mp4") == read_tags(clip)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [((96, 64), 32, (48, 32)), ((64, 96), 32, (32, 48)), ((96, 64), 128, (96, 64)), ((101, 77), None, (100, 76))],
)
def test_smaller_with_even_sides_and_never_larger(
    tmp_path: Path, size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    clip = make_clip(tmp_path / "clip.mkv", size=size, num_frames=3, pixel_format="yuv444p")
    made = transcode(str(clip), tmp_path / "ready.mp4", Encoding(short_side, 4, 21, "superfast"))
    assert (made.width, made.height) == expected


@pytest.mark.parametrize("gop", [1, 2, 4, 8])
def test_no_frame_costs_more_than_three_packets(tmp_path: Path, gop: int) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=100, gop=100)

    def count_packets(path: Path, wanted: list[int]) -> int:
        with open_video(str(path)) as (container, stream):
            table, droppable = scan(str(path), container, stream), non_reference_test(stream.codec_context)
            positions = {table.order[index] for index in wanted}
            runs = video._runs(table, positions)
            packets = enumerate(table.kept or [])
            fed = [i for i, packet in packets if i in positions or not droppable(packet)]
            return sum(first <= i <= last for i in fed for first, last in runs)

    transcode(str(clip), tmp_path / "ready.mp4", Encoding(256, gop, 21, "superfast"))
    for start in range(gop):
        wanted = list(range(start, start + 8 * 11, 11))
        assert count_packets(tmp_path / "ready.mp4", wanted) <= min(gop, 3) * 8
        assert count_packets(clip, wanted) > 24


def test_what_cannot_be_read_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    sound = make_sound(tmp_path / "sound.mp4")
    cut = make_clip(tmp_path / "cut.avi", codec="mpeg4")
    with pytest.raises(BadVideo, match="has no video track, only sound"):
        transcode(str(sound), tmp_path / "ready.mp4", ENCODING)
    with pytest.raises(BadVideo, match="does not exist"):
        transcode(str(tmp_path / "none.mp4"), tmp_path / "ready.mp4", ENCODING)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([sound.name, cut.name])


def test_what_comes_back_otherwise_is_refused(tmp_path: Path) -> None:
    """A clip is held against files that are not what was written."""

    def encode(name: str, **options: Any) -> tuple[Path, Any]:
        clip = make_clip(tmp_path / f"{name}.mp4", **{"num_frames": 12, **options})
        return (ready := tmp_path / f"{name}.ready.mp4"), _encode(
            _show(str(clip), None, by_time=True), str(clip), ready, ENCODING, None
        )

    file, written = encode("plain")
    shorter, _ = encode("shorter", num_frames=10)
    later, _ = encode("later", times=UNEVEN)
    inverse = replace(written, sampled={number: 255 - frame for number, frame in written.sampled.items()})
    swapped = tmp_path / "swapped.mp4"
    with av.open(str(file)) as source, av.open(str(swapped), "w") as output:
        copy = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.pts, packet.dts = copy, number * 512, number * 512
            output.mux(packet)
    assert _verify("clip", file, written) > 27
    for found, expected, words in (
        (shorter, written, "10 of 12 frames come back"),
        (later, written, "frame 2 comes back at another time"),
        (file, inverse, "a frame differs from its original"),
        (swapped, written, "its frames do not come back in their order"),
    ):
        with pytest.raises(BadVideo, match=words):
            _verify("clip", found, expected)


def test_names_do_not_collide() -> None:
    root = "/data/k"
    sources = [
        "/data/k/a/1.mp4",
        "/data/k/a/2.avi",
        "/data/k/a/2.mp4",
        "/data/k/./A/1.MP4",
        "/data/k/b c: d.webm",
        "/elsewhere/a/1.mp4",
        "/data/k/../k2/x",
    ]
    targets = plan_targets(dict.fromkeys(sources, root), {source: Listed(source, 0) for source in sources})
    assert len({target.casefold() for target in targets.values()}) == len(sources)
    assert targets["/data/k/b c: d.webm"] == "clips/b c: d.mp4"
    assert targets["/elsewhere/a/1.mp4"] == "clips/outside/elsewhere/a/1.mp4"
    assert targets["/data/k/../k2/x"] == "clips/outside/data/k2/x.mp4"
    assert targets["/data/k/a/2.avi"].startswith("clips/a/2-")
    other = plan_targets(dict.fromkeys(reversed(sources), root), {source: Listed(source, 0) for source in sources})
    assert other == targets


class Request:
    """Four clips and a broken one in a list, and what prepares them."""

    def __init__(self, folder: Path) -> None:
        (folder / "videos").mkdir()
        paths = [make_clip(folder / "videos" / f"{i}.mp4", num_frames=12, seed=i) for i in range(4)]
        broken = folder / "videos" / "broken.mp4"
        broken.write_text("no video")
        self.sources = [str(path) for path in [*paths[:2], broken, *paths[2:]]]
        self.lists = {"train": str(folder / "train.tsv"), "val": None}
        Path(folder / "train.tsv").write_text("".join(f"{path}\t{i}\n" for i, path in enumerate(self.sources)))
        self.folder, self.root = folder / "ready", str(folder / "videos")

    def open(self, **changes: Any) -> Preparation:
        base = {"data__train_list": f"{self.root}/train.txt", "data__root": self.root, "data__num_workers": 2}
        return Preparation(settings(**base, **changes), self.lists, self.folder)

    def run(self, **changes: Any) -> dict[str, Any]:
        work = self.open(**changes)
        try:
            replies = [work.advance(0.05, lambda: None)]
            while not replies[-1]["done"]:
                replies.append(work.advance(0.05, lambda: None))
            return {**replies[-1], "bad": [video for reply in replies for video in reply["bad"]]}
        finally:
            work.close()

    def hashes(self) -> dict[str, str]:
        _, records = read_manifest(self.folder / "manifest.jsonl")
        return {source: record["sha256"] for source, record in records.items()}


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return Request(tmp_path)


def test_lists_manifest_and_bad_videos(request_: Request) -> None:
    result = request_.run()
    reason = "is a text, not a video"
    assert result["bad"] == [{"path": request_.sources[2], "reason": reason}]
    assert (result["num_done"], result["num_total"], result["num_bad"]) == (5, 5, 1)
    assert (request_.folder / "train.txt").read_text() == "".join(f"clips/{i}.mp4 {j}\n" for i, j in enumerate("0134"))
    assert (request_.folder / "bad-videos.tsv").read_text() == f"{request_.sources[2]}\t{reason}\n"
    _, records = read_manifest(request_.folder / "manifest.jsonl")
    for source, record in records.items():
        target = request_.folder / record["target"]
        assert hashlib.sha256(target.read_bytes()).hexdigest() == record["sha256"]
        assert hashlib.sha256(Path(source).read_bytes()).hexdigest() == record["source_sha256"]
        assert (target.stat().st_size, record["num_frames"]) == (record["size_bytes"], 12)
    assert result["size_bytes"] == sum(record["size_bytes"] for record in records.values())


def test_only_what_is_missing_torn_or_changed_is_done_again(request_: Request) -> None:
    request_.run()
    hashes, journal = request_.hashes(), request_.folder / "manifest.jsonl"
    times = {path: path.stat().st_mtime_ns for path in (request_.folder / "clips").iterdir()}
    *whole, last = journal.read_bytes().splitlines(keepends=True)
    torn = json.loads(last)
    journal.write_bytes(b"".join(whole) + last[:-9])
    changed = next(source for source in request_.sources if source in hashes and source != torn["source"])
    make_clip(changed, num_frames=13, seed=9)
    request_.run()
    again = {path.name for path, before in times.items() if path.stat().st_mtime_ns != before}
    assert again == {Path(torn["target"]).name, Path(changed).name}
    assert request_.hashes() == {**hashes, changed: request_.hashes()[changed]} != hashes
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_source_replaced_by_one_of_the_same_size_is_done_again(request_: Request) -> None:
    source = Path(request_.sources[0])

    def make(seed: int) -> None:
        make_clip(source, num_frames=12, seed=seed)
        num_free = 50_000 - source.stat().st_size  # a box that readers pass over
        source.write_bytes(source.read_bytes() + num_free.to_bytes(4, "big") + b"free" + bytes(num_free - 8))

    make(0)
    request_.run()
    before = request_.hashes()
    make(9)
    assert source.stat().st_size == 50_000
    request_.run()
    assert [path for path, digest in request_.hashes().items() if digest != before[path]] == [str(source)]


def test_other_settings_are_refused_by_name(request_: Request) -> None:
    request_.run()
    with pytest.raises(UserError, match=r"other settings:\n  prepare\.gop: 4 there, 8 here\nGive another --output"):
        request_.open(prepare__gop=8)


def test_one_writer_at_a_time(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldframe.machine.lock.WAIT_SECONDS", 0.2)
    one, two = request_.open(), request_.open()
    one.advance(0, lambda: None)
    with pytest.raises(UserError, match=r"is in use by process \d+ .* or choose another --output"):
        two.advance(0, lambda: None)
    one.close()
    two.close()


def test_its_own_clips_are_no_source(request_: Request, tmp_path: Path) -> None:
    request_.run()
    Path(request_.lists["train"] or "").write_text(f"{request_.folder}/clips/0.mp4\t0\n")
    with pytest.raises(UserError, match="lies in it"):
        request_.open()


def test_forecast_is_near_and_writes_nothing(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    work = request_.open()
    forecast = work.forecast(lambda: None)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=9))
    tight = work.forecast(lambda: None)
    work.close()
    assert not request_.folder.exists()
    assert (forecast["fits"], tight["fits"], tight["free_bytes"]) == (True, False, 9)
    assert (forecast["num_clips"], forecast["num_todo"], forecast["measured_clips"]) == (5, 5, 4)
    assert forecast["source_bytes"] == sum(Path(source).stat().st_size for source in request_.sources)
    result = request_.run()
    bytes_ = forecast["bytes"]
    assert bytes_["low"] <= result["size_bytes"] <= bytes_["high"]
    assert bytes_["estimate"] == pytest.approx(result["size_bytes"], rel=0.05)


def test_a_worker_that_dies_is_replaced_and_its_clip_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.mp4")  # nobody writes: who opens it waits
    clip = make_clip(tmp_path / "clip.mp4", num_frames=4)
    workers = Workers(1, "coldframe.prepare.transcode", "re-encodes it")

    def request(source: Path) -> dict[str, Any]:
        encoding = {"short_side": 64, "gop": 4, "crf": 21, "preset": "superfast"}
        return {
            "source": str(source),
            "target": f"{tmp_path}/ready.mp4",
            "encoding": encoding,
            "max_frames": None,
            "part": None,
        }

    try:
        stuck, after = workers.submit(request(tmp_path / "endless.mp4")), workers.submit(request(clip))
        for number in (1, 2):
            while len(workers._processes) < number:
                time.sleep(0.01)
            for worker in list(workers._processes):
                worker.kill()
        assert stuck.result(60) == {"reason": "ends the process that re-encodes it by SIGKILL"}
        assert after.result(60)["made"]["num_frames"] == 4
    finally:
        workers.close()
    assert all(worker.poll() is not None for worker in workers._processes)
