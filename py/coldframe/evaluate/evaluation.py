"""Evaluation: views -> mean softmax -> metrics, each video counted exactly once.

Shapes: N videos, V views a video, C channels, T frames, H, W pixels; K classes
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coldframe.data.clips import Batch, Listed
from coldframe.errors import UserError
from coldframe.evaluate.accuracy import accuracy
from coldframe.evaluate.scores import read_scores
from coldframe.machine import ranks
from coldframe.machine.files import writing
from coldframe.train.cohort import Cohort
from coldframe.train.trial import Trial


@dataclass
class Evaluation:
    """One pass over a list that is taken a bounded piece at a time, so that the caller can stop between pieces.

    Each rank passes over its share; what is told after a piece is of all ranks, and the same on each.
    """

    cohort: Cohort
    batches: Iterator[Batch]
    prepare: Callable[[Tensor], Tensor]
    items: Sequence[Listed]
    num_views: int
    thresholds: Mapping[str, Sequence[float]] = field(default_factory=dict)  # by trial; none: chosen here
    labels: list[Tensor] = field(default_factory=list)  # of each batch
    indices: list[int] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    scores: dict[str, list[Tensor]] = field(default_factory=dict)
    num_seen: int = 0

    def advance(self, seconds: float, progress: Callable[[], None]) -> bool:
        """Returns True when the list is through; stops between batches once `seconds` have passed, but never before it
        has asked for one: ranks that find no time to see their end together would never be through. A rank that is
        through with its share waits here for the others."""
        end = time.monotonic() + seconds
        bad: list[tuple[str, str]] = []
        while (batch := next(self.batches, None)) is not None:
            progress()
            bad += [(video.path, video.reason) for video in batch.bad]
            if len(batch.labels):
                self._score(batch)
            if time.monotonic() >= end:
                break
        is_through = batch is None
        told = ranks.gather((is_through, len(self.indices), bad))
        self.bad += [video for _, _, videos in told for video in videos]
        self.num_seen = sum(num_scored for _, num_scored, _ in told) + len(self.bad)
        if not all(one_is_through for one_is_through, _, _ in told):
            return False
        self._unite()
        return True

    def _unite(self) -> None:
        """Puts the scores of all ranks in the order of the list, on each of them."""
        if ranks.world_size() == 1:
            return
        scores = {name: torch.cat(parts) for name, parts in self.scores.items()}
        shares = [each for each in ranks.gather((self.indices, self.labels, scores)) if each[0]]
        self.indices = [index for indices, _, _ in shares for index in indices]
        order = np.argsort(self.indices)
        self.indices = [self.indices[place] for place in order]

        def put(tensors: list[Tensor]) -> list[Tensor]:
            return [torch.cat(tensors)[torch.from_numpy(order)]]

        self.labels = put([label for _, labels, _ in shares for label in labels]) if shares else []
        names = shares[0][2] if shares else {}
        self.scores = {name: put([scores[name] for _, _, scores in shares]) for name in names}

    def _score(self, batch: Batch) -> None:
        num_videos, num_views = batch.clips.shape[:2]
        clips_NCTHW = self.prepare(batch.clips.flatten(0, 1))
        for name, scores in self.cohort.scores(clips_NCTHW).items():
            mean_NK = scores.view(num_videos, num_views, -1).mean(dim=1)
            self.scores.setdefault(name, []).append(mean_NK.cpu())
        self.labels.append(batch.labels.cpu())
        self.indices += batch.indices.tolist()

    def take_broken(self) -> dict[str, str]:
        """Returns why each trial with scores that are not finite has no result, after taking its scores out."""
        broken = {}
        for trial in self.cohort.trials:
            scores_NK = torch.cat(self.scores.get(trial.name) or [torch.empty(0, 1)])
            num_broken = int((~scores_NK.isfinite()).any(dim=1).sum())
            if num_broken:
                found = f"the scores of {num_broken} of {len(scores_NK)} videos are not finite"
                broken[trial.name] = f"{found}. {explain_broken(trial)}"
                del self.scores[trial.name]
        return broken

    def results(self) -> dict[str, dict[str, Any]]:
        """Returns for each trial top1, top5, num_videos, num_bad, views and per-class counts; of videos with several
        labels what accuracy.py says.

        Videos that could not be read are faults of the data: they are counted in `num_bad` and in no accuracy.
        """
        common = {"num_videos": len(self.indices), "num_bad": len(self.bad), "views": self.num_views}
        if not self.indices:
            raise UserError(f"evaluation: none of the {len(self.bad)} videos of the list could be read.")
        labels = torch.cat(self.labels)
        return {
            name: common | accuracy(torch.cat(parts), labels, self.thresholds.get(name))
            for name, parts in self.scores.items()
        }

    def write_scores(self, folder: Path, alone: bool = False) -> None:
        """Writes `scores.npz` (of trial `main`, or of one that is `alone`; others `TRIAL.scores.npz`): scores (N, K),
        labels (N,), of videos with several (N, K), indices (N,) of the videos in the order of the list, and paths (N,),
        of a part `PATH#t=START,END`."""
        order = np.argsort(self.indices)
        labels, indices = torch.cat(self.labels).numpy()[order], np.array(self.indices)[order]
        paths = np.array([self.items[i].name for i in indices], dtype=np.str_)
        for name, parts in self.scores.items():
            file = folder / ("scores.npz" if alone or name == "main" else f"{name}.scores.npz")
            with writing(file) as partial, partial.open("wb") as stream:  # a name would get another ending
                np.savez(stream, scores=torch.cat(parts).numpy()[order], labels=labels, indices=indices, paths=paths)


def ensemble(files: list[str]) -> dict[str, Any]:
    """Returns the accuracy of each file of scores (`members`) and of their mean. Raises UserError when the videos or
    classes of two files differ."""
    tables = [read_scores(file) for file in files]
    broken = [_describe_broken(file, table) for file, table in zip(files, tables, strict=True)]
    if any(broken):
        raise UserError("\n".join(filter(None, broken)))
    labels, indices, shape = tables[0]["labels"], tables[0]["indices"], tables[0]["scores"].shape
    for file, table in zip(files, tables, strict=True):
        is_same = table["scores"].shape == shape and table["labels"].shape == labels.shape
        if not is_same or (table["indices"] != indices).any() or (table["labels"] != labels).any():
            raise UserError(
                f"{file}  has {table['scores'].shape[0]} videos and {table['scores'].shape[1]} classes; {files[0]} has "
                f"{shape[0]} and {shape[1]}, or others. Only evaluations of the same videos can be averaged."
            )
    labels_N = torch.from_numpy(labels)
    members = [accuracy(torch.from_numpy(table["scores"]), labels_N) for table in tables]
    mean_NK = torch.stack([torch.from_numpy(table["scores"]) for table in tables]).mean(dim=0)
    return {"num_videos": len(labels), "members": members, "mean": accuracy(mean_NK, labels_N)}


def explain_broken(trial: Trial) -> str:
    """Returns what makes scores that are not finite, and what to do."""
    bad = [name for name, parameter in trial.named_parameters() if not parameter.isfinite().all()]
    if bad:
        return f"The weights {', '.join(bad[:3])} hold values that are not finite: take another checkpoint."
    if trial.precision == "fp32":
        return "The decoder's weights are finite: check those of the backbone, and the videos."
    return f"The decoder's weights are finite: {trial.precision} may overflow. Set train.precision: fp32, or bf16."


def _describe_broken(file: str, table: dict[str, Any]) -> str | None:
    num_broken = int((~np.isfinite(table["scores"])).any(axis=1).sum())
    found = f"holds scores that are not finite, of {num_broken} of {len(table['scores'])} videos"
    return f"{file}  {found}. Evaluate again with a sound checkpoint." if num_broken else None
