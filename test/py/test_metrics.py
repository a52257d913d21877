"""Training curves: what a resume hides of the run that was killed."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coldframe.train.cohort import StepResult
from coldframe.train.metrics import Metrics


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
