"""The verbs of training, and when a bad video ends it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from coldframe import heartbeat
from coldframe.data.clips import read_list
from coldframe.errors import UserError
from coldframe.machine import ranks
from coldframe.session.running import Running
from coldframe.train import checkpoint, upstream
from coldframe.train.targets.mixup import mix_batch


def advance(running: Running, steps: int) -> dict[str, Any]:
    """Returns the results of the next `steps` optimizer steps, fewer when the run ends or every trial diverged.

    Where the settings allow no bad video, the steps before the first of them: `bad` then names those of its batch."""
    results: list[dict[str, Any]] = []
    bad: list[dict[str, str]] = []
    dropped: list[dict[str, Any]] = []
    last = min(running.step + steps, running.settings.train.steps)
    while running.step < last and running.cohort.trials:
        result = _one_step(running, bad, dropped)
        if result is None:
            break
        results.append(result)
        heartbeat.progress()
    return {"step": running.step, "steps": results, "bad": bad, "dropped": dropped}


def _one_step(running: Running, bad: list[dict[str, str]], dropped: list[dict[str, Any]]) -> dict[str, Any] | None:
    started = time.perf_counter()
    if running.train is None:
        running.train = running.start_training()
    batch = next(running.train)
    # All ranks know before they compute what each of them has: whether they do at all, and what a clip counts.
    told = ranks.gather((len(batch.labels), [{"path": video.path, "reason": video.reason} for video in batch.bad]))
    counts = [num_clips for num_clips, _ in told]
    unreadable = [video for _, videos in told for video in videos]
    bad += unreadable
    if unreadable and running.settings.data.on_bad_video == "fail":
        return None
    loaded = time.perf_counter()
    if not any(counts):
        _leave_out(running, unreadable)
        seconds = loaded - started
        return {"step": running.step, "clips": 0, "data_seconds": seconds, "step_seconds": seconds, "trials": {}}
    running.num_unread = 0
    clips_NCTHW, targets = mix_batch(running.prepare(batch.clips), batch.labels, running.settings, running.step)
    outcome = running.cohort.step(running.step, clips_NCTHW, targets, heartbeat.progress, counts)
    running.step += 1
    if running.metrics is not None:
        running.metrics.write_step(running.step, outcome)
    gone = {name: result.diverged for name, result in outcome.items() if result.diverged is not None}
    for name, why in gone.items():
        dropped.append({"trial": name, "step": running.step, "why": f"step {running.step}: {why}"})
    running.drop(list(gone))
    return {
        "step": running.step,
        "clips": sum(counts),
        "data_seconds": loaded - started,
        "step_seconds": time.perf_counter() - started,
        "trials": {
            name: {"loss": result.loss, "lr": result.lr, "grad_norm": result.grad_norm, "top1": result.top1}
            for name, result in outcome.items()
        },
    }


def _leave_out(running: Running, unreadable: list[dict[str, str]]) -> None:
    """Passes a step without a clip: rates and random streams belong to steps, so the others stay as they are."""
    running.step += 1
    running.num_unread += len(unreadable)
    list_file = running.lists["train"]
    num_videos = 0 if list_file is None else len(read_list(list_file))
    if running.num_unread >= 2 * num_videos * running.settings.data.clips_per_video:  # a whole pass over the list
        first = unreadable[0]
        raise UserError(
            f"data.train_list  none of its {num_videos} videos can be read. The first: {first['path']}  "
            f"{first['reason']}. Mend the videos or the list.",
            "bad_video",
        )


def save(running: Running) -> dict[str, Any]:
    """Returns the path of the checkpoint that now holds this step."""
    assert running.run_dir is not None
    if running.metrics is not None:
        running.metrics.flush()
    keep = running.settings.run.keep_checkpoints
    folder = running.run_dir / "checkpoints"
    if ranks.is_first():
        checkpoint.save(folder, running.cohort, running.header(), keep, running.spared)
    return {"path": str(folder / f"step-{running.step}"), "step": running.step}


def spare(running: Running, steps: list[int], best: int | None) -> dict[str, Any]:
    """Returns nothing of note; the checkpoints of these steps stay from now on beside the newest, and `best` names one
    of them, or nothing."""
    assert running.run_dir is not None
    running.spared = frozenset(steps)
    folder = running.run_dir / "checkpoints"
    if ranks.is_first():
        checkpoint.name_best(folder, best)
        checkpoint.prune(folder, running.step, running.settings.run.keep_checkpoints, running.spared)
    return {}


def convert(running: Running, to: str, output: Path) -> dict[str, Any]:
    """Returns the path of this step's checkpoint, written as `coldframe` (a folder) or `upstream` (a .pth file)."""
    if to == "upstream":
        trial = running.cohort.trials[0]
        with trial.averaged():  # the original knows no mean of the weights: the result goes there
            notes = upstream.write(output, trial, running.step)
        return {"path": str(output), "step": running.step, "notes": notes}
    path = checkpoint.save(output, running.cohort, running.header(), None)
    return {"path": str(path), "step": running.step, "notes": []}
