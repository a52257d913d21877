"""Probes videos side by side: what each is, and whether the reader of the training gives every frame that may be asked
of it.

Also a program: a worker that takes videos as JSON lines and answers in such lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import chain
from pathlib import Path
from typing import Any

from coldframe import heartbeat
from coldframe.data.facts import probe
from coldframe.machine.processes import Reply, Workers, serve_lines
from coldframe.video.frames import BadVideo, reachable_indices, view_indices
from coldframe.video.parts import MICROSECONDS, Part
from coldframe.video.torchcodec import check_frames

HEARTBEAT_SECONDS = 0.5


class Probing:
    """The videos in hand. Workers start with the first of them."""

    def __init__(self) -> None:
        self._workers: Workers | None = None
        self._running: dict[Future[Reply], Reply] = {}

    def advance(
        self,
        videos: list[dict[str, Any]],
        reader: str,
        sampling: dict[str, Any] | None,
        seconds: float,
        num_processes: int,
        limit_seconds: float,
    ) -> dict[str, Any]:
        """Returns those of the clips that are done, and how many videos are still in hand, after taking some more and
        at most so many seconds; `answer` says what is told of each. The first call decides on processes and limit.

        videos: `path` of each, with its `parts` (start and end, microseconds), None for the whole file.
        """
        if self._workers is None:
            self._workers = Workers(num_processes, "coldframe.data.probe", "decodes it", limit_seconds)
        for video in videos:
            self._submit({**video, "reader": reader, "sampling": sampling})
        found: list[dict[str, Any]] = []
        end = time.monotonic() + seconds
        while self._running:
            left = end - time.monotonic()
            done = wait(self._running, max(0.0, min(left, HEARTBEAT_SECONDS)), FIRST_COMPLETED).done
            for future in done:
                found += self._take(self._running.pop(future), future.result())
            heartbeat.progress()
            if left <= 0:
                break
        return {"clips": found, "num_left": len(self._running)}

    def _submit(self, request: Reply) -> None:
        assert self._workers is not None
        self._running[self._workers.submit(request)] = request

    def _take(self, request: Reply, reply: Reply) -> list[dict[str, Any]]:
        """Returns what is told of a video. Parts behind the one that ended its worker are asked for again."""
        path, parts = request["path"], request["parts"]
        if parts is None:
            return [_describe(path, None, reply)]
        if reply.get("problem") is not None or "facts" not in reply:
            return [_describe(path, part, {**reply, "facts": None}) for part in parts]
        told = [_describe(path, part, reply[str(place)]) for place, part in enumerate(parts) if str(place) in reply]
        if len(told) < len(parts):
            told.append(_describe(path, parts[len(told)], {**reply, "facts": None}))
        if len(told) < len(parts):
            self._submit({**request, "parts": parts[len(told) :]})
        return told

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close()
        self._workers = None
        self._running.clear()


def _describe(path: str, part: list[int] | None, reply: Reply) -> dict[str, Any]:
    """Returns what is told of a clip, also of one that ended its worker."""
    told: dict[str, Any] = {"path": path, "part": part}
    told |= {name: reply.get(name) for name in ("facts", "problem", "damage")}
    if "reason" in reply:
        fault = "slow" if reply.get("is_late") else "unreachable"
        told["problem"] = {"fault": fault, "reason": reply["reason"]}
    return told


def answer(request: Reply) -> Iterator[Reply]:
    """Tells of a video its `facts` (as of `data.facts`) where it can be opened, then its `problem` where it cannot be
    used, `{fault, reason}` as of `BadVideo`, and its `damage`: why not all of its frames can be read. Of a video with
    `parts` the same of each, under its place among them: its facts have its own frames and seconds.

    Damage to frames that no sampling reaches is no problem. Nothing but the parts is decoded of a video with parts.
    """
    path, parts = request["path"], request["parts"]
    try:
        _refuse_others(path)
        facts = probe(path)
        yield {"facts": facts, "more": True}
    except BadVideo as bad:
        yield {"problem": _tell(bad)}
        return
    if parts is None:
        yield {"facts": facts, **_look(request, None, facts)}
        return
    for place, (start, end) in enumerate(parts):
        part, own = Part(start, end), {**facts, "num_frames": None}
        told = _look(request, part, own)
        over = facts["duration_seconds"] or end / MICROSECONDS
        own["duration_seconds"] = max(0.0, min(end / MICROSECONDS, over) - start / MICROSECONDS)
        told["facts"] = None if own["num_frames"] is None else own  # no frame of it was found
        yield {str(place): told, "more": place + 1 < len(parts), "anew": True}


def _look(request: Reply, part: Part | None, facts: Reply) -> Reply:
    """Returns `damage` and `problem` of a clip; facts then hold how many frames the decoder gives."""
    sampling = request["sampling"]
    damage = _find_damage(request, part, lambda num_frames: list(range(num_frames)), facts)
    problem = damage
    if damage is not None and sampling is not None:
        problem = _find_damage(request, part, lambda num_frames: choose_reachable(num_frames, sampling), dict(facts))
    return {"damage": None if damage is None else damage["reason"], "problem": problem}


def choose_reachable(num_frames: int, sampling: dict[str, Any]) -> list[int]:
    """Returns the frames that a training may pick, or with `num_views` those that evaluation does."""
    count, stride = sampling["num_frames"], sampling["stride"]
    if sampling["num_views"] is not None:
        return sorted(set(chain.from_iterable(view_indices(num_frames, count, stride, sampling["num_views"]))))
    return reachable_indices(num_frames, count, stride, repeat_last=sampling["repeat_last"])


def _find_damage(request: Reply, part: Part | None, choose: Callable[[int], list[int]], facts: Reply) -> Reply | None:
    """Returns why frames of a clip cannot be read; facts then hold how many the decoder gives."""

    def note(num_frames: int) -> list[int]:
        facts["num_frames"] = num_frames
        return choose(num_frames)

    try:
        check_frames(request["reader"], request["path"], note, part)
    except BadVideo as bad:
        return _tell(bad)
    return None


def _refuse_others(path: str) -> None:
    """Raises BadVideo for what is no file: a pipe would be waited for, a device read without end."""
    file = Path(path)
    if file.exists() and not file.is_file():
        kind = "a folder" if file.is_dir() else "a pipe, a socket or a device"
        raise BadVideo(path, f"is {kind}, not a file", "not-a-file")


def _tell(bad: BadVideo) -> Reply:
    return {"fault": bad.fault, "reason": bad.reason}


if __name__ == "__main__":
    serve_lines(answer)
