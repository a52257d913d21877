"""What happens when in a long video: windows that slide over it, their scores smoothed, and the segments these make.

Memory does not grow with the video: frames are read once, those that a window takes are resized at once, and windows
become segments as they come.

Shapes: V views of a window (spatial-major), C = 3, T frames, S = size (pixels, square); K classes
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from av.video.frame import VideoFrame
from torch import Tensor

from coldframe.data.augment import eval_views
from coldframe.data.stream import FrameStream
from coldframe.errors import UserError
from coldframe.settings import Settings
from coldframe.video.frames import view_indices
from coldframe.video.parts import MICROSECONDS
from coldframe.video.sequence import rgb_converter


@dataclass(frozen=True)
class Windows:
    """In frames: how many a window spans, from one to the next, and which of it each temporal view takes."""

    span: int
    hop: int
    picks: list[list[int]]

    @classmethod
    def plan(cls, settings: Settings, rate: Fraction, seconds: float | None, overlap: float) -> Windows:
        """Returns windows of so many seconds, by default as long as a training clip; each is looked at as `predict`
        looks at a part of that length. The overlap is rounded so that windows share frames."""
        data = settings.data
        stride = None if data.sampling == "tsn" else data.stride
        if seconds is None and stride is None:
            raise UserError("--window  is not set: data.sampling is tsn, whose clips are as long as their videos.")
        reach = 1 if stride is None else stride * (data.num_frames - 1) + 1
        span = reach if seconds is None else max(1, round(seconds * rate))
        step = stride or 1
        hop = max(1, round(span * (1 - overlap) / step)) * step
        num_views = 1 if stride is not None and span <= reach else settings.eval.temporal_views
        return cls(span, hop, view_indices(span, data.num_frames, stride, num_views))


@dataclass(frozen=True)
class Window:
    """A piece of the video, microseconds since its first frame."""

    start: int
    end: int

    @property
    def middle(self) -> int:
        return (self.start + self.end) // 2


@dataclass(frozen=True)
class Segment:
    """A piece of the video in which a class is seen, and its mean probability there."""

    start: int
    end: int
    label: int
    probability: float


class Cutter:
    """Cuts windows out of frames that come one by one."""

    def __init__(self, windows: Windows, settings: Settings, period: int) -> None:
        self._windows, self._settings, self._period = windows, settings, period
        self._wanted = {offset for pick in windows.picks for offset in pick}
        self._convert = rgb_converter()
        self._starts: deque[tuple[int, int]] = deque()  # number and time of the first frame of windows that are open
        self._times: deque[int] = deque(maxlen=windows.span)
        self._kept: dict[int, Tensor] = {}  # by number: a frame in each spatial view
        self._last: VideoFrame | None = None
        self._num_frames = self._num_covered = 0

    def take(self, time: int, frame: VideoFrame) -> tuple[Window, Tensor] | None:
        """Returns the window that this frame completes, with its views (V, C, T, S, S)."""
        number, windows = self._num_frames, self._windows
        self._num_frames, self._last = number + 1, frame
        self._times.append(time)
        if number % windows.hop == 0:
            self._starts.append((number, time))
        if any(number - start in self._wanted for start, _ in self._starts):
            self._kept[number] = self._resize(frame)
        if not self._starts or self._starts[0][0] + windows.span > self._num_frames:
            return None
        first, start = self._starts.popleft()
        self._num_covered = self._num_frames
        clip = self._join([[first + offset for offset in pick] for pick in windows.picks])
        for gone in [kept for kept in self._kept if kept < first]:
            del self._kept[gone]
        return Window(start, time + self._period), clip

    def finish(self) -> tuple[Window, Tensor] | None:
        """Returns a window over what no other one covers: the last frames, or all of a video that is shorter. Of those
        that are at hand its clip takes the nearest."""
        if self._num_covered == self._num_frames or self._last is None:
            return None
        num_frames, first = min(self._windows.span, self._num_frames), max(0, self._num_frames - self._windows.span)
        if first == 0:
            self._kept[self._num_frames - 1] = self._resize(self._last)
        data = self._settings.data
        stride = None if data.sampling == "tsn" else data.stride
        views = view_indices(num_frames, data.num_frames, stride, len(self._windows.picks))
        nearest = [[self._find_nearest(first + offset) for offset in view] for view in views]
        return Window(self._times[0], self._times[-1] + self._period), self._join(nearest)

    def _find_nearest(self, number: int) -> int:
        return min(self._kept, key=lambda kept: abs(kept - number))

    def _resize(self, frame: VideoFrame) -> Tensor:
        data, views = self._settings.data, self._settings.eval
        return eval_views([self._convert(frame)], [[0]], data.size, views.spatial_views)

    def _join(self, numbers: list[list[int]]) -> Tensor:
        num_spatial = self._settings.eval.spatial_views
        return torch.stack(
            [
                torch.cat([self._kept[number][i] for number in view], dim=1)
                for i in range(num_spatial)
                for view in numbers
            ]
        )


class Smoother:
    """Means over so many windows around each, fewer at both ends."""

    def __init__(self, num_windows: int) -> None:
        self._half = num_windows // 2
        self._window: deque[tuple[Window, Tensor]] = deque()
        self._place = 0  # in the deque, of the next one to be given out

    def take(self, window: Window, scores_K: Tensor) -> list[tuple[Window, Tensor]]:
        """Returns what is known of windows now that this one is."""
        self._window.append((window, scores_K))
        return [self._give()] if len(self._window) - self._place > self._half else []

    def finish(self) -> list[tuple[Window, Tensor]]:
        """Returns the rest."""
        return [self._give() for _ in range(len(self._window) - self._place)]

    def _give(self) -> tuple[Window, Tensor]:
        window = self._window[self._place][0]
        first = max(0, self._place - self._half)
        around = [scores for _, scores in self._window][first : self._place + self._half + 1]
        if self._place == self._half:
            self._window.popleft()
        else:
            self._place += 1
        return window, torch.stack(around).mean(dim=0)


class Segments:
    """Joins windows in which the same class is above its threshold. A window speaks for what is nearer to its middle
    than to that of another."""

    def __init__(self, start: int, thresholds: float | Sequence[float]) -> None:
        self._thresholds = thresholds
        self._start = start
        self._previous: Window | None = None
        self._open: dict[int, tuple[int, list[float]]] = {}

    def take(self, window: Window, scores_K: Tensor) -> list[Segment]:
        """Returns the segments that end where this window begins to speak."""
        border = self._start if self._previous is None else (self._previous.middle + window.middle) // 2
        self._previous = window
        seen = self._find(scores_K.tolist())
        over = [self._close(label, border) for label in list(self._open) if label not in seen]
        for label, probability in seen.items():
            self._open.setdefault(label, (border, []))[1].append(probability)
        return over

    def finish(self, end: int) -> list[Segment]:
        """Returns those that last to the end."""
        return [self._close(label, end) for label in list(self._open)]

    def _find(self, scores: list[float]) -> dict[int, float]:
        if isinstance(self._thresholds, float):  # one class at a time
            best = max(range(len(scores)), key=scores.__getitem__)
            return {best: scores[best]} if scores[best] >= self._thresholds else {}
        return {
            k: score for k, (score, least) in enumerate(zip(scores, self._thresholds, strict=True)) if score >= least
        }

    def _close(self, label: int, end: int) -> Segment:
        start, values = self._open.pop(label)
        return Segment(start, end, label, sum(values) / len(values))


@dataclass
class Found:
    """What a piece of the work gave: windows with their smoothed scores (K,), segments that are over."""

    windows: list[tuple[Window, Tensor]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)


class Timeline:
    """One pass over a video that is taken a bounded piece at a time."""

    def __init__(
        self,
        stream: FrameStream,
        windows: Windows,
        settings: Settings,
        score: Callable[[Tensor], Tensor],
        *,
        smooth_seconds: float,
        thresholds: float | Sequence[float],
        at_once: int,
    ) -> None:
        """`score` gives the scores (N, K) of the views (N, V, C, T, S, S) of `at_once` windows."""
        self.stream, self.windows, self._score = stream, windows, score
        self._frames = stream.read()
        self._cutter = Cutter(windows, settings, stream.period)
        num_smoothed = smooth_seconds * float(stream.rate) / windows.hop
        self._smoother = Smoother(2 * int(num_smoothed / 2) + 1)  # the nearest odd number
        self._segments = Segments(0 if stream.part is None else stream.part.start, thresholds)
        self._at_once = at_once
        self._waiting: list[tuple[Window, Tensor]] = []
        self._sum_K: Tensor | None = None
        self.num_windows = self.num_frames = self.end = 0
        self.is_done = False

    @property
    def mean_K(self) -> Tensor | None:
        """The mean of all windows so far."""
        return None if self._sum_K is None else self._sum_K / self.num_windows

    def advance(self, seconds: float, progress: Callable[[], None]) -> Found:
        """Returns what about so many seconds of work found. Raises BadVideo where there is not a single frame."""
        until, found = time.monotonic() + seconds, Found()
        while not self.is_done and time.monotonic() < until:
            coming = next(self._frames, None)
            progress()
            if coming is None:
                self._finish(found)
                break
            self.num_frames += 1
            self.end = coming[0] + self.stream.period
            window = self._cutter.take(*coming)
            if window is not None:
                self._waiting.append(window)
            if len(self._waiting) == self._at_once:
                self._judge(found)
        return found

    def close(self) -> Found:
        """Returns the rest of what was seen so far, as if the video had ended here."""
        found = Found()
        if not self.is_done:
            self._finish(found)
        return found

    def _judge(self, found: Found) -> None:
        if not self._waiting:
            return
        scores_NK = self._score(torch.stack([clip for _, clip in self._waiting])).cpu()
        for (window, _), scores_K in zip(self._waiting, scores_NK, strict=True):
            self._sum_K = scores_K.double() if self._sum_K is None else self._sum_K + scores_K
            self.num_windows += 1
            self._join(self._smoother.take(window, scores_K), found)
        self._waiting = []

    def _join(self, smoothed: list[tuple[Window, Tensor]], found: Found) -> None:
        for window, scores_K in smoothed:
            found.windows.append((window, scores_K))
            found.segments += self._segments.take(window, scores_K)

    def _finish(self, found: Found) -> None:
        last = self._cutter.finish()
        if last is not None:
            self._waiting.append(last)
        self._judge(found)
        self._join(self._smoother.finish(), found)
        found.segments += self._segments.finish(self.end)
        self.stream.close()
        self.is_done = True


def to_seconds(microseconds: int) -> float:
    """Returns the same in seconds."""
    return microseconds / MICROSECONDS
