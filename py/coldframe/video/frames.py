# Shapes: T frames, H height, W width, 3 = RGB
"""Which frames of a video make a clip (upstream video_dataset/dataset.py), and decoding exactly those with PyAV."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from coldframe.video.bits import VideoPacket
from coldframe.video.h264 import non_reference_test
from coldframe.video.packets import Table, scan
from coldframe.video.streams import BadVideo, open_video
from coldframe.video.upright import Upright, read_upright

__all__ = ["BadVideo", "Frames", "probe", "read_frames", "training_indices", "view_indices"]

Frames = np.ndarray[Any, np.dtype[np.uint8]]

# A decoder that shows one frame in so many out of the order of their times follows a file whose times are made up. In
# one with true times it was led astray by damage, and which frame is meant there is anybody's guess.
_FRAMES_A_DESCENT = 10


# ---- which frames ----------------------------------------------------------------------------------------------------


def training_indices(
    num_available: int, num_frames: int, stride: int | None, rng: np.random.RandomState, *, repeat_last: bool = False
) -> list[int]:
    """Returns num_frames ascending indices in 0..num_available-1, drawn as upstream's `_random_sample_frame_idx` does.

    stride None is TSN: one frame at random from each of num_frames equal segments (ends inclusive, as upstream).
    Otherwise a window of every stride-th frame at a random start; a clip no longer than the window starts at 0 and
    repeats the last frame *reached* (evaluation repeats the last frame of the clip: upstream's difference), or, with
    `repeat_last`, the last frame of the clip as evaluation does.
    """
    if stride is None:
        segment = (num_available - 1) / num_frames
        return [int(rng.randint(round(segment * i), round(segment * (i + 1)) + 1)) for i in range(num_frames)]
    reach = stride * (num_frames - 1)
    if reach + 1 >= num_available:
        last = num_available - 1 if repeat_last else (num_available - 1) // stride * stride
        return [min(i * stride, last) for i in range(num_frames)]
    start = int(rng.randint(num_available - reach))
    return list(range(start, start + reach + 1, stride))


def view_indices(num_available: int, num_frames: int, stride: int | None, num_views: int) -> list[list[int]]:
    """Returns num_views lists of num_frames ascending indices, as upstream's `_generate_temporal_crops` places them.

    Dense: windows at equal distances, the middle one when num_views is 1; past the end the last frame repeats. Python's
    half-to-even `round` places them, as upstream. TSN (stride None; upstream raises there): num_views 1 takes the
    centre of each segment, V views the centres of V equal parts of each segment.
    """
    last = num_available - 1
    if stride is None:
        segment = last / num_frames
        return [
            [round(segment * (i + (view + 0.5) / num_views)) for i in range(num_frames)] for view in range(num_views)
        ]
    slack = max(0, last - stride * (num_frames - 1))
    starts = [slack // 2] if num_views == 1 else [round(slack / (num_views - 1) * view) for view in range(num_views)]
    return [[min(start + i * stride, last) for i in range(num_frames)] for start in starts]


# ---- reading them ----------------------------------------------------------------------------------------------------


def read_frames(path: str, choose: Callable[[int], list[int]]) -> list[Frames]:
    """Returns the chosen frames, each (H, W, 3), RGB uint8, the same bytes as decoding everything, in the decoder's
    order.

    choose gets the number of frames and returns indices (any order, repeats allowed). It must be a pure function: it
    is asked again when decoding by time stamps fails, with a smaller number if there are fewer frames than packets.
    The display matrix is applied (PyAV and hence upstream ignore it: a phone's portrait video lies on its side there).

    Raises BadVideo for everything that keeps a chosen frame from being decoded, and where it is in doubt which it is.
    """
    with open_video(path) as (container, stream):
        table = scan(path, container, stream)
        if not table.order:
            raise BadVideo(path, "has a video track without a single frame")
        if table.by_time:
            indices = choose(len(table.order))
            if table.agrees(indices):
                found = _decode_by_time(path, stream, table, set(indices))
                if found is not None:
                    return _pick(path, found, indices)
    return _decode_in_sequence(path, table, choose)


def probe(path: str) -> dict[str, int | float | str | bool]:
    """Returns num_frames, num_missing (that the header promises beyond those), width and height (pixels, as shown),
    fps, duration_seconds, codec, rotation (degrees) and mirrored.

    Demuxes the whole file and decodes its first frame. Raises BadVideo.
    """
    with open_video(path) as (container, stream):
        table = scan(path, container, stream)
        first = next((frame for frame in decode_all(path, table) if isinstance(frame, VideoFrame)), None)
        if first is None:
            raise BadVideo(path, "not a single frame can be decoded")
        num_frames, fps, upright = len(table.order), float(stream.average_rate or 0), read_upright(first)
        shown = (first.height, first.width) if upright.transposed else (first.width, first.height)
        return {
            "num_frames": num_frames,
            "num_missing": table.missing,
            "width": shown[0],
            "height": shown[1],
            "fps": fps,
            "duration_seconds": (container.duration or 0) / av.time_base or (num_frames / fps if fps else 0.0),
            "codec": stream.codec_context.name,
            "rotation": int(first.rotation),
            "mirrored": upright.is_mirrored,
        }


# ---- by time stamps --------------------------------------------------------------------------------------------------


def _decode_by_time(path: str, stream: VideoStream, table: Table, wanted: set[int]) -> dict[int, Frames] | None:
    """Returns index -> frame, or None when a wanted frame does not come out whole (then decode in sequence)."""
    context = stream.codec_context
    positions = {table.order[index] for index in wanted}
    runs = _runs(table, positions)
    if table.is_closed:
        # What replaces a missing reference depends on what was decoded before: an error, then, rather than a picture.
        context.options = {"err_detect": "explode"}
    index_of = {table.times[table.order[index]]: index for index in wanted}
    droppable = non_reference_test(context)
    packets = enumerate(table.source(path, stream))
    found: dict[int, Frames] = {}
    to_rgb = rgb_converter()
    passed = 0
    for first, last in runs:
        whole = True
        for position, packet in islice(packets, first - passed, last + 1 - passed):
            if position in positions or not droppable(packet):
                whole &= _collect(context, packet, table.times[first], index_of, found, to_rgb)
        passed = last + 1
        whole &= _collect(context, None, table.times[first], index_of, found, to_rgb)
        context.flush_buffers()
        if not whole:
            return None
    return found if len(found) == len(wanted) else None


def _collect(
    context: VideoCodecContext,
    packet: VideoPacket | None,
    start: int,
    index_of: dict[int, int],
    found: dict[int, Frames],
    to_rgb: Callable[[VideoFrame], Frames],
) -> bool:
    """Returns whether nothing is damaged that is shown from `start` on. FFmpeg paints over damage with what lies near,
    which is not the same after a keyframe as after everything, and does not mark the frames that refer to it."""
    try:
        frames = _decode(context, packet)
    except FFmpegError:
        return packet is None or packet.pts is None or packet.pts < start
    for frame in frames:
        index = index_of.get(frame.pts) if frame.pts is not None else None
        if index is not None and not frame.is_corrupt:
            found[index] = to_rgb(frame)
    return not any(frame.is_corrupt and frame.pts is not None and frame.pts >= start for frame in frames)


def _runs(table: Table, positions: set[int]) -> list[tuple[int, int]]:
    """Returns ascending (first, last) packet positions whose decoding yields the wanted ones.

    A frame needs everything from the last keyframe that is not shown after it: frames stored behind a keyframe but
    shown before it (open GOP) may refer to the GOP before.
    """
    runs: list[tuple[int, int]] = []
    for position in sorted(positions):
        k = bisect_right(table.keys, position) - 1
        while k >= 0 and table.times[table.keys[k]] > table.times[position]:
            k -= 1
        first = table.keys[k] if k >= 0 else 0
        if runs and first <= runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], position)
        else:
            runs.append((first, position))
    return runs


# ---- in sequence -----------------------------------------------------------------------------------------------------


@dataclass
class _Seen:
    """What decoding everything gave. damage: number of the first frame that is not sure any more, and why."""

    times: list[int | None] = field(default_factory=list)
    corrupt: set[int] = field(default_factory=set)
    found: dict[int, Frames] = field(default_factory=dict)
    damage: tuple[int, str] | None = None


def _decode_in_sequence(path: str, table: Table, choose: Callable[[int], list[int]]) -> list[Frames]:
    """Returns the chosen frames where time stamps cannot be trusted: in the decoder's own order, which has to be gone
    through to its end to know how many there are."""
    num_frames = len(table.order)
    while True:
        indices = choose(num_frames)
        seen = _watch(path, table, set(indices), to_the_end=not table.is_counted)
        is_whole = table.is_counted and len(seen.found) == len(set(indices))
        if seen.damage is None and not is_whole and len(seen.times) != num_frames:
            num_frames = len(seen.times)
            if num_frames == 0:
                raise BadVideo(path, "not a single frame can be decoded")
            continue
        _refuse_doubt(path, table, seen, set(indices), num_frames)
        return _pick(path, seen.found, indices)


def count_frames(path: str, table: Table) -> int:
    """Returns how many frames the decoder gives. Raises BadVideo when one is damaged, or not sure to be what it is."""
    seen = _watch(path, table, set(), to_the_end=True)
    num_frames = len(seen.times)
    if num_frames == 0:
        raise BadVideo(path, "not a single frame can be decoded")
    _refuse_doubt(path, table, seen, set(range(num_frames)), num_frames)
    return num_frames


def _watch(path: str, table: Table, wanted: set[int], *, to_the_end: bool) -> _Seen:
    """Returns what the whole file gives, or its beginning, where no more is needed than that."""
    seen, to_rgb, is_sound = _Seen(), rgb_converter(), False
    for frame in decode_all(path, table):
        number = len(seen.times)
        if isinstance(frame, str):
            seen.damage = seen.damage or (number, frame)
            continue
        seen.times.append(frame.pts)
        if frame.is_corrupt:
            seen.corrupt.add(number)
        elif number in wanted:
            seen.found[number] = to_rgb(frame)
        # Until the first sound one: a recording that begins in the middle of a GOP, which is no damage.
        if frame.is_corrupt and is_sound:
            seen.damage = seen.damage or (number, f"frame {number} of {len(table.order)} is damaged")
        is_sound |= not frame.is_corrupt
        if not to_the_end and len(seen.found) == len(wanted):
            break
    return seen


def _refuse_doubt(path: str, table: Table, seen: _Seen, wanted: set[int], num_frames: int) -> None:
    """Raises BadVideo when a wanted frame is damaged, or when it is not sure which one it is."""
    damage = seen.damage
    doubtful: set[int] = set()
    if table.has_times:
        lost = _find_lost(table, seen.times)
        if lost is not None and (damage is None or lost < damage[0]):
            damage = lost, f"frame {lost} of {num_frames} is damaged: the decoder leaves it out"
        doubtful = _find_doubtful(table, seen.times, damage is not None)
    if damage is not None and max(wanted) >= damage[0]:
        raise BadVideo(path, damage[1])
    for number in sorted(wanted):
        if number in doubtful:
            reason = f"frame {number} of {num_frames} is damaged: its time and its place in the stream do not agree"
            raise BadVideo(path, reason)
        if number in seen.corrupt:
            raise BadVideo(path, f"frame {number} of {num_frames} is damaged")


def _find_lost(table: Table, seen: list[int | None]) -> int | None:
    """Returns the number of the first frame that is shown, or stored, behind one that the decoder left out.

    No decoder shows what lies before the first frame of a recording that begins in the middle of a group. And where a
    group does not begin anew (open GOP) and what lay before it was cut away, its first frames are not shown."""
    position_of = {table.times[position]: position for position in table.order}
    there = sorted(position_of[time] for time in seen if time in position_of)
    first_of: dict[int, int] = {}  # group -> when its first frame is shown
    for position in there:
        group, time = table.group_of(position), table.times[position]
        first_of[group] = min(time, first_of.get(group, time))
    for position in sorted(set(table.order) - set(there)):
        group, lost = table.group_of(position), table.times[position]
        is_late_start = bool(there) and position < there[0]
        is_cut = bool(table.keys) and not table.is_clean(table.keys[group]) and lost < first_of.get(group, lost + 1)
        if not is_late_start and not is_cut:
            behind = (
                i for i, time in enumerate(seen) if (time or 0) > lost or position_of.get(time or 0, 0) > position
            )
            return next(behind, len(seen))
    return None


def _find_doubtful(table: Table, seen: list[int | None], is_damaged: bool) -> set[int]:
    """Returns the numbers of the frames in groups where the decoder's order is not that of the times, although the
    times of the file tell an order."""
    position_of = {table.times[position]: position for position in table.order}
    groups = [table.group_of(position_of.get(time or 0, 0)) for time in seen]
    descents = [
        i for i, (one, other) in enumerate(pairwise(seen)) if (other or 0) < (one or 0) and groups[i] == groups[i + 1]
    ]
    is_made_up = sorted(table.order) == table.order or len(descents) >= max(3, len(seen) // _FRAMES_A_DESCENT)
    if is_made_up and not is_damaged:
        return set()
    bad = {groups[i] for i in descents}
    return {number for number, group in enumerate(groups) if group in bad}


def decode_all(path: str, table: Table) -> Iterator[VideoFrame | str]:
    """Yields all frames in the decoder's order, and where a packet cannot be decoded the reason. The decoder is a new
    one: after a flush it shows other frames of a group that was cut in two."""
    with open_video(path) as (_, stream):
        num_seen, last = 0, len(table.times) - 1
        for position, packet in enumerate([*table.source(path, stream), None]):
            if packet is not None and packet.is_corrupt and position == last:
                continue
            try:
                frames = _decode(stream.codec_context, packet)
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


def _decode(context: VideoCodecContext, packet: VideoPacket | None) -> list[VideoFrame]:
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


def _pick(path: str, found: dict[int, Frames], indices: list[int]) -> list[Frames]:
    shapes = {frame.shape for frame in found.values()}
    if len(shapes) > 1:
        raise BadVideo(path, f"changes its size within the clip: {sorted((w, h) for h, w, _ in shapes)}")
    return [found[index] for index in indices]


def is_upright(path: str, table: Table) -> bool:
    """Returns whether the first frame is shown as it is stored."""
    first = next(decode_frames(path, table), None)
    return first is not None and read_upright(first) == Upright()


def describe(path: str) -> dict[str, Any]:
    """Returns what `probe` does with `reason` None, or the reason why the video cannot be read."""
    try:
        return {"path": path, "reason": None, **probe(path)}
    except BadVideo as error:
        return {"path": path, "reason": error.reason}
