"""Which codecs this machine decodes, tried for real."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av

from coldframe.video.torchcodec import find_torchcodec_problem


def describe_decoder() -> dict[str, Any]:
    """Returns FFmpeg's version, the usual codecs it cannot decode, and what went wrong with a round trip of H.264."""
    missing = [name for name in ("h264", "hevc", "vp9", "av1", "mpeg4") if name not in av.codecs_available]
    error = None
    try:
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuv420p", Fraction(1, 25)
        packets = encoder.encode(av.VideoFrame(64, 48, "yuv420p")) + encoder.encode(None)
        decoder = av.CodecContext.create("h264", "r")
        frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        assert len(frames) == 1, f"{len(frames)} frames came back"
    except (av.FFmpegError, ValueError, AssertionError) as problem:
        error = f"H.264 does not survive a round trip: {problem}"
    return {
        "ffmpeg": av.ffmpeg_version_info,
        "missing": missing,
        "error": error,
        "torchcodec_problem": find_torchcodec_problem(),
    }
