"""Features of the clips of a list as files for other programs (`features export`): of each clip its class token and the
mean of its patch tokens, after a layer of choice, row by row, so that memory does not depend on the list.

Shapes: N clips, C channels, T frames, L tokens of a frame
"""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldframe import heartbeat
from coldframe.backbones.interface import Backbone, run_blocks
from coldframe.backbones.shape import Wants
from coldframe.data.clips import Batch, Listed, normalize_, read_list
from coldframe.data.labels import show_label
from coldframe.errors import UserError
from coldframe.machine.files import sync
from coldframe.machine.precision import autocast
from coldframe.settings import Settings
from coldframe.train.cohort import Cohort
from coldframe.video.parts import show_seconds

COLUMNS = ("row", "path", "start", "end", "label")
_SAFETENSORS = {"<f4": "F32", "<i8": "I64", "|b1": "BOOL"}  # numpy's names of types and those of the format


@dataclass(frozen=True)
class Choice:
    """What is exported. `layer`: 1 is the output of the first block, -1 that of the last, 0 what enters the first.
    `is_normed`: with the backbone's final norm behind it. `per`: frame (N, T, C) or clip (N, C), the mean over frames.
    `form`: safetensors or npy."""

    layer: int
    is_normed: bool
    per: str
    form: str


class FeatureExport:
    """The features of a list on their way into a folder that is there and empty."""

    def __init__(
        self, cohort: Cohort, settings: Settings, batches: Iterator[Batch], list_file: str, folder: Path, choice: Choice
    ) -> None:
        """Raises UserError where the backbone has no such norm, or the disk no room."""
        self._cohort, self._settings, self._batches, self._choice = cohort, settings, batches, choice
        self._backbone = cast(Backbone, cohort.backbone)
        num_layers = self._backbone.num_layers
        place = choice.layer if choice.layer < 0 else choice.layer - num_layers - 1
        self._wants = Wants(frozenset({place}), final_norm=choice.is_normed)
        if choice.is_normed and self._backbone.final_norm is None:
            raise UserError("--norm  asks for the backbone's final norm, and its weights came without one.")
        self._items, self._folder = read_list(list_file), folder
        self._bad: list[tuple[str, str]] = []
        self._columns = self._make_columns()
        self._refuse_full_disk()
        self._csv = (folder / "clips.csv").open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._csv)
        self._rows.writerow(COLUMNS)
        self._num_rows = 0

    def _make_columns(self) -> dict[str, Column]:
        shape = self._backbone.shape(self._settings.data.num_frames)
        row = (shape.frames, shape.channels) if self._choice.per == "frame" else (shape.channels,)
        names = ["class", "patches"] if shape.prefix else ["patches"]  # some backbones have no class token
        is_multi = self._settings.data.labels == "multi"
        labels = ("|b1", (self._settings.data.num_classes,)) if is_multi else ("<i8", ())
        kinds: dict[str, tuple[str, tuple[int, ...]]] = dict.fromkeys(names, ("<f4", row)) | {"labels": labels}
        return {name: Column(self._folder / f"{name}.rows", *kind) for name, kind in kinds.items()}

    def _refuse_full_disk(self) -> None:
        needed = len(self._items) * sum(column.row_bytes for column in self._columns.values())
        needed *= 2  # the rows of a tensor are copied behind its header
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise UserError(
                f"--output  needs {needed / 2**20:.1f} MiB for {len(self._items)} clips, and its disk has "
                f"{free / 2**20:.1f} MiB free. Free some, take another disk, or less: --per clip."
            )

    def advance(self, seconds: float) -> dict[str, Any]:
        """Returns how far it is after about `seconds` more, and the unreadable videos met; when it is done the files
        are whole, and `tensors` has their shapes."""
        end, num_bad, done = time.monotonic() + seconds, len(self._bad), False
        while not done and time.monotonic() < end:
            batch = next(self._batches, None)
            heartbeat.progress()
            if batch is None:
                done = True
            else:
                self._bad += [(video.path, video.reason) for video in batch.bad]
                self._add(batch)
        return {
            "done": done,
            "num_seen": self._num_rows + len(self._bad),
            "num_total": len(self._items),
            "bad": [{"path": path, "reason": reason} for path, reason in self._bad[num_bad:]],
            "tensors": self._finish() if done else None,
        }

    def _add(self, batch: Batch) -> None:
        if not len(batch.labels):
            return
        clips_NCTHW = batch.clips.flatten(0, 1)  # one view each
        rows = self._pool(normalize_(clips_NCTHW.to(self._cohort.device), *self._colours()))
        rows["labels"] = batch.labels
        for name, column in self._columns.items():
            column.add(rows[name])
        for index in batch.indices.tolist():
            self._rows.writerow([self._num_rows, *_describe(self._items[index])])
            self._num_rows += 1

    def _colours(self) -> tuple[Sequence[float], Sequence[float]]:
        return self._settings.data.mean, self._settings.data.std

    @torch.no_grad()
    def _pool(self, video_NCTHW: Tensor) -> dict[str, Tensor]:
        trial = self._cohort.trials[0]
        with autocast(self._cohort.device, self._cohort.precision), ExitStack() as stack:
            trial.set_training(False)
            stack.enter_context(trial.averaged())
            tokens = self._backbone.enter(video_NCTHW)
            [layer] = run_blocks(self._backbone, tokens, self._backbone.num_layers, self._wants).values()
        tokens_NTLC = layer.tokens_NTLC if layer.norm is None else layer.norm(layer.tokens_NTLC)
        rows = {"class": tokens_NTLC[:, :, 0], "patches": tokens_NTLC[:, :, layer.shape.prefix :].mean(dim=2)}
        if self._choice.per == "clip":
            rows = {name: frames_NTC.mean(dim=1) for name, frames_NTC in rows.items()}
        if not all(each.isfinite().all() for each in rows.values()):
            raise UserError(f"features that are not finite in {self._cohort.precision}: --set train.precision=fp32")
        return rows

    def _finish(self) -> dict[str, list[int]]:
        if not self._num_rows:
            raise UserError(f"none of the {len(self._bad)} videos of the list could be read.")
        columns = self._columns
        for column in columns.values():
            column.close()
        if self._choice.form == "npy":
            for name, column in columns.items():
                _write_npy(self._folder / f"{name}.npy", column)
        else:
            _write_safetensors(self._folder / "features.safetensors", columns)
        for column in columns.values():
            column.file.unlink()
        self._csv.close()
        for file in self._folder.iterdir():
            sync(file)
        return {name: list(column.shape) for name, column in columns.items()}

    def close(self) -> None:
        """Closes what is open."""
        for column in self._columns.values():
            column.close()
        self._csv.close()


class Column:
    """A tensor that grows by rows: their numbers lie in a file of their own until their count is known."""

    def __init__(self, file: Path, dtype: str, row: tuple[int, ...]) -> None:
        self.file, self.dtype, self._row = file, dtype, row
        self.num_rows = 0
        self._stream = file.open("wb")

    @property
    def row_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self._row, dtype=np.int64))

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_rows, *self._row)

    def add(self, rows: Tensor) -> None:
        """Adds rows, which have to be of its shape."""
        numbers: NDArray[Any] = rows.cpu().numpy().astype(self.dtype, copy=False)
        assert numbers.shape[1:] == self._row, f"{self.file.name}: {numbers.shape}"
        self._stream.write(np.ascontiguousarray(numbers).data)
        self.num_rows += len(numbers)

    def close(self) -> None:
        self._stream.close()


def _write_npy(file: Path, column: Column) -> None:
    with file.open("wb") as stream:
        header = {"descr": column.dtype, "fortran_order": False, "shape": column.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        _copy(column, stream)


def _write_safetensors(file: Path, columns: dict[str, Column]) -> None:
    """The format is eight bytes for the length of a header in JSON, the header, and the tensors one after the other;
    the library writes only what lies in memory (https://huggingface.co/docs/safetensors, Format)."""
    header, end = {}, 0
    for name, column in sorted(columns.items(), key=lambda one: one[1].dtype == "|b1"):  # wider numbers first: aligned
        start, end = end, end + column.num_rows * column.row_bytes
        kind = {"dtype": _SAFETENSORS[column.dtype], "shape": column.shape, "data_offsets": (start, end)}
        header[name] = kind
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in header:
            _copy(columns[name], stream)


def _copy(column: Column, target: Any) -> None:
    with column.file.open("rb") as stream:
        while piece := stream.read(2**24):
            target.write(piece)
            heartbeat.progress()


def _describe(listed: Listed) -> list[Any]:
    """Returns the cells of a row behind its number, times in seconds."""
    part = listed.part
    times = ["", ""] if part is None else [show_seconds(part.start), show_seconds(part.end)]
    return [listed.path, *times, show_label(listed.label)]
