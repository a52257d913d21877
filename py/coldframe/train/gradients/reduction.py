"""The sum of a trial's gradients over the ranks (machine/ranks.py).

Flat and at once when a pass is through; of a trained backbone in parts, each as soon as backward has come past it, so
that the network works while the rest is computed. A process by itself has none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from coldframe.machine import ranks

PART_BYTES = 25 * 2**20  # as DistributedDataParallel has found to be good

Sums = tuple[Tensor, Tensor]  # over the clips of a step: loss and hits


class _Sent(NamedTuple):
    handle: ranks.Handle
    flat: Tensor
    parameters: list[nn.Parameter]


class Reduction:
    """The parts of one trial. Every rank sends them in the same order, whatever order its backward finishes them in."""

    def __init__(self, parameters: Sequence[nn.Parameter], overlaps: bool) -> None:
        # Backward comes to the last ones first.
        self._parts = _split(list(reversed(parameters))) if overlaps else [list(parameters)]
        self._missing = [len(part) for part in self._parts]
        self._sent: list[_Sent] = []
        self._has: list[bool] = []  # of the parameters sent: whether there is a gradient
        self._is_last_pass = False
        if overlaps:
            for number, part in enumerate(self._parts):
                note = partial(self._note, number)
                for parameter in part:
                    parameter.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]

    def expect_last(self) -> None:
        """Says that the next backward is the last of this step: its gradients may go out as they come."""
        self._is_last_pass = True

    def _note(self, number: int, _: Tensor) -> None:
        if not self._is_last_pass:
            return
        self._missing[number] -= 1
        last = len(self._parts) - 1  # it takes loss and hits along, which are not there yet
        while (coming := len(self._sent)) < last and self._missing[coming] == 0:
            self._send(self._parts[coming], [])

    def send(self, sums: Sums, tells_which: bool) -> None:
        """Begins what is not yet under way: all gradients are there. With `tells_which` ranks without a clip learn
        which parameters have a gradient at all."""
        while (coming := len(self._sent)) < len(self._parts) - 1:
            self._send(self._parts[coming], [])
        figures = [torch.stack([each.float() for each in sums])]
        if tells_which:
            has = [*self._has, *(parameter.grad is not None for parameter in self._parts[-1])]
            figures.append(torch.tensor(has, device=sums[0].device).float())
        self._send(self._parts[-1], figures)

    def _send(self, parameters: list[nn.Parameter], figures: list[Tensor]) -> None:
        pieces = [
            torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()
            for parameter in parameters
        ]
        flat = torch.cat(pieces + figures)
        self._has += [parameter.grad is not None for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None  # one copy is enough
        self._sent.append(_Sent(ranks.reduce_(flat), flat, parameters))

    def receive(self) -> Sums:
        """Returns loss and hits over all ranks; the gradients are then the sums, too."""
        for each in self._sent:
            each.handle.wait()
        loss, hits, *told = self._sent[-1].flat[sum(p.numel() for p in self._parts[-1]) :].unbind()
        # An unused parameter has no gradient on any rank: the optimizer leaves it alone, as it would not with a zero.
        has = iter([bool(each > 0) for each in told] or self._has)
        for each in self._sent:
            start = 0
            for parameter in each.parameters:
                piece = each.flat[start : start + parameter.numel()].view_as(parameter)
                parameter.grad = piece if next(has) else None
                start += parameter.numel()
        self._sent, self._has, self._is_last_pass = [], [], False
        self._missing = [len(part) for part in self._parts]
        return loss, hits


def _split(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    parts: list[list[nn.Parameter]] = [[]]
    size = 0
    for parameter in parameters:
        if parts[-1] and size + parameter.nbytes > PART_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(parameter)
        size += parameter.nbytes
    return parts
