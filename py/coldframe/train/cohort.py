"""The cohort: trials that share one stream of clips and one frozen backbone pass.

Every trial has its own decoder, optimizer, random streams and finite check, so that it comes out as it would alone.

Shapes: N clips, C channels (3), T frames, H, W pixels; K classes
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from coldframe.backbones.clip.model import LayerFeatures, VisionTransformer
from coldframe.decoders.evl.model import EVL
from coldframe.decoders.evl.motion import DecoderInput, prepare_features
from coldframe.settings import Settings, Train
from coldframe.train.cuda_graphs import Recording

if TYPE_CHECKING:
    from coldframe.cache.read import StoredFeatures

NUM_STARTED = 2  # steps before launches are recorded: they set up what is set up once
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def stream_seed(*place: int | str) -> int:
    """Returns the 63-bit seed of the random stream that belongs to a place, e.g. (seed, "dropout", step, shard)."""
    digest = hashlib.blake2b("/".join(map(str, place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def learning_rate(step: int, train: Train) -> float:
    """Returns the rate used in optimizer step `step` (from 0): linear warm-up, then half a cosine down to zero.

    Without warm-up it is the schedule of upstream's main.py, CosineAnnealingLR(T_max=steps) stepped every step.
    """
    if step < train.warmup_steps:
        return train.lr * (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    return train.lr * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class StepResult:
    """What one step of one trial gave: mean loss, rate, norm of the gradient before clipping, accuracy 0..1."""

    loss: float
    lr: float
    grad_norm: float
    top1: float
    diverged: str | None = None


class Learned(NamedTuple):
    """What a pass over a batch leaves in a trial: its sums, and a gradient for each parameter."""

    sums: tuple[Tensor, Tensor]
    gradients: list[Tensor | None]


class Trial:
    """One trainable decoder with its optimizer; with `freeze: false` the backbone belongs to it as well."""

    def __init__(
        self, name: str, settings: Settings, model: EVL, backbone: VisionTransformer | None, precision: str
    ) -> None:
        self.name = name
        self.settings = settings
        self.model = model
        self.backbone = backbone
        self.precision = precision
        device = next(model.parameters()).device
        self.average: dict[str, Tensor] = {}  # the weights' running mean; empty before the first step and without EMA
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        zero = torch.zeros((), device=device)
        self.sums = (zero, zero)  # over the shards of a step: loss and hits

    @cached_property
    def optimizer(self) -> torch.optim.AdamW:
        """The trial's optimizer, made when training first asks: the first one of a process costs 2 s of imports."""
        train = self.settings.train
        return torch.optim.AdamW(self._groups(), lr=train.lr, weight_decay=train.weight_decay, fused=True)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields what this trial trains, under the names its checkpoint uses."""
        yield from self.model.named_parameters()
        if self.backbone is not None:
            for name, parameter in self.backbone.named_parameters():
                if parameter.requires_grad:
                    yield f"backbone.{name}", parameter

    def _groups(self) -> list[dict[str, Any]]:
        """Returns AdamW's groups: by learning rate, and with `decay_all: false` matrices apart from all else.

        Upstream's main.py decays every parameter, norms and biases included: the released recipe, and one group.
        """
        train = self.settings.train
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            tuned = name.startswith("backbone.") and train.backbone_lr is not None
            scale = (train.backbone_lr or train.lr) / train.lr if tuned else 1.0
            decays = train.decay_all or (parameter.ndim > 1 and "pos" not in name and "embedding" not in name)
            groups.setdefault((scale, train.weight_decay if decays else 0.0), []).append(parameter)
        return [
            {"params": parameters, "lr_scale": scale, "weight_decay": decay}
            for (scale, decay), parameters in groups.items()
        ]

    def optimizer_names(self) -> list[str]:
        """Returns the parameters' names in the optimizer's order, which is what its state is numbered by."""
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        return [names[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]]

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        zero = torch.zeros_like(self.sums[0])
        self.sums = (zero, zero)

    def logits(self, features: Sequence[LayerFeatures | DecoderInput]) -> Tensor:
        """Returns float32 logits (N, K) from the features of the last blocks, as many as this decoder has layers."""
        # float32 whatever autocast does: the softmax of half-precision logits loses digits.
        logits: Tensor = self.model(features[-self.settings.model.decoder.num_layers :])
        return logits.float()

    def accumulate(self, logits: Tensor, targets: Tensor, share: float) -> None:
        """Adds the gradient of one shard's mean loss, weighed by its share of the batch."""
        smoothing = self.settings.train.label_smoothing
        loss = F.cross_entropy(logits, targets, label_smoothing=smoothing) * share
        torch.autograd.backward(self.scaler.scale(loss))
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        hits = (logits.detach().argmax(dim=1) == labels).sum()
        self.sums = (self.sums[0] + loss.detach(), self.sums[1] + hits)

    def update(self, step: int) -> Tensor:
        """Returns loss, hits and norm of the gradient before clipping, (3,), after one optimizer step, in which a value
        that is not finite never takes part. On CUDA nothing here waits for the device.
        """
        train = self.settings.train
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, train) * group["lr_scale"]
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for _, parameter in self.named_parameters()]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        figures = torch.stack([*self.sums, norm.to(self.sums[0])])
        if train.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, train.clip_grad_norm, norm)
        self._start_average()
        # The fused optimizer leaves its step out when told so; in half precision the scaler tells it.
        self.optimizer.found_inf = (~figures.isfinite()).any().float()  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._move_average()
        return figures

    def judge(self, step: int, figures: Sequence[float], num_clips: int) -> StepResult:
        """Returns the result of `update`, its figures by now on the host."""
        loss, hits, grad_norm = figures
        lr = learning_rate(step, self.settings.train)
        return StepResult(loss, lr, grad_norm, hits / max(1, num_clips), self._diagnose(loss, grad_norm))

    def _start_average(self) -> None:
        """The mean begins as the weights that training begins with, which checkpoints and `init_from` put in late."""
        if self.settings.train.ema_decay is not None and not self.average:
            self.average = {name: parameter.detach().clone() for name, parameter in self.named_parameters()}

    def _move_average(self) -> None:
        decay = self.settings.train.ema_decay
        if decay is not None:
            parameters = [parameter.detach() for _, parameter in self.named_parameters()]
            move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            move(list(self.average.values()), parameters, None)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The running mean in the weights' place, where there is one; training goes on from the weights."""
        self._swap_average()
        try:
            yield
        finally:
            self._swap_average()

    def _swap_average(self) -> None:
        if self.average:
            for name, parameter in self.named_parameters():
                parameter.data, self.average[name] = self.average[name], parameter.data

    def _diagnose(self, loss: float, grad_norm: float) -> str | None:
        if not math.isfinite(loss):
            what = "loss"
        # In half precision an overflow is normal while the scale, which it has just halved, can still fall.
        elif not math.isfinite(grad_norm) and not (self.scaler.is_enabled() and self.scaler.get_scale() >= 1):
            what = "gradient"
        else:
            return None
        advice = "Lower train.lr, set train.clip_grad_norm (for example 1.0) or train.warmup_steps"
        if self.precision == "fp16":
            advice += ", or train.precision: bf16"
        return f"the {what} is not finite ({loss if what == 'loss' else grad_norm}). {advice}."


class Cohort:
    """Trials over one backbone pass. All trials have the same data, backbone, precision and batch."""

    def __init__(
        self, trials: list[Trial], backbone: VisionTransformer | StoredFeatures, device: torch.device, precision: str
    ) -> None:
        assert trials
        self.trials = trials
        self.backbone = backbone
        self.device = device
        self.precision = precision
        self.frozen = trials[0].backbone is None
        assert self.frozen or len(trials) == 1, "a trained backbone cannot be shared"
        self._num_started = 0  # steps, by launching all they do
        self._recording: Recording[list[DecoderInput], Learned] | None = None
        self._recorded: object = None  # what the recording is of

    def autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])

    def features(self, clips_NCTHW: Tensor) -> list[LayerFeatures]:
        """Returns the features of the last blocks that any trial reads, earliest first; no graph when frozen."""
        num_layers, with_maps = self.needs()
        with torch.no_grad() if self.frozen else nullcontext():
            features: list[LayerFeatures] = self.backbone(clips_NCTHW, num_layers=num_layers, with_maps=with_maps)
        return features

    def needs(self) -> tuple[int, bool]:
        """Returns how many of the last blocks trials read, and whether their maps."""
        num_layers = max(trial.settings.model.decoder.num_layers for trial in self.trials)
        return num_layers, any(trial.settings.model.temporal.cross_attention for trial in self.trials)

    def decoder_inputs(self, clips_NCTHW: Tensor) -> list[DecoderInput]:
        """Returns the features as decoders read them; what does not depend on a trial's weights is done once here."""
        grid = self.trials[0].model.decoder.grid
        return [prepare_features(layer, grid) for layer in self.features(clips_NCTHW)]

    def step(
        self, step: int, clips_NCTHW: Tensor, targets: Tensor, progress: Callable[[], None] = lambda: None
    ) -> dict[str, StepResult]:
        """Returns each trial's result of optimizer step `step` (from 0) on one batch of normalised clips.

        `targets` are labels (N,) or, after mixing, class weights (N, K). `progress` is called after every shard.
        """
        for trial in self.trials:
            trial.model.train()
            trial.zero_grad()
            if trial.backbone is not None:
                trial.backbone.train()
        num_clips = len(clips_NCTHW)
        run = self._replay_shards if self._may_replay(num_clips) else self._launch_shards
        figures = run(step, clips_NCTHW, targets, progress)
        # One transfer for all trials: each would wait for the device, which meanwhile had nothing to do.
        on_host = torch.stack(figures).tolist()
        return {trial.name: trial.judge(step, row, num_clips) for trial, row in zip(self.trials, on_host, strict=True)}

    def _launch_shards(
        self, step: int, clips_NCTHW: Tensor, targets: Tensor, progress: Callable[[], None]
    ) -> list[Tensor]:
        """Returns the figures (3,) of each trial's update."""
        self._num_started += 1
        num_clips, train = len(clips_NCTHW), self.trials[0].settings.train
        shard_size = max(1, train.batch_size // train.micro_batches)
        figures = []
        for shard, start in enumerate(range(0, num_clips, shard_size)):
            part = slice(start, start + shard_size)
            share = len(clips_NCTHW[part]) / num_clips
            is_last = start + shard_size >= num_clips
            features = self.inputs(clips_NCTHW[part])
            for trial in self.trials:
                self._seed(trial, step, shard)
                self.learn(trial, features, targets[part], share)
                if is_last:  # at once, so that one trial's gradients at a time take memory
                    figures.append(trial.update(step))
                    trial.optimizer.zero_grad(set_to_none=True)
            progress()
        return figures

    def _may_replay(self, num_clips: int) -> bool:
        """Returns whether the step is one of many of the same launches, on a GPU."""
        if self.device.type != "cuda" or not self.frozen:
            return False
        first = self.trials[0].settings
        is_wanted = first.launch.cuda_graphs and first.train.micro_batches == 1 and not first.train.compile
        return is_wanted and num_clips == first.train.batch_size and self._num_started >= NUM_STARTED

    def _replay_shards(
        self, step: int, clips_NCTHW: Tensor, targets: Tensor, progress: Callable[[], None]
    ) -> list[Tensor]:
        """Returns the same as `_launch_shards`, by replaying its launches."""
        kind = (self.needs(), targets.shape, targets.dtype)
        if self._recording is None or self._recorded != kind:
            self._recording = None  # its memory first
            passes = {trial.name: partial(self._learn_anew, trial) for trial in self.trials}
            self._recording, self._recorded = Recording(clips_NCTHW, targets, self.inputs, passes), kind
        self._recording.start(clips_NCTHW, targets)
        figures = []
        for trial in self.trials:
            self._seed(trial, step, 0)
            trial.sums, gradients = self._recording.run(trial.name)
            for (_, parameter), gradient in zip(trial.named_parameters(), gradients, strict=True):
                parameter.grad = gradient
            figures.append(trial.update(step))
            trial.optimizer.zero_grad(set_to_none=True)
        progress()
        return figures

    def _learn_anew(self, trial: Trial, features: list[DecoderInput], targets: Tensor) -> Learned:
        trial.zero_grad()
        self.learn(trial, features, targets, 1.0)
        learned = Learned(trial.sums, [parameter.grad for _, parameter in trial.named_parameters()])
        trial.zero_grad()
        return learned

    def _seed(self, trial: Trial, step: int, shard: int) -> None:
        torch.manual_seed(stream_seed(trial.settings.train.seed, "dropout", step, shard))

    def inputs(self, clips_NCTHW: Tensor) -> list[DecoderInput]:
        """Returns `decoder_inputs` in the precision that training uses."""
        with self.autocast():
            return self.decoder_inputs(clips_NCTHW)

    def learn(self, trial: Trial, features: list[DecoderInput], targets: Tensor, share: float) -> None:
        """Adds a trial's gradient of one shard."""
        with self.autocast():
            logits = trial.logits(features)
        trial.accumulate(logits, targets, share)

    @torch.no_grad()
    def scores(self, clips_NCTHW: Tensor) -> dict[str, Tensor]:
        """Returns each trial's class probabilities (N, K), float32, in the precision that training uses; from the mean
        of the weights where the trial keeps one."""
        for trial in self.trials:
            trial.model.eval()
            if trial.backbone is not None:
                trial.backbone.eval()
        with self.autocast(), ExitStack() as stack:
            for trial in self.trials:
                stack.enter_context(trial.averaged())
            features = self.decoder_inputs(clips_NCTHW)
            return {trial.name: trial.logits(features).softmax(dim=-1) for trial in self.trials}

    def drop(self, names: Iterable[str]) -> None:
        """Takes trials out of the cohort; the others do not notice."""
        gone = set(names)
        self.trials = [trial for trial in self.trials if trial.name not in gone]
        if self._recording is not None:
            self._recording.drop(gone)
