"""The decoders that `data.reader` may name: PyAV (frames.py), or torchcodec where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from coldframe.errors import UserError
from coldframe.video.frames import Frames, is_upright, read_frames
from coldframe.video.packets import scan
from coldframe.video.parts import Part
from coldframe.video.sequence import shape_converter
from coldframe.video.streams import open_video

ReadFrames = Callable[[str, Callable[[int], list[int]], Part | None], list[Frames]]

# The last version that imports beside a CPU build of PyTorch 2.13; later wheels need CUDA's libraries.
_INSTALL = "`.venv/bin/pip install torchcodec==0.13.0`, with FFmpeg's shared libraries (4 to 8) on the system"

_FAULTS = (RuntimeError, ValueError, IndexError, OSError)
_CHECKED_AT_ONCE = 32  # frames that are in memory together


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


def check_frames(reader: str, path: str, choose: Callable[[int], list[int]], part: Part | None = None) -> None:
    """Decodes the chosen frames with a reader, all the same as when they are read, and keeps none of them. Raises
    BadVideo where reading them would."""
    if reader == "torchcodec" and part is None:
        opened = _open_with_torchcodec(path, choose)
        if opened is not None:
            decoder, indices = opened
            with suppress(*_FAULTS):
                for start in range(0, len(indices), _CHECKED_AT_ONCE):
                    decoder.get_frames_at(indices[start : start + _CHECKED_AT_ONCE])
                return
    read_frames(path, choose, part, shape_converter)


def _read_with_torchcodec(path: str, choose: Callable[[int], list[int]], part: Part | None = None) -> list[Frames]:
    """Returns the chosen frames (H, W, 3), RGB uint8: PyAV's bytes but for 10-bit video (up to 21 levels).

    It sorts by time, so what has no times to trust (AVI, MPEG-4 part 2, times that were made up) is left to PyAV, and
    so is what has to be turned or mirrored, what torchcodec counts otherwise or cannot read, and a part of a file, of
    which it would go through all.
    """
    opened = _open_with_torchcodec(path, choose) if part is None else None
    if opened is not None:
        decoder, indices = opened
        with suppress(*_FAULTS):
            return cast(list[Frames], list(decoder.get_frames_at(indices).data.numpy()))
    return read_frames(path, choose, part)  # the frames, or the reason in plain words


def _open_with_torchcodec(path: str, choose: Callable[[int], list[int]]) -> tuple[Any, list[int]] | None:
    """Returns the decoder and the chosen indices, None where PyAV has to read the video.

    Exact mode: the other one takes the header's word for the frame rate and gives wrong frames of a variable one.
    """
    with open_video(path) as (container, stream):
        table = scan(path, container, stream)
        indices = choose(len(table.order)) if table.order else []
        is_plain = bool(indices) and table.agrees(indices) and is_upright(path, table)
    if is_plain:
        decoders = importlib.import_module("torchcodec.decoders")
        with suppress(*_FAULTS):
            decoder = decoders.VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=1, dimension_order="NHWC")
            if len(decoder) == len(table.order):
                return decoder, indices
    return None
