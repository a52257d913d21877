"""Training curves: what a resume hides of the run that was killed, and what is told where they cannot be written."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coldframe.errors import describe
from coldframe.train.cohort import StepResult
from coldframe.train.metrics import Metrics

FULL = Path("/dev/full")


def write(folder: Path, start: int, *steps: int) -> None:
    metrics = Metrics(folder, start, True, None, {"main": {}})
    for step in steps:
        metrics.write_step(step, {"main": StepResult(loss=float(step), lr=0.1, grad_norm=1.0, top1=0.5)})
    metrics.close()


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

    def write_on() -> None:
        for step in range(1, 1000):
            metrics.write_evaluation(step, {"main": {"top1": 0.5, "top5": 0.5}})

    with pytest.raises(OSError, match="No space left") as raised:
        write_on()
    assert raised.value.errno == errno.ENOSPC
    told = describe(raised.value)
    assert told["kind"] == "user"
    assert told["message"].startswith(f"{tmp_path / 'metrics'}  the disk is full.")
