"""A part of a video: the frames whose times lie in [start, end), and the packets that they need, found by seeking."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import NamedTuple, cast

from av.container import InputContainer
from av.video.stream import VideoStream

from coldframe.video.bits import VideoPacket
from coldframe.video.cut import MAX_MISSING
from coldframe.video.packets import INDEXED_CODECS, KEPT_BYTES, LONGEST_WAIT, Table, scan_window
from coldframe.video.streams import BadVideo, is_picture_container

MICROSECONDS = 1_000_000
# Containers with an index of their keyframes. In a transport stream a seek is a search for something that looks right.
_INDEXED_CONTAINERS = ("mov,mp4", "matroska,webm")
# How far before the part a keyframe is looked for, when the one that the index gives is shown behind its start.
_STEPS_SECONDS = (0, 1, 4, 16, 64)


class Part(NamedTuple):
    """Microseconds since the first frame that is shown."""

    start: int
    end: int

    @classmethod
    def of_seconds(cls, start: str | float, end: str | float) -> Part:
        """Returns the part of times in seconds, rounded to the nearest microsecond."""
        return cls(round(float(start) * MICROSECONDS), round(float(end) * MICROSECONDS))


def name_clip(path: str, part: Part | None) -> str:
    """Returns the path, of a part `PATH#t=START,END` as in W3C's Media Fragments URI 1.0 (4.2.1), which means the same:
    the half-open interval, in seconds."""
    if part is None:
        return path
    return f"{path}#t={show_seconds(part.start)},{show_seconds(part.end)}"


def show_seconds(microseconds: int) -> str:
    """Returns seconds without digits that say nothing."""
    whole, rest = divmod(microseconds, MICROSECONDS)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def to_microseconds(ticks: int, unit: Fraction) -> int:
    """Returns the nearest whole number of microseconds."""
    return (2 * ticks * unit.numerator * MICROSECONDS + unit.denominator) // (2 * unit.denominator)


def time_frames(table: Table, num_frames: int, places: Sequence[int | None] | None) -> list[int]:
    """Returns the times of the frames (microseconds, ascending), the first of them 0.

    places: of each frame the position of its packet, where decoding has told it. A file without presentation times of
    its own (AVI, a bare stream) has its frames at equal distances.
    """
    positions = table.order if places is None else [place for place in places if place is not None]
    if table.has_clock and len(positions) == num_frames and len(set(positions)) == num_frames:
        times = sorted(table.times[position] for position in positions)
        return [to_microseconds(time - times[0], table.unit) for time in times]
    return [to_microseconds(i, 1 / table.rate) for i in range(num_frames)]


def find_part(path: str, part: Part, times: Sequence[int], rate: Fraction) -> range:
    """Returns the numbers of the part's frames. Raises BadVideo where there are none, or where the video ends before
    the part does, by more than a frame and MAX_MISSING of it."""
    first, end = bisect_left(times, part.start), bisect_left(times, part.end)
    start_text, end_text = show_seconds(part.start), show_seconds(part.end)
    period = to_microseconds(1, 1 / rate)
    over = times[-1] + period
    if part.end - over > max(period, MAX_MISSING * (part.end - part.start)):
        raise BadVideo(path, f"ends at {show_seconds(over)} s, before its part from {start_text} to {end_text} s")
    if first == end:
        raise BadVideo(path, f"has no frame from {start_text} to {end_text} s: they are {show_seconds(period)} s apart")
    return range(first, end)


# ---- seeking ---------------------------------------------------------------------------------------------------------


def find_window(path: str, container: InputContainer, stream: VideoStream, part: Part) -> tuple[Table, range] | None:
    """Returns the table of a window of the file, and the numbers in it of the part's frames; None where only the whole
    file tells which they are. Raises BadVideo where the part has no frame, or ends behind the video."""
    name = stream.codec_context.codec.canonical_name
    is_indexed = container.format.name.startswith(_INDEXED_CONTAINERS) and not is_picture_container(container)
    if not is_indexed or name not in INDEXED_CODECS or stream.time_base is None:
        return None
    unit = Fraction(stream.time_base)
    head = list(islice(_demux(container, stream), LONGEST_WAIT + 1))
    if not head or not head[0].is_keyframe or any(packet.pts is None for packet in head):
        return None
    first = min((cast(int, packet.pts) for packet in head if not packet.is_discard), default=None)
    if first is None or head[0].pts != first:
        return None
    packets = _collect(container, stream, first, unit, part)
    if packets is None:
        return None
    end = first + -(-part.end * unit.denominator // (unit.numerator * MICROSECONDS))
    table = scan_window(container, stream, packets, complete_until=end)
    if not table.by_time:
        return None
    times = [to_microseconds(table.times[position] - first, unit) for position in table.order]
    return table, find_part(path, part, times, table.rate)


def _demux(container: InputContainer, stream: VideoStream) -> Iterator[VideoPacket]:
    return (packet for packet in container.demux(stream) if packet.size)


def _collect(
    container: InputContainer, stream: VideoStream, first: int, unit: Fraction, part: Part
) -> list[VideoPacket] | None:
    """Returns the packets from the part's keyframe on, so far behind its end that no frame of it can follow."""
    found = _seek(container, stream, first, unit, part)
    if found is None:
        return None
    key, packets = found
    kept, num_bytes, num_behind = [key], key.size, 0
    for packet in packets:
        if packet.pts is None or packet.is_corrupt or num_bytes > KEPT_BYTES:
            return None
        kept.append(packet)
        num_bytes += packet.size
        num_behind += to_microseconds(packet.pts - first, unit) >= part.end
        if num_behind == LONGEST_WAIT:
            break
    return kept


def _seek(
    container: InputContainer, stream: VideoStream, first: int, unit: Fraction, part: Part
) -> tuple[VideoPacket, Iterator[VideoPacket]] | None:
    """Returns a keyframe that is not shown after the part's start, and what follows it."""
    start = first + part.start * unit.denominator // (unit.numerator * MICROSECONDS)
    for seconds in _STEPS_SECONDS:
        target = max(first, start - int(seconds / unit))
        container.seek(target, stream=stream)
        packets = _demux(container, stream)
        key = next(packets, None)
        if key is None or not key.is_keyframe or key.is_corrupt or key.pts is None:
            return None
        if to_microseconds(key.pts - first, unit) <= part.start:
            return key, packets
        if target == first:
            return None
    return None
