"""Decoding everything, in the decoder's own order, for files whose time stamps cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import numpy as np
from av.codec.context import Flags
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from coldframe.video.bits import VideoPacket
from coldframe.video.packets import NUM_HOLE, Table, hole_test
from coldframe.video.streams import BadVideo, open_video
from coldframe.video.upright import read_upright

Frames = np.ndarray[Any, np.dtype[np.uint8]]

# A decoder that shows one frame in so many out of the order of their times follows a file whose times are made up. In
# one with true times it was led astray by damage, and which frame is meant there is anybody's guess.
_FRAMES_A_DESCENT = 10


@dataclass
class _Seen:
    """What decoding everything gave, or the beginning of it. places: position of the packet of each frame, None where
    the decoder does not tell; damage: number of the first frame that is not sure any more, and why."""

    places: list[int | None] = field(default_factory=list)
    corrupt: set[int] = field(default_factory=set)
    found: dict[int, Frames] = field(default_factory=dict)
    damage: tuple[int, str] | None = None
    is_whole: bool = True


Choose = Callable[[int, list[int | None] | None], list[int]]


def decode_in_sequence(path: str, table: Table, choose: Choose, take: Callable[[VideoFrame], Frames]) -> list[Frames]:
    """Returns the chosen frames where time stamps cannot be trusted: in the decoder's own order, which has to be gone
    through to its end to know how many there are. choose gets that number and, once it was, each frame's packet."""
    num_frames, places = len(table.order), None
    while True:
        indices = choose(num_frames, places)
        seen = _watch(path, table, set(indices), take, to_the_end=table.delay is None)
        if seen.is_whole and seen.damage is None and len(seen.places) != num_frames:
            num_frames, places = len(seen.places), seen.places
            if num_frames == 0:
                raise BadVideo(path, "not a single frame can be decoded")
            continue
        _refuse_doubt(path, table, seen, set(indices), num_frames)
        return pick(path, seen.found, indices)


def list_places(path: str, table: Table) -> list[int | None]:
    """Returns the packet of each frame that the decoder gives, None where it does not tell. Raises BadVideo when one is
    damaged, or not sure to be what it is."""
    seen = _watch(path, table, set(), rgb_converter(), to_the_end=True)
    num_frames = len(seen.places)
    if num_frames == 0:
        raise BadVideo(path, "not a single frame can be decoded")
    _refuse_doubt(path, table, seen, set(range(num_frames)), num_frames)
    return seen.places


def _watch(
    path: str, table: Table, wanted: set[int], take: Callable[[VideoFrame], Frames], *, to_the_end: bool
) -> _Seen:
    """Returns what the whole file gives, or its beginning, where no more is needed than that."""
    seen, is_sound = _Seen(), False
    for frame in decode_all(path, table):
        number = len(seen.places)
        if isinstance(frame, str):
            seen.damage = seen.damage or (number, frame)
            continue
        seen.places.append(frame.opaque.position if isinstance(frame.opaque, _Mark) else None)
        if frame.is_corrupt:
            seen.corrupt.add(number)
        elif number in wanted:
            seen.found[number] = take(frame)
        # Until the first sound one: a recording that begins in the middle of a GOP, which is no damage.
        if frame.is_corrupt and is_sound:
            seen.damage = seen.damage or (number, f"frame {number} of {len(table.order)} is damaged")
        is_sound |= not frame.is_corrupt
        if not to_the_end and len(seen.found) == len(wanted):
            seen.is_whole = False
            break
    return seen


def _refuse_doubt(path: str, table: Table, seen: _Seen, wanted: set[int], num_frames: int) -> None:
    """Raises BadVideo when a wanted frame is damaged, or when it is not sure which one it is."""
    damage, lost = seen.damage, _find_lost(table, seen)
    if lost is not None and (damage is None or lost < damage[0]):
        damage = lost, f"frame {lost} of {num_frames} is damaged: the decoder leaves it out, or shows it twice"
    doubtful = _find_doubtful(table, seen.places, damage is not None) if table.has_times else set()
    if damage is not None and max(wanted) >= damage[0]:
        raise BadVideo(path, damage[1])
    for number in sorted(wanted):
        if number in doubtful:
            reason = f"frame {number} of {num_frames} is damaged: its time and its place in the stream do not agree"
            raise BadVideo(path, reason)
        if number in seen.corrupt:
            raise BadVideo(path, f"frame {number} of {num_frames} is damaged")


def _find_lost(table: Table, seen: _Seen) -> int | None:
    """Returns the number of the first frame that is shown, or stored, behind one that the decoder left out, or that it
    shows twice.

    It rightly leaves out placeholders, second fields, what lies before the first frame of a recording that begins in
    the middle of a group, and, where a group does not begin anew (open GOP) and what lay before it was cut away, the
    frames that are shown before its keyframe."""
    there = {place for place in seen.places if place is not None}
    if not there or None in seen.places:
        return None
    if table.delay is not None and len(there) < len(seen.places):
        return next(number for number, place in enumerate(seen.places) if seen.places.count(place) > 1)
    first, last = min(there), max(there)
    left_out = sorted(set(table.order) - there - table.placeholders)
    if not seen.is_whole:
        left_out = [position for position in left_out if position < last]
        left_out = left_out[: len(left_out) - (table.delay or 0)]
    has_fields = bool(left_out) and table.count_fields() > len(left_out)
    begun = table.group_of(first)
    is_whole = not left_out or table.agrees(range(len(table.order)))
    for position in left_out:
        is_second_field = has_fields and position - 1 in there
        is_cut = (not is_whole or table.group_of(position) == begun) and _may_be_left_out(table, position, there)
        if not (is_second_field or is_cut or table.is_late_start(position, first)):
            behind = (i for i, place in enumerate(seen.places) if _is_behind(table, place or 0, position))
            return next(behind, len(seen.places))
    return None


def _may_be_left_out(table: Table, position: int, there: set[int]) -> bool:
    """Returns whether a decoder may have left out what is sound, where its group is open and another one was before."""
    key = table.keys[table.group_of(position)] if table.keys else 0
    is_led = key in there and not (table.has_times and table.times[position] > table.times[key])
    return (is_led or table.is_gradual) and table.is_open(key) and table.is_open(position)


def _is_behind(table: Table, one: int, other: int) -> bool:
    return one > other or (table.has_times and table.times[one] > table.times[other])


def _find_doubtful(table: Table, places: list[int | None], is_damaged: bool) -> set[int]:
    """Returns the numbers of the frames in groups where the decoder's order is not that of the times, although the
    times of the file tell an order."""
    groups = [table.group_of(place or 0) for place in places]
    times = [table.times[place or 0] for place in places]
    falls = [i for i, (one, other) in enumerate(pairwise(times)) if other < one]
    descents = [i for i in falls if groups[i] == groups[i + 1]]
    is_made_up = sorted(table.order) == table.order or len(descents) >= max(3, len(times) // _FRAMES_A_DESCENT)
    if is_made_up and not is_damaged:
        return set()
    # From one group to the next they may fall where two recordings are joined.
    bad = {group for i in (falls if is_damaged else descents) for group in groups[i : i + 2]}
    return {number for number, group in enumerate(groups) if group in bad}


class _Mark:
    """Goes with a packet through the decoder. PyAV tells marks apart by their identity, so numbers will not do."""

    def __init__(self, position: int) -> None:
        self.position = position


def decode_all(path: str, table: Table) -> Iterator[VideoFrame | str]:
    """Yields all frames in the decoder's order, and where a packet cannot be decoded the reason. The decoder is a new
    one: after a flush it shows other frames of a group that was cut in two."""
    with open_video(path) as (_, stream):
        num_seen, last, context = 0, len(table.times) - 1, stream.codec_context
        context.flags |= Flags.copy_opaque
        has_hole = hole_test(table.codec)
        for position, packet in enumerate([*table.source(path, stream), None]):
            if packet is not None and packet.is_corrupt and position == last:
                continue
            if packet is not None:
                packet.opaque = _Mark(position)
                if has_hole(packet):
                    yield f"packet {position} of {len(table.times)} is damaged: {NUM_HOLE} zeros and more in a row"
            try:
                frames = decode(context, packet)
            except FFmpegError as error:
                # Before the first frame: a recording that starts in the middle of a GOP, which is no damage.
                if num_seen:
                    yield f"packet {position} of {len(table.times)} cannot be decoded: {error.strerror}"
                continue
            num_seen += len(frames)
            yield from frames


def decode_frames(path: str, table: Table) -> Iterator[VideoFrame]:
    """Yields all frames in the decoder's order. Raises BadVideo for the first damage."""
    for number, frame in enumerate(decode_all(path, table)):
        if isinstance(frame, str):
            raise BadVideo(path, frame)
        if frame.is_corrupt:
            raise BadVideo(path, f"frame {number} of {len(table.order)} is damaged")
        yield frame


def decode(context: VideoCodecContext, packet: VideoPacket | None) -> list[VideoFrame]:
    return context.decode(packet)


def rgb_converter() -> Callable[[VideoFrame], Frames]:
    """Returns a converter to upright RGB that sets itself up once a video, in this thread: PyAV's default makes a
    context and a pool of threads for every frame, which costs three times the conversion itself (256p) and gives the
    same bytes."""
    reformatter = VideoReformatter()

    def convert(frame: VideoFrame) -> Frames:
        rgb = cast(Frames, reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
        return read_upright(frame).apply(rgb)

    return convert


def shape_converter() -> Callable[[VideoFrame], Frames]:
    """Returns a converter to frames of the right shape that hold nothing, and so hardly any memory: for those who ask
    whether a file can be read. The first of each format is converted, to see that it can be."""
    to_rgb, shapes = rgb_converter(), dict[tuple[str, int, int], tuple[int, ...]]()

    def convert(frame: VideoFrame) -> Frames:
        form = (frame.format.name, frame.width, frame.height)
        if form not in shapes:
            shapes[form] = to_rgb(frame).shape
        return np.broadcast_to(np.uint8(0), shapes[form])

    return convert


def pick(path: str, found: dict[int, Frames], indices: list[int]) -> list[Frames]:
    shapes = {frame.shape for frame in found.values()}
    if len(shapes) > 1:
        raise BadVideo(path, f"changes its size within the clip: {sorted((w, h) for h, w, _ in shapes)}")
    return [found[index] for index in indices]
