# Shapes: H height, W width, 3 = RGB
"""Re-encodes one clip for training: the same frames at the same times, smaller, and each quick to reach.

So encoded that any frame costs two or three to decode.

Also a program: a worker that takes clips as JSON lines and answers in such lines.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from coldframe.machine.files import hash_file, sync
from coldframe.machine.processes import serve_lines
from coldframe.video import sequence
from coldframe.video.packets import Table, scan
from coldframe.video.parts import Part, find_part, find_window, time_frames
from coldframe.video.sequence import Frames
from coldframe.video.streams import BadVideo, open_video
from coldframe.video.upright import Upright, read_upright

NUM_SAMPLED = 8  # frames of a clip that are compared with their originals
# Real clips have about 35 at the default quality; noise of 16 pixels has 22 at CRF 30, and no worse one is allowed.
MIN_PSNR = 16.0
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


@dataclass(frozen=True)
class Encoding:
    """short_side: pixels, None keeps the size; gop: frames from one I frame to the next; crf: quality, less is better;
    preset: libx264's."""

    short_side: int | None
    gop: int
    crf: int
    preset: str


@dataclass(frozen=True)
class Made:
    """What became of a clip. psnr: of the worst sampled frame, RGB, dB; share: of the source that was encoded, 0..1."""

    num_frames: int
    width: int
    height: int
    psnr: float
    size_bytes: int
    sha256: str
    source_size_bytes: int
    source_mtime_ns: int
    source_sha256: str
    share: float
    seconds: float


@dataclass(frozen=True)
class _Written:
    times: list[Fraction]
    sampled: dict[int, Frames]
    size: tuple[int, int]
    share: float


def transcode(
    source: str, target: Path, encoding: Encoding, max_frames: int | None = None, part: Part | None = None
) -> Made:
    """Returns what is now at target: every frame that `read_frames` counts, of a part or of all, in its order, at its
    time (seconds since the first one), turned upright, never larger. Whole or not there: written beside, decoded again,
    synced, renamed.

    max_frames: stop early, to measure. Raises BadVideo for a source that cannot be decoded, or a result that differs,
    and OSError where the target cannot be written.
    """
    started = time.perf_counter()
    partial = target.with_name(f"{target.name}.partial")
    before, digest = _identify(source)
    try:
        written = _encode(_show(source, part, by_time=True), source, partial, encoding, max_frames)
    except _OutOfOrder:  # as `read_frames` does
        written = _encode(_show(source, part, by_time=False), source, partial, encoding, max_frames)
    psnr = _verify(source, partial, written)
    sync(partial)
    made = Made(
        num_frames=len(written.times),
        width=written.size[0],
        height=written.size[1],
        psnr=round(psnr, 2),
        size_bytes=partial.stat().st_size,
        sha256=hash_file(partial),
        source_size_bytes=before.st_size,
        source_mtime_ns=before.st_mtime_ns,
        source_sha256=digest,
        share=written.share,
        seconds=time.perf_counter() - started,
    )
    partial.replace(target)
    return made


def _identify(path: str) -> tuple[os.stat_result, str]:
    try:
        status = Path(path).stat()
        return status, _hash_source(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise BadVideo(path, reason) from None


@lru_cache(maxsize=4096)
def _hash_source(path: str, size: int, mtime: int) -> str:
    """Returns the file's hash; of a file that many parts are cut from it is taken once."""
    return hash_file(Path(path))


# ---- the frames of a video -------------------------------------------------------------------------------------------


class _OutOfOrder(Exception):  # noqa: N818 (no error: the other way of decoding is taken)
    """The decoder does not give the frames that the packet table promises."""


class _Shown(NamedTuple):
    """A frame as `read_frames` counts them. time: in units of seconds; num_frames: of the clip; rate: of the video."""

    frame: VideoFrame
    time: int
    unit: Fraction
    num_frames: int
    rate: Fraction


def _show(path: str, part: Part | None, *, by_time: bool) -> Iterator[_Shown]:
    """Yields the frames of a video or of a part of it. Raises BadVideo, and _OutOfOrder where they have to be decoded
    in sequence; their time stamps are not to be trusted then, and they are a period apart."""
    if by_time:
        table, here = _find_frames(path, part)
        unit, shown = table.unit, _decode_by_time(path, table, here)
    else:
        with open_video(path) as (container, stream):
            table = scan(path, container, stream)
        places = sequence.list_places(path, table)
        here, unit = range(len(places)), 1 / table.rate
        if part is not None:
            here = find_part(path, part, time_frames(table, len(places), places), table.rate)
        shown = islice(enumerate(sequence.decode_frames(path, table)), here.start, here.stop)
    for time_stamp, frame in shown:
        yield _Shown(frame, time_stamp, unit, len(here), table.rate)


def _find_frames(path: str, part: Part | None) -> tuple[Table, range]:
    """Returns which frames of a table are shown, in the order of their times. Raises _OutOfOrder where that is not the
    decoder's."""
    if part is not None:
        with open_video(path) as (container, stream):
            window = find_window(path, container, stream, part)
        if window is not None and window[0].agrees(window[1]):
            return window
    with open_video(path) as (container, stream):
        table = scan(path, container, stream)
    here = range(len(table.order))
    if part is not None and here:
        here = find_part(path, part, time_frames(table, len(here), None), table.rate)
    if not here or not table.agrees(range(len(table.order))):
        raise _OutOfOrder
    return table, here


def _decode_by_time(path: str, table: Table, here: range) -> Iterator[tuple[int, VideoFrame]]:
    due = [table.times[table.order[number]] for number in here]
    num_seen = 0
    for frame in sequence.decode_all(path, table):
        if isinstance(frame, str) or frame.is_corrupt or frame.pts is None:
            raise _OutOfOrder
        if frame.pts < due[0] and len(due) < len(table.order):  # before the part
            continue
        if num_seen == len(due) < len(table.order):
            return
        if num_seen == len(due) or frame.pts != due[num_seen]:
            raise _OutOfOrder
        yield due[num_seen], frame
        num_seen += 1
    if num_seen < len(due):
        raise _OutOfOrder


# ---- encoding --------------------------------------------------------------------------------------------------------


def _encode(frames: Iterator[_Shown], path: str, partial: Path, encoding: Encoding, max_frames: int | None) -> _Written:
    shown = islice(frames, max_frames)
    first = next(shown, None)
    if first is None:
        raise BadVideo(path, "not a single frame can be decoded")
    num_frames = min(first.num_frames, max_frames or first.num_frames)
    wanted = {round(i * (num_frames - 1) / (NUM_SAMPLED - 1)) for i in range(NUM_SAMPLED)}
    shape, to_rgb = _shaper(encoding.short_side), sequence.rgb_converter()
    sampled: dict[int, Frames] = {}
    times: list[Fraction] = []
    try:
        with av.open(f"file:{partial}", "w", format="mp4") as output:
            for number, one in enumerate(chain([first], shown)):
                picture = shape(one.frame)
                if number == 0:
                    size = (picture.width, picture.height)
                    encoder = _add_stream(output, picture, one, encoding)
                elif (picture.width, picture.height) != size:
                    raise BadVideo(path, f"changes its size within the clip, at frame {number}")
                if number in wanted:
                    sampled[number] = to_rgb(picture)
                times.append((one.time - first.time) * one.unit)
                picture.pts = (one.time - first.time) * one.unit.numerator
                picture.time_base = Fraction(1, one.unit.denominator)
                output.mux(encoder.encode(picture))
            output.mux(encoder.encode(None))
    except FFmpegError as error:  # the source's own errors have become BadVideo by now
        if error.errno in _DISK_ERRORS:
            raise OSError(error.errno, error.strerror, str(partial)) from None
        raise BadVideo(path, f"cannot be re-encoded: {error.strerror}") from None
    return _Written(times, sampled, size, len(times) / max(len(times), first.num_frames))


def _add_stream(
    output: av.container.OutputContainer, picture: VideoFrame, first: _Shown, encoding: Encoding
) -> VideoStream:
    """I b..b P in every GOP: a frame needs its I and P, no b needs another one (nal_ref_idc 0, which the reader leaves
    out). CAVLC and no loop filter: a third less decoding time for a tenth more bytes."""
    stream = output.add_stream("libx264", rate=first.rate)
    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
    context, gop = stream.codec_context, encoding.gop
    context.time_base, context.thread_count = Fraction(1, first.unit.denominator), 1
    context.color_range, context.colorspace = picture.color_range, picture.colorspace
    context.color_primaries, context.color_trc = picture.color_primaries, picture.color_trc
    structure = f"keyint={gop}:min-keyint=1:scenecut=0:ref=1:bframes={min(16, max(0, gop - 2))}:b-adapt=0"
    # mbtree gives other bytes from one run to the next, and gains little between I frames this near.
    plain = "b-pyramid=none:weightb=0:weightp=0:no-cabac=1:no-deblock=1:mbtree=0"
    stream.options = {
        "preset": encoding.preset,
        "crf": str(encoding.crf),
        "x264-params": f"log-level=none:{structure}:{plain}",
    }
    return stream


def _shaper(short_side: int | None) -> Any:
    """Returns a function from a frame to a picture (yuv420p, even sides) in the shape to be encoded; its colour range
    and matrix stay, so that it is the same RGB."""
    reformatter = VideoReformatter()

    def shape(frame: VideoFrame) -> VideoFrame:
        scale = min(1.0, (short_side or sys.maxsize) / min(frame.width, frame.height))
        width, height = (_even(side * scale) for side in (frame.width, frame.height))
        colors = {"dst_colorspace": "ITU601", "dst_color_range": "MPEG"} if frame.format.is_rgb else {}
        picture = reformatter.reformat(
            frame, width, height, "yuv420p", interpolation="BICUBIC", threads=1, **cast(Any, colors)
        )
        picture = _turn(picture, read_upright(frame))
        picture.pict_type = PictureType.NONE  # else the encoder takes over which frames the source had as I, P and B
        return picture

    return shape


def _even(side: float) -> int:
    return max(2, round(side) // 2 * 2)


def _turn(picture: VideoFrame, upright: Upright) -> VideoFrame:
    """Returns the picture turned and mirrored, plane by plane."""
    if upright == Upright():
        return picture
    width, height = picture.width, picture.height
    values = picture.to_ndarray().reshape(-1)
    luma, *chroma = np.split(values, [width * height, width * height * 5 // 4])
    planes = [luma.reshape(height, width), *(plane.reshape(height // 2, width // 2) for plane in chroma)]
    turned = np.concatenate([upright.apply(plane).reshape(-1) for plane in planes])
    new_width = height if upright.transposed else width
    result = VideoFrame.from_ndarray(turned.reshape(-1, new_width), format="yuv420p")
    result.color_range, result.colorspace = picture.color_range, picture.colorspace
    result.color_primaries, result.color_trc = picture.color_primaries, picture.color_trc
    return result


# ---- verification ----------------------------------------------------------------------------------------------------


def _verify(path: str, partial: Path, written: _Written) -> float:
    """Returns the lowest PSNR of the sampled frames (dB) after decoding the whole result. Raises BadVideo."""
    worst, num_seen, first, to_rgb = 100.0, 0, 0, sequence.rgb_converter()
    try:
        for number, one in enumerate(_show(str(partial), None, by_time=True)):
            first = one.time if number == 0 else first
            if number >= len(written.times) or (one.time - first) * one.unit != written.times[number]:
                raise BadVideo(path, f"frame {number} comes back at another time")
            if number in written.sampled:
                worst = min(worst, _psnr(to_rgb(one.frame), written.sampled[number]))
            num_seen += 1
    except _OutOfOrder:
        raise BadVideo(path, "cannot be re-encoded: its frames do not come back in their order") from None
    except BadVideo as error:
        raise BadVideo(path, f"cannot be re-encoded: {error.reason}") from None
    if num_seen != len(written.times):
        raise BadVideo(path, f"cannot be re-encoded: {num_seen} of {len(written.times)} frames come back")
    if worst < MIN_PSNR:
        raise BadVideo(path, f"cannot be re-encoded: a frame differs from its original ({worst:.1f} dB)")
    return worst


def _psnr(one: Frames, other: Frames) -> float:
    error = float(np.mean(np.square(one.astype(np.float32) - other)))
    return 10 * float(np.log10(255**2 / error)) if error > 0 else 100.0


# ---- the worker ------------------------------------------------------------------------------------------------------


def answer(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Answers `{source, part, target, encoding, max_frames}` with `{made}`, `{reason}` or `{disk_error}`."""
    source, target = request["source"], Path(request["target"])
    try:
        part = None if request["part"] is None else Part(*request["part"])
        made = transcode(source, target, Encoding(**request["encoding"]), request["max_frames"], part)
        yield {"made": asdict(made)}
        return
    except BadVideo as bad:
        reply = {"reason": bad.reason}
    except OSError as error:
        reply = {"disk_error": f"{error.filename or target}: {error.strerror}"}
    with suppress(OSError):
        target.with_name(f"{target.name}.partial").unlink(missing_ok=True)
    yield reply


if __name__ == "__main__":
    serve_lines(answer)
