"""The motion term of EVL's decoder: cross attention between neighbouring frames (arXiv 2208.03550, section 3.3)."""

# Shapes: N clips, T frames, L = 1 + P tokens (class token first), P = h*w patches, C channels, G query columns

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coldframe.backbones.interface import Layer
from coldframe.backbones.layers import on_gpu
from coldframe.decoders.evl.columns import column_groups


class TemporalCrossAttention(nn.Module):
    """Motion term: each patch sums a learned vector per displacement, weighted by where it attends in the neighbour
    frame (section 3.3). `w1` serves the previous frame, `w2` the next; rows are displacements (2h-1) x (2w-1).
    """

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.grid = grid
        num_offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        self.w1 = nn.Parameter(torch.zeros(num_offsets, width))
        self.w2 = nn.Parameter(torch.zeros(num_offsets, width))

    def forward(self, tokens_NTLC: Tensor, maps: SkewedMaps) -> Tensor:
        """Returns `tokens_NTLC` itself, the motion term added in place: nothing at the class token, and nothing toward
        frames before the first and after the last.

        Its (q, k) summand is map[q, k] * w[(q_row - k_row + h - 1) * (2w - 1) + q_column - k_column + w - 1] (upstream
        model.py, TemporalCrossAttention).
        """
        arguments = (tokens_NTLC, self.w1, self.w2, self.grid, *maps.previous, *maps.following)
        moved_NTLC: Tensor = AddMotion.apply(*arguments)  # type: ignore[no-untyped-call]
        return moved_NTLC


class AddMotion(torch.autograd.Function):
    """The motion term from skewed maps, added to the tokens.

    For the queries of one grid row, the key rows meet h neighbouring rows of the offset table, a contiguous slice of
    the weight: one GEMM a grid row, where the plain way gathers a (P, P, C) tensor. A group of query columns meets
    w + G - 1 of the 2w - 1 offset columns, so that groups leave out zeros of the skewed map. Autograd would get this
    right too, but fill a whole gradient of the table for every slice (1.4 times the time).
    """

    @staticmethod
    def forward(ctx: Any, tokens_NTLC: Tensor, w1: Tensor, w2: Tensor, grid: tuple[int, int], *maps: Tensor) -> Tensor:
        ctx.save_for_backward(w1, w2, *maps)
        ctx.grid = grid
        ctx.mark_dirty(tokens_NTLC)
        height, width = grid
        num_clips, num_frames, _, num_channels = tokens_NTLC.shape
        patches = tokens_NTLC[:, :, 1:].view(num_clips, num_frames, height, width, num_channels)
        groups = column_groups(width)
        for columns, previous, following in zip(groups, maps[: len(groups)], maps[len(groups) :], strict=True):
            num_columns = columns.stop - columns.start
            motion = previous.new_empty(height, num_frames, num_clips, num_columns, num_channels)
            motion[:, 0] = 0
            shape = (height, -1, num_channels)  # frames before clips: a neighbour's frames are one run of rows
            torch.bmm(previous, _row_slices(w1, previous.dtype, grid, columns), out=motion[:, 1:].view(shape))
            motion[:, :-1].view(shape).baddbmm_(following, _row_slices(w2, following.dtype, grid, columns))
            patches[:, :, :, columns].add_(motion.permute(2, 1, 0, 3, 4))
        return tokens_NTLC

    @staticmethod
    def backward(ctx: Any, grad_NTLC: Tensor) -> tuple[Tensor | None, ...]:
        w1, w2, *maps = ctx.saved_tensors
        grid, (height, width) = ctx.grid, ctx.grid
        num_channels = w1.shape[1]
        tables = [w.new_zeros(2 * height - 1, 2 * width - 1, num_channels) for w in (w1, w2)]
        grad_maps: list[Tensor | None] = [None] * len(maps)
        groups = column_groups(width)
        patches = grad_NTLC[:, :, 1:].unflatten(2, grid)  # type: ignore[no-untyped-call]
        for g, columns in enumerate(groups):
            cells = patches[:, :, :, columns].permute(2, 1, 0, 3, 4)
            rows = maps[0].new_empty(cells.shape).copy_(cells)  # cast and put in order at once
            for d, (weight, frames) in enumerate(((w1, slice(1, None)), (w2, slice(0, -1)))):
                place = g + d * len(groups)
                grad = rows[:, frames].flatten(1, 3)
                offsets = slice(columns.start, columns.stop + width - 1)
                tables[d][:, offsets].add_(_table_gradient(maps[place], grad, w1.dtype, height))
                if ctx.needs_input_grad[4 + place]:
                    slices = _row_slices(weight, grad.dtype, grid, columns)
                    grad_maps[place] = grad @ slices.transpose(1, 2)
        return grad_NTLC, tables[0].flatten(0, 1), tables[1].flatten(0, 1), None, *grad_maps


def _row_slices(weight: Tensor, dtype: torch.dtype, grid: tuple[int, int], columns: slice) -> Tensor:
    """Returns for each query row the offsets it meets, (h, h*(w+G-1), C): views into one copy that overlap."""
    height, width = grid
    num_channels = weight.shape[1]
    table = weight.view(2 * height - 1, 2 * width - 1, num_channels)
    table = table[:, columns.start : columns.stop + width - 1].to(dtype).contiguous()
    row = table.shape[1] * num_channels
    return table.as_strided((height, height * table.shape[1], num_channels), (row, num_channels, 1))


def _table_gradient(maps: Tensor, grad: Tensor, dtype: torch.dtype, height: int) -> Tensor:
    """Returns the gradient of a group's offsets, (2h-1, w+G-1, C), summed in `dtype`, the weight's own precision."""
    if on_gpu(grad):
        return _table_gradient_at_once(maps, grad, dtype, height)
    num_columns = maps.shape[2] // height
    total = torch.zeros((2 * height - 1) * num_columns, grad.shape[2], dtype=dtype, device=grad.device)
    for i in range(height):
        part = total[i * num_columns : (i + height) * num_columns]
        if dtype == maps.dtype:
            part.addmm_(maps[i].T, grad[i])
        else:
            part += maps[i].T @ grad[i]
    return total.view(2 * height - 1, num_columns, -1)


def _table_gradient_at_once(maps: Tensor, grad: Tensor, dtype: torch.dtype, height: int) -> Tensor:
    """Returns the same from three operations instead of three a query row, for h times the memory of the result."""
    num_columns, num_channels = maps.shape[2] // height, grad.shape[2]
    # A query row's part has h offset rows and begins one row later than the part before: padded to 2h rows and read in
    # parts of 2h - 1, they stand below each other.
    parts = grad.new_zeros(height, 2 * height * num_columns, num_channels)
    torch.bmm(maps.transpose(1, 2), grad, out=parts[:, : maps.shape[2]])
    rows = parts.view(-1, num_columns, num_channels)[: height * (2 * height - 1)]
    return rows.view(height, 2 * height - 1, num_columns, num_channels).sum(dim=0, dtype=dtype)


class SkewedMaps(NamedTuple):
    """Neighbour maps by offset, for each group of query columns; as they depend on no trained weight, all trials of a
    cohort share them."""

    previous: list[Tensor]
    following: list[Tensor]


def skew_relations(layer: Layer) -> SkewedMaps:
    """Returns a layer's relations as the motion term reads them, in autocast's dtype where that is on."""
    assert layer.relations is not None, "relations are read before a layer is settled"
    device = layer.tokens_NTLC.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.tokens_NTLC.dtype
    grid = layer.shape.rows, layer.shape.columns
    groups = column_groups(grid[1])
    return SkewedMaps(*([skew(maps.to(dtype), grid, columns) for columns in groups] for maps in layer.relations))


def skew(map_NTPP: Tensor, grid: tuple[int, int], columns: slice) -> Tensor:
    """Returns the map by offsets for a group of G query columns, (h, T*N*G, h*(w+G-1)): query row; frame, clip and
    query column; then offset row (relative to the query row) and offset column (relative to the group's first); zero
    where no key has that offset.
    """
    height, width = grid
    num_clips, num_frames = map_NTPP.shape[:2]
    by_cell = map_NTPP.view(num_clips, num_frames, height, width, height, width)[:, :, :, columns]
    group = by_cell.shape[3]
    by_cell = by_cell.flip(4, 5).permute(2, 1, 0, 4, 3, 5)  # query row, T, N, key row, query column, key column
    # Rows of w keys, counted backwards and padded to w + G, then read in rows of w + G - 1: query column j starts j
    # later.
    padded = F.pad(by_cell, (0, group)).flatten(4)[..., : group * (width + group - 1)]
    by_offset = padded.view(*padded.shape[:4], group, width + group - 1)
    return by_offset.transpose(3, 4).flatten(4).flatten(1, 3)
