"""From which score on a class is there (`data.labels: multi`): chosen by an evaluation, kept with the checkpoint.

A checkpoint holds `thresholds.json`, for each trial the numbers of its last evaluation and the step of that: the list
of a run's evaluations is what they are chosen on, in a sweep its selection list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from coldframe.errors import UserError
from coldframe.machine.files import write_text

if TYPE_CHECKING:
    from coldframe.train.trial import Trial

FILE = "thresholds.json"


class Thresholds(NamedTuple):
    """One a class, from the evaluation of `step`."""

    step: int
    values: list[float]


def write(folder: Path, trials: Iterable[Trial]) -> None:
    """Writes those of the trials that have some beside the weights in a checkpoint, and nothing where none has."""
    stored = {trial.name: trial.thresholds._asdict() for trial in trials if trial.thresholds is not None}
    if stored:
        write_text(folder / FILE, json.dumps(stored, indent=1, allow_nan=False) + "\n")


def read(folder: Path, source: str, num_classes: int) -> Thresholds | None:
    """Returns those of trial `source` in a checkpoint, None where no evaluation chose any."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        stored = json.loads(file.read_text(encoding="utf-8")).get(source)
        found = None if stored is None else Thresholds(int(stored["step"]), [float(one) for one in stored["values"]])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{file}  cannot be read: {error!r}. Take another checkpoint of the same run.") from error
    if found is not None and len(found.values) != num_classes:
        raise UserError(
            f"{file}  has {len(found.values)} thresholds for {num_classes} classes. Take another checkpoint."
        )
    return found


def read_result(file: Path, source: str, num_classes: int) -> Thresholds:
    """Returns those that an evaluation chose for trial `source`, or for its only trial, from its result.json."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        results = stored["results"]
        result = results[source] if source in results or len(results) > 1 else next(iter(results.values()))
        found = Thresholds(int(stored["step"]), [float(one) for one in result["thresholds"]])
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        raise UserError(
            f"eval.thresholds  {file} holds no thresholds of trial {source} ({error!r}). Give the result.json of an "
            "evaluation of it with data.labels: multi."
        ) from error
    if len(found.values) != num_classes:
        raise UserError(
            f"eval.thresholds  {file} has {len(found.values)} thresholds; there are {num_classes} classes. Give the "
            "result.json of an evaluation with the same classes."
        )
    return found
