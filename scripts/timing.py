"""What every bench program shares: ways measured in turn, medians with their spread, one JSON line a figure."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


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
    repeats: int = 1,
    wait: Callable[[], object] = lambda: None,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Returns seconds of each way in each round, in which it is done `repeats` times and waited for. Ways take turns
    and each round begins with another one, so that a machine that changes its speed does so for all of them."""
    read = clock or time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(-warmup, rounds):
        times = repeats if turn >= 0 else 1
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = read()
            for _ in range(times):
                ways[name]()
            wait()
            if turn >= 0:
                seconds[name].append((read() - started) / times)
    return seconds


def pace(device: str, *, quick: bool, warmup: int = 1, repeats: int = 5) -> dict[str, Any]:
    """Returns the keywords of `measure` for a device; `warmup` and `repeats` are those of a CPU and of a GPU."""
    rounds = 2 if quick else 5
    if device == "cpu":
        return {"rounds": rounds, "warmup": warmup}
    # Steps take milliseconds there, so that a round has several; the first ones load kernels and choose algorithms.
    return {"rounds": rounds + 2, "warmup": 3, "repeats": repeats, "wait": torch.cuda.synchronize}


def place(device: str, precision: str) -> str:
    """Returns the end of the name of a figure: where it was measured, unless that is a CPU in float32."""
    return "" if (device, precision) == ("cpu", "fp32") else f", {device} {precision}"


def describe_gpu(device: str) -> dict[str, str]:
    """Returns the GPU that figures are of as a detail of theirs, nothing for a CPU."""
    return {} if device == "cpu" else {"gpu": torch.cuda.get_device_name()}


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
