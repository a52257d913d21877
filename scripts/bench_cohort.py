"""Times a step of a cohort of many trials against a cohort of one, and so against as many separate runs.

    py/python.sh scripts/bench_cohort.py [--device cpu] [--precision fp32] [--preset ViT-B/16] [--frames 8]
                                          [--batch 8] [--trials 8] [--quick]

Both cohorts are in one process and take turns, from normalised clips in memory: decoding, which a cohort shares too, is
not in the ratio. The default batch is 8: a trial's update costs the same for any batch, the backbone does not. On a GPU
it is 16, and the precision fp16.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from bench_features import add_options, make_settings
from coldframe.assembly import models
from coldframe.machine.device import choose_device
from coldframe.settings import Settings
from coldframe.train.cohort import Cohort
from coldframe.train.trial import build_trial
from timing import Ratio, describe_gpu, emit, measure, pace, place, ratio


def vary(settings: Settings, number: int) -> Settings:
    """Returns settings of another rate, depth and choice of temporal modules for each number."""
    decoder = replace(settings.model.decoder, num_layers=1 + number % settings.model.decoder.num_layers)
    switches = {"conv": number % 2 == 0, "cross_attention": number % 3 != 0, "position_embedding": number % 4 != 3}
    temporal = replace(settings.model.temporal, **switches)
    train = replace(settings.train, lr=settings.train.lr * 2**-number, seed=number)
    return replace(settings, model=replace(settings.model, decoder=decoder, temporal=temporal), train=train)


class Step:
    """A training step of a cohort of these settings on a batch of noise."""

    def __init__(self, trials: list[Settings], backbone: models.VisionTransformer, precision: str) -> None:
        device = backbone.class_embedding.device
        built = [build_trial(str(i), settings, backbone, device, precision) for i, settings in enumerate(trials)]
        self.cohort, self.number = Cohort(built, backbone, device, precision), 0
        data, batch_size = trials[0].data, trials[0].train.batch_size
        self.clips_NCTHW = torch.randn(batch_size, 3, data.num_frames, data.size, data.size).to(device)
        self.labels_N = torch.arange(batch_size, device=device)

    def __call__(self) -> None:
        self.cohort.step(self.number, self.clips_NCTHW, self.labels_N)
        self.number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, batch=8)
    parser.add_argument("--trials", type=int, default=8)
    args = parser.parse_args()
    on_cpu, preset = args.device == "cpu", "small" if args.quick else args.preset
    precision, batch = args.precision or ("fp32" if on_cpu else "fp16"), args.batch or (8 if on_cpu else 16)
    with tempfile.TemporaryDirectory(prefix="coldframe-") as name:
        settings = make_settings(preset, args.frames, batch, Path(name))
    backbone, _, _ = models.build_backbone(settings, torch.device(choose_device(args.device)), precision)
    seeds = [replace(settings, train=replace(settings.train, seed=i)) for i in range(args.trials)]
    steps = {
        "one": Step([settings], backbone, precision),
        "many": Step(seeds, backbone, precision),
        "mixed": Step([vary(settings, i) for i in range(args.trials)], backbone, precision),
    }
    seconds = measure(steps, **pace(args.device, quick=args.quick))
    cost = ratio(seconds["many"], seconds["one"])
    gain = Ratio(args.trials / cost.median, args.trials / cost.high, args.trials / cost.low)
    best = {f"{name}_seconds": min(values) for name, values in seconds.items()}
    about = {"preset": preset, "frames": args.frames, "batch": batch, "trials": args.trials,
             "keeps_freed_memory": os.environ.get("MALLOC_MMAP_MAX_") == "0", **describe_gpu(args.device)}  # fmt: skip
    end = place(args.device, precision)
    is_asked = not end and not args.quick and args.trials == 8
    most, least = ({"least": 1.7, "goal": 1.4}, {"least": 4.5, "goal": 5.5}) if is_asked else ({}, {})
    emit(f"cohort of many against a cohort of one{end}", cost, **most, **best, **about)
    emit(f"as many separate runs against the cohort{end}", gain, **least, **about)
    mixed = ratio(seconds["mixed"], seconds["one"])
    emit(f"cohort of differing trials against a cohort of one{end}", mixed, **about)


if __name__ == "__main__":
    main()
