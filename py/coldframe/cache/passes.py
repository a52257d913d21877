"""Clips through the backbone, pass by pass, to the rows of a cache: what a GPU computes is fetched one pass later."""

# Shapes: N clips, S stored numbers of a clip, C = 3 channels, T frames, H, W pixels

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coldframe.assembly.forecast import count_pass
from coldframe.backbones.interface import Backbone, run_blocks
from coldframe.backbones.shape import Wants
from coldframe.cache.manifest import Layout
from coldframe.data.clips import normalize_
from coldframe.errors import UserError
from coldframe.machine import environment
from coldframe.machine.precision import autocast
from coldframe.settings import Settings

# Clips of one backbone pass, as many as keep a device busy; passes begin at multiples of it, so that a record's bytes
# do not depend on where a build was interrupted. A GPU with less memory takes fewer.
CLIPS_A_PASS = {"cpu": 2, "cuda": 16}
USABLE_MEMORY = 0.8  # of what is free on a GPU: the forecast of a pass is near, not exact


class Passes:
    """The backbone with a layout of rows. `clips_a_pass` follows from the memory of a GPU, unless it was chosen."""

    def __init__(
        self, settings: Settings, layout: Layout, backbone: Backbone, device: torch.device, precision: str
    ) -> None:
        self._settings, self._layout, self._backbone = settings, layout, backbone
        self._device, self._precision = device, precision
        self.most_clips = settings.features.batch_size or CLIPS_A_PASS[device.type]
        self.clips_a_pass = settings.features.batch_size or self._fit()
        self._fetching: torch.cuda.Stream | None = None

    def _fit(self) -> int:
        if self._device.type == "cpu":
            return CLIPS_A_PASS["cpu"]
        free = environment.describe_memory(self._device)["free_bytes"]
        return choose_pass(self._settings, self._precision, int(USABLE_MEMORY * free))

    def encode(self, clips_NCTHW: Tensor) -> Tensor:
        """Returns rows (N, S) on the CPU, in the cache's precision."""
        return self.start(clips_NCTHW)()

    def start(self, clips_NCTHW: Tensor) -> Callable[[], Tensor]:
        """Returns what waits for the rows and returns them. A GPU computes and sends them meanwhile, a CPU has done it;
        one that has not the memory that it had takes smaller passes."""
        while True:
            try:
                return self._start(clips_NCTHW)
            except torch.OutOfMemoryError:
                if self._device.type == "cpu" or self.clips_a_pass == 1:
                    raise
            torch.cuda.empty_cache()
            self.clips_a_pass //= 2

    @torch.no_grad()
    def _start(self, clips_NCTHW: Tensor) -> Callable[[], Tensor]:
        rows = []
        for part in clips_NCTHW.split(self.clips_a_pass):  # type: ignore[no-untyped-call]
            data = self._settings.data
            clips = normalize_(part.to(self._device, copy=True), data.mean, data.std)
            with autocast(self._device, self._precision):
                tensors = self._stored_tensors(clips)
            numbers = torch.cat([tensor.reshape(len(part), -1) for tensor in tensors], dim=1)
            rows.append(numbers.to(torch.float16 if self._layout.precision == "fp16" else torch.float32))
        rows_NS = torch.cat(rows)
        if self._device.type == "cpu":
            return lambda: _refuse_infinite(rows_NS)
        return self._fetch(rows_NS)

    def _fetch(self, rows_NS: Tensor) -> Callable[[], Tensor]:
        """Returns what waits for rows of a GPU: they are sent on a stream of their own, into memory that stays
        put, while the next pass is computed."""
        if self._fetching is None:
            self._fetching = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._fetching.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._fetching):
            fetched_NS = torch.empty(rows_NS.shape, dtype=rows_NS.dtype, pin_memory=True)
            fetched_NS.copy_(rows_NS, non_blocking=True)
        rows_NS.record_stream(self._fetching)  # its memory is not used again before
        sent = self._fetching.record_event()

        def wait() -> Tensor:
            sent.synchronize()
            return _refuse_infinite(fetched_NS)

        return wait

    def _stored_tensors(self, clips_NCTHW: Tensor) -> list[Tensor]:
        """Returns what a row is made of, earliest layer first: of layers their tokens and relations, or the tokens that
        enter layers, which the layers before give. The backbone runs as far as that takes."""
        backbone, layout = self._backbone, self._layout
        if layout.form == "maps":
            layers = backbone(clips_NCTHW, Wants.last(layout.num_layers, layout.has_maps))
            return [tensor for layer in layers.values() for tensor in (layer.tokens_NTLC, *(layer.relations or ()))]
        first = -layout.num_layers - 1
        wants = Wants(frozenset(range(first, first + len(layout.shapes))))
        layers = run_blocks(backbone, backbone.enter(clips_NCTHW), backbone.num_layers, wants)
        return [layer.tokens_NTLC for layer in layers.values()]


def _refuse_infinite(rows_NS: Tensor) -> Tensor:
    if not rows_NS.isfinite().all():
        raise UserError("features.precision  is fp16, and a feature is too large for it. Set fp32.")
    return rows_NS


def choose_pass(settings: Settings, precision: str, free_bytes: int) -> int:
    """Returns the clips of a pass that fit into so many bytes, a power of two so that it hangs on little; at least
    one."""
    size = CLIPS_A_PASS["cuda"]
    while size > 1 and count_pass(settings, size, precision) > free_bytes:
        size //= 2
    return size
