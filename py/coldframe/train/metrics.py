"""Training curves: TensorBoard files under `metrics/TRIAL`, and Weights & Biases when the user names a project."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldframe.errors import DISK_ERRORS, UserError
from coldframe.train.trial import StepResult

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Metrics:
    """One TensorBoard run a trial. Points after `step`, written by a run that was killed, are hidden by TensorBoard."""

    def __init__(self, run_dir: Path, step: int, tensorboard: bool, wandb: str | None, trials: dict[str, Any]) -> None:
        self._folder = run_dir / "metrics"
        self._writers: dict[str, SummaryWriter] = {}
        self._wandb: dict[str, Any] = {}
        if wandb is not None:
            with self._remote():
                self._wandb = _start_wandb(wandb, run_dir, trials)
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

    def write_evaluation(self, step: int, results: dict[str, dict[str, Any]]) -> None:
        """Adds what one pass over the validation list found; of videos with several labels mAP and F1."""
        for name, result in results.items():
            shown = ("map", "f1") if "map" in result else ("top1", "top5")
            self._write(step, name, {f"val/{key}": result[key] for key in shown})
        self.flush()

    def _write(self, step: int, name: str, values: dict[str, float]) -> None:
        if name in self._writers:
            with self._named():
                for tag, value in values.items():
                    self._writers[name].add_scalar(tag, value, step)
        if name in self._wandb:
            with self._remote():
                self._wandb[name].log(values, step=step)

    def drop(self, names: list[str]) -> None:
        """Ends the curves of trials that left the cohort."""
        for name in names:
            if name in self._writers:
                with self._named():
                    self._writers.pop(name).close()
            if name in self._wandb:
                with self._remote():
                    self._wandb.pop(name).finish()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Gives errors of the disk the folder's name: a thread of TensorBoard's writes, and knows none."""
        try:
            yield
        except OSError as error:
            if error.filename is None:
                error.filename = str(self._folder)
            raise

    @contextmanager
    def _remote(self) -> Iterator[None]:
        """Makes what Weights & Biases raises the user's to mend: its own program writes to disk and network, and its
        errors have many types."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                error.filename = error.filename or str(self._folder.parent)
                raise
            free = shutil.disk_usage(self._folder.parent).free
            raise UserError(
                f"run.wandb  Weights & Biases has failed ({type(error).__name__}: {error}), and the disk of "
                f"{self._folder.parent} has {free / 2**20:.1f} MiB free. Mend what it names, or set run.wandb: null; "
                "the same command goes on."
            ) from error

    def flush(self) -> None:
        """Brings every point to the disk."""
        with self._named():
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        """Ends the files and the remote runs."""
        with self._named():
            for writer in self._writers.values():
                writer.close()
        for run in self._wandb.values():
            with self._remote():
                run.finish()


def _start_wandb(project: str, run_dir: Path, trials: dict[str, Any]) -> dict[str, Any]:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"run.wandb is {project!r}, and the package wandb is not installed: .venv/bin/pip install wandb"
        ) from error
    return {
        name: wandb.init(
            project=project,
            name=run_dir.name if len(trials) == 1 else f"{run_dir.name}/{name}",
            id=f"{run_dir.name}-{name}",
            resume="allow",
            dir=run_dir,
            config=config,
            reinit="create_new",
        )
        for name, config in trials.items()
    }
