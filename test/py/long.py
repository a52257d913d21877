"""Makes long videos out of short clips, without encoding more than the clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import PictureType, VideoFrame

SIZE = 170, 128  # pixels


def write_long(path: Path, clips: Sequence[Path], blocks: Sequence[int], seconds: float, fps: int) -> None:
    """Writes an MP4 (`fps`) in which for `seconds` each the clips `blocks` are shown, over and over."""
    packets = _encode(path.with_suffix(".clips.mp4"), clips, fps)
    with av.open(str(path.with_suffix(".clips.mp4"))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        number = 0
        for i, block in enumerate(blocks):
            shown = packets[block]
            first = number
            while number < round((i + 1) * seconds * fps):
                data, is_key = shown[(number - first) % len(shown)]
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, fps), is_key
                packet.pts = packet.dts = number
                packet.duration = 1
                target.mux(packet)
                number += 1


def _encode(path: Path, clips: Sequence[Path], fps: int) -> list[list[tuple[bytes, bool]]]:
    """Returns the packets of each clip, as they lie in a file of all: a packet a frame, in the order of display."""
    options = {
        "preset": "ultrafast",
        "crf": "20",
        "bf": "0",
        "g": "1000",
        "forced-idr": "1",
        "x264-params": "log-level=none",
    }
    lengths = []
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        number = 0
        for clip in clips:
            frames = list(_read(clip))
            for i, frame in enumerate(frames):
                frame.pts, frame.time_base = number, Fraction(1, fps)
                frame.pict_type = PictureType.I if i == 0 else PictureType.NONE
                target.mux(stream.encode(frame))
                number += 1
            lengths.append(len(frames))
        target.mux(stream.encode(None))
    with av.open(str(path)) as source:
        found = [(bytes(packet), packet.is_keyframe) for packet in source.demux(video=0) if packet.size]
    assert len(found) == sum(lengths)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    assert all(found[start][1] for start in starts)
    return [found[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def _read(clip: Path) -> Iterator[VideoFrame]:
    with av.open(str(clip)) as source:
        for frame in source.decode(video=0):
            yield frame.reformat(*SIZE, format="yuv420p")
