"""Frames in the decoder's own order, held against decoding everything without seeking; and what is no video at all."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from clips import make_clip, read_number
from coldframe.data.facts import probe
from coldframe.prepare.transcode import Encoding, transcode
from coldframe.video.frames import BadVideo, read_frames
from coldframe.video.torchcodec import choose_reader

REORDERED = {"preset": "medium", "x264-params": "log-level=none:bframes=3:b-pyramid=normal:threads=1"}
OPEN = {"preset": "medium", "x264-params": "log-level=none:open-gop=1:bframes=3:threads=1"}
HEVC_OPEN = {"x265-params": "log-level=none:bframes=3:open-gop=1:keyint=10:pools=none:frame-threads=1"}
ENCODING = Encoding(short_side=None, gop=4, crf=10, preset="superfast")
Packets = list["av.Packet[av.VideoStream]"]


def decode_everything(path: Path) -> list[np.ndarray]:
    """Returns what a decoder gives, in its order, however often a packet cannot be decoded."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.FFmpegError):
                decoded = stream.codec_context.decode(packet if packet.size else None)
                frames += [frame.to_ndarray(format="rgb24") for frame in decoded]
    return frames


def remux(source: Path, target: Path, change: Callable[[Packets], Packets], container_format: str) -> Path:
    with av.open(str(source)) as container, av.open(str(target), "w", format=container_format) as output:
        stream = container.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for packet in change([packet for packet in container.demux(stream) if packet.size]):
            packet.stream = copy
            output.mux(packet)
    return target


def in_decoding_order(packets: Packets) -> Packets:
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = number * 512
    return packets


def assert_same_as_decoder(path: Path) -> list[np.ndarray]:
    """Every single frame, their number, and all at once."""
    every = decode_everything(path)
    for index in range(len(every)):
        counts: list[int] = []
        found = read_frames(str(path), lambda n, i=index, counts=counts: counts.append(n) or [min(i, n - 1)])[0]
        assert counts[-1] == len(every)
        np.testing.assert_array_equal(found, every[index])
    np.testing.assert_array_equal(read_frames(str(path), lambda n: list(range(n))), every)
    return every


CONTAINERS = {"mkv": "matroska", "mp4": "mp4", "mov": "mov", "flv": "flv", "ts": "mpegts", "nut": "nut", "asf": "asf"}


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_times_that_are_decoding_times_do_not_order_frames(tmp_path: Path, suffix: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", gop=16, options=REORDERED)
    path = remux(clip, tmp_path / f"plain.{suffix}", in_decoding_order, CONTAINERS[suffix])
    assert [read_number(frame) for frame in assert_same_as_decoder(path)] == list(range(40))


def test_times_that_are_decoding_times_in_half_of_a_file_or_in_hevc(tmp_path: Path) -> None:
    def spoil_half(packets: Packets) -> Packets:
        for packet in packets[24:]:
            packet.pts = packet.dts
        return packets

    clip = make_clip(tmp_path / "clip.mp4", gop=12)
    half = remux(clip, tmp_path / "half.mkv", spoil_half, "matroska")
    assert [read_number(frame) for frame in assert_same_as_decoder(half)] == list(range(40))
    hevc = make_clip(tmp_path / "hevc.mp4", codec="libx265", options=HEVC_OPEN)
    path = remux(hevc, tmp_path / "hevc.mkv", in_decoding_order, "matroska")
    assert [read_number(frame) for frame in assert_same_as_decoder(path)] == list(range(40))


def test_guessed_times_that_were_written_into_another_container(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.avi", gop=24, options=REORDERED)
    path = remux(clip, tmp_path / "remuxed.mkv", lambda packets: packets, "matroska")
    assert [read_number(frame) for frame in assert_same_as_decoder(path)] == list(range(40))


@pytest.mark.parametrize("suffix", ["mkv", "flv", "mp4"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_cut_inside_an_open_group_shows_what_a_decoder_shows(tmp_path: Path, codec: str, suffix: str) -> None:
    options = OPEN if codec == "libx264" else HEVC_OPEN
    clip = make_clip(tmp_path / "clip.mp4", num_frames=50, gop=10, codec=codec, options=options)
    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    shown_before = [packet for packet in packets[keys[1] :] if (packet.pts or 0) < (packets[keys[1]].pts or 0)]
    assert shown_before, "the group is not open"
    head = remux(clip, tmp_path / f"head.{suffix}", lambda packets: packets[keys[1] :], CONTAINERS[suffix])
    numbers = [read_number(frame) for frame in assert_same_as_decoder(head)]
    assert numbers == list(range(numbers[0], 50))
    assert_same_as_decoder(remux(clip, tmp_path / f"mid.{suffix}", lambda packets: packets[4:], CONTAINERS[suffix]))
    splice = tmp_path / f"splice.{suffix}"
    remux(clip, splice, lambda packets: packets[: keys[1]] + packets[keys[3] :], CONTAINERS[suffix])
    assert_same_as_decoder(splice)


def test_transport_streams_one_behind_the_other(tmp_path: Path) -> None:
    one = make_clip(tmp_path / "one.ts", num_frames=20)
    other = make_clip(tmp_path / "other.ts", num_frames=30, seed=1)
    path = tmp_path / "both.ts"
    path.write_bytes(one.read_bytes() + other.read_bytes())
    numbers = [read_number(frame) for frame in assert_same_as_decoder(path)]
    assert numbers == [*range(20), *range(30)]


def test_prepared_clips_have_the_frames_that_are_read(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", gop=10, options=OPEN)
    made_up = remux(clip, tmp_path / "made_up.mkv", in_decoding_order, "matroska")
    with av.open(str(clip)) as container:
        key = [i for i, packet in enumerate(container.demux(video=0)) if packet.is_keyframe][1]
    cut = remux(clip, tmp_path / "cut.mkv", lambda packets: packets[key:], "matroska")
    for path in (made_up, cut):
        numbers = [read_number(frame) for frame in decode_everything(path)]
        assert transcode(str(path), tmp_path / "ready.mp4", ENCODING).num_frames == len(numbers)
        ready = read_frames(str(tmp_path / "ready.mp4"), lambda n: list(range(n)))
        assert [read_number(frame) for frame in ready] == numbers


def test_a_moved_frame_of_a_damaged_file_is_that_of_its_time_or_refused(tmp_path: Path) -> None:
    """The bit that is flipped lies in the slice header's count, so that nothing but the order of the frames changes."""
    options = {"preset": "medium", "x264-params": "log-level=none:bframes=2:threads=1:mbtree=0"}
    clip = make_clip(tmp_path / "clip.mp4", num_frames=48, gop=48, options=options)
    sound = decode_everything(clip)
    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    num_refused = num_moved = 0
    path = tmp_path / "damaged.mp4"
    for packet, byte, bit in [(p, byte, bit) for p in packets[5:45:8] for byte in (6, 7) for bit in (1, 4, 6)]:
        data = bytearray(clip.read_bytes())
        data[(packet.pos or 0) + byte] ^= 1 << bit
        path.write_bytes(data)
        by_time = {}
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            with contextlib.suppress(av.error.FFmpegError):
                for frame in container.decode(video=0):
                    by_time[frame.pts] = frame.to_ndarray(format="rgb24")
        every = decode_everything(path)
        for index, time in enumerate(sorted(p.pts or 0 for p in packets)):
            try:
                found = read_frames(str(path), lambda n, i=index: [i])[0]
            except BadVideo:
                num_refused += 1
                continue
            right = [sound[index], *([by_time[time]] if time in by_time else [])]
            assert any(np.array_equal(found, frame) for frame in right), (packet.pts, byte, bit, index)
            num_moved += index >= len(every) or not np.array_equal(found, every[index])
    assert num_refused > 0
    assert num_moved > 0  # frames that counting what comes out would have missed


# ---- turned and mirrored ---------------------------------------------------------------------------------------------

# a, b, c, d of ISO/IEC 14496-12 6.2.2, and what players show
MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda image: image[::-1]),
    "turned by 180": ((-1, 0, 0, -1), lambda image: image[::-1, ::-1]),
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "counter-clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image)),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "transposed the other way": ((0, -1, -1, 0), lambda image: image[::-1, ::-1].transpose(1, 0, 2)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_the_display_matrix_is_applied_whole(tmp_path: Path, name: str) -> None:
    (a, b, c, d), show = MATRICES[name]
    clip = make_clip(tmp_path / "clip.mp4", num_frames=6, gop=6)
    plain = decode_everything(clip)[3]
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    struct.pack_into(">9i", data, at, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_frames(str(path), lambda n: [3])[0], show(plain))
    found = probe(str(path))
    assert (found["height"], found["width"]) == show(plain).shape[:2]
    assert found["mirrored"] == (a * d - b * c < 0)
    transcode(str(path), tmp_path / "ready.mp4", ENCODING)
    ready = read_frames(str(tmp_path / "ready.mp4"), lambda n: [3])[0]
    assert np.abs(ready.astype(int) - show(plain)).mean() < 4


# ---- what is no video ------------------------------------------------------------------------------------------------


def draw(path: Path, codec: str, pixel_format: str, num_frames: int = 1, container_format: str | None = None) -> None:
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for number in range(num_frames):
            image = np.full((48, 64, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


TEXTS = {
    "readme.txt": ("# A readme\n\nWith some text.\n" * 40, "is a text"),
    "readme.mp4": ("# A readme\n\nWith some text.\n" * 40, "is a text"),
    "list.m3u8": ("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nclip.ts\n#EXT-X-ENDLIST\n", "is a playlist"),
    "list.ffconcat": ("ffconcat version 1.0\nfile clip.ts\n", "is a playlist"),
    "a.srt": ("1\n00:00:01,000 --> 00:00:02,000\nhello\n\n", "is a file of subtitles"),
    "a.vtt": ("WEBVTT\n\n00:01.000 --> 00:02.000\nhello\n", "is a file of subtitles"),
    "a.ass": ("[Script Info]\nScriptType: v4.00+\n", "is a file of subtitles"),
    "a.svg": ('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>\n', "is a text"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_not_painted_nor_followed(tmp_path: Path, name: str) -> None:
    make_clip(tmp_path / "clip.ts")
    text, reason = TEXTS[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(BadVideo, match=f"{reason}, not a video"):
        read_frames(str(tmp_path / name), lambda n: [0])


PICTURES = {
    "a.jpg": ("mjpeg", "yuvj420p", "image2"),
    "a.png": ("png", "rgb24", "image2"),
    "a.bmp": ("bmp", "bgr24", "image2"),
    "a.tiff": ("tiff", "rgb24", "image2"),
    "a.webp": ("libwebp", "yuv420p", "webp"),
    "a.gif": ("gif", "rgb8", "gif"),
    "a.apng": ("apng", "rgb24", "apng"),
    "a.avif": ("libsvtav1", "yuv420p", "avif"),
}


@pytest.mark.parametrize("disguise", ["", ".mp4"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_still_image_is_no_video(tmp_path: Path, name: str, disguise: str) -> None:
    draw(tmp_path / name, *PICTURES[name][:2], container_format=PICTURES[name][2])
    path = (tmp_path / name).rename(tmp_path / f"{name}{disguise}")
    with pytest.raises(BadVideo, match="is a still image"):
        read_frames(str(path), lambda n: [0])


@pytest.mark.parametrize("name", ["a.gif", "a.apng", "a.avif"])
def test_a_moving_image_is_a_video(tmp_path: Path, name: str) -> None:
    draw(tmp_path / name, *PICTURES[name][:2], num_frames=5, container_format=PICTURES[name][2])
    frames = read_frames(str(tmp_path / name), lambda n: list(range(n)))
    assert [round(float(frame.mean()) / 40) for frame in frames] == [0, 1, 2, 3, 4]


def test_a_picture_codec_in_a_container_of_videos_is_named(tmp_path: Path) -> None:
    draw(tmp_path / "a.avi", "targa", "bgr24", num_frames=3)
    with pytest.raises(BadVideo, match="has a track of targa, which is not a video codec"):
        read_frames(str(tmp_path / "a.avi"), lambda n: [0])


def test_a_header_that_counts_more_than_frames_is_not_taken_for_a_cut(tmp_path: Path) -> None:
    """FFmpeg's copy of H.264 with B-frames into an AVI counts an empty chunk beside every frame."""
    path = make_clip(tmp_path / "clip.avi", codec="mpeg4")
    data = bytearray(path.read_bytes())
    place = data.index(b"strh") + 8 + 32
    data[place : place + 4] = struct.pack("<I", 80)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 80
    assert len(assert_same_as_decoder(path)) == 40
    assert probe(str(path))["num_missing"] == 0


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "reason"),  # the decoder paints over the one, and gives nothing for a keyframe
    [(20, "is damaged"), (22, r"packet 22 of \d+ cannot be decoded: Invalid data found")],
)
def test_a_damaged_packet_of_a_file_without_times_is_an_error_for_what_follows(
    tmp_path: Path, number: int, reason: str
) -> None:
    path = make_clip(tmp_path / "clip.avi", codec="mpeg4", num_frames=40, gop=12)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    start = packets[number].pos + 8  # behind the chunk's name and size
    data[start : start + packets[number].size] = bytes(packets[number].size)
    path.write_bytes(data)
    assert [read_number(frame) for frame in read_frames(str(path), lambda n: [3, 12])] == [3, 12]
    with pytest.raises(BadVideo, match=reason):
        read_frames(str(path), lambda n: [30])


def test_damage_in_the_first_frame_of_a_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file too large to be kept: its decoder paints over what it lacks, and what refers to that looks sound."""
    monkeypatch.setattr("coldframe.video.packets.KEPT_BYTES", 1000)
    path = make_clip(tmp_path / "long.mp4", num_frames=60, gop=15, options={"crf": "5"})
    with av.open(str(path)) as container:
        key = [packet for packet in container.demux(video=0) if packet.is_keyframe][1]
    data = bytearray(path.read_bytes())
    half = key.size // 2
    data[key.pos + half : key.pos + key.size] = bytes(key.size - half)
    path.write_bytes(data)
    for wanted in ([15], [20], [29]):
        with pytest.raises(BadVideo, match="frame 15 of 60 is damaged"):
            read_frames(str(path), lambda n, wanted=wanted: wanted)
    assert [read_number(frame) for frame in read_frames(str(path), lambda n: [14, 40])] == [14, 40]


def test_equal_times_do_not_order_frames(tmp_path: Path) -> None:
    def give_two_one_time(packets: Packets) -> Packets:
        packets[7].pts = packets[7].dts = packets[6].pts
        return packets

    plain = make_clip(tmp_path / "plain.mp4", num_frames=12, b_frames=0)
    assert len(assert_same_as_decoder(remux(plain, tmp_path / "a.mkv", give_two_one_time, "matroska"))) == 12


def test_torchcodec_is_given_only_what_it_reads_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in that, like torchcodec, sorts frames by their times and knows nothing of the display matrix."""
    import sys
    import types

    import torch

    opened: list[str] = []

    class VideoDecoder:
        def __init__(self, path: str, **options: object) -> None:
            opened.append(Path(path).name)
            with av.open(path) as container:
                frames = sorted(container.decode(video=0), key=lambda frame: frame.pts or 0)
            self._frames = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])

        def __len__(self) -> int:
            return len(self._frames)

        def get_frames_at(self, indices: list[int]) -> types.SimpleNamespace:
            return types.SimpleNamespace(data=torch.from_numpy(self._frames[indices]))

    module = types.SimpleNamespace(VideoDecoder=VideoDecoder)
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)  # type: ignore[arg-type]
    plain = make_clip(tmp_path / "plain.mp4", options=REORDERED)
    clips = [
        plain,
        remux(plain, tmp_path / "made_up.mkv", in_decoding_order, "matroska"),
        make_clip(tmp_path / "turned.mp4", rotation=90),
        make_clip(tmp_path / "clip.avi", codec="mpeg4"),
    ]
    read = choose_reader("torchcodec")
    for clip in clips:
        wanted = [1, 7, 30]
        np.testing.assert_array_equal(
            read(str(clip), lambda n, w=wanted: w), read_frames(str(clip), lambda n, w=wanted: w)
        )
    assert opened == ["plain.mp4"]
