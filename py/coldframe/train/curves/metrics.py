"""Training curves: TensorBoard files under `metrics/TRIAL`, and whatever trackers of other programs there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldframe.train.curves.picture import MOST_CLASSES, draw_confusions, spread_confusions
from coldframe.train.curves.trackers import Tracker
from coldframe.train.trial import StepResult

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Metrics:
    """One TensorBoard run a trial. Points after `step`, written by a run that was killed, are hidden by TensorBoard."""

    def __init__(
        self, run_dir: Path, step: int, tensorboard: bool, trackers: Sequence[Tracker], trials: Sequence[str]
    ) -> None:
        self._folder = run_dir / "metrics"
        self._trials = list(trials)
        self._trackers = trackers
        self._writers: dict[str, SummaryWriter] = {}
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            purge_step = step + 1 if step else None
            with self._named():
                self._writers = {
                    name: SummaryWriter(str(self._folder / name), purge_step=purge_step) for name in trials
                }

    def write_step(self, step: int, results: dict[str, StepResult]) -> None:
        """Adds loss, rate, gradient norm and batch accuracy of one step (counted from 1)."""
        for name, result in results.items():
            values = {
                "train/loss": result.loss,
                "train/lr": result.lr,
                "train/grad_norm": result.grad_norm,
                "train/hit1" if result.has_many else "train/top1": result.top1,
            }
            self._write(step, name, values)

    def write_evaluation(self, step: int, results: dict[str, dict[str, Any]], names: Sequence[str]) -> None:
        """Adds what one pass over the validation list found; of videos with several labels mAP and F1. Which class was
        taken for which becomes a picture in TensorBoard, where there are not too many to see anything."""
        for name, result in results.items():
            shown = ("map", "f1") if "map" in result else ("top1", "top5")
            self._write(step, name, {f"val/{key}": result[key] for key in shown})
            if name in self._writers and "confusion" in result and len(names) <= MOST_CLASSES:
                picture = draw_confusions(spread_confusions(result["confusion"], len(names)), names)
                with self._named():
                    self._writers[name].add_image("val/confusions", picture, step, dataformats="HWC")
        self.flush()

    def _write(self, step: int, name: str, values: dict[str, float]) -> None:
        if name in self._writers:
            with self._named():
                for tag, value in values.items():
                    self._writers[name].add_scalar(tag, value, step)
        for tracker in self._trackers:
            tracker.log(name, step, values)

    def drop(self, names: list[str]) -> None:
        """Ends the curves of trials that left the cohort."""
        for name in names:
            if name in self._writers:
                with self._named():
                    self._writers.pop(name).close()
            for tracker in self._trackers:
                tracker.end(name, is_finished=True)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Gives errors of the disk the folder's name: a thread of TensorBoard's writes, and knows none."""
        try:
            yield
        except OSError as error:
            if error.filename is None:
                error.filename = str(self._folder)
            raise

    def flush(self) -> None:
        """Brings every point to the disk, or to where trackers keep it."""
        with self._named():
            for writer in self._writers.values():
                writer.flush()
        for tracker in self._trackers:
            tracker.flush()

    def close(self, is_finished: bool = True) -> None:
        """Ends the files and the runs of trackers; not finished: they go on another time."""
        with self._named():
            for writer in self._writers.values():
                writer.close()
        for tracker in self._trackers:
            for name in self._trials:
                tracker.end(name, is_finished)
