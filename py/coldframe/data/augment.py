# Shapes: V views (spatial-major), T frames, H height, W width, S = size (pixels, square), C = 3 (RGB)
"""From decoded frames to clips: RandAugment, crops, flip and resizing, drawn and applied as upstream does."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from coldframe.data.shear import Box, Matrix, slide
from coldframe.errors import UserError
from coldframe.video.frames import Frames

Picture = Image.Image
Filters = tuple[Image.Resampling, ...]

# Upstream transform.random_resized_crop's defaults (Inception's).
_CROP_AREA = (0.08, 1.0)
_CROP_RATIO = (3 / 4, 4 / 3)

_FILL = (128, 128, 128)
_MAX_LEVEL = 10.0
_PROBABILITY = 0.5  # that a chosen operation is applied
# Pillow's affine transforms know no other filters (upstream accepts more names and raises on the first rotation).
_FILTERS: dict[str, Filters] = {
    "bilinear": (Image.Resampling.BILINEAR,),
    "bicubic": (Image.Resampling.BICUBIC,),
    "random": (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
}

# Operation and its weight under `w0`. With `inc1` those named in _INCREASING grow stronger with the magnitude.
_WEIGHTS = {
    "AutoContrast": 0.025,
    "Equalize": 0.005,
    "Invert": 0.0,
    "Rotate": 0.3,
    "Posterize": 0.0,
    "Solarize": 0.005,
    "SolarizeAdd": 0.005,
    "Color": 0.025,
    "Contrast": 0.005,
    "Brightness": 0.005,
    "Sharpness": 0.025,
    "ShearX": 0.2,
    "ShearY": 0.2,
    "TranslateXRel": 0.1,
    "TranslateYRel": 0.1,
}
_INCREASING = {"Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness"}


# ---- clips -----------------------------------------------------------------------------------------------------------


def crop_box(height: int, width: int, py_rng: random.Random, np_rng: np.random.RandomState) -> Box:
    """Returns a random box inside height x width: area and aspect ratio as upstream's `_get_param_spatial_crop`."""
    low, high = (math.log(ratio) for ratio in _CROP_RATIO)
    for _ in range(10):
        area = py_rng.uniform(*_CROP_AREA) * (height * width)
        ratio = math.exp(py_rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        np_rng.uniform()  # upstream draws for its unused switch_hw; leaving it out would shift every later draw
        if 0 < w <= width and 0 < h <= height:
            return py_rng.randint(0, height - h), py_rng.randint(0, width - w), h, w
    h, w = height, width
    if width / height < _CROP_RATIO[0]:
        h = round(width / _CROP_RATIO[0])
    elif width / height > _CROP_RATIO[1]:
        w = round(height * _CROP_RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w


def training_view(
    frames: Sequence[Frames],
    size: int,
    augment: RandAugment | None,
    mirror: bool,
    py_rng: random.Random,
    np_rng: np.random.RandomState,
) -> Tensor:
    """Returns a clip (3, T, S, S), float32 in 0..255: RandAugment, random resized crop, flip (draws in this order).

    Frames are (H, W, 3), RGB uint8. The crop is drawn before anything is painted, so that only what it keeps has to be.
    The flip is ours: upstream reads `mirror` nowhere.
    """
    operations = augment.draw(len(frames), py_rng, np_rng) if augment is not None else []
    height, width = frames[0].shape[:2]
    box = crop_box(height, width, py_rng, np_rng)
    crops = paint(frames, operations, box)
    if mirror and py_rng.random() < 0.5:
        crops = [crop[:, ::-1] for crop in crops]
    return _resize(crops, size, size)


def eval_views(frames: Sequence[Frames], views: list[list[int]], size: int, num_spatial: int) -> Tensor:
    """Returns views (V, 3, T, S, S), float32 in 0..255, all temporal views of the first spatial one first.

    The short side is resized to size; views are lists of indices into the frames (upstream `__getitem__`).
    """
    height, width = frames[0].shape[:2]
    if height < width:
        height, width = size, width * size // height
    else:
        height, width = height * size // width, size
    corners = crop_corners(height, width, size, num_spatial)
    clips = torch.empty(len(corners) * len(views), 3, len(views[0]), size, size)
    for i, frame in enumerate(frames):  # one by one: float frames before resizing are the largest thing here
        resized_CHW = _resize([frame], height, width)[:, 0]
        for clip, ((top, left), view) in zip(clips, product(corners, views), strict=True):
            for place, index in enumerate(view):
                if index == i:
                    clip[:, place] = resized_CHW[:, top : top + size, left : left + size]
    return clips


def crop_corners(height: int, width: int, size: int, num_spatial: int) -> list[tuple[int, int]]:
    """Returns (top, left) of the size x size test crops: the centre, or start, middle and end of the long side."""
    if num_spatial == 1:
        return [((height - size) // 2, (width - size) // 2)]
    assert num_spatial == 3, num_spatial
    margin = max(height, width) - size
    return [(start, 0) if height > width else (0, start) for start in (0, margin // 2, margin)]


def _resize(frames: Sequence[Frames], height: int, width: int) -> Tensor:
    planes_CTHW = np.empty((3, len(frames), *frames[0].shape[:2]), np.uint8)
    for i, frame in enumerate(frames):
        planes_CTHW[:, i] = frame.transpose(2, 0, 1)
    return F.interpolate(
        torch.from_numpy(planes_CTHW).float(), size=(height, width), mode="bilinear", align_corners=False
    )


# ---- RandAugment (arXiv 1909.13719; upstream video_dataset/rand_augment.py) ------------------------------------------


class RandAugment:
    """A policy such as `rand-m7-n4-mstd0.5-inc1`: n operations a clip, each applied with probability .5 at magnitude m
    (of 10) with a normal deviation mstd; inc1 takes the increasing variants; w0 weights the choice, without repeats."""

    def __init__(self, policy: str, interpolation: str = "bicubic") -> None:
        """Raises UserError for a policy or interpolation that is not known (upstream ignores what it cannot read)."""
        if interpolation not in _FILTERS:
            raise UserError(f"data.interpolation  is {interpolation!r}. Allowed: {', '.join(_FILTERS)}.")
        self._filters = _FILTERS[interpolation]
        options = _parse_policy(policy)
        self._magnitude = options.get("m", _MAX_LEVEL)
        self._deviation = options.get("mstd", 0.0)
        self._num_layers = int(options.get("n", 2))
        self._names = [
            f"{name}Increasing" if options.get("inc", 0) and name in _INCREASING else name for name in _WEIGHTS
        ]
        weights = np.array(list(_WEIGHTS.values()))
        self._weights = weights / weights.sum() if "w" in options else None

    def __call__(self, frames: Sequence[Frames], py_rng: random.Random, np_rng: np.random.RandomState) -> Frames:
        """Returns new frames (T, H, W, 3), RGB uint8, the same operations with the same arguments in every frame."""
        height, width = frames[0].shape[:2]
        return np.stack(paint(frames, self.draw(len(frames), py_rng, np_rng), (0, 0, height, width)))

    def draw(self, num_frames: int, py_rng: random.Random, np_rng: np.random.RandomState) -> list[Operation]:
        """Returns the operations of a clip. They come from np_rng, everything else from py_rng, in upstream's order."""
        operations: list[Operation] = []
        repeats = self._weights is None
        for choice in np_rng.choice(len(self._names), self._num_layers, replace=repeats, p=self._weights):
            if py_rng.random() > _PROBABILITY:
                continue
            name = self._names[choice]
            magnitude = py_rng.gauss(self._magnitude, self._deviation) if self._deviation > 0 else self._magnitude
            argument = draw_argument(name, min(_MAX_LEVEL, max(0, magnitude)), py_rng)
            filters = [self._draw_filter(py_rng) for _ in range(num_frames)] if name in _MATRICES else []
            operations.append(Operation(name, argument, filters))
        return operations

    def _draw_filter(self, py_rng: random.Random) -> Image.Resampling:
        # As upstream: only operations that resample draw, and under `random` they do so for every frame anew.
        return self._filters[0] if len(self._filters) == 1 else py_rng.choice(self._filters)


def _parse_policy(policy: str) -> dict[str, float]:
    """Returns option -> number; every problem of the policy in one UserError."""
    kind, *sections = policy.split("-")
    problems = [] if kind == "rand" else [f"{kind!r} is not 'rand'"]
    options: dict[str, float] = {}
    for section in sections:
        match = re.fullmatch(r"(mstd(?=\d)|m|n|w|inc)(\d+(?:\.\d+)?)", section)
        if match is None or ("." in match[2] and match[1] != "mstd"):
            problems.append(f"{section!r} is not known")
        elif match[1] in options:
            problems.append(f"{match[1]!r} is given twice")
        else:
            options[match[1]] = float(match[2])
    num_weighted = sum(weight > 0 for weight in _WEIGHTS.values())
    limits = {"m": (0, 10), "n": (1, num_weighted if "w" in options else 99), "w": (0, 0), "inc": (0, 1)}
    for key, (low, high) in limits.items():
        if not low <= options.get(key, low) <= high:
            problems.append(f"{key}{options[key]:g} is outside {low}..{high}")
    if problems:
        raise UserError(
            f"data.augment  {policy!r}: {'; '.join(problems)}. Allowed: 'rand', then any of -m<0..10> (magnitude), "
            "-n<count> (operations), -mstd<number> (deviation), -inc<0|1>, -w0, as in rand-m7-n4-mstd0.5-inc1."
        )
    return options


def draw_argument(name: str, level: float, rng: random.Random) -> float | int | None:
    """Returns the operation's argument for a level in 0..10 (upstream LEVEL_TO_ARG), None where it takes none."""
    share = level / _MAX_LEVEL
    if name == "Rotate":
        return _either_sign(share * 30.0, rng)  # degrees
    if name in ("ShearX", "ShearY"):
        return _either_sign(share * 0.3, rng)
    if name in ("TranslateXRel", "TranslateYRel"):
        return _either_sign(share * 0.45, rng)  # of the side
    if name.startswith("Posterize"):
        return 4 - int(share * 4) if name.endswith("Increasing") else int(share * 4)  # bits kept
    if name == "SolarizeAdd":
        return int(share * 110)
    if name.startswith("Solarize"):
        return 256 - int(share * 256) if name.endswith("Increasing") else int(share * 256)  # threshold
    if name in ("AutoContrast", "Equalize", "Invert"):
        return None
    if name.endswith("Increasing"):
        return 1.0 + _either_sign(share * 0.9, rng)
    return share * 1.8 + 0.1


def _either_sign(value: float, rng: random.Random) -> float:
    return -value if rng.random() > 0.5 else value


# ---- painting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """One operation of a clip: argument as `draw_argument` returns it; filters, one a frame, where it resamples."""

    name: str
    argument: float | int | None
    filters: list[Image.Resampling]


def paint(frames: Sequence[Frames], operations: list[Operation], box: Box) -> list[Frames]:
    """Returns the box of every frame after the operations: the bytes of painting whole frames and cutting then.

    Operations that look at the whole frame, the last of them apart, have to paint all of it; from there on only the
    box is painted, with a margin of a pixel for every operation that looks at neighbours.
    """
    height, width = frames[0].shape[:2]
    looking = [i for i, operation in enumerate(operations) if operation.name in _MATRICES.keys() | _STATISTICS]
    num_whole = looking[-1] + 1 if looking else 0
    kept = _widen(box, sum(op.name.startswith("Sharpness") for op in operations[num_whole:]), height, width)
    painted = list(frames) if num_whole else [_cut(frame, kept) for frame in frames]
    for i, operation in enumerate(operations):
        here = 0, 0, *painted[0].shape[:2]
        painted = _paint_one(painted, operation, kept if i == num_whole - 1 else here)
    return [_cut(frame, (box[0] - kept[0], box[1] - kept[1], box[2], box[3])) for frame in painted]


def _paint_one(frames: list[Frames], operation: Operation, box: Box) -> list[Frames]:
    name, argument = operation.name, operation.argument
    if name not in _MATRICES:
        return [_cut(np.asarray(apply_operation(name, Image.fromarray(frame), argument)), box) for frame in frames]
    matrix = _MATRICES[name](argument, frames[0].shape[1], frames[0].shape[0])
    if set(operation.filters) == {Image.Resampling.BICUBIC}:
        moved = slide(frames, matrix, box, _FILL)
        if moved is not None:
            return moved
    end = box[1] + box[3], box[0] + box[2]  # (width, height): Pillow need not paint what lies right of or below the box
    pictures = (
        _transform(Image.fromarray(frame), matrix, chosen, end)
        for frame, chosen in zip(frames, operation.filters, strict=True)
    )
    return [_cut(np.asarray(picture), box) for picture in pictures]


def _widen(box: Box, margin: int, height: int, width: int) -> Box:
    top, left = max(0, box[0] - margin), max(0, box[1] - margin)
    return (
        top,
        left,
        min(height, box[0] + box[2] + margin) - top,
        min(width, box[1] + box[3] + margin) - left,
    )


def _cut(frame: Frames, box: Box) -> Frames:
    top, left, height, width = box
    return frame[top : top + height, left : left + width]


def apply_operation(
    name: str,
    picture: Picture,
    argument: Any,
    draw_filter: Callable[[], Image.Resampling] = lambda: Image.Resampling.BICUBIC,
) -> Picture:
    """Returns a new picture; argument as `draw_argument` returns it, draw_filter gives the resampling filter."""
    if name in _MATRICES:
        return _transform(picture, _MATRICES[name](argument, *picture.size), draw_filter(), picture.size)
    return _OPERATIONS[name.removesuffix("Increasing")](picture, argument)


def _transform(picture: Picture, matrix: Matrix, chosen: Image.Resampling, size: tuple[int, int]) -> Picture:
    return picture.transform(size, Image.Transform.AFFINE, matrix, resample=chosen, fillcolor=_FILL)


def _rotation(degrees: float, width: int, height: int) -> Matrix:
    """Returns what Pillow's `Image.rotate` makes of degrees (its order of operations, hence its last bits)."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cos, sin, cos * -x + sin * -y + 0.0 + x, -sin, cos, -sin * -x + cos * -y + 0.0 + y


def _posterize(picture: Picture, bits: int) -> Picture:
    # Pillow refuses 0 bits, so upstream raises; keeping no bits is black.
    return ImageOps.posterize(picture, bits) if bits > 0 else picture.point(lambda value: 0)


def _solarize_add(picture: Picture, add: int) -> Picture:
    return picture.point([min(255, value + add) if value < 128 else value for value in range(256)] * 3)


# From (argument, width, height) to the matrix that gives the source of every pixel (Pillow's order).
_MATRICES: dict[str, Callable[[Any, int, int], Matrix]] = {
    "Rotate": _rotation,
    "ShearX": lambda factor, _, __: (1, factor, 0, 0, 1, 0),
    "ShearY": lambda factor, _, __: (1, 0, 0, factor, 1, 0),
    "TranslateXRel": lambda part, width, _: (1, 0, part * width, 0, 1, 0),
    "TranslateYRel": lambda part, _, height: (1, 0, 0, 0, 1, part * height),
}
_STATISTICS = {"AutoContrast", "Equalize", "Contrast", "ContrastIncreasing"}  # of the whole frame
_OPERATIONS: dict[str, Callable[[Picture, Any], Picture]] = {
    "AutoContrast": lambda picture, _: ImageOps.autocontrast(picture),
    "Equalize": lambda picture, _: ImageOps.equalize(picture),
    "Invert": lambda picture, _: ImageOps.invert(picture),
    "Posterize": _posterize,
    "Solarize": ImageOps.solarize,
    "SolarizeAdd": _solarize_add,
    "Color": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "Contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "Brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "Sharpness": lambda picture, factor: ImageEnhance.Sharpness(picture).enhance(factor),
}
