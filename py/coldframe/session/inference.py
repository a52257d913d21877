"""The verbs that ask what the trials are worth, or what a video shows."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from coldframe import heartbeat
from coldframe.assembly import batches
from coldframe.data.clips import Listed
from coldframe.data.loader import read_together
from coldframe.errors import UserError
from coldframe.evaluate.accuracy import NO_CHOICE
from coldframe.evaluate.evaluation import Evaluation, explain_broken
from coldframe.evaluate.export.model import Comparison, write_onnx, write_torch
from coldframe.machine import ranks
from coldframe.machine.environment import count_workers
from coldframe.session.running import Running
from coldframe.train.targets import thresholds
from coldframe.train.targets.thresholds import Thresholds
from coldframe.video.frames import BadVideo
from coldframe.video.parts import Part

T = TypeVar("T")


def evaluate(running: Running, seconds: float, output: Path) -> dict[str, Any]:
    """Returns how far the evaluation is after about `seconds` more; `results` when the list is through, and the
    scores of every video then lie in the folder `output`."""
    if running.evaluation is None:
        running.evaluation = running.start_evaluation()
    evaluation = running.evaluation
    num_bad = len(evaluation.bad)  # of all ranks, as is all that follows: they go on alike, and the first writes
    done = evaluation.advance(seconds, heartbeat.progress)
    bad = [{"path": path, "reason": reason} for path, reason in evaluation.bad[num_bad:]]
    if done or (bad and running.settings.data.on_bad_video == "fail"):
        running.evaluation = None
    _refuse_bad(running, bad)
    results = None
    dropped: dict[str, str] = {}
    if done:
        dropped = _drop_broken(running, evaluation)
        results = evaluation.results()
        if running.mode == "train":
            _keep_thresholds(running, results)
        if ranks.is_first():
            evaluation.write_scores(output, alone=running.mode == "evaluate")
        if running.metrics is not None:
            names = running.classes or [str(label) for label in range(running.settings.data.num_classes)]
            running.metrics.write_evaluation(running.step, results, names)
    return {
        "done": done,
        "num_seen": evaluation.num_seen,
        "num_total": len(evaluation.items),
        "bad": bad,
        "dropped": [{"trial": name, "step": running.step, "why": why} for name, why in dropped.items()],
        "results": results,
    }


def _refuse_bad(running: Running, unreadable: list[dict[str, str]]) -> None:
    """Raises UserError that names the videos, where the settings allow none."""
    if not unreadable or running.settings.data.on_bad_video != "fail":
        return
    data = running.settings.data
    root = data.val_root or data.root
    command = ["coldframe", "check", "--probe", data.val_list or "", *([] if root is None else ["--root", root])]
    named = "".join(f"{video['path']}  {video['reason']}.\n" for video in unreadable)
    raise UserError(
        f"{named}data.on_bad_video  is fail; skip leaves such videos out and reports them. "
        f"`{shlex.join(command)}` finds the rest."
    )


def _drop_broken(running: Running, evaluation: Evaluation) -> dict[str, str]:
    """Returns why trials leave whose scores are not finite. Raises UserError when none is left."""
    broken = evaluation.take_broken()
    if len(broken) == len(running.cohort.trials):
        raise UserError("\n".join(f"trial {name}  {why}" for name, why in broken.items()))
    running.drop(list(broken))
    return broken


def _keep_thresholds(running: Running, results: dict[str, dict[str, Any]]) -> None:
    """Keeps what an evaluation chose for checkpoints from now on, and puts it into that of this step, which is saved
    before it is evaluated."""
    for trial in running.cohort.trials:
        if "thresholds" in results[trial.name]:
            trial.thresholds = Thresholds(running.step, results[trial.name]["thresholds"])
    saved = None if running.run_dir is None else running.run_dir / "checkpoints" / f"step-{running.step}"
    if ranks.is_first() and saved is not None and saved.is_dir():
        thresholds.write(saved, running.cohort.trials)


def predict(running: Running, paths: list[str], top: int, parts: list[list[int] | None] | None) -> dict[str, Any]:
    """Returns the `top` classes of each video, or of a part of it (microseconds), with their probabilities, or the
    reason why it cannot be read. Of videos with several labels: all classes that reach their threshold, which stands
    beside them."""
    listed = [
        Listed(path, 0, None if part is None else Part(*part))
        for path, part in zip(paths, parts or [None] * len(paths), strict=True)
    ]
    settings = running.settings
    items = read_together(batches.video_views(settings, listed), count_workers(settings.data.num_workers))
    found: list[dict[str, Any]] = []
    clips = _beat(item.clip for item in items)
    while some := list(islice(clips, settings.eval.batch_size)):
        found += _score(running, some, top)
    return {"predictions": [{"path": path, **one} for path, one in zip(paths, found, strict=True)]}


def _beat(items: Iterable[T]) -> Iterator[T]:
    for item in items:
        heartbeat.progress()
        yield item


def _score(running: Running, clips: list[Tensor | BadVideo], top: int) -> list[dict[str, Any]]:
    """Returns the classes of each of the videos, which go through the model together."""
    good = [clip for clip in clips if isinstance(clip, Tensor)]
    scores_NVK = torch.empty(0, 1, 1)
    if good:
        views = torch.stack(good)
        scores = next(iter(running.cohort.scores(running.prepare(views.flatten(0, 1))).values()))
        scores_NVK = scores.view(*views.shape[:2], -1)
    rows = iter(scores_NVK)
    return [
        {"reason": clip.reason, "classes": None} if isinstance(clip, BadVideo) else _judge(running, next(rows), top)
        for clip in clips
    ]


def _judge(running: Running, scores_VK: Tensor, top: int) -> dict[str, Any]:
    if not scores_VK.isfinite().all():
        reason = f"its scores are not finite. {explain_broken(running.cohort.trials[0])}"
        return {"reason": reason, "classes": None}
    return {"reason": None, "classes": name_classes(running, scores_VK.mean(dim=0), top)}


def name_classes(running: Running, scores_K: Tensor, top: int) -> list[dict[str, Any]]:
    """Returns the classes of a video, the most probable first."""
    is_multi, names = running.settings.data.labels == "multi", running.classes
    temperature = running.settings.eval.temperature
    if temperature != 1:  # as evaluate/calibration.py scales what it was fitted on
        scores_K = (scores_K.clamp_min(1e-12).log() / temperature).softmax(dim=0)
    best = scores_K.topk(len(scores_K) if is_multi else min(top, len(scores_K)))
    classes = [
        {"label": label, "name": names[label] if names else str(label), "probability": value}
        for value, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    if not is_multi:
        return classes
    known = next(iter(running.thresholds().values()), [NO_CHOICE] * len(scores_K))
    named = [{**one, "threshold": known[one["label"]]} for one in classes]
    return [one for one in named if one["probability"] >= one["threshold"]]


def export(running: Running, file: Path, precision: str, about: dict[str, Any]) -> dict[str, Any]:
    """Returns opset and size_bytes of the file that was written."""
    about |= {"thresholds": next(iter(running.thresholds().values()), None)}
    if file.suffix == ".onnx":
        return write_onnx(running.cohort, running.settings, file, precision, about)
    return write_torch(running.cohort, running.settings, file, about)


def compare_export(running: Running, file: Path, seconds: float, most: int) -> dict[str, Any]:
    """Returns how far the comparison is after about `seconds` more."""
    if running.comparison is None:
        running.comparison = Comparison(running.cohort, running.settings, file, running.lists["val"], most)
    return running.comparison.advance(seconds)
