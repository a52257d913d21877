"""Weights & Biases and MLflow, the real packages, offline; `make test-trackers` installs them beside coldframe's own.

Two sweeps of the same name in two folders write into one MLflow store, by the whole program; then a training is stopped
and goes on.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from wandb.proto import wandb_internal_pb2

from coldframe.session import Session
from small import settings_json

PROJECT = Path(__file__).resolve().parents[2]
SWEEP = """
base: base.yaml
space: {train.lr: [1.0e-3, 2.0e-3]}
selection: validation
"""
BASE = """
data: {dummy: true, num_classes: 3, num_frames: 2, size: 32, num_workers: 0, train_list: train.txt, val_list: val.txt}
model: {backbone: {preset: tiny}, decoder: {num_layers: 1}}
train: {steps: 3, batch_size: 2, precision: fp32}
eval: {temporal_views: 1}
run: {wandb: clips, mlflow: clips}
launch: {device: cpu}
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return MlflowClient(tracking_uri=uri)


def read_records(file: Path) -> Iterator[bytes]:
    """Yields the records of a run that W&B kept offline: LevelDB's log format behind seven bytes."""
    data, place, part = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:  # a header is never divided
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield part
            part = b""


def read_wandb(folder: Path) -> tuple[Any, dict[int, dict[str, float]]]:
    """Returns what a run was called, and the values of each step."""
    [file] = folder.glob("*.wandb")
    about, history = None, {}
    for data in read_records(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            about = record.run
        elif record.WhichOneof("record_type") == "history":
            items = {
                (item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item
            }
            history[int(items["_step"])] = items
    return about, history


def list_runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("clips")
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def test_two_sweeps_of_one_name_have_runs_of_their_own(tmp_path: Path, store: MlflowClient) -> None:
    folders = [tmp_path / disk / "lr" for disk in ("a", "b")]
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_text("".join(f"{i}.mp4 {i % 3}\n" for i in range(6)))
    environment = {**os.environ, "COLDFRAME_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for folder in folders:
        words = [PROJECT / "scripts" / "coldframe", "sweep", "--config", "sweep.yaml", "--run-dir", folder, "--json"]
        ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert all(line.startswith("{") for line in ended.stdout.splitlines())

    found = [read_wandb(each) for folder in folders for each in folder.glob("cohorts/*/wandb/offline-run-*")]
    assert len(found) == 4
    assert len({about.run_id for about, _ in found}) == len({about.display_name for about, _ in found}) == 4
    assert {(about.project, about.run_group) for about, _ in found} == {("clips", "lr")}
    assert all(sorted(history) == [1, 2, 3] for _, history in found)

    runs = list_runs(store)
    assert len({run.info.run_name for run in runs}) == len(runs) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["coldframe.sweep"] for run in runs} == {"lr"}
    assert sorted(float(run.data.params["train.lr"]) for run in runs) == [1e-3, 1e-3, 2e-3, 2e-3]
    # Both tell the same losses as the program itself.
    told = {tuple(history[step]["train/loss"] for step in (1, 2, 3)) for _, history in found}
    curves = [store.get_metric_history(run.info.run_id, "train/loss") for run in runs]
    assert {tuple(each.value for each in sorted(curve, key=lambda one: one.step)) for curve in curves} == told
    assert all("val/top1" in run.data.metrics for run in runs)


def test_a_training_that_goes_on_adds_to_its_run(tmp_path: Path, store: MlflowClient) -> None:
    trial = {"name": "main", "settings": settings_json(run__wandb="clips", run__mlflow="clips")}
    losses: dict[int, float] = {}
    for steps, status in ((2, "KILLED"), (4, "FINISHED")):
        session = Session()
        session.open("train", [trial], {"train": None, "val": None}, None, str(tmp_path / "run"), "auto")
        for step in session.advance(steps)["steps"]:
            losses[step["step"]] = step["trials"]["main"]["loss"]
        session.save()
        session.close()
        [run] = list_runs(store)
        assert run.info.status == status
    assert sorted(losses) == [1, 2, 3, 4, 5, 6]
    curve = store.get_metric_history(run.info.run_id, "train/loss")
    assert {each.step: each.value for each in curve} == losses
    pieces = [read_wandb(each) for each in sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))]
    assert len({about.run_id for about, _ in pieces}) == 1
    kept = {step: values["train/loss"] for _, history in pieces for step, values in history.items()}
    assert kept == losses
