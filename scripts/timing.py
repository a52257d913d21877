"""What every bench program shares: ways measured in turn, medians with their spread, one JSON line a figure."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """How many times faster `ours` is than `plain`: the median over rounds, with the smallest and the largest."""

    median: float
    low: float
    high: float


def measure(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    warmup: int = 1,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Returns seconds of each way in each round. Ways take turns and each round begins with another one, so that a
    machine that changes its speed does so for all of them."""
    read = clock or time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(-warmup, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = read()
            ways[name]()
            if turn >= 0:
                seconds[name].append(read() - started)
    return seconds


def ratio(plain: list[float], ours: list[float]) -> Ratio:
    """Returns plain over ours, round by round."""
    ratios = [p / o for p, o in zip(plain, ours, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def emit(
    name: str, value: Ratio | float, *, least: float | None = None, goal: float | None = None, **details: object
) -> None:
    """Prints one figure as a JSON line: its name, ratio, spread, what is asked of it, and the machine's load."""
    spread = {"low": value.low, "high": value.high} if isinstance(value, Ratio) else {}
    figure = value.median if isinstance(value, Ratio) else value
    load = os.getloadavg()[0]
    line = {"name": name, "ratio": figure, **spread, "least": least, "goal": goal, **details, "load": load}
    print(json.dumps(line), flush=True)
