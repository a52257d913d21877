"""The decoders of `data.reader`: PyAV (video.py), or torchcodec where it is installed beside."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from coldframe.errors import UserError
from coldframe.video import INDEXED_CODECS, BadVideo, Frames, probe, read_frames

ReadFrames = Callable[[str, Callable[[int], list[int]]], list[Frames]]

# The last version that imports beside a CPU build of PyTorch 2.13; later wheels need CUDA's libraries.
_INSTALL = "`.venv/bin/pip install torchcodec==0.13.0`, with FFmpeg's shared libraries (4 to 8) on the system"


def choose_reader(name: str) -> ReadFrames:
    """Returns the function that reads frames as `video.read_frames` does. Raises UserError when it is not there."""
    if name == "pyav":
        return read_frames
    problem = find_torchcodec_problem()
    if problem is not None:
        raise UserError(
            f"data.reader  is torchcodec, which does not import here ({problem}). Set data.reader: pyav, or install "
            f"{_INSTALL}."
        )
    return _read_with_torchcodec


def find_torchcodec_problem() -> str | None:
    """Returns why torchcodec cannot be used, in a line, or None when it can."""
    try:
        importlib.import_module("torchcodec.decoders")
    except ModuleNotFoundError:
        return "it is not installed"
    except (ImportError, OSError, RuntimeError) as error:
        return "it finds no FFmpeg" if "FFmpeg" in str(error) else str(error).strip().splitlines()[0]
    return None


def _read_with_torchcodec(path: str, choose: Callable[[int], list[int]]) -> list[Frames]:
    """Returns the chosen frames (H, W, 3), RGB uint8: PyAV's bytes but for 10-bit video (up to 21 levels).

    Exact mode: the other one takes the header's word for the frame rate and gives wrong frames of a variable one.
    What has no times to trust (AVI, MPEG-4 part 2) is left to PyAV: torchcodec gives neighbouring frames there. Raises
    BadVideo, also for what torchcodec alone cannot read (the last frame of some transport streams).
    """
    decoders = importlib.import_module("torchcodec.decoders")
    try:
        decoder: Any = decoders.VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC")
        if len(decoder) <= 1:
            probe(path)  # it reads a still image as a video of one frame
        if decoder.metadata.codec not in INDEXED_CODECS or _is_avi(path):
            return read_frames(path, choose)
        frames = decoder.get_frames_at(choose(len(decoder))).data.numpy()
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        probe(path)  # knows most reasons in plain words
        raise BadVideo(path, f"torchcodec cannot read it: {str(error).strip().splitlines()[-1]}") from None
    return cast(list[Frames], list(frames))


def _is_avi(path: str) -> bool:
    with Path(path).open("rb") as file:
        return file.read(12)[8:] == b"AVI "
