"""The cohort: trials that share one stream of clips and one frozen backbone pass (DESIGN: the one idea).

Every trial has its own decoder, optimizer, random streams and finite check, so that it comes out as it would alone.

Shapes: N clips, C channels (3), T frames, H, W pixels; K classes
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .clip import LayerFeatures, VisionTransformer
from .evl import EVL
from .features import StoredFeatures
from .motion import DecoderInput, prepare_features
from .settings import Settings, Train

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
        self._loss: Tensor = torch.zeros((), device=device)
        self._hits: Tensor = torch.zeros((), device=device)

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
        self._loss = torch.zeros_like(self._loss)
        self._hits = torch.zeros_like(self._hits)

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
        self._loss += loss.detach()
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        self._hits += (logits.detach().argmax(dim=1) == labels).sum()

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
        figures = torch.stack([self._loss, self._hits.float(), norm.to(self._loss)])
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

    def autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])

    def features(self, clips_NCTHW: Tensor) -> list[LayerFeatures]:
        """Returns the features of the last blocks that any trial reads, earliest first; no graph when frozen."""
        num_layers = max(trial.settings.model.decoder.num_layers for trial in self.trials)
        with_maps = any(trial.settings.model.temporal.cross_attention for trial in self.trials)
        with torch.no_grad() if self.frozen else nullcontext():
            features: list[LayerFeatures] = self.backbone(clips_NCTHW, num_layers=num_layers, with_maps=with_maps)
        return features

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
        num_clips = clips_NCTHW.shape[0]
        train = self.trials[0].settings.train
        shard_size = max(1, train.batch_size // train.micro_batches)
        figures: dict[str, Tensor] = {}
        for shard, start in enumerate(range(0, num_clips, shard_size)):
            part = slice(start, start + shard_size)
            share = clips_NCTHW[part].shape[0] / num_clips
            is_last = start + shard_size >= num_clips
            with self.autocast():
                features = self.decoder_inputs(clips_NCTHW[part])
            for trial in self.trials:
                torch.manual_seed(stream_seed(trial.settings.train.seed, "dropout", step, shard))
                with self.autocast():
                    logits = trial.logits(features)
                trial.accumulate(logits, targets[part], share)
                if is_last:  # at once, so that one trial's gradients at a time take memory
                    figures[trial.name] = trial.update(step)
                    trial.optimizer.zero_grad(set_to_none=True)
            progress()
        # One transfer for all trials: each would wait for the device, which meanwhile had nothing to do.
        on_host = torch.stack(list(figures.values())).tolist()
        return {trial.name: trial.judge(step, row, num_clips) for trial, row in zip(self.trials, on_host, strict=True)}

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


def mix_batch(clips_NCTHW: Tensor, labels_N: Tensor, settings: Settings, step: int) -> tuple[Tensor, Tensor]:
    """Returns the batch after mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899) with its reversed self.

    Targets are class weights (N, num_classes); labels come back untouched when both are off. With both on, a coin
    decides for each step. The draws are a function of (data.seed, step): all trials of a cohort share the mixed clips.
    """
    train = settings.train
    if train.mixup == 0 and train.cutmix == 0:
        return clips_NCTHW, labels_N
    generator = torch.Generator().manual_seed(stream_seed(settings.data.seed, "mix", step))
    use_cutmix = train.cutmix > 0 and (train.mixup == 0 or torch.rand((), generator=generator).item() < 0.5)
    kept = _sample_beta(train.cutmix if use_cutmix else train.mixup, generator)
    partner = clips_NCTHW.flip(0)
    if use_cutmix:
        height, width = clips_NCTHW.shape[-2:]
        side = math.sqrt(1 - kept)
        top, bottom = _cut(height, side, generator)
        left, right = _cut(width, side, generator)
        mixed = clips_NCTHW.clone()
        mixed[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = torch.lerp(partner, clips_NCTHW, kept)
    targets = F.one_hot(labels_N, settings.data.num_classes).to(clips_NCTHW.dtype)
    return mixed, torch.lerp(targets.flip(0), targets, kept)


def _sample_beta(alpha: float, generator: torch.Generator) -> float:
    """Returns a draw from Beta(alpha, alpha) as a ratio of two gamma variates from the given generator."""
    shape = torch.full((2,), alpha, dtype=torch.float64)
    first, second = torch._standard_gamma(shape, generator=generator).tolist()
    return float(first / (first + second))


def _cut(length: int, side: float, generator: torch.Generator) -> tuple[int, int]:
    centre = int(torch.randint(length, (), generator=generator).item())
    half = int(length * side) // 2
    return max(0, centre - half), min(length, centre + half)
