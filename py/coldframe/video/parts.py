"""A part of a video: the frames whose times lie in [start, end), and which of all frames they are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from coldframe.video.cut import MAX_MISSING
from coldframe.video.packets import Table
from coldframe.video.streams import BadVideo

MICROSECONDS = 1_000_000


class Part(NamedTuple):
    """Microseconds since the first frame that is shown."""

    start: int
    end: int

    @classmethod
    def of_seconds(cls, start: str | float, end: str | float) -> Part:
        """Returns the part of times in seconds, rounded to the nearest microsecond."""
        return cls(round(float(start) * MICROSECONDS), round(float(end) * MICROSECONDS))


def name_clip(path: str, part: Part | None) -> str:
    """Returns the path, of a part `PATH#t=START,END` as in W3C's Media Fragments URI 1.0 (4.2.1), which means the same:
    the half-open interval, in seconds."""
    if part is None:
        return path
    return f"{path}#t={show_seconds(part.start)},{show_seconds(part.end)}"


def show_seconds(microseconds: int) -> str:
    """Returns seconds without digits that say nothing."""
    whole, rest = divmod(microseconds, MICROSECONDS)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def to_microseconds(ticks: int, unit: Fraction) -> int:
    """Returns the nearest whole number of microseconds."""
    return (2 * ticks * unit.numerator * MICROSECONDS + unit.denominator) // (2 * unit.denominator)


def time_frames(table: Table, num_frames: int, places: Sequence[int | None] | None) -> list[int]:
    """Returns the times of the frames (microseconds, ascending), the first of them 0.

    places: of each frame the position of its packet, where decoding has told it. A file without presentation times of
    its own (AVI, a bare stream) has its frames at equal distances.
    """
    positions = table.order if places is None else [place for place in places if place is not None]
    if table.has_clock and len(positions) == num_frames and len(set(positions)) == num_frames:
        times = sorted(table.times[position] for position in positions)
        return [to_microseconds(time - times[0], table.unit) for time in times]
    return [to_microseconds(i, 1 / table.rate) for i in range(num_frames)]


def find_part(path: str, part: Part, times: Sequence[int], rate: Fraction) -> range:
    """Returns the numbers of the part's frames. Raises BadVideo where there are none, or where the video ends before
    the part does, by more than a frame and MAX_MISSING of it."""
    first, end = bisect_left(times, part.start), bisect_left(times, part.end)
    start_text, end_text = show_seconds(part.start), show_seconds(part.end)
    period = to_microseconds(1, 1 / rate)
    over = times[-1] + period
    if part.end - over > max(period, MAX_MISSING * (part.end - part.start)):
        raise BadVideo(path, f"ends at {show_seconds(over)} s, before its part from {start_text} to {end_text} s")
    if first == end:
        raise BadVideo(path, f"has no frame from {start_text} to {end_text} s: they are {show_seconds(period)} s apart")
    return range(first, end)
