"""The cohort: trials that share one stream of clips and one frozen backbone pass.

Every trial comes out as it would alone: all it shares with the others are the clips and their features.

Shapes: N clips, C channels (3), T frames, H, W pixels; K classes
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial, reduce
from operator import or_
from typing import NamedTuple

import torch
from torch import Tensor

from coldframe.backbones.interface import Layer, Source
from coldframe.backbones.shape import Wants
from coldframe.machine import ranks
from coldframe.machine.precision import autocast
from coldframe.train.cuda_graphs import Recording
from coldframe.train.schedule import shard_size
from coldframe.train.trial import StepResult, Trial

NUM_STARTED = 2  # steps before launches are recorded: they set up what is set up once


class Learned(NamedTuple):
    """What a pass over a batch leaves in a trial: its sums, and a gradient for each parameter."""

    sums: tuple[Tensor, Tensor]
    gradients: list[Tensor | None]


class _Batch(NamedTuple):
    """What a step is computed of: this rank's clips, and how many all ranks have."""

    step: int
    clips: Tensor  # NCTHW
    targets: Tensor
    num_clips: int
    progress: Callable[[], None]


class _Updates:
    """The updates of a step, a trial after the other. With other ranks a trial's gradients are summed up while the next
    one learns; without them each is updated at once, so that one trial's gradients at a time take memory."""

    def __init__(self, step: int, tells_which: bool) -> None:
        self._step, self._tells_which = step, tells_which
        self._sent: deque[Trial] = deque()
        self._most_sent = 0 if ranks.world_size() == 1 else 1
        self.figures: list[Tensor] = []

    def add(self, trial: Trial) -> None:
        """Takes a trial that has learnt all shards of this rank."""
        trial.send(self._tells_which)
        self._sent.append(trial)
        self._update(self._most_sent)

    def finish(self) -> list[Tensor]:
        """Returns the figures (3,) of each trial's update."""
        self._update(0)
        return self.figures

    def _update(self, most_left: int) -> None:
        while len(self._sent) > most_left:
            self.figures.append(self._sent.popleft().update(self._step))


class Cohort:
    """Trials over one backbone pass. All trials have the same data, backbone, precision and batch.

    Stored features may take the backbone's place.
    """

    def __init__(self, trials: list[Trial], backbone: Source, device: torch.device, precision: str) -> None:
        assert trials
        self.trials = trials
        self.backbone = backbone
        self.device = device
        self.precision = precision
        self.frozen = trials[0].backbone is None
        assert self.frozen or len(trials) == 1, "a trained backbone cannot be shared"
        self._num_started = 0  # steps, by launching all they do
        self._recording: Recording[dict[int, Layer], Learned] | None = None
        self._recorded: object = None  # what the recording is of

    def step(
        self,
        step: int,
        clips_NCTHW: Tensor,
        targets: Tensor,
        progress: Callable[[], None] = lambda: None,
        counts: Sequence[int] | None = None,
    ) -> dict[str, StepResult]:
        """Returns each trial's result of optimizer step `step` (from 0) on one batch of normalised clips.

        `targets` are labels (N,) or, after mixing, class weights (N, K), as they are where clips have several labels.
        `progress` is called after every shard. `counts` are the clips of each rank, which may be none of some: every
        clip of the whole batch counts the same. Results are those of all ranks, and the same on each.
        """
        for trial in self.trials:
            trial.begin()
        counts = counts or [len(clips_NCTHW)]
        num_clips = sum(counts)
        batch = _Batch(step, clips_NCTHW, targets, num_clips, progress)
        updates = _Updates(step, tells_which=0 in counts)
        update_all = self._replay if self._may_replay(counts) else self._launch
        update_all(batch, updates)
        figures = torch.stack(updates.finish())
        # One transfer for all trials: each would wait for the device, which meanwhile had nothing to do.
        with ranks.waiting() if len(counts) > 1 else nullcontext():  # a GPU does what other ranks have a part in
            on_host = figures.tolist()
        return {trial.name: trial.judge(step, row, num_clips) for trial, row in zip(self.trials, on_host, strict=True)}

    def _launch(self, batch: _Batch, updates: _Updates) -> None:
        """Computes each trial's update by launching everything a step does."""
        self._num_started += 1
        train = self.trials[0].settings.train
        size, first = shard_size(train), ranks.rank() * train.micro_batches
        shards = range(0, len(batch.clips), size)
        for shard, start in enumerate(shards, first):
            clips_NCTHW, targets = (each[start : start + size] for each in (batch.clips, batch.targets))
            share, is_last = len(targets) / batch.num_clips, start == shards[-1]
            features = self.features(clips_NCTHW)
            for trial in self.trials:
                trial.seed(batch.step, shard)
                trial.learn(features, targets, share, is_last)
                if is_last:
                    updates.add(trial)
            batch.progress()
        if not shards:  # no clip of this rank could be read: it takes what the others have learnt
            for trial in self.trials:
                updates.add(trial)

    def features(self, clips_NCTHW: Tensor) -> dict[int, Layer]:
        """Returns what decoders read of a batch, in the precision of training, no graph when frozen; what does not
        depend on a trial's weights is done once here."""
        with autocast(self.device, self.precision):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
                layers = self.backbone(clips_NCTHW, self.wants())
            for trial in self.trials:
                trial.model.prepare(layers)
            for layer in layers.values():
                layer.settle()
            return layers

    def wants(self) -> Wants:
        """Returns what all trials together read of the backbone."""
        return reduce(or_, (trial.model.wants for trial in self.trials))

    @torch.no_grad()
    def scores(self, clips_NCTHW: Tensor) -> dict[str, Tensor]:
        """Returns each trial's class probabilities (N, K), float32, in the precision that training uses; from the mean
        of the weights where the trial keeps one."""
        with autocast(self.device, self.precision), ExitStack() as stack:
            for trial in self.trials:
                trial.set_training(False)
                stack.enter_context(trial.averaged())
            features = self.features(clips_NCTHW)
            return {trial.name: trial.scores(features) for trial in self.trials}

    def drop(self, names: Iterable[str]) -> None:
        """Takes trials out of the cohort; the others do not notice."""
        gone = set(names)
        self.trials = [trial for trial in self.trials if trial.name not in gone]
        if self._recording is not None:
            self._recording.drop(gone)

    def compile(self) -> None:
        """Turns torch.compile on, in place; parameter names stay."""
        self.backbone.compile()
        for trial in self.trials:
            trial.model.compile()

    def count_parameters(self) -> dict[str, int]:
        """Returns how many parameters there are in all, and how many of them are trained."""
        trained = sum(parameter.numel() for trial in self.trials for _, parameter in trial.named_parameters())
        frozen = sum(parameter.numel() for parameter in self.backbone.parameters()) if self.frozen else 0
        return {"total": trained + frozen, "trained": trained}

    # --- recorded launches ---

    def _may_replay(self, counts: Sequence[int]) -> bool:
        """Returns whether the step is one of many of the same launches, on a GPU: no clip is missing on any rank."""
        if self.device.type != "cuda" or not self.frozen:
            return False
        first = self.trials[0].settings
        is_wanted = first.launch.cuda_graphs and first.train.micro_batches == 1 and not first.train.compile
        return is_wanted and sum(counts) == first.train.batch_size and self._num_started >= NUM_STARTED

    def _replay(self, batch: _Batch, updates: _Updates) -> None:
        """Computes the same as `_launch`, by replaying its launches; what goes between ranks is not among them."""
        clips_NCTHW, targets = batch.clips, batch.targets
        kind = (self.wants(), targets.shape, targets.dtype)
        if self._recording is None or self._recorded != kind:
            self._recording = None  # its memory first
            share = len(clips_NCTHW) / batch.num_clips
            passes = {trial.name: partial(_record, trial, share) for trial in self.trials}
            self._recording, self._recorded = Recording(clips_NCTHW, targets, self.features, passes), kind
        self._recording.start(clips_NCTHW, targets)
        for trial in self.trials:
            trial.seed(batch.step, ranks.rank())
            trial.sums, gradients = self._recording.run(trial.name)
            for (_, parameter), gradient in zip(trial.named_parameters(), gradients, strict=True):
                parameter.grad = gradient
            updates.add(trial)
        batch.progress()


def _record(trial: Trial, share: float, features: dict[int, Layer], targets: Tensor) -> Learned:
    """Returns what `learn` leaves in a trial, and takes it away again: replaying leaves it in the same tensors."""
    trial.begin()
    trial.learn(features, targets, share)
    learned = Learned(trial.sums, [parameter.grad for _, parameter in trial.named_parameters()])
    trial.begin()
    return learned
