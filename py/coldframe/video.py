# Which frames of a video make a clip, and decoding just those.
# Shapes: T frames, H height, W width, 3 = RGB
"""Frame choice (upstream video_dataset/dataset.py) and exact, sparse decoding with PyAV."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from coldframe.errors import UserError
from coldframe.h264 import VideoPacket, non_reference_test

Frames = np.ndarray[Any, np.dtype[np.uint8]]

# Codecs whose packets carry one shown frame each with its own time stamp. MPEG-4 part 2 and older ones pack frames.
INDEXED_CODECS = {"h264", "hevc", "vp8", "vp9", "av1"}
# AVI has no presentation times: FFmpeg guesses them, and with B-frames neighbours come out swapped (UCF101).
_GUESSED_TIMES = {"avi"}
_STILL_FORMATS = ("image2", "_pipe", "webp", "ico")
# Packets of larger files are read a second time rather than kept, so that an hour of film does not fill the memory.
_KEPT_BYTES = 256 * 2**20


class BadVideo(UserError):  # noqa: N818 (it is a value as often as an exception)
    """A video that cannot be read: its path and a plain reason. Survives pickling, unlike PyAV's own exceptions."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}  {reason}", "bad_video")
        self.args = (path, reason)  # what pickle makes it from again
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}  {self.reason}"


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
    """Returns the chosen frames, each (H, W, 3), RGB uint8, the same bytes as decoding everything in display order.

    choose gets the number of frames and returns indices (any order, repeats allowed). It must be a pure function: it
    is asked again when decoding by time stamps fails, with a smaller number if there are fewer frames than packets.
    Rotation metadata is applied (PyAV and hence upstream ignore it: a phone's portrait video lies on its side there).

    Raises BadVideo for everything that keeps a chosen frame from being decoded.
    """
    with _opened(path) as (container, stream):
        table = _scan(container, stream)
        if not table.order:
            raise BadVideo(path, "has a video track without a single frame")
        if table.by_time:
            indices = choose(len(table.order))
            found = _decode_by_time(path, stream, table, set(indices))
            if found is not None:
                return _pick(path, found, indices)
        return _decode_in_sequence(path, stream, table, choose)


def probe(path: str) -> dict[str, int | float | str]:
    """Returns num_frames, width and height (pixels, as shown), fps, duration_seconds, codec and rotation (degrees).

    Demuxes the whole file and decodes its first frame. Raises BadVideo.
    """
    with _opened(path) as (container, stream):
        table = _scan(container, stream)
        first = next(_decode_all(path, stream, table), None)
        if first is None:
            raise BadVideo(path, "not a single frame can be decoded")
        num_frames, fps = len(table.order), float(stream.average_rate or 0)
        shown = (first.height, first.width) if first.rotation % 180 else (first.width, first.height)
        return {
            "num_frames": num_frames,
            "width": shown[0],
            "height": shown[1],
            "fps": fps,
            "duration_seconds": (container.duration or 0) / av.time_base or (num_frames / fps if fps else 0.0),
            "codec": stream.codec_context.name,
            "rotation": int(first.rotation),
        }


@contextmanager
def _opened(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Yields the container and its first moving picture, one decoder thread (workers share the machine).

    Raises BadVideo instead of everything PyAV raises, also from the body.
    """
    try:
        # "file:" keeps FFmpeg from taking a colon in the path for a protocol.
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            if any(still in container.format.name for still in _STILL_FORMATS):
                raise BadVideo(path, f"is a still image ({container.format.name}), not a video")
            streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
            if not streams:
                raise BadVideo(path, "has no video track" + (", only sound" if container.streams.audio else ""))
            streams[0].codec_context.thread_count = 1
            yield container, streams[0]
    except (FFmpegError, OSError, UnicodeError) as error:
        raise BadVideo(path, _plain_reason(path, error)) from None


def _plain_reason(path: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    text = getattr(error, "strerror", None) or str(error)
    if not isinstance(error, av.error.InvalidDataError):
        return f"cannot be read: {text}"
    with Path(path).open("rb") as file:
        head = file.read(12)
    if not head:
        return "is empty (0 bytes)"
    if head[4:8] == b"ftyp":
        return "cannot be decoded: its index (moov atom) is missing; the file was cut off or is still being written"
    return f"is not a video in a format that FFmpeg knows ({text})"


# ---- the packet table ------------------------------------------------------------------------------------------------


@dataclass
class _Table:
    """What a file holds, found by demuxing without decoding (2 to 5 ms): exact where header fields only estimate.

    order: display index -> packet position in the file; times: presentation time of every packet position.
    """

    order: list[int]
    times: list[int]
    keys: list[int]
    by_time: bool
    kept: list[VideoPacket] | None

    def source(self, path: str, stream: VideoStream) -> Iterable[VideoPacket]:
        """Returns the packets in file order once more."""
        return self.kept if self.kept is not None else _demux_again(path, stream.index)


def _scan(container: InputContainer, stream: VideoStream) -> _Table:
    codec = stream.codec_context.name
    times: list[int | None] = []
    keys: list[int] = []
    shown: list[int] = []
    kept: list[VideoPacket] | None = []
    num_bytes = 0
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        position = len(times)
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append(position)
        if _is_shown(packet, codec):
            shown.append(position)
        num_bytes += packet.size
        if kept is not None and num_bytes <= _KEPT_BYTES:
            kept.append(packet)
        else:
            kept = None
    shown_times = [times[position] for position in shown]
    by_time = (
        codec in INDEXED_CODECS
        and container.format.name not in _GUESSED_TIMES
        and None not in times
        and len(set(shown_times)) == len(shown_times)
    )
    known = [time if time is not None else 0 for time in times]
    order = sorted(shown, key=lambda position: known[position]) if by_time else shown
    return _Table(order, known, keys, by_time, kept)


def _is_shown(packet: VideoPacket, codec: str) -> bool:
    """Returns whether the packet becomes a frame: not one cut away by an edit list (is_discard), not half a packet at
    the end of a truncated file (is_corrupt), not a hidden reference frame of VP8 (RFC 6386 section 9.1, show_frame)."""
    if packet.is_discard or packet.is_corrupt:
        return False
    return codec != "vp8" or bool(memoryview(packet)[0] >> 4 & 1)


def _demux_again(path: str, stream_index: int) -> Iterator[VideoPacket]:
    with _opened(path) as (container, _):
        for packet in container.demux(cast(VideoStream, container.streams[stream_index])):
            if packet.size:
                yield packet


# ---- decoding --------------------------------------------------------------------------------------------------------


def _decode_by_time(path: str, stream: VideoStream, table: _Table, wanted: set[int]) -> dict[int, Frames] | None:
    """Returns index -> frame, or None when a wanted frame does not come out whole (then decode in sequence)."""
    context = stream.codec_context
    positions = {table.order[index] for index in wanted}
    index_of = {table.times[table.order[index]]: index for index in wanted}
    droppable = non_reference_test(context)
    packets = enumerate(table.source(path, stream))
    found: dict[int, Frames] = {}
    to_rgb = _rgb_converter()
    for first, last in _runs(table, positions):
        whole = True
        for position, packet in packets:
            if position >= first and (position in positions or not droppable(packet)):
                whole &= _collect(context, packet, table.times[first], index_of, found, to_rgb)
            if position == last:
                break
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


def _runs(table: _Table, positions: set[int]) -> list[tuple[int, int]]:
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


def _decode_in_sequence(
    path: str, stream: VideoStream, table: _Table, choose: Callable[[int], list[int]]
) -> list[Frames]:
    """Returns the chosen frames where time stamps cannot be trusted: decoder output order, up to the last needed."""
    num_frames, to_rgb = len(table.order), _rgb_converter()
    while True:
        indices = choose(num_frames)
        wanted, found, num_seen = set(indices), dict[int, Frames](), 0
        for frame in _decode_all(path, stream, table):
            if num_seen in wanted:
                if frame.is_corrupt:
                    raise BadVideo(path, f"frame {num_seen} of {num_frames} is damaged")
                found[num_seen] = to_rgb(frame)
            num_seen += 1
            if len(found) == len(wanted):
                return _pick(path, found, indices)
        if num_seen == 0:
            raise BadVideo(path, "not a single frame can be decoded")
        if num_seen >= num_frames:
            raise AssertionError((path, num_frames, indices))
        num_frames = num_seen


def _decode_all(path: str, stream: VideoStream, table: _Table) -> Iterator[VideoFrame]:
    context = stream.codec_context
    context.flush_buffers()
    num_seen = 0
    for position, packet in enumerate([*table.source(path, stream), None]):
        try:
            frames = _decode(context, packet)
        except FFmpegError as error:
            # Before the first frame: a recording that starts in the middle of a GOP, which is no damage.
            if num_seen:
                reason = f"packet {position} of {len(table.times)} cannot be decoded: {error.strerror}"
                raise BadVideo(path, reason) from None
            continue
        num_seen += len(frames)
        yield from frames
    context.flush_buffers()


def _decode(context: VideoCodecContext, packet: VideoPacket | None) -> list[VideoFrame]:
    if packet is not None and packet.is_corrupt:
        return []
    return context.decode(packet)


def _rgb_converter() -> Callable[[VideoFrame], Frames]:
    """Returns a converter to RGB that sets itself up once a video, in this thread: PyAV's default makes a context and
    a pool of threads for every frame, which costs three times the conversion itself (256p) and gives the same bytes."""
    reformatter = VideoReformatter()

    def convert(frame: VideoFrame) -> Frames:
        rgb = cast(Frames, reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
        # The display matrix's angle is counter-clockwise, as np.rot90's.
        return np.rot90(rgb, round(frame.rotation / 90)) if frame.rotation else rgb

    return convert


def _pick(path: str, found: dict[int, Frames], indices: list[int]) -> list[Frames]:
    shapes = {frame.shape for frame in found.values()}
    if len(shapes) > 1:
        raise BadVideo(path, f"changes its size within the clip: {sorted((w, h) for h, w, _ in shapes)}")
    return [found[index] for index in indices]
