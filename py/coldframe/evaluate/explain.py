"""Where and when a decoder looks in one clip, and whether that is what its answer hangs on.

Shapes: T frames, L tokens of a frame, h, w rows and columns of patches; K classes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from coldframe.data.augment import eval_views
from coldframe.decoders.interface import Attends
from coldframe.errors import UserError
from coldframe.evaluate.pictures import Array, draw_strip, write_overlay
from coldframe.machine.precision import autocast
from coldframe.settings import Settings
from coldframe.train.cohort import Cohort
from coldframe.video.frames import Frames, read_frames, view_indices
from coldframe.video.parts import MICROSECONDS, Part
from coldframe.video.sequence import rgb_converter
from coldframe.video.streams import open_video

_MOST_SHOWN = 250  # frames of an overlay
_SHOWN_SIZE = 360  # pixels of their shorter side, at most


@dataclass(frozen=True)
class Hidden:
    """What the answer is without some frames: probability of the class that was answered with all, and half the sum of
    all differences (total variation, 0..1)."""

    frames: list[int]
    probability: float
    change: float


@dataclass(frozen=True)
class Explanation:
    """indices: of the clip's frames in the video, or the part; weights: of each, together one; maps: of its patches.
    scores: the answer by the attention as it is shown; difference: to that of the model, the largest of any class."""

    indices: list[int]
    seconds: list[float]
    weights_T: Array  # noqa: N815
    maps_Thw: Array  # noqa: N815
    num_layers: int
    num_heads: int
    scores_K: Tensor  # noqa: N815
    difference: float
    most: Hidden | None
    least: Hidden | None


def explain(
    cohort: Cohort,
    settings: Settings,
    prepare: Callable[[Tensor], Tensor],
    path: str,
    part: Part | None,
    layer: int | None,
    head: int | None,
    strip: Path | None,
    overlay: Path | None,
) -> Explanation:
    """Returns where the first trial looks in the clip in the middle of a video, and draws it: the frames side by side
    (`strip`, PNG) and on the video as it goes by (`overlay`, MP4). Of `layer` and `head` (from 1), by default the mean
    of all. Raises UserError for a decoder that looks nowhere, BadVideo."""
    _find_model(cohort)
    indices, frames = _read_clip(settings, path, part)
    size = settings.data.size
    clip_CTSS = eval_views(frames, [list(range(len(frames)))], size, 1)[0]
    rate, start = _read_rate(path), 0 if part is None else part.start
    seconds = [start / MICROSECONDS + index / rate for index in indices]
    explanation = look(cohort, prepare(clip_CTSS[None].clone()), (layer, head), indices, seconds)
    if strip is not None:
        pictures = clip_CTSS.permute(1, 2, 3, 0).round().clamp(0, 255).to(torch.uint8).numpy()
        draw_strip(strip, pictures, explanation.weights_T, explanation.maps_Thw, seconds)
    if overlay is not None:
        shown, numbers = _read_shown(path, part, indices)
        real_rate = rate * len(numbers) / (numbers[-1] - numbers[0] + 1)
        write_overlay(overlay, shown, numbers, indices, explanation.maps_Thw, real_rate)
    return explanation


def _find_model(cohort: Cohort) -> Attends:
    """Returns the first trial's decoder. Raises UserError where it cannot say where it looks."""
    trial = cohort.trials[0]
    if isinstance(trial.model, Attends):
        return trial.model
    raise UserError(
        f"--explain  model.decoder.kind: {trial.settings.model.decoder.kind} looks at everything alike, so that "
        "there is nothing to show. evl can say where it looks."
    )


def _read_clip(settings: Settings, path: str, part: Part | None) -> tuple[list[int], list[Frames]]:
    """Returns the numbers of the frames of the clip in the middle, and the frames."""
    data, chosen = settings.data, list[int]()

    def choose(num_available: int) -> list[int]:
        stride = None if data.sampling == "tsn" else data.stride
        chosen[:] = view_indices(num_available, data.num_frames, stride, 1)[0]
        return chosen

    frames = read_frames(path, choose, part)
    return chosen, frames


def _read_rate(path: str) -> float:
    with open_video(path) as (_, stream):
        return float(stream.average_rate or stream.guessed_rate or 25)


def _read_shown(path: str, part: Part | None, indices: list[int]) -> tuple[list[Frames], list[int]]:
    """Returns the frames from the clip's first to its last, small, and their numbers; of too many some."""
    count = indices[-1] - indices[0] + 1
    step = -(-count // _MOST_SHOWN)
    numbers = list(range(indices[0], indices[-1] + 1, step))

    def small_converter() -> Callable[..., Frames]:
        convert = rgb_converter()

        def shrink(frame: object) -> Frames:
            rgb = convert(frame)  # type: ignore[arg-type]
            height, width = rgb.shape[:2]
            scale = min(1.0, _SHOWN_SIZE / min(height, width))
            even = [max(2, round(side * scale) // 2 * 2) for side in (width, height)]
            return np.asarray(Image.fromarray(rgb).resize((even[0], even[1]), Image.Resampling.BILINEAR))

        return shrink

    return read_frames(path, lambda _: numbers, part, small_converter), numbers


@torch.no_grad()
def look(
    cohort: Cohort,
    clip_NCTHW: Tensor,
    chosen: tuple[int | None, int | None],
    indices: list[int],
    seconds: list[float],
) -> Explanation:
    """Returns where the first trial looks in one clip, of (layer, head), and what hangs on it."""
    model = _find_model(cohort)
    trial = cohort.trials[0]
    own_K = next(iter(cohort.scores(clip_NCTHW.clone()).values()))[0]
    with trial.averaged():
        trial.set_training(False)
        layers = cohort.features(clip_NCTHW)
        shape = layers[-1].shape
        with autocast(cohort.device, "fp32"):
            logits, attention = model.attend(layers)
            chosen_TL = _choose(attention[:, 0], *chosen)
            scores_K = trial.objective.scores(logits.float())[0]
            weights_T = chosen_TL.sum(dim=1)
            order = weights_T.argsort(descending=True, stable=True).tolist()
            num_hidden = len(order) // 2

            def hide(frames: list[int]) -> Hidden | None:
                if not frames:
                    return None
                hidden_T = torch.zeros(len(order), dtype=torch.bool, device=weights_T.device)
                hidden_T[frames] = True
                without_K = trial.objective.scores(model.attend(layers, hidden_T)[0].float())[0]
                change = float((without_K - scores_K).abs().sum() / 2)
                return Hidden(sorted(frames), float(without_K[scores_K.argmax()]), change)

            most, least = hide(order[:num_hidden]), hide(order[len(order) - num_hidden :])
    patches = chosen_TL[:, shape.prefix :].view(-1, shape.rows, shape.columns)
    return Explanation(
        indices=indices,
        seconds=seconds,
        weights_T=weights_T.cpu().double().numpy(),
        maps_Thw=patches.cpu().double().numpy(),
        num_layers=attention.shape[0],
        num_heads=attention.shape[2],
        scores_K=scores_K.cpu(),
        difference=float((scores_K - own_K).abs().max()),
        most=most,
        least=least,
    )


def _choose(attention_YHTL: Tensor, layer: int | None, head: int | None) -> Tensor:
    num_layers, num_heads = attention_YHTL.shape[:2]
    for name, value, most in (("layer", layer, num_layers), ("head", head, num_heads)):
        if value is not None and not 1 <= value <= most:
            raise UserError(
                f"--attention  found {name} {value}. Allowed: 1 to {most}, the first layer being the lowest."
            )
    rows = attention_YHTL if layer is None else attention_YHTL[layer - 1 : layer]
    return (rows if head is None else rows[:, head - 1 : head]).mean(dim=(0, 1))
