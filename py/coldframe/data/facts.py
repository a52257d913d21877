"""What a video is, without decoding more than its first frame: frames, size, rate, codec, rotation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from coldframe import heartbeat
from coldframe.video.packets import Table, scan
from coldframe.video.sequence import decode_all
from coldframe.video.streams import BadVideo, open_video
from coldframe.video.upright import read_upright

# Distances between frames that differ by more than this share of the usual one, and by more than rounding makes of
# them, are a variable rate. Phones are a few percent off, a camera that doubles its exposure at dusk is 100 percent.
_VARIES = 0.25
_ROUNDING_TICKS = 2


def probe(path: str) -> dict[str, Any]:
    """Returns num_frames, num_missing (that the header promises beyond those), width and height (pixels, as shown),
    rate (frames a second, the mean), is_variable_rate, duration_seconds, codec, container, rotation (degrees),
    mirrored, and by_time: whether frames are found by their times rather than by decoding from the beginning.

    Demuxes the whole file and decodes its first frame. Raises BadVideo.
    """
    with open_video(path) as (container, stream):
        table = scan(path, container, stream)
        first = next((frame for frame in decode_all(path, table) if isinstance(frame, VideoFrame)), None)
        if first is None:
            raise BadVideo(path, "not a single frame can be decoded")
        num_frames, rate, upright = len(table.order), float(stream.average_rate or 0), read_upright(first)
        shown = (first.height, first.width) if upright.transposed else (first.width, first.height)
        return {
            "num_frames": num_frames,
            "num_missing": table.missing,
            "width": shown[0],
            "height": shown[1],
            "rate": rate,
            "is_variable_rate": table.has_times and _varies([table.times[position] for position in table.order]),
            "duration_seconds": _promised_seconds(container) or (num_frames / rate if rate else 0.0),
            "codec": stream.codec_context.name,
            "container": _name_container(path, container.format.name),
            "rotation": int(first.rotation),
            "mirrored": upright.is_mirrored,
            "by_time": _is_by_time(table),
        }


def measure(paths: list[str]) -> dict[str, Any]:
    """Returns duration_seconds of each of these files, or the reason why it cannot be opened; decodes nothing. Where
    the header tells no duration, as of what a browser records, it is that of the packets."""
    return {"videos": [{"path": path, **_measure(path)} for path in paths]}


def _measure(path: str) -> dict[str, Any]:
    heartbeat.progress()
    try:
        with open_video(path) as (container, stream):
            seconds = _promised_seconds(container) or _span_seconds(scan(path, container, stream), stream)
            return {"duration_seconds": seconds, "reason": None}
    except BadVideo as bad:
        return {"duration_seconds": None, "reason": bad.reason}


def _promised_seconds(container: InputContainer) -> float:
    """Returns the duration that the header tells, 0 where it tells none."""
    return (container.duration or 0) / av.time_base


def _span_seconds(table: Table, stream: VideoStream) -> float:
    if table.has_times and stream.time_base is not None:
        return float((max(table.times) - min(table.times)) * stream.time_base)
    return len(table.order) / float(stream.average_rate) if stream.average_rate else 0.0


def _is_by_time(table: Table) -> bool:
    return table.by_time and table.agrees(range(len(table.order)))


def _varies(times: Sequence[int]) -> bool:
    """Returns whether ascending times are at different distances."""
    gaps = sorted(after - before for before, after in pairwise(times))
    if not gaps:
        return False
    return gaps[-1] - gaps[0] > max(_ROUNDING_TICKS, _VARIES * gaps[len(gaps) // 2])


def _name_container(path: str, name: str) -> str:
    """Returns FFmpeg's name; of those that one demuxer goes by, the one that the file is called by."""
    names = name.split(",")
    suffix = path.rpartition(".")[2].lower()
    return suffix if suffix in names else names[0]
