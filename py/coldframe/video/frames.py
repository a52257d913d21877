# Shapes: T frames, H height, W width, 3 = RGB
"""Which frames of a video make a clip (upstream video_dataset/dataset.py), and decoding exactly those with PyAV."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import islice

import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from coldframe.video.bits import VideoPacket
from coldframe.video.h264 import non_reference_test
from coldframe.video.packets import Table, hole_test, scan
from coldframe.video.parts import Part, find_part, find_window, time_frames
from coldframe.video.sequence import Choose, Frames, decode, decode_frames, decode_in_sequence, pick, rgb_converter
from coldframe.video.streams import BadVideo, open_video
from coldframe.video.upright import Upright, read_upright

__all__ = ["BadVideo", "Frames", "reachable_indices", "read_frames", "training_indices", "view_indices"]


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


def reachable_indices(num_available: int, num_frames: int, stride: int | None, *, repeat_last: bool) -> list[int]:
    """Returns the indices that `training_indices` may give, ascending."""
    reach = 0 if stride is None else stride * (num_frames - 1)
    if stride is None or reach + 1 < num_available:
        starts = num_available - reach
        firsts = [0] if stride is None else range(0, reach + 1, stride)
        return sorted({first + start for first in firsts for start in range(starts)})
    rng = np.random.RandomState(0)  # of a clip so short nothing is drawn
    return sorted(set(training_indices(num_available, num_frames, stride, rng, repeat_last=repeat_last)))


# ---- reading them ----------------------------------------------------------------------------------------------------


def read_frames(
    path: str,
    choose: Callable[[int], list[int]],
    part: Part | None = None,
    make_converter: Callable[[], Callable[[VideoFrame], Frames]] = rgb_converter,
) -> list[Frames]:
    """Returns the chosen frames of a video or of a part of it, each (H, W, 3), RGB uint8, the same bytes as decoding
    everything, in the decoder's order.

    choose gets the number of frames there and returns indices (any order, repeats allowed). It must be a pure function:
    it is asked again when decoding by time stamps fails, with a smaller number if there are fewer frames than packets.
    make_converter gives what makes of a decoded frame what is returned: upright RGB, as PyAV and hence upstream do not
    have it (a phone's portrait video lies on its side there).

    Raises BadVideo for everything that keeps a chosen frame from being decoded, and where it is in doubt which it is.
    """
    if part is not None:
        frames = _read_window(path, choose, part, make_converter)
        if frames is not None:
            return frames
    with open_video(path) as (container, stream):
        table = scan(path, container, stream)
        if not table.order:
            raise BadVideo(path, "has a video track without a single frame")
        choose_here = _choose_within(path, table, choose, part)
        if table.by_time:
            indices = choose_here(len(table.order), None)
            if table.agrees(indices):
                found = _decode_by_time(path, stream, table, set(indices), make_converter())
                if found is not None:
                    return pick(path, found, indices)
    return decode_in_sequence(path, table, choose_here, make_converter())


def _read_window(
    path: str,
    choose: Callable[[int], list[int]],
    part: Part,
    make_converter: Callable[[], Callable[[VideoFrame], Frames]],
) -> list[Frames] | None:
    """Returns the chosen frames of the part, None where only the whole file tells which they are."""
    with open_video(path) as (container, stream):
        found = find_window(path, container, stream, part)
        if found is None:
            return None
        table, here = found
        indices = [here[index] for index in choose(len(here))]
        if not table.agrees(indices):
            return None
        frames = _decode_by_time(path, stream, table, set(indices), make_converter())
        return None if frames is None else pick(path, frames, indices)


def _choose_within(path: str, table: Table, choose: Callable[[int], list[int]], part: Part | None) -> Choose:
    """Returns a function that chooses frames of the part, by their numbers in the whole video."""

    def choose_here(num_frames: int, places: list[int | None] | None) -> list[int]:
        if part is None:
            return choose(num_frames)
        here = find_part(path, part, time_frames(table, num_frames, places), table.rate)
        return [here[index] for index in choose(len(here))]

    return choose_here


# ---- by time stamps --------------------------------------------------------------------------------------------------


def _decode_by_time(
    path: str, stream: VideoStream, table: Table, wanted: set[int], take: Callable[[VideoFrame], Frames]
) -> dict[int, Frames] | None:
    """Returns index -> frame, or None when a wanted frame does not come out whole (then decode in sequence)."""
    context = stream.codec_context
    positions = {table.order[index] for index in wanted}
    runs = _runs(table, positions)
    if table.is_closed:
        # What replaces a missing reference depends on what was decoded before: an error, then, rather than a picture.
        context.options = {"err_detect": "explode"}
    index_of = {table.times[table.order[index]]: index for index in wanted}
    droppable, has_hole = non_reference_test(context), hole_test(table.codec)
    packets = enumerate(table.source(path, stream))
    found: dict[int, Frames] = {}
    passed = 0
    for first, last in runs:
        whole = True
        for position, packet in islice(packets, first - passed, last + 1 - passed):
            if position in positions or not droppable(packet):
                whole &= not has_hole(packet)
                whole &= _collect(context, packet, table.times[first], index_of, found, take)
        passed = last + 1
        whole &= _collect(context, None, table.times[first], index_of, found, take)
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
    take: Callable[[VideoFrame], Frames],
) -> bool:
    """Returns whether nothing is damaged that is shown from `start` on. FFmpeg paints over damage with what lies near,
    which is not the same after a keyframe as after everything, and does not mark the frames that refer to it."""
    try:
        frames = decode(context, packet)
    except FFmpegError:
        return packet is None or packet.pts is None or packet.pts < start
    for frame in frames:
        index = index_of.get(frame.pts) if frame.pts is not None else None
        if index is not None and not frame.is_corrupt:
            found[index] = take(frame)
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


def is_upright(path: str, table: Table) -> bool:
    """Returns whether the first frame is shown as it is stored."""
    first = next(decode_frames(path, table), None)
    return first is not None and read_upright(first) == Upright()
