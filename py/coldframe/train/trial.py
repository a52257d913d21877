"""A trial: one trained part with its optimizer, its random streams and its finite check.

Shapes: N clips; K classes
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from coldframe.assembly.models import make_decoder
from coldframe.backbones.interface import Backbone, Layers
from coldframe.data.labels import ClassCounts
from coldframe.decoders.interface import Decoder
from coldframe.errors import UserError
from coldframe.machine import ranks
from coldframe.machine.precision import autocast
from coldframe.settings import Settings
from coldframe.train.gradients.adamw import AdamW
from coldframe.train.gradients.reduction import Reduction
from coldframe.train.schedule import learning_rate, stream_seed
from coldframe.train.targets.losses import ManyLabels, make_loss
from coldframe.train.targets.thresholds import Thresholds


@dataclass(frozen=True)
class StepResult:
    """What one step of one trial gave: mean loss, rate, norm of the gradient before clipping, accuracy 0..1; of clips
    that have several labels a hit is one whose best class is among them."""

    loss: float
    lr: float
    grad_norm: float
    top1: float
    diverged: str | None = None
    has_many: bool = False


def build_trial(
    name: str,
    settings: Settings,
    backbone: Backbone,
    device: torch.device,
    precision: str,
    counts: ClassCounts | None = None,
) -> Trial:
    """Returns a trial with fresh weights, a function of its seed only; `train.class_weights` asks for the counts of the
    list that it will be trained on."""
    torch.manual_seed(stream_seed(settings.train.seed, "init"))
    decoder = make_decoder(settings)
    if decoder.wants.final_norm and backbone.final_norm is None:
        raise UserError(
            f"{settings.model.backbone.weights}  holds no norm behind the last block, which model.decoder.kind: "
            f"{settings.model.decoder.kind} reads. Take weights that were saved with it, or another kind."
        )
    decoder.to(device)
    own = None if settings.model.backbone.freeze else backbone
    return Trial(name, settings, decoder, own, precision, counts)


class Trial:
    """One trainable decoder with its optimizer; with `freeze: false` the backbone belongs to it as well.

    A step is `begin`, for each shard `seed` and `learn`, then `send`, `update` and, its figures on the host, `judge`.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        model: Decoder,
        backbone: Backbone | None,
        precision: str,
        counts: ClassCounts | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.model = model
        self.backbone = backbone
        self.precision = precision
        self.device = next(model.parameters()).device
        self.objective = make_loss(settings, counts, self.device)
        self.average: dict[str, Tensor] = {}  # the weights' running mean; empty before the first step and without EMA
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.thresholds: Thresholds | None = None  # of its last evaluation, where clips have several labels
        zero = torch.zeros((), device=self.device)
        self.sums = (zero, zero)  # over the shards of a step: loss and hits

    # --- what is trained ---

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields what this trial trains, under the names its checkpoint uses."""
        yield from self.model.named_parameters()
        if self.backbone is not None:
            for name, parameter in self.backbone.named_parameters():
                if parameter.requires_grad:
                    yield f"backbone.{name}", parameter

    @cached_property
    def optimizer(self) -> AdamW:
        """The trial's optimizer, made when training first asks."""
        train = self.settings.train
        return AdamW(self._groups(), lr=train.lr, weight_decay=train.weight_decay, fused=True)

    def _groups(self) -> list[dict[str, Any]]:
        """Returns AdamW's groups: by learning rate, and with `decay_all: false` matrices apart from all else.

        Upstream's main.py decays every parameter, norms and biases included: the released recipe, and one group.
        """
        train, spared = self.settings.train, self._undecayed()
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            tuned = name.startswith("backbone.") and train.backbone_lr is not None
            scale = (train.backbone_lr or train.lr) / train.lr if tuned else 1.0
            decays = train.decay_all or (parameter.ndim > 1 and name not in spared)
            groups.setdefault((scale, train.weight_decay if decays else 0.0), []).append(parameter)
        return [
            {"params": parameters, "lr_scale": scale, "weight_decay": decay}
            for (scale, decay), parameters in groups.items()
        ]

    def _undecayed(self) -> set[str]:
        of_backbone = set() if self.backbone is None else self.backbone.undecayed()
        return {*self.model.undecayed(), *(f"backbone.{name}" for name in of_backbone)}

    def optimizer_names(self) -> list[str]:
        """Returns the parameters' names in the optimizer's order, which is what its state is numbered by."""
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        return [names[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]]

    # --- a step ---

    def begin(self) -> None:
        """Begins a step, or the recording of one: in training mode, no gradient, nothing summed up."""
        self.set_training(True)
        self.optimizer.zero_grad(set_to_none=True)
        zero = torch.zeros_like(self.sums[0])
        self.sums = (zero, zero)

    def set_training(self, is_training: bool) -> None:
        """Turns dropout on or off, and what else differs in training."""
        self.model.train(is_training)
        if self.backbone is not None:
            self.backbone.train(is_training)

    def seed(self, step: int, shard: int) -> None:
        """Puts torch's generator where this trial's stream for a shard begins."""
        torch.manual_seed(stream_seed(self.settings.train.seed, "dropout", step, shard))

    def learn(self, features: Layers, targets: Tensor, share: float, is_last: bool = True) -> None:
        """Adds the gradient of one shard's mean loss, weighed by its share of the batch of all ranks; `is_last`: no
        other shard of this rank follows."""
        with autocast(self.device, self.precision):
            logits = self.logits(features)
        loss = self.objective.loss(logits, targets) * share
        if is_last and self.reduction is not None:
            self.reduction.expect_last()
        torch.autograd.backward(self.scaler.scale(loss))
        hits = self.objective.count_hits(logits.detach(), targets)
        self.sums = (self.sums[0] + loss.detach(), self.sums[1] + hits)

    def logits(self, features: Layers) -> Tensor:
        """Returns float32 logits (N, K) from what a cohort's `features` gives."""
        # float32 whatever autocast does: the softmax of half-precision logits loses digits.
        logits: Tensor = self.model(features)
        return logits.float()

    def scores(self, features: Layers) -> Tensor:
        """Returns float32 probabilities (N, K)."""
        return self.objective.scores(self.logits(features))

    @cached_property
    def reduction(self) -> Reduction | None:
        """What sums up the ranks' gradients; a process by itself has none."""
        if ranks.world_size() == 1:
            return None
        return Reduction([each for _, each in self.named_parameters()], overlaps=self.backbone is not None)

    def send(self, tells_which: bool = False) -> None:
        """Begins to sum up what the ranks have learnt, while another trial may learn; `tells_which` where a rank has no
        clip to learn from."""
        if self.reduction is not None:
            self.reduction.send(self.sums, tells_which)

    def update(self, step: int) -> Tensor:
        """Returns loss, hits and norm of the gradient before clipping, (3,), after one optimizer step, in which a value
        that is not finite never takes part; the gradients are gone then. On CUDA nothing here waits for the device.
        """
        train = self.settings.train
        if self.reduction is not None:  # before anything is judged by them: all ranks then decide alike
            self.sums = self.reduction.receive()
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
        self.optimizer.zero_grad(set_to_none=True)
        return figures

    def judge(self, step: int, figures: Sequence[float], num_clips: int) -> StepResult:
        """Returns the result of `update`, its figures by now on the host."""
        loss, hits, grad_norm = figures
        lr = learning_rate(step, self.settings.train)
        has_many = isinstance(self.objective, ManyLabels)
        return StepResult(loss, lr, grad_norm, hits / max(1, num_clips), self._diagnose(loss, grad_norm), has_many)

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

    # --- the running mean of the weights ---

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
