"""Training curves: what a resume hides of the run that was killed, the picture of confusions, what a run is called
elsewhere, and what is told where curves cannot be written."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coldframe.errors import UserError, describe
from coldframe.evaluate.accuracy import accuracy
from coldframe.session import Session
from coldframe.train.cohort import StepResult
from coldframe.train.curves.metrics import Metrics
from coldframe.train.curves.picture import draw_confusions, spread_confusions
from coldframe.train.curves.trackers import start_trackers
from small import settings_json

FULL = Path("/dev/full")


def write(folder: Path, start: int, *steps: int) -> None:
    metrics = Metrics(folder, start, True, [], ["main"])
    for step in steps:
        metrics.write_step(step, {"main": StepResult(loss=float(step), lr=0.1, grad_norm=1.0, top1=0.5)})
    metrics.close()


def write_on(metrics: Metrics) -> None:
    for step in range(1, 1000):
        metrics.write_evaluation(step, {"main": {"top1": 0.5, "top5": 0.5}}, ["a", "b"])


def test_a_resume_hides_the_points_after_its_step_and_no_other(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2, 3, 4, 5, 6)
    write(tmp_path, 4, 5)
    shown = EventAccumulator(str(tmp_path / "metrics" / "main"))
    shown.Reload()
    assert [point.step for point in shown.Scalars("train/loss")] == [1, 2, 3, 4, 5]


@pytest.mark.skipif(not FULL.exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_told_with_the_folder_of_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # the writing thread ends with it
    metrics = Metrics(tmp_path, 0, True, [], ["main"])
    [file] = (tmp_path / "metrics" / "main").iterdir()
    file.unlink()
    file.symlink_to(FULL)  # it is opened anew for each piece

    with pytest.raises(OSError, match="No space left") as raised:
        write_on(metrics)
    assert raised.value.errno == errno.ENOSPC
    told = describe(raised.value)
    assert told["kind"] == "user"
    assert told["message"].startswith(f"{tmp_path / 'metrics'}  the disk is full.")


# What stands for the package: a run is a file in `dir`, as offline.
FAKE_WANDB = """
import pathlib
class Error(Exception): pass
class Run:
    def __init__(self, folder, name):
        folder.mkdir(exist_ok=True)
        self.file = open(folder / name, "wb", buffering=0)
        self.file.write(bytes(4096))
    def log(self, values, step):
        try: self.file.write(bytes(4096))
        except OSError as error: raise Error(f"cannot write: {error.strerror}") from error
    def finish(self): self.file.close()
def init(*, dir, id, **_): return Run(pathlib.Path(dir) / "wandb", id)
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run folder on a disk of a few pages, and a package that writes there."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    run = tmp_path / "run"
    run.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", run], capture_output=True).returncode:
        pytest.skip("may not mount")
    yield run
    sys.modules.pop("wandb", None)
    subprocess.run(["umount", "--lazy", run], check=True)


def test_a_full_disk_under_wandb_is_the_users_to_mend(wandb: Path) -> None:
    metrics = Metrics(wandb, 0, False, start_trackers(wandb, {"main": {}}, wandb="clips"), ["main"])
    with pytest.raises(UserError, match=r"^run\.wandb  .*\(Error: cannot write: No space left on device\)") as told:
        write_on(metrics)
    assert f"the disk of {wandb} has 0.0 MiB free" in str(told.value)
    metrics.close()


def test_a_disk_that_is_full_before_wandb_begins_is_named(wandb: Path) -> None:
    (wandb / "full").write_bytes(bytes(64 * 1024))
    with pytest.raises(UserError, match=r"the disk is full") as raised:
        start_trackers(wandb, {"main": {}}, wandb="clips")
    assert str(raised.value).startswith(f"{wandb / 'metrics'}")


# ---- the picture of confusions ---------------------------------------------------------------------------------------


def test_confusions_are_counted_by_class_and_what_it_was_taken_for() -> None:
    scores_NK = torch.eye(3)[[0, 2, 2, 1, 2]]
    found = accuracy(scores_NK, torch.tensor([0, 0, 2, 1, 0]))
    assert spread_confusions(found["confusion"], 3).tolist() == [[1, 0, 2], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(("num_classes", "cell"), [(3, 32), (400, 2)])
def test_a_row_of_the_picture_is_a_class_and_the_darkest_cell_what_it_is_taken_for(num_classes: int, cell: int) -> None:
    counts_KK = np.zeros((num_classes, num_classes), np.int64)
    counts_KK[0, 2], counts_KK[1, 1] = 1, 300
    picture = draw_confusions(counts_KK, [f"class {label}" for label in range(num_classes)])
    left = picture.shape[1] - 4 - num_classes * cell
    corners = picture[20 : 20 + 2 * cell : cell, left : left + 3 * cell : cell]  # the upper left pixel of each cell
    assert corners.astype(int).sum(2).tolist() == [[765, 765, 233], [765, 233, 765]]
    assert picture.shape[1] - num_classes * cell > (50 if num_classes == 3 else 7)  # names where there is room


def test_an_evaluation_in_training_leaves_a_picture_of_its_confusions(tmp_path: Path) -> None:
    listed = tmp_path / "val.tsv"
    listed.write_text("".join(f"/nowhere/{i}.mp4\t{i % 5}\n" for i in range(7)), encoding="utf-8")
    trial = {"name": "main", "settings": settings_json(run__tensorboard=True)}
    session = Session()
    session.open("train", [trial], {"train": None, "val": str(listed)}, None, str(tmp_path / "run"), "auto")
    session.advance(2)
    while not session.evaluate(60, str(tmp_path / "run" / "evaluations"))["done"]:
        pass
    session.close()
    shown = EventAccumulator(str(tmp_path / "run" / "metrics" / "main"))
    shown.Reload()
    [found] = shown.Images("val/confusions")
    assert found.step == 2
    with np.load(tmp_path / "run" / "evaluations" / "scores.npz") as scores:
        told = accuracy(torch.from_numpy(scores["scores"]), torch.from_numpy(scores["labels"]))
        counts = spread_confusions(told["confusion"], 5)
    decoded = np.asarray(Image.open(io.BytesIO(found.encoded_image_string)))
    np.testing.assert_array_equal(decoded, draw_confusions(counts, [str(label) for label in range(5)]))


# ---- trackers --------------------------------------------------------------------------------------------------------

ASKED_WANDB = """
asked = []
class Run:
    def log(self, values, step): pass
    def finish(self): pass
def init(**words): asked.append(words); return Run()
"""


def test_no_two_runs_share_a_name_and_a_run_that_goes_on_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(ASKED_WANDB)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    sweeps = [tmp_path / disk / "lr" / "cohorts" / "c0001" for disk in ("a", "b")]
    plain = tmp_path / "demo"
    try:
        for run_dir, trials in [(sweeps[0], "pq"), (sweeps[1], "pq"), (plain, "m")]:
            run_dir.mkdir(parents=True)
            start_trackers(run_dir, {name: {} for name in trials}, wandb="clips")
        moved = plain.rename(tmp_path / "elsewhere")
        start_trackers(moved, {"m": {}}, wandb="clips")
        asked: list[dict[str, Any]] = sys.modules["wandb"].asked
    finally:
        sys.modules.pop("wandb", None)
    ids, names = [each["id"] for each in asked], [each["name"] for each in asked]
    assert (len(set(ids[:5])), len(set(names[:5]))) == (5, 5)
    assert [name[:-9] for name in names] == ["lr/p", "lr/q", "lr/p", "lr/q", "demo", "elsewhere"]
    assert [each["group"] for each in asked] == ["lr", "lr", "lr", "lr", None, None]
    assert ids[5] == ids[4]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_is_told_with_the_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what an import of a missing package meets
    with pytest.raises(UserError, match=rf"run\.{package} is 'clips'.*pip install {package}"):
        start_trackers(tmp_path, {"main": {}}, **{package: "clips"})


def test_damaged_names_of_runs_are_told_with_the_repair(tmp_path: Path) -> None:
    file = tmp_path / "metrics" / "trackers.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"format": 1}))
    with pytest.raises(UserError, match=r"trackers\.json  is damaged: 'ids'\. Remove it"):
        start_trackers(tmp_path, {"main": {}}, wandb="clips")
