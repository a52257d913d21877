"""The packets that a part of a video needs, found by seeking: the rest of the file is not read."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from typing import cast

from av.container import InputContainer
from av.video.stream import VideoStream

from coldframe.video.bits import VideoPacket
from coldframe.video.packets import INDEXED_CODECS, KEPT_BYTES, LONGEST_WAIT, Table, scan_window
from coldframe.video.parts import MICROSECONDS, Part, find_part, to_microseconds
from coldframe.video.streams import is_picture_container

# Containers with an index of their keyframes. In a transport stream a seek is a search for something that looks right.
_INDEXED_CONTAINERS = ("mov,mp4", "matroska,webm")
# How far before the part a keyframe is looked for, when the one that the index gives is shown behind its start.
_STEPS_SECONDS = (0, 1, 4, 16, 64)


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
