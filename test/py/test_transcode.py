"""Prepared clips: the same frames at the same times, cheap to open anywhere; whole files or none."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from clips import cut_by_edit_list, make_clip, make_sound
from coldframe.prepare.transcode import Encoding, _encode, _show, _verify, transcode
from coldframe.video import frames as video
from coldframe.video.frames import BadVideo, read_frames
from coldframe.video.h264 import non_reference_test
from coldframe.video.packets import scan
from coldframe.video.streams import open_video

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
