"""Training curves for programs that gather those of many runs: Weights & Biases (`run.wandb`), MLflow (`run.mlflow`).

Both are optional packages. What a run is called there is drawn once and kept in the run folder, in
`metrics/trackers.json`: a training that goes on adds to its run, wherever the folder lies by then, and no two trainings
meet in one, whatever their folders are called.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from coldframe.errors import DISK_ERRORS, UserError
from coldframe.machine.files import write_text

FILE = "trackers.json"
_SEND_SECONDS = 5  # MLflow takes a request a batch of values: many values at once
_MOST_VALUES = 900  # of a request: MLflow takes 1000
_MOST_PARAMS = 90  # and 100 of these


class Tracker(Protocol):
    """Where the curves of a run's trials go, each as a run of its own."""

    def log(self, trial: str, step: int, values: dict[str, float]) -> None:
        """Adds values to a trial's curves."""

    def end(self, trial: str, is_finished: bool) -> None:
        """Ends a trial's run; one that is not finished goes on another time."""

    def flush(self) -> None:
        """Sends what waits."""


def start_trackers(
    run_dir: Path, trials: dict[str, Any], wandb: str | None = None, mlflow: str | None = None
) -> list[Tracker]:
    """Returns those that a configuration asks for. Raises UserError where one cannot start."""
    known, trackers = _Known(run_dir), list[Tracker]()
    if wandb is not None:
        trackers.append(WeightsAndBiases(wandb, run_dir, trials, known))
    if mlflow is not None:
        trackers.append(MLflow(mlflow, run_dir, trials, known))
    return trackers


class WeightsAndBiases:
    """Runs of the package wandb. It looks whether it has the run already; offline its sync does."""

    def __init__(self, project: str, run_dir: Path, trials: dict[str, Any], known: _Known) -> None:
        self._run_dir = run_dir
        self._runs: dict[str, Any] = {}
        with self._asking():
            try:
                import wandb
            except ImportError as error:
                raise UserError(_lacking("run.wandb", project, "wandb")) from error
            ids = {name: known.find("wandb", name) or uuid.uuid4().hex[:16] for name in trials}
            known.keep("wandb", ids)
            for name, config in trials.items():
                self._runs[name] = wandb.init(
                    project=project,
                    name=_label(run_dir, name, len(trials), ids[name]),
                    group=_find_sweep(run_dir),
                    id=ids[name],
                    resume="allow",
                    dir=run_dir,
                    config=config,
                    reinit="create_new",
                )

    def log(self, trial: str, step: int, values: dict[str, float]) -> None:
        if trial in self._runs:
            with self._asking():
                self._runs[trial].log(values, step=step)

    def end(self, trial: str, is_finished: bool) -> None:
        if trial in self._runs:
            with self._asking():
                self._runs.pop(trial).finish()

    def flush(self) -> None:
        """Does nothing: a process of its own sends."""

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with _explain("run.wandb", "Weights & Biases", self._run_dir):
            yield


class MLflow:
    """Runs of the package mlflow, in the store that MLFLOW_TRACKING_URI names (by default MLflow's own)."""

    def __init__(self, experiment: str, run_dir: Path, trials: dict[str, Any], known: _Known) -> None:
        self._run_dir = run_dir
        self._waiting: dict[str, list[Any]] = {name: [] for name in trials}
        self._sent = time.monotonic()
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a training calls nobody it was not told to call
        with self._asking():
            try:
                from mlflow import MlflowClient
            except ImportError as error:
                raise UserError(_lacking("run.mlflow", experiment, "mlflow")) from error
            self._client = MlflowClient()
            belongs_to = self._find_experiment(experiment)
            self._ids = {
                name: self._take_up(known.find("mlflow", name)) or self._create(belongs_to, name, len(trials), config)
                for name, config in trials.items()
            }
            known.keep("mlflow", self._ids)

    def _find_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another cohort of the sweep was first
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _take_up(self, run_id: str | None) -> str | None:
        """Returns the run that goes on, None where this store does not have it."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run_id

    def _create(self, experiment_id: str, trial: str, num_trials: int, config: dict[str, Any]) -> str:
        from mlflow.entities import Param

        sweep = _find_sweep(self._run_dir)
        tags = {"coldframe.run_dir": str(self._run_dir)} | ({} if sweep is None else {"coldframe.sweep": sweep})
        label = _label(self._run_dir, trial, num_trials, uuid.uuid4().hex)
        run_id = str(self._client.create_run(experiment_id, run_name=label, tags=tags).info.run_id)
        params = [Param(key, value) for key, value in _flatten(config)]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run_id, params=params[first : first + _MOST_PARAMS])
        return run_id

    def log(self, trial: str, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        if trial not in self._ids:
            return
        now = int(time.time() * 1000)
        self._waiting[trial] += [Metric(key, value, now, step) for key, value in values.items()]
        is_due = time.monotonic() - self._sent > _SEND_SECONDS
        if is_due or len(self._waiting[trial]) > _MOST_VALUES - 10:
            self.flush()

    def flush(self) -> None:
        for trial, values in self._waiting.items():
            if values:
                with self._asking():
                    self._client.log_batch(self._ids[trial], metrics=values)
                self._waiting[trial] = []
        self._sent = time.monotonic()

    def end(self, trial: str, is_finished: bool) -> None:
        if trial in self._ids:
            self.flush()
            with self._asking():
                self._client.set_terminated(self._ids.pop(trial), "FINISHED" if is_finished else "KILLED")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with _explain("run.mlflow", "MLflow", self._run_dir):
            yield


class _Known:
    """The names that trials of this run folder have with each tracker."""

    def __init__(self, run_dir: Path) -> None:
        self._file = run_dir / "metrics" / FILE
        self._ids: dict[str, dict[str, str]] = {}
        if self._file.exists():
            try:
                self._ids = dict(json.loads(self._file.read_text(encoding="utf-8"))["ids"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self._file}  is damaged: {error}. Remove it; the training's curves then begin anew in a run of "
                    "their own."
                ) from error

    def find(self, tracker: str, trial: str) -> str | None:
        return self._ids.get(tracker, {}).get(trial)

    def keep(self, tracker: str, ids: dict[str, str]) -> None:
        self._ids = {**self._ids, tracker: {**self._ids.get(tracker, {}), **ids}}
        write_text(self._file, json.dumps({"format": 1, "ids": self._ids}, indent=1))


def _find_sweep(run_dir: Path) -> str | None:
    """Returns the name of the sweep that the run is a cohort of: SWEEP/cohorts/c0001."""
    return run_dir.parent.parent.name if run_dir.parent.name == "cohorts" else None


def _label(run_dir: Path, trial: str, num_trials: int, drawn: str) -> str:
    """Returns what a person reads: the folder and the trial, with a bit of what makes it no other's."""
    sweep = _find_sweep(run_dir)
    if sweep is not None:
        words = [sweep, trial]
    else:
        words = [run_dir.name] if num_trials == 1 else [run_dir.name, trial]
    return f"{'/'.join(words)} {drawn[:8]}"


def _flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)[:500]


def _lacking(key: str, value: str, package: str) -> str:
    return f"{key} is {value!r}, and the package {package} is not installed: .venv/bin/pip install {package}"


@contextmanager
def _explain(key: str, program: str, run_dir: Path) -> Iterator[None]:
    """Makes what such a program raises the user's to mend: it writes to disk and network by itself, and its errors have
    many types."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            error.filename = error.filename or str(run_dir)
            raise
        free = shutil.disk_usage(run_dir).free
        raise UserError(
            f"{key}  {program} has failed ({type(error).__name__}: {error}), and the disk of {run_dir} has "
            f"{free / 2**20:.1f} MiB free. Mend what it names, or set {key}: null; the same command goes on."
        ) from error
