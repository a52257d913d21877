"""Frames of videos as small pictures, for pages that name them."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coldframe import heartbeat
from coldframe.video import BadVideo, read_frames
from coldframe.video.parts import Part

QUALITY = 72
WIDEST = 2.4  # times the height: a banner of a frame is cropped


def picture_videos(names: list[str], num_frames: int, height: int) -> dict[str, Any]:
    """Returns of each video a strip of frames as a `data:` address with its width and height, or null where none can be
    read. A name is a path, of a part `PATH#t=START,END`."""
    pictures = []
    for name in names:
        heartbeat.progress()
        pictures.append(picture_video(name, num_frames, height))
    return {"pictures": pictures}


def picture_video(name: str, num_frames: int, height: int) -> dict[str, Any] | None:
    """Returns the strip of one video: the middle frames of so many equal parts of it, side by side."""
    path, part = _read_name(name)
    try:
        frames = read_frames(
            path, lambda count: [(2 * i + 1) * count // (2 * num_frames) for i in range(num_frames)], part
        )
    except (BadVideo, OSError):
        return None
    small = [_shrink(frame, height) for frame in frames]
    strip = Image.new("RGB", (sum(one.width for one in small) + 2 * (len(small) - 1), height))
    left = 0
    for one in small:
        strip.paste(one, (left, 0))
        left += one.width + 2
    stream = io.BytesIO()
    strip.save(stream, "JPEG", quality=QUALITY, optimize=True)
    address = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return {"address": address, "width": strip.width, "height": strip.height}


def _read_name(name: str) -> tuple[str, Part | None]:
    found = None if Path(name).exists() else re.fullmatch(r"(.+)#t=([\d.]+),([\d.]+)", name, re.DOTALL)
    return (name, None) if found is None else (found[1], Part.of_seconds(found[2], found[3]))


def _shrink(frame: np.ndarray[Any, Any], height: int) -> Image.Image:
    image = Image.fromarray(frame)
    width = max(1, round(image.width * height / image.height))
    if width > WIDEST * height:
        kept = round(image.height * WIDEST)
        left = (image.width - kept) // 2
        image, width = image.crop((left, 0, left + kept, image.height)), round(WIDEST * height)
    return image.resize(
        (width, height), Image.Resampling.BOX if image.height > 8 * height else Image.Resampling.LANCZOS
    )
