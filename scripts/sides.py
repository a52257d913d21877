"""The two sides that bench_step.py compares on one batch of noise, ours and the plain algorithm (plain_model.py), and
the machine's own rate of matrix products."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import plain_model
from coldframe.assembly import models
from coldframe.backbones.clip.model import VisionTransformer, neighbour_maps
from coldframe.machine.precision import DTYPES, autocast
from coldframe.settings import Settings
from coldframe.train.cohort import Cohort
from coldframe.train.trial import build_trial

CPU = torch.device("cpu")


class Ours:
    """A cohort of one on a batch of noise."""

    def __init__(self, settings: Settings, precision: str, device: torch.device = CPU) -> None:
        self.settings, self.precision, self.device = settings, precision, device
        self.backbone, _, _ = models.build_backbone(settings, device, precision)
        self.trial = build_trial("main", settings, self.backbone, device, precision)
        fill_zeros(self.trial.model)
        self.cohort = Cohort([self.trial], self.backbone, device, precision)
        data, batch_size = settings.data, settings.train.batch_size
        generator = torch.Generator().manual_seed(0)
        clips_NCTHW = torch.randn(batch_size, 3, data.num_frames, data.size, data.size, generator=generator)
        self.clips_NCTHW = clips_NCTHW.to(device)
        self.labels_N = torch.arange(batch_size, device=device)

    def autocast(self) -> AbstractContextManager[object]:
        return autocast(self.device, self.precision)

    def step(self) -> None:
        self.cohort.step(0, self.clips_NCTHW, self.labels_N)

    def run_backbone(self) -> object:
        with torch.no_grad(), self.autocast():
            return self.backbone(self.clips_NCTHW, self.cohort.wants())

    def decode(self, features: object) -> None:
        self.trial.begin()
        self.trial.learn(features, self.labels_N, 1.0)  # type: ignore[arg-type]

    def make_maps(self, layers: list[plain_model.Layer]) -> None:
        """The neighbour maps, which the plain algorithm computes in its decoder, of the layers that the decoder has."""
        with self.autocast():
            for layer in layers[len(layers) - self.settings.model.decoder.num_layers :]:
                query, key = layer["q"].transpose(1, 2), layer["k"].transpose(1, 2)
                neighbour_maps(query, key, self.settings.data.num_frames)

    def logits(self) -> Tensor:
        self.trial.model.eval()
        with torch.no_grad(), self.autocast():
            return self.trial.logits(self.cohort.features(self.clips_NCTHW))


def fill_zeros(model: nn.Module) -> None:
    """Gives parameters that start at zero a value, so that no part of the model can hide an error."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.detach().any():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def plain_weights(ours: Ours) -> dict[str, Tensor]:
    """Returns the backbone's weights as they are in its file, all but the norms' in the precision."""
    backbone, _, _ = models.build_backbone(ours.settings, ours.device, "fp32")
    dtype = DTYPES[ours.precision]
    return {name: value if "ln_" in name else value.to(dtype) for name, value in backbone.state_dict().items()}


class Plain:
    """The plain algorithm on the weights, the batch and the precision of `ours`.

    In half precision the frozen backbone's weights are half too and float16 has a gradient scaler, as in the original
    (upstream main.py: freeze_fp16, GradScaler).
    """

    def __init__(self, ours: Ours) -> None:
        self.ours = ours
        model = ours.settings.model
        self.weights = plain_weights(ours)
        self.trained = dict(ours.trial.model.named_parameters())
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=ours.settings.train.lr, weight_decay=0.05)
        self.scaler = torch.amp.GradScaler(ours.device.type, enabled=ours.precision == "fp16")
        side = ours.backbone.patch_size
        self.backbone_sizes = {"num_heads": model.backbone.num_heads, "patch_size": side}
        self.dropout = {"mlp_dropout": model.decoder.mlp_dropout, "head_dropout": model.head.dropout}

    def ways(self) -> dict[str, Callable[[], object]]:
        """Returns what is timed of it."""
        layers = self.run_backbone()
        return {"step": self.step, "decoder": lambda: self.decode(layers), "backbone": self.run_backbone}

    def step(self) -> None:
        self.decode(self.run_backbone())
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def run_backbone(self) -> list[plain_model.Layer]:
        with torch.no_grad(), self.ours.autocast():
            return plain_model.backbone(self.weights, self.ours.clips_NCTHW, **self.backbone_sizes)

    def decode(self, layers: list[plain_model.Layer]) -> None:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self._decode(layers, **self.dropout).float(), self.ours.labels_N)
        self.scaler.scale(loss).backward()

    def logits(self) -> Tensor:
        with torch.no_grad():
            return self._decode(self.run_backbone())

    def _decode(self, layers: list[plain_model.Layer], **dropout: float) -> Tensor:
        decoder, num_frames = self.ours.settings.model.decoder, self.ours.settings.data.num_frames
        with self.ours.autocast():
            features = plain_model.gather_features(layers, decoder.num_layers, num_frames)
            heads, grid = decoder.num_heads, self.ours.backbone.grid
            return plain_model.decoder(self.trained, features, num_heads=heads, grid=grid, **dropout)


class Matmuls:
    """The backbone's own matrix products with its weights, in its precision, and nothing else."""

    def __init__(self, backbone: VisionTransformer, num_images: int) -> None:
        self.num_tokens = 1 + backbone.grid[0] * backbone.grid[1]
        width = len(backbone.class_embedding)
        hidden = backbone.transformer.resblocks[0].mlp.get_parameter("c_fc.weight").shape[0]
        self.num_images, self.width, self.num_layers = num_images, width, len(backbone.transformer.resblocks)
        rows = num_images * self.num_tokens
        shapes = [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]
        like = {"dtype": backbone.conv1.weight.dtype, "device": backbone.conv1.weight.device}
        self.products = [
            (torch.randn(rows, k, **like), torch.randn(n, k, **like), torch.empty(rows, n, **like)) for k, n in shapes
        ]  # weights are (out, in), as in a linear layer
        self.num_operations = self.num_layers * sum(2 * rows * k * n for k, n in shapes)

    def __call__(self) -> None:
        for _ in range(self.num_layers):
            for x, weight, out in self.products:
                torch.mm(x, weight.T, out=out)

    def count_backbone(self, num_decoder_layers: int, num_clips: int, num_patch_values: int) -> int:
        """Returns the operations of the whole backbone: with attention, patch embedding and neighbour maps."""
        pairs = self.num_images * self.num_tokens**2
        attention = self.num_layers * 4 * pairs * self.width
        num_patches = self.num_tokens - 1
        maps = num_decoder_layers * 2 * 2 * (self.num_images - num_clips) * num_patches**2 * self.width
        return (
            self.num_operations + attention + maps + 2 * self.num_images * num_patches * num_patch_values * self.width
        )
