"""The verbs that look into one video: what is seen when, and where the decoder looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from coldframe import heartbeat
from coldframe.data.stream import FrameStream
from coldframe.errors import UserError
from coldframe.evaluate.accuracy import NO_CHOICE
from coldframe.evaluate.evaluation import explain_broken
from coldframe.evaluate.explain import Hidden, explain
from coldframe.evaluate.timeline import Found, Segment, Timeline, Windows, to_seconds
from coldframe.session.inference import name_classes
from coldframe.session.running import Running
from coldframe.video.frames import BadVideo
from coldframe.video.parts import Part

LEAST_PROBABILITY = 0.5  # from which a class is a segment's, where nothing else was chosen


def open_timeline(
    running: Running,
    path: str,
    is_stream: bool,
    part: list[int] | None,
    window_seconds: float | None,
    overlap: float,
    smooth_seconds: float,
    threshold: float | None,
) -> dict[str, Any]:
    """Returns the windows that will slide over a video, or over a part of a file (microseconds), or the reason why it
    cannot be opened. Without `threshold` those of the classes are taken, where they have several labels."""
    _let_go(running)
    try:
        with heartbeat.beating():  # a network may take its time
            stream = FrameStream(path, is_stream=is_stream, part=None if part is None else Part(*part))
    except BadVideo as bad:
        return {"reason": bad.reason, "windows": None}
    try:
        windows = Windows.plan(running.settings, stream.rate, window_seconds, overlap)
    except UserError:
        stream.close()
        raise
    running.timeline = Timeline(
        stream,
        windows,
        running.settings,
        lambda views: _score(running, views),
        smooth_seconds=smooth_seconds,
        thresholds=_choose_thresholds(running, threshold),
        at_once=1 if is_stream else running.settings.eval.batch_size,
    )
    rate = float(stream.rate)
    return {
        "reason": None,
        "windows": {
            "rate": rate,
            "window_seconds": windows.span / rate,
            "hop_seconds": windows.hop / rate,
            "header_seconds": stream.header_seconds,
        },
    }


def advance_timeline(running: Running, seconds: float, top: int) -> dict[str, Any]:
    """Returns windows and segments that are found in about `seconds` more, how far it is, and, when it is `done`, the
    classes of the whole; or the reason why there is none."""
    timeline = running.timeline
    assert timeline is not None, "no timeline is open"
    try:
        with heartbeat.beating():
            found = timeline.advance(seconds, heartbeat.progress)
    except BadVideo as bad:
        _let_go(running)
        return _describe(running, timeline, Found(), top) | {"done": True, "reason": bad.reason}
    return _describe(running, timeline, found, top)


def close_timeline(running: Running, top: int) -> dict[str, Any]:
    """Returns the same of what was seen so far, and lets go of the video."""
    timeline = running.timeline
    assert timeline is not None, "no timeline is open"
    found = timeline.close()
    _let_go(running)
    return _describe(running, timeline, found, top)


def _let_go(running: Running) -> None:
    if running.timeline is not None:
        running.timeline.stream.close()
        running.timeline = None


def _score(running: Running, views_NVCTSS: Tensor) -> Tensor:
    """Returns the scores (N, K) of windows."""
    num_windows, num_views = views_NVCTSS.shape[:2]
    scores = next(iter(running.cohort.scores(running.prepare(views_NVCTSS.flatten(0, 1))).values()))
    if not scores.isfinite().all():
        raise UserError(f"the scores of a window are not finite. {explain_broken(running.cohort.trials[0])}")
    return scores.view(num_windows, num_views, -1).mean(dim=1)


def _choose_thresholds(running: Running, threshold: float | None) -> float | list[float]:
    if running.settings.data.labels == "single":
        return LEAST_PROBABILITY if threshold is None else float(threshold)  # JSON has whole ones
    num_classes = running.settings.data.num_classes
    if threshold is not None:
        return [threshold] * num_classes
    return next(iter(running.thresholds().values()), [NO_CHOICE] * num_classes)


def _describe(running: Running, timeline: Timeline, found: Found, top: int) -> dict[str, Any]:
    mean_K = timeline.mean_K
    return {
        "done": timeline.is_done,
        "reason": None,
        "seconds": to_seconds(timeline.end),
        "num_frames": timeline.num_frames,
        "num_windows": timeline.num_windows,
        "num_damaged": timeline.stream.num_damaged,
        "broken": timeline.stream.broken,
        "windows": [
            {
                "start": to_seconds(window.start),
                "end": to_seconds(window.end),
                "classes": name_classes(running, scores_K, top),
            }
            for window, scores_K in found.windows
        ],
        "segments": [_tell(running, segment) for segment in found.segments],
        "classes": name_classes(running, mean_K, top) if timeline.is_done and mean_K is not None else None,
    }


def _tell(running: Running, segment: Segment) -> dict[str, Any]:
    names = running.classes
    return {
        "start": to_seconds(segment.start),
        "end": to_seconds(segment.end),
        "label": segment.label,
        "name": names[segment.label] if names else str(segment.label),
        "probability": segment.probability,
    }


# ---- where the decoder looks -----------------------------------------------------------------------------------------


def explain_video(
    running: Running,
    path: str,
    part: list[int] | None,
    layer: int | None,
    head: int | None,
    strip: str | None,
    overlay: str | None,
) -> dict[str, Any]:
    """Returns where the decoder looks in the clip in the middle of a video, or the reason why it cannot be read;
    `strip` is then a PNG of it and `overlay` an MP4. Layer and head count from 1; of none the mean of all."""
    listed = None if part is None else Part(*part)
    files = (None if file is None else Path(file) for file in (strip, overlay))
    try:
        with heartbeat.beating():
            found = explain(running.cohort, running.settings, running.prepare, path, listed, layer, head, *files)
    except BadVideo as bad:
        return {"reason": bad.reason, "explanation": None}
    label = int(found.scores_K.argmax())
    frames = zip(found.indices, found.seconds, found.weights_T.tolist(), strict=True)
    return {
        "reason": None,
        "explanation": {
            "frames": [{"index": index, "seconds": seconds, "weight": weight} for index, seconds, weight in frames],
            "maps": found.maps_Thw.tolist(),
            "num_layers": found.num_layers,
            "num_heads": found.num_heads,
            "label": label,
            "name": running.classes[label] if running.classes else str(label),
            "probability": float(found.scores_K[label]),
            "difference": found.difference,
            "without_most": _tell_hidden(found.most),
            "without_least": _tell_hidden(found.least),
        },
    }


def _tell_hidden(hidden: Hidden | None) -> dict[str, Any] | None:
    return None if hidden is None else vars(hidden)
