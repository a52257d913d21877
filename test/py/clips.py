"""Makes small videos for tests: every frame tells its number, a square moves, and the file is as odd as asked for."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1), "still": (0, 0)}
_NUM_BITS = 8
# 16.16 fixed point, as the display matrix of tkhd (ISO/IEC 14496-12 8.3.2) wants it; angles as av.VideoFrame.rotation
_MATRICES = {-90: (0, 1, 0, -1, 0, 0), 90: (0, -1, 0, 1, 0, 0), 180: (-1, 0, 0, 0, -1, 0)}


def make_clip(
    path: Path | str,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (96, 64),
    num_frames: int = 40,
    fps: int = 25,
    gop: int = 12,
    b_frames: int = 2,
    motion: str = "right",
    seed: int = 0,
    audio: bool = False,
    pixel_format: str = "yuv420p",
    times: Sequence[int] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Returns path, now a video of size (width, height) whose format follows from the suffix.

    times: presentation times in milliseconds for a variable frame rate. motion: right, left, up, down or still.
    rotation: degrees in the display matrix (mp4 only). options: the encoder's.
    """
    path = Path(path)
    with _keeping_scheduling(), av.open(str(path), "w", options=container_options or {}) as container:
        video = container.add_stream(codec, rate=fps, options=_encoder_options(codec, options))
        video.width, video.height, video.pix_fmt = *size, pixel_format
        video.codec_context.gop_size, video.codec_context.max_b_frames = gop, b_frames
        unit = Fraction(1, 1000 if times else fps)
        video.codec_context.time_base = unit
        sound = container.add_stream("aac", rate=16000) if audio else None
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(draw_frame(i, size, motion, seed), format="rgb24")
            frame.pts, frame.time_base = (times[i] if times else i), unit
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            _add_tone(container, sound, num_frames / fps)
    if rotation:
        _set_rotation(path, rotation)
    return path


@contextmanager
def _keeping_scheduling() -> Iterator[None]:
    """SVT-AV1, started by root, makes the thread that calls it a real-time one: whatever the tests after it start would
    inherit that, and keep all else from the processors."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def draw_frame(number: int, size: tuple[int, int], motion: str = "right", seed: int = 0) -> np.ndarray:
    """Returns (H, W, 3) uint8: noise of the seed, a square on its way, the number in black and white bars on top."""
    width, height = size
    rng = np.random.default_rng(seed)
    frame = np.repeat(rng.integers(60, 120, (height, width, 1), dtype=np.uint8), 3, axis=2)
    side, (dx, dy) = max(2, height // 4), _DIRECTIONS[motion]
    x, y = rng.integers(0, width), rng.integers(0, height)
    rows = (np.arange(side) + y + 2 * dy * number) % height
    columns = (np.arange(side) + x + 2 * dx * number) % width
    frame[rows[:, None], columns] = rng.integers(150, 256, 3)
    bar = max(1, width // _NUM_BITS)
    for bit in range(_NUM_BITS):
        frame[: max(1, height // 4), bit * bar : (bit + 1) * bar] = 255 * (number >> bit & 1)
    return frame


def read_number(frame: np.ndarray) -> int:
    """Returns the number (modulo 256) that `draw_frame` wrote into a frame that is not rotated."""
    height, width = frame.shape[:2]
    bar = max(1, width // _NUM_BITS)
    means = [frame[: max(1, height // 4), bit * bar : (bit + 1) * bar].mean() for bit in range(_NUM_BITS)]
    return sum((mean > 127) << bit for bit, mean in enumerate(means))


def make_sound(path: Path, seconds: float = 1.0) -> Path:
    """Returns path, now a file with sound and no picture."""
    with av.open(str(path), "w") as container:
        _add_tone(container, container.add_stream("aac", rate=16000), seconds)
    return path


def cut_by_edit_list(path: Path, num_cut: int, fps: int) -> None:
    """Hides the first num_cut frames of an mp4 with an edit list, as players' trim buttons do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4 + 8  # version and flags, entry count; then duration, media time, rate
    duration, start = struct.unpack_from(">Ii", data, at)
    scale_at = data.index(b"mdhd") + 4 + 12
    (scale,) = struct.unpack_from(">I", data, scale_at)
    struct.pack_into(">Ii", data, at, duration - num_cut * 1000 // fps, start + num_cut * scale // fps)
    path.write_bytes(data)


def _encoder_options(codec: str, options: dict[str, str] | None) -> dict[str, str]:
    quiet = {
        "libx264": {"preset": "ultrafast", "crf": "20", "sc_threshold": "0", "x264-params": "log-level=none:bframes=2"},
        "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
        "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
        "libvpx": {"cpu-used": "8"},
    }
    return {**quiet.get(codec, {}), **(options or {})}


def _add_tone(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    samples = np.sin(np.arange(int(seconds * 16000)) * 0.05).astype(np.float32)
    for start in range(0, len(samples), 1024):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _set_rotation(path: Path, degrees: int) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    a, b, u, c, d, v = _MATRICES[degrees]
    struct.pack_into(">9i", data, at, a << 16, b << 16, u, c << 16, d << 16, v, 0, 0, 1 << 30)
    path.write_bytes(data)
