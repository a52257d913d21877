"""Times training steps of 1..N processes on this machine: clips a second, and what part of the time goes between them.

    py/python.sh scripts/bench_scaling.py [--device cpu] [--precision fp32] [--preset ViT-B/16] [--frames 8]
                                          [--batch 2] [--most 2] [--quick]

Every process has a batch of its own (weak scaling), from normalised clips in memory, and the same share of the cores
for any number of them, so that one stands for a device. More processes than that are a model: the step of one, and the
sum of its gradients over a ring at the rate that was measured between two.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from bench_features import add_options, make_settings
from coldframe.assembly import models
from coldframe.machine import ranks
from coldframe.machine.device import choose_device
from coldframe.machine.environment import count_cpus
from coldframe.settings import Settings
from coldframe.train.cohort import Cohort
from coldframe.train.trial import build_trial
from fork_ranks import run_ranks
from timing import Ratio, emit, place

MODELLED = (8, 16, 64)


class Found(NamedTuple):
    """Of one rank: seconds of its steps, how many of each it waited for others, and what one sum of gradients takes."""

    steps: list[float]
    waited: list[float]
    sum_seconds: float
    gradient_bytes: int


def train(settings: Settings, batch: int, device: str, precision: str, threads: int, rounds: int) -> Found:
    """Returns what one rank found."""
    torch.set_num_threads(threads)
    where = torch.device(choose_device(device))
    backbone, _, _ = models.build_backbone(settings, where, precision)
    trial = build_trial("main", settings, backbone, where, precision)
    cohort = Cohort([trial], backbone, where, precision)
    clips = torch.randn(batch, 3, settings.data.num_frames, settings.data.size, settings.data.size).to(where)
    labels, counts = torch.arange(batch, device=where), [batch] * ranks.world_size()
    steps, waited = [], []
    for number in range(-1, rounds):
        ranks.barrier()
        before, started = ranks.waited_seconds(), time.perf_counter()
        cohort.step(number + 1, clips, labels, counts=counts)
        if number >= 0:  # the first one sets up what is set up once
            steps.append(time.perf_counter() - started)
            waited.append(ranks.waited_seconds() - before)
    flat = torch.zeros(sum(parameter.numel() for _, parameter in trial.named_parameters()), device=where)
    sums = [_time_sum(flat) for _ in range(rounds + 1)][1:]
    return Found(steps, waited, statistics.median(sums), flat.nbytes)


def _time_sum(flat: torch.Tensor) -> float:
    ranks.barrier()
    started = time.perf_counter()
    ranks.reduce_(flat).wait()
    if flat.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def ring_seconds(size: int, seconds_of_two: float) -> float:
    """Returns what a sum takes around a ring of so many: each sends 2 (N - 1) / N of it, two of them all of it."""
    return seconds_of_two * 2 * (size - 1) / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, batch=2, batch_of="of each process; ")
    parser.add_argument("--most", type=int, default=max(2, min(8, count_cpus())), help="processes at the most")
    args = parser.parse_args()
    on_cpu, preset = args.device == "cpu", "small" if args.quick else args.preset
    precision, batch = args.precision or ("fp32" if on_cpu else "fp16"), args.batch or (2 if on_cpu else 16)
    threads, rounds = max(1, count_cpus() // args.most), 2 if args.quick else 5
    sizes = sorted({1, *(2**i for i in range(1, args.most.bit_length())), args.most} & set(range(args.most + 1)))
    found: dict[int, list[Found]] = {}
    where = place(args.device, precision)
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="coldframe-") as name:
            settings = make_settings(preset, args.frames, batch * size, Path(name))
        found[size] = run_ranks(size, partial(train, settings, batch, args.device, precision, threads, rounds))
        if size > 1:
            _tell(found, size, batch, where)
    one, two = statistics.median(found[1][0].steps), max(each.sum_seconds for each in found[2])
    for size in MODELLED:
        seconds = one + ring_seconds(size, two)
        name = f"model of {size} processes, a device each: clips/s against one{where}"
        emit(name, size * one / seconds, step_seconds=seconds, gradient_bytes=found[2][0].gradient_bytes)


def _tell(found: dict[int, list[Found]], size: int, batch: int, where: str) -> None:
    """Prints the figures of so many processes."""
    one = statistics.median(found[1][0].steps)
    slowest = [max(times) for times in zip(*(each.steps for each in found[size]), strict=True)]
    gains = [size * one / seconds for seconds in slowest]
    gain = Ratio(statistics.median(gains), min(gains), max(gains))
    rate = size * batch / statistics.median(slowest)
    emit(f"clips/s of {size} processes against one{where}", gain, clips_per_second=rate, alone=batch / one)
    shares = [w / s for each in found[size] for w, s in zip(each.waited, each.steps, strict=True)]
    share = Ratio(statistics.median(shares), min(shares), max(shares))
    emit(f"share of a step's time in communication, {size} processes{where}", share)


if __name__ == "__main__":
    main()
