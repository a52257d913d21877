"""Training curves: what a resume hides of the run that was killed, and what is told where they cannot be written."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coldframe.errors import UserError, describe
from coldframe.train.cohort import StepResult
from coldframe.train.metrics import Metrics

FULL = Path("/dev/full")


def write(folder: Path, start: int, *steps: int) -> None:
    metrics = Metrics(folder, start, True, None, {"main": {}})
    for step in steps:
        metrics.write_step(step, {"main": StepResult(loss=float(step), lr=0.1, grad_norm=1.0, top1=0.5)})
    metrics.close()


def write_on(metrics: Metrics) -> None:
    for step in range(1, 1000):
        metrics.write_evaluation(step, {"main": {"top1": 0.5, "top5": 0.5}})


def test_a_resume_hides_the_points_after_its_step_and_no_other(tmp_path: Path) -> None:
    write(tmp_path, 0, 1, 2, 3, 4, 5, 6)
    write(tmp_path, 4, 5)
    shown = EventAccumulator(str(tmp_path / "metrics" / "main"))
    shown.Reload()
    assert [point.step for point in shown.Scalars("train/loss")] == [1, 2, 3, 4, 5]


@pytest.mark.skipif(not FULL.exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_told_with_the_folder_of_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # the writing thread ends with it
    metrics = Metrics(tmp_path, 0, True, None, {"main": {}})
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
    metrics = Metrics(wandb, 0, False, "clips", {"main": {}})
    with pytest.raises(UserError, match=r"^run\.wandb  .*\(Error: cannot write: No space left on device\)") as told:
        write_on(metrics)
    assert f"the disk of {wandb} has 0.0 MiB free" in str(told.value)
    metrics.close()


def test_a_disk_that_is_full_before_wandb_begins_is_named(wandb: Path) -> None:
    (wandb / "full").write_bytes(bytes(64 * 1024))
    with pytest.raises(OSError, match="No space left") as raised:
        Metrics(wandb, 0, False, "clips", {"main": {}})
    assert describe(raised.value)["message"].startswith(f"{wandb}  the disk is full.")
