"""Damage that a decoder passes over in silence: what it leaves out, and what it makes of nothing."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from clips import make_clip, read_number
from coldframe.video.frames import BadVideo, read_frames
from test_video_order import HEVC_OPEN, OPEN, decode_everything

PLAIN_HEVC = {"x265-params": "log-level=none:bframes=3:open-gop=0:keyint=12:pools=none:frame-threads=1"}
X264 = {"preset": "medium", "x264-params": "log-level=none:bframes=2:threads=1:mbtree=0"}
MAKES = {
    "h264.mp4": {"options": X264},
    "open.mp4": {"options": OPEN, "gop": 10},
    "hevc.mp4": {"codec": "libx265", "options": PLAIN_HEVC},
    "open_hevc.mp4": {"codec": "libx265", "options": HEVC_OPEN},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "vp9.mp4": {"codec": "libvpx-vp9", "b_frames": 0},
    "av1.mp4": {"codec": "libsvtav1", "b_frames": 0, "options": {"preset": "12", "svtav1-params": "keyint=16"}},
}


def find_packets(path: Path) -> list[tuple[int, int, bool]]:
    """Returns place, size and whether it is a keyframe, of each packet; behind a chunk's name and size in an AVI."""
    skipped = 8 if path.suffix == ".avi" else 0
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [((packet.pos or 0) + skipped, packet.size, packet.is_keyframe) for packet in packets]


def read_one(path: Path, index: int) -> np.ndarray | None:
    try:
        return read_frames(str(path), lambda n: [min(index, n - 1)])[0]
    except BadVideo:
        return None


@pytest.mark.parametrize("byte", [0, 255])
@pytest.mark.parametrize("name", MAKES)
def test_a_packet_without_its_head_is_an_error_for_what_follows(tmp_path: Path, name: str, byte: int) -> None:
    path = make_clip(tmp_path / name, num_frames=48, **MAKES[name])
    whole, packets = path.read_bytes(), find_packets(path)
    keys = [number for number, packet in enumerate(packets) if packet[2]]
    num_refused = 0
    for number in (keys[0], keys[1], keys[1] + 3):
        data = bytearray(whole)
        start, size, _ = packets[number]
        end = size if number == 0 else min(size, 16)  # before the first picture there are other units
        data[start + 4 : start + end] = bytes([byte]) * (end - 4)
        path.write_bytes(data)
        for index in (0, 5, 20, 30, 47):
            found = read_one(path, index)
            num_refused += found is None
            assert found is None or read_number(found) == index, (number, index)
    assert num_refused > 0


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx265"), ("a.webm", "libvpx-vp9"), ("b.webm", "libvpx")])
def test_a_picture_half_of_which_was_never_written_is_an_error(tmp_path: Path, name: str, codec: str) -> None:
    """The decoder makes a picture of the zeros, and calls it sound."""
    options = {"options": PLAIN_HEVC} if codec == "libx265" else {"b_frames": 0}
    path = make_clip(tmp_path / name, num_frames=40, codec=codec, gop=12, size=(192, 128), **options)
    packets = find_packets(path)
    number = [number for number, packet in enumerate(packets) if packet[2]][1]
    start, size, _ = packets[number]
    if path.suffix == ".webm":  # the block's own head comes before
        with av.open(str(path)) as container:
            start = path.read_bytes().index(bytes([p for p in container.demux(video=0) if p.size][number]))
    data = bytearray(path.read_bytes())
    data[start + size // 2 : start + size] = bytes(size - size // 2)
    path.write_bytes(data)
    assert len(decode_everything(path)) == 40
    assert [read_one(path, index) is None for index in (12, 14, 20)] == [True, True, True]
    assert [read_number(frame) for frame in read_frames(str(path), lambda n: [3, 10])] == [3, 10]


@pytest.mark.parametrize("byte", [4, 5, 6])
def test_a_transport_stream_gives_what_a_decoder_gives_or_nothing(tmp_path: Path, byte: int) -> None:
    """A packet is what its headers make it there: one that is lost moves all that follow."""
    path = make_clip(tmp_path / "clip.ts", num_frames=48, gop=16, options=X264)
    whole = path.read_bytes()
    unit = [place for place in range(len(whole) - 5) if whole[place : place + 4] == b"\0\0\1\x65"][1]
    for bit in range(8):
        data = bytearray(whole)
        data[unit + byte - 1] ^= 1 << bit
        path.write_bytes(data)
        every = decode_everything(path)
        for index in (0, 10, 20, 30, 36, 40, 46):
            found = read_one(path, index)
            if found is not None:
                assert read_number(found) == index or np.array_equal(found, every[min(index, len(every) - 1)]), index
