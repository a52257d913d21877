"""Reading a video once, from its beginning to its end, however long that takes: a film, a camera, an address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from coldframe.video.packets import GUESSED_TIMES
from coldframe.video.parts import MICROSECONDS, Part, show_seconds, to_microseconds
from coldframe.video.streams import CONTAINERS, BadVideo, choose_stream, open_video

_CAMERA = re.compile(r"/dev/video\d+")
_NUM_THREADS = 4
_TIMEOUT_SECONDS = 30.0
# What comes over a network may be described by a playlist or a session: none of them may lead to a file here.
_STREAMED = f"{CONTAINERS},rtsp,rtp,sdp,hls,dash,mpjpeg"
_PROTOCOLS = "http,https,httpproxy,tls,crypto,data,tcp,udp,udplite,rtp,rtsp,rtmp,rtmps,rtmpt,srt,mmsh,mmst,ftp"


class FrameStream:
    """The frames of a video, or of a part of a file, each with its time. Holds one frame at a time.

    rate: frames a second, on average; header_seconds: how long it says it is, None where it has no end that is known;
    num_damaged: packets and frames so far that could not be decoded whole; broken: why it ended before its end.
    """

    def __init__(self, path: str, *, is_stream: bool = False, part: Part | None = None) -> None:
        """Raises BadVideo where it cannot be opened."""
        self.path, self.part = path, part
        self.num_damaged = 0
        self.broken: str | None = None
        self._closing = ExitStack()
        opened = _open_stream(path) if is_stream else open_video(path)
        self._container, self._stream = self._closing.enter_context(opened)
        self._stream.thread_type, self._stream.codec_context.thread_count = "AUTO", 1 if is_stream else _NUM_THREADS
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.header_seconds = None if is_stream else self._read_duration()
        self._has_clock = self._container.format.name not in GUESSED_TIMES and self._stream.time_base is not None

    @property
    def period(self) -> int:
        """Microseconds from one frame to the next, on average."""
        return to_microseconds(1, 1 / self.rate)

    def close(self) -> None:
        """Lets go of the file or the connection."""
        self._closing.close()

    def read(self) -> Iterator[tuple[int, VideoFrame]]:
        """Yields (time, frame) in the order of display, microseconds since the first frame of the file. Raises BadVideo
        where there is none."""
        start, end = (0, None) if self.part is None else self.part
        has_any = False
        for time, frame in self._read_from(start):
            if end is not None and time >= end:
                break
            if time >= start:
                has_any = True
                yield time, frame
        if has_any:
            return
        if self.broken is not None:
            raise BadVideo(self.path, self.broken)
        place = "" if end is None else f" from {show_seconds(start)} to {show_seconds(end)} s"
        raise BadVideo(self.path, f"has not a single frame that can be decoded{place}")

    def _read_duration(self) -> float | None:
        if self.part is not None:
            return (self.part.end - self.part.start) / MICROSECONDS
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        return None if self._container.duration is None else self._container.duration / av.time_base

    def _read_from(self, start: int) -> Iterator[tuple[int, VideoFrame]]:
        """Yields all frames from a keyframe before `start` on, or from the first."""
        frames = self._decode()
        first = next(frames, None)
        if first is None:
            return
        if start > 0 and self._has_clock and first.pts is not None:
            found = self._seek(start, first.pts)
            if found is not None:
                yield from self._time(found[1], found[0], self._decode(), first.pts)
                return
            self._container.seek(0, stream=self._stream)
            frames = self._decode()
            first = next(frames)
        yield from self._time(0, first, frames, first.pts)

    def _seek(self, start: int, origin: int) -> tuple[VideoFrame, int] | None:
        """Returns the first frame behind a keyframe that is not shown after `start`, and its time."""
        unit = Fraction(self._stream.time_base or 1)
        with suppress(FFmpegError):
            self._container.seek(origin + int(start / MICROSECONDS / unit), stream=self._stream)
            frame = next(self._decode(), None)
            if frame is not None and frame.pts is not None:
                time = to_microseconds(frame.pts - origin, unit)
                return (frame, time) if time <= start else None
        return None

    def _time(
        self, time: int, frame: VideoFrame, frames: Iterator[VideoFrame], origin: int | None
    ) -> Iterator[tuple[int, VideoFrame]]:
        """Yields the frames with their times, which only grow: where a clock jumps back it is taken to go on."""
        yield time, frame
        shift, unit = 0, Fraction(self._stream.time_base or 1)
        for frame in frames:
            own = None if frame.pts is None or origin is None or not self._has_clock else frame.pts - origin
            found = time + self.period if own is None else to_microseconds(own, unit) + shift
            if found <= time:
                shift += time + self.period - found
                found = time + self.period
            time = found
            yield time, frame

    def _decode(self) -> Iterator[VideoFrame]:
        try:
            for packet in self._container.demux(self._stream):
                yield from self._decode_packet(packet)
        except (FFmpegError, OSError) as error:
            self.broken = f"cannot be read on: {_explain(error)}"
            yield from self._decode_packet(None)  # what waits in the decoder for its place in the order

    def _decode_packet(self, packet: Packet[VideoStream] | None) -> Iterator[VideoFrame]:
        try:
            frames = self._stream.decode(packet)
        except FFmpegError:
            self.num_damaged += 1
            return
        for frame in frames:
            self.num_damaged += frame.is_corrupt
            yield frame


@contextmanager
def _open_stream(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Yields the container and its first moving picture. Raises BadVideo."""
    kind = None
    if _CAMERA.fullmatch(path):
        kind = "v4l2"
        if kind not in av.formats_available:
            raise BadVideo(path, f"is a camera, and this build of PyAV reads none. {_advise_camera(path)}")
    elif Path(path).exists():
        with open_video(path) as opened:
            yield opened
        return
    options = {"format_whitelist": f"{_STREAMED},v4l2", "protocol_whitelist": _PROTOCOLS}
    if path.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # over UDP a lost packet is a torn picture
    timeout = (_TIMEOUT_SECONDS, _TIMEOUT_SECONDS)
    try:
        with av.open(path, format=kind, options=options, timeout=timeout, metadata_errors="replace") as container:
            yield container, choose_stream(path, container)
    except (FFmpegError, OSError, UnicodeError) as error:
        raise BadVideo(path, f"cannot be opened: {_explain(error)}", "unreachable") from None


def _explain(error: Exception) -> str:
    if isinstance(error, ExitError):  # FFmpeg calls it "Immediate exit requested"
        return f"nothing came for {_TIMEOUT_SECONDS:g} s"
    return getattr(error, "strerror", None) or str(error)


def _advise_camera(path: str) -> str:
    address = "tcp://127.0.0.1:9000"
    return f"Let ffmpeg send it: `ffmpeg -i {path} -f mpegts {address}?listen=1`, and give {address}."
