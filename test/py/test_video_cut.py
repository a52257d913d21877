"""Files that lack part of what their header promises: what is told of them, and what is no cut."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import pytest

from clips import make_clip, read_number
from coldframe.data.facts import probe
from coldframe.prepare.transcode import Encoding, transcode
from coldframe.video.frames import BadVideo, read_frames

ENCODING = Encoding(short_side=None, gop=4, crf=10, preset="superfast")

CUT = {
    "a.mp4": ({"container_options": {"movflags": "faststart"}}, r"is cut off: \d\d of 60 frames are there. Up to 5%"),
    "fragmented.mp4": ({"container_options": {"movflags": "frag_keyframe+empty_moov"}}, "is cut off"),
    "a.mkv": ({}, r"is cut off: \d+ of \d+ bytes are there. Up to 5%"),
    "a.webm": ({"codec": "libvpx-vp9", "b_frames": 0}, "is cut off"),
    "a.avi": ({"codec": "mpeg4"}, "is cut off"),
    "a.flv": ({}, r"is cut off: \d+ of \d+ bytes are there"),
    "a.ivf": ({"codec": "libvpx", "b_frames": 0}, "is cut off"),
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_lacks_much_of_what_its_header_promises_is_refused(tmp_path: Path, name: str) -> None:
    options, reason = CUT[name]
    path = make_clip(tmp_path / name, num_frames=60, **options)
    whole = path.read_bytes()
    assert probe(str(path))["num_missing"] == 0
    path.write_bytes(whole[: len(whole) * 2 // 5])
    for read in (lambda: read_frames(str(path), lambda n: [0]), lambda: probe(str(path))):
        with pytest.raises(BadVideo, match=reason):
            read()
    with pytest.raises(BadVideo, match=reason):
        transcode(str(path), tmp_path / "ready.mp4", ENCODING)


def test_a_file_that_lacks_little_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", num_frames=100, container_options={"movflags": "faststart"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: packets[97].pos])
    found = probe(str(path))
    assert (found["num_frames"], found["num_missing"]) == (97, 3)
    frames = read_frames(str(path), lambda n: list(range(n)))
    assert [read_number(frame) for frame in frames[:90]] == list(range(90))


def test_an_old_size_in_the_metadata_of_a_flash_video_is_not_taken_for_a_cut(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.flv")
    data = bytearray(path.read_bytes())
    place = data.index(b"filesize\0") + 9
    data[place : place + 8] = struct.pack(">d", 10 * len(data))
    path.write_bytes(data)
    assert len(read_frames(str(path), lambda n: list(range(n)))) == 40


def test_an_edit_list_that_hides_much_is_not_taken_for_a_cut(tmp_path: Path) -> None:
    from clips import cut_by_edit_list

    path = make_clip(tmp_path / "clip.mp4", num_frames=60, gop=12)
    cut_by_edit_list(path, 40, 25)
    frames = read_frames(str(path), lambda n: list(range(n)))
    assert [read_number(frame) for frame in frames] == list(range(40, 60))
