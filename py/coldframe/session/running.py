"""What is running: a cohort with its data, its step and its run folder. `open_running` builds it, verbs use it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coldframe import heartbeat
from coldframe.assembly import batches, forecast, models
from coldframe.cache.read import Cache, StoredFeatures, open_cache
from coldframe.data.clips import Batch, normalize_, read_list
from coldframe.data.loader import to_device
from coldframe.errors import UserError
from coldframe.evaluate.accuracy import NO_CHOICE
from coldframe.evaluate.evaluation import Evaluation
from coldframe.evaluate.export.model import Comparison
from coldframe.evaluate.timeline import Timeline
from coldframe.machine import environment, lock, ranks
from coldframe.machine.device import choose_device, choose_precision
from coldframe.machine.files import hash_file
from coldframe.settings import Settings
from coldframe.train import checkpoint, resume
from coldframe.train.cohort import Cohort
from coldframe.train.curves.metrics import Metrics
from coldframe.train.curves.trackers import start_trackers
from coldframe.train.initial import initialize
from coldframe.train.targets import thresholds
from coldframe.train.trial import build_trial
from coldframe.video import codecs


@dataclass
class Running:
    """A cohort with its data, its step and its run folder."""

    mode: str
    settings: Settings  # of the first trial: data, backbone and batch are the same for all
    configs: dict[str, Any]  # by trial, as TypeScript gave them
    lists: dict[str, str | None]
    classes: list[str] | None
    run_dir: Path | None
    resumed_from: Path | None
    device: torch.device
    precision: str
    notes: list[str]
    step: int = 0
    train: Iterator[Batch] | None = None
    num_unread: int = 0  # clips since the last one that could be read
    spared: frozenset[int] = frozenset()  # steps whose checkpoints stay
    evaluation: Evaluation | None = None
    comparison: Comparison | None = None
    timeline: Timeline | None = None
    metrics: Metrics | None = None
    cache: Cache | None = None
    backbone_sha256: str = field(init=False)
    cohort: Cohort = field(init=False)

    def describe(self) -> dict[str, Any]:
        """Returns what `open` tells."""
        return {
            "step": self.step,
            "trials": [trial.name for trial in self.cohort.trials],
            "resumed_from": None if self.resumed_from is None else str(self.resumed_from),
            "device": str(self.device),
            "precision": self.precision,
            "backbone_sha256": self.backbone_sha256,
            "parameters": self.cohort.count_parameters(),
            "environment": environment.describe_environment(codecs.describe_decoder()),
            "notes": self.notes,
        }

    def header(self) -> dict[str, Any]:
        """Returns what a checkpoint says of itself."""
        return {
            "step": self.step,
            "backbone_sha256": self.backbone_sha256,
            "classes": self.classes,
            "config": {trial.name: self.configs[trial.name] for trial in self.cohort.trials},
        }

    def prepare(self, clips: Tensor) -> Tensor:
        """Returns clips, or stored features, as the cohort takes them."""
        on_device = clips.to(self.device, non_blocking=True)
        if self.cache is not None:
            return on_device
        return normalize_(on_device, self.settings.data.mean, self.settings.data.std)

    def start_training(self) -> Iterator[Batch]:
        """Returns the batches from this step on."""
        list_file = self.lists["train"]
        if self.cache is None:
            found = batches.training_batches(self.settings, list_file, self.step, self.device)
        else:
            assert list_file is not None
            found = self.cache.training_batches(self.settings, list_file, self.step, self.device.type == "cuda")
        return to_device(found, self.device)

    def start_evaluation(self) -> Evaluation:
        """Returns an evaluation that has not begun."""
        list_file = self.lists["val"]
        assert list_file is not None, "evaluation needs data.val_list"
        if self.cache is None:
            found, _ = batches.evaluation_batches(self.settings, list_file, self.device)
        else:
            pin = self.device.type == "cuda"
            found, _ = self.cache.evaluation_batches(self.settings, list_file, pin)
        num_views = self.settings.eval.spatial_views * self.settings.eval.temporal_views
        known = {} if self.mode == "train" else self.thresholds()
        found, items = to_device(found, self.device), read_list(list_file)
        return Evaluation(self.cohort, found, self.prepare, items, num_views, known)

    def thresholds(self) -> dict[str, list[float]]:
        """Returns from which score on a class is there, by trial, of those that an evaluation chose some for."""
        trials = self.cohort.trials
        return {trial.name: trial.thresholds.values for trial in trials if trial.thresholds is not None}

    def drop(self, names: list[str]) -> None:
        """Takes trials out; the others go on."""
        self.cohort.drop(names)
        if self.metrics is not None:
            self.metrics.drop(names)

    def close(self) -> None:
        """Flushes files; loader workers and models go."""
        if self.metrics is not None:
            self.metrics.close(is_finished=self.step >= self.settings.train.steps)
        if self.timeline is not None:
            self.timeline.stream.close()
        self.train = self.evaluation = None
        del self.cohort


def open_running(
    mode: str,
    trials: list[dict[str, Any]],
    lists: dict[str, str | None],
    classes: list[str] | None,
    run_dir: Path | None,
    resume_from: str,
) -> Running:
    """Returns what a session runs; the verb `open` says what its arguments are."""
    settings = Settings.from_json(trials[0]["settings"])
    if run_dir is not None and mode == "train" and ranks.is_first():
        lock.hold(run_dir)
        checkpoint.recover(run_dir / "checkpoints")
    batches.refuse_lacking(settings, mode)
    resumed_from = ranks.gather(_find_checkpoint(resume_from, run_dir) if ranks.is_first() else None)[0]
    configs = {trial["name"]: trial["settings"] for trial in resume.choose_trials(trials, resumed_from)}
    device = torch.device(choose_device(settings.launch.device))
    precision, notes = choose_precision(settings.train.precision, str(device))
    notes += forecast.describe_launches(settings, device.type) if mode == "train" else []
    running = Running(mode, settings, configs, lists, classes, run_dir, resumed_from, device, precision, notes)
    is_trained = mode == "train" and run_dir is not None  # without a folder it is converted, not trained
    if is_trained:
        _start_early(running)
    _build_cohort(running)
    _restore(running)
    _refuse_different(running)
    if settings.train.compile:
        running.cohort.compile()
    if is_trained and run_dir is not None and ranks.is_first():
        run = settings.run
        trackers = start_trackers(run_dir, configs, run.wandb, run.mlflow)
        running.metrics = Metrics(run_dir, running.step, run.tensorboard, trackers, list(configs))
    return running


def _find_checkpoint(resume_from: str, run_dir: Path | None) -> Path | None:
    if resume_from not in ("auto", "never"):
        return Path(resume_from)
    assert run_dir is not None or resume_from == "never"
    return checkpoint.find_latest(run_dir / "checkpoints") if run_dir and resume_from == "auto" else None


def _start_early(running: Running) -> None:
    """Lets loader workers decode the first batch while the models are built."""
    path = running.resumed_from
    if running.settings.data.features is None and (path is None or path.is_dir()):
        running.step = 0 if path is None else checkpoint.read_header(path)["step"]
        running.train = running.start_training()


def _build_cohort(running: Running) -> None:
    settings, device, precision = running.settings, running.device, running.precision
    backbone, running.backbone_sha256, notes = models.build_backbone(settings, device, precision)
    running.notes += notes
    each = {name: Settings.from_json(config) for name, config in running.configs.items()}
    if settings.data.features is not None and any(running.lists.values()) and running.mode != "predict":
        running.cache = open_cache(list(each.values()), running.backbone_sha256, running.lists)
    heartbeat.progress()
    is_weighted = running.mode == "train" and any(one.train.class_weights != "none" for one in each.values())
    counts = batches.count_training(settings, running.lists["train"]) if is_weighted else None
    trials = [build_trial(name, one, backbone, device, precision, counts) for name, one in each.items()]
    source = backbone if running.cache is None else StoredFeatures(running.cache.layout, backbone)
    running.cohort = Cohort(trials, source, device, precision)


def _restore(running: Running) -> None:
    path, cohort, notes = running.resumed_from, running.cohort, running.notes
    is_training, init_from = running.mode == "train", running.settings.run.init_from
    if path is not None:
        running.step = resume.restore(cohort, path, running.backbone_sha256, running.classes, is_training, notes)
    elif is_training and init_from is not None:
        for trial in cohort.trials:
            notes += initialize(trial, Path(init_from), running.backbone_sha256, running.classes)
    if not is_training and running.settings.data.labels == "multi":
        _choose_thresholds(running)


def _refuse_different(running: Running) -> None:
    """Raises UserError, on all ranks, where one would train something else: on a machine whose files or whose
    arithmetic are others."""
    if ranks.world_size() == 1:
        return
    lists = {kind: None if file is None else hash_file(Path(file)) for kind, file in running.lists.items()}
    trained = {
        f"the weights of trial {trial.name}": models.hash_state(dict(trial.named_parameters()))
        for trial in running.cohort.trials
    }
    mine = {
        "the step": running.step,
        "the backbone": running.backbone_sha256,
        "the device": running.device.type,
        "the precision": running.precision,
        **{f"the list data.{kind}_list": digest for kind, digest in lists.items()},
        **trained,
    }
    told = ranks.gather((platform.node(), mine))
    first_host, first = told[0]
    wrong = [
        f"rank {rank} on {host} and rank 0 on {first_host} differ in {what}: {one.get(what)} and {first[what]}."
        for rank, (host, one) in enumerate(told)
        for what in first
        if one.get(what) != first[what]
    ]
    if wrong:
        lines = "\n".join(wrong[:5])
        raise UserError(f"{lines}\nAll machines of a run need the same files, versions and kind of processor.")


def _choose_thresholds(running: Running) -> None:
    """Takes those of `eval.thresholds` in the place of the checkpoint's; says so where there are none."""
    file, num_classes = running.settings.eval.thresholds, running.settings.data.num_classes
    for trial in running.cohort.trials:
        if file is not None:
            trial.thresholds = thresholds.read_result(Path(file), trial.name, num_classes)
    if running.resumed_from is not None and not running.thresholds():
        running.notes.append(
            f"{running.resumed_from} knows no thresholds, as its run evaluated on no list: {NO_CHOICE} is taken for "
            "every class. `evaluate` on a list that is not to be tested on chooses some; name its result.json in "
            "eval.thresholds."
        )
