"""Attention on pictures: the frames of a clip side by side, and the video as it goes by.

Shapes: T frames, S = size (pixels, square), h, w rows and columns of patches
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from PIL import Image, ImageDraw

from coldframe.machine.files import writing
from coldframe.video.frames import Frames

Array = np.ndarray[Any, np.dtype[np.float64]]

_TILE, _GAP, _BAR, _TEXT, _PER_ROW = 160, 6, 14, 16, 8  # pixels, tiles
_HEAT, _BACK, _INK, _FAINT = (255, 96, 0), (255, 255, 255), (28, 32, 36), (226, 230, 234)
_STRENGTH, _SHADE = 0.75, 0.45  # how much of the heat's colour the hottest patch has; of the picture outside the crop


def draw_strip(file: Path, pictures: Frames, weights_T: Array, maps_Thw: Array, seconds: Sequence[float]) -> None:
    """Writes a PNG: each frame (T, S, S, 3) as the model gets it, heat where the query looks, and below it its share of
    the attention as a bar, with its time."""
    num_frames = len(pictures)
    columns = min(_PER_ROW, num_frames)
    rows = -(-num_frames // columns)
    step, height = _TILE + _GAP, _TILE + _BAR + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, rows * height + _GAP), _BACK)
    draw = ImageDraw.Draw(sheet)
    heat = maps_Thw / max(maps_Thw.max(), 1e-12)
    for i, picture in enumerate(pictures):
        left, top = _GAP + i % columns * step, _GAP + i // columns * height
        large = np.asarray(Image.fromarray(picture).resize((_TILE, _TILE), Image.Resampling.BILINEAR))
        sheet.paste(Image.fromarray(_paint(large, heat[i])), (left, top))
        share = float(weights_T[i] / max(weights_T.max(), 1e-12))
        draw.rectangle((left, top + _TILE + 2, left + _TILE - 1, top + _TILE + _BAR - 2), fill=_FAINT)
        draw.rectangle(
            (left, top + _TILE + 2, left + max(1, round(share * _TILE)) - 1, top + _TILE + _BAR - 2), fill=_HEAT
        )
        draw.text((left, top + _TILE + _BAR), f"{seconds[i]:.2f} s   {100 * weights_T[i]:.1f} %", fill=_INK)
    with writing(file) as partial:
        sheet.save(partial, format="PNG")


def write_overlay(
    file: Path, frames: Sequence[Frames], numbers: Sequence[int], indices: Sequence[int], maps_Thw: Array, rate: float
) -> None:
    """Writes an MP4 of frames (their `numbers` in the video): where the query looks at the frames `indices` of the
    clip, and between them the way from one to the next. What no crop shows the model is dark."""
    places = sorted(set(indices))
    heat = np.stack(
        [maps_Thw[[i for i, index in enumerate(indices) if index == place]].mean(axis=0) for place in places]
    )
    heat = heat / max(heat.max(), 1e-12)
    with writing(file) as partial, av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as out:
        stream = out.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000), options={"crf": "20"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, frame in zip(numbers, frames, strict=True):
            painted = _paint_crop(frame, _between(heat, places, number))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(painted, format="rgb24")))
        out.mux(stream.encode(None))


def _between(heat_Thw: Array, places: Sequence[int], number: int) -> Array:
    after = int(np.searchsorted(places, number))
    if after == 0 or places[min(after, len(places) - 1)] == number:
        return cast(Array, heat_Thw[min(after, len(places) - 1)])
    if after == len(places):
        return cast(Array, heat_Thw[-1])
    share = (number - places[after - 1]) / (places[after] - places[after - 1])
    return cast(Array, (1 - share) * heat_Thw[after - 1] + share * heat_Thw[after])


def _paint_crop(frame: Frames, heat_hw: Array) -> Frames:
    """Returns the frame with heat on the square in its middle that the model gets, and the rest darker."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    painted = (frame * _SHADE).astype(np.uint8)
    inside = slice(top, top + side), slice(left, left + side)
    painted[inside] = _paint(frame[inside], heat_hw)
    return painted


def _paint(picture: Frames, heat_hw: Array) -> Frames:
    """Returns the picture (S, S, 3) with heat (0..1) over it."""
    height, width = picture.shape[:2]
    map_image = Image.fromarray(heat_hw.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    alpha = _STRENGTH * np.sqrt(np.asarray(map_image).clip(0, 1))[..., None]
    return cast(Frames, ((1 - alpha) * picture + alpha * np.array(_HEAT)).round().astype(np.uint8))
