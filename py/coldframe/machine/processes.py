"""Worker processes that take work as JSON lines and answer in such lines: `Workers` here, `serve_lines` in each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from coldframe.machine.parent import die_with_parent

Reply = dict[str, Any]


class Workers:
    """Processes that work through files, each fed by a thread of its own. They need no torch; one that dies over a
    broken file is replaced, and so is one that takes longer than the limit.

    module: what each of them runs; `work`: what it does with a file, in words. The answer to a request is one line, or
    several of which all but the last say `more`: together they are the reply. The limit is one for all of them, but
    begins anew after a line that says `anew`. The reply has a `reason` where the process died, and beside that
    `is_late` where the limit ended it; what was answered before is kept.
    """

    def __init__(self, num_workers: int, module: str, work: str, limit_seconds: float | None = None) -> None:
        self._module, self._work, self._limit_seconds = module, work, limit_seconds
        self._threads = ThreadPoolExecutor(num_workers)
        self._own = threading.local()
        self._processes: set[subprocess.Popen[str]] = set()
        self._is_closed = False

    def submit(self, request: Reply) -> Future[Reply]:
        return self._threads.submit(self._ask, json.dumps(request))

    def _ask(self, request: str) -> Reply:
        code, reply = 0, Reply()
        for _ in range(2):  # once more: it may have been killed for what another process took
            worker = self._worker()
            limit = _Limit(worker, self._limit_seconds)
            try:
                reply, is_whole = _exchange(worker, request, limit)
            finally:
                limit.cancel()
            if is_whole:
                return reply
            code = worker.wait()
            self._own.worker = None
            if limit.is_late:
                return {**reply, "reason": f"takes longer than {self._limit_seconds:g} s", "is_late": True}
            if self._is_closed:
                break
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return {**reply, "reason": f"ends the process that {self._work} {how}"}

    def _worker(self) -> subprocess.Popen[str]:
        worker: subprocess.Popen[str] | None = getattr(self._own, "worker", None)
        if worker is None:
            # -P: a file in the current folder may have the name of a module.
            command = [sys.executable, "-P", "-m", self._module, str(os.getpid())]
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
            self._own.worker = worker
            self._processes.add(worker)
        return worker

    def close(self) -> None:
        """Kills the workers; what they have in hand stays undone."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in list(self._processes):
            worker.kill()
        self._threads.shutdown(wait=True)
        for worker in list(self._processes):
            worker.kill()  # one that was just starting
            worker.wait()


class _Limit:
    """Kills a worker that takes longer than so many seconds; None: any time."""

    def __init__(self, worker: subprocess.Popen[str], seconds: float | None) -> None:
        self._worker, self._seconds = worker, seconds
        self.is_late = False
        self._timer: threading.Timer | None = None
        self.restart()

    def restart(self) -> None:
        self.cancel()
        if self._seconds is None:
            return
        self._timer = threading.Timer(self._seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self.is_late = True
        self._worker.kill()


def _exchange(worker: subprocess.Popen[str], request: str, limit: _Limit) -> tuple[Reply, bool]:
    """Returns what a worker answers, and whether that is all of it."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    reply = Reply()
    try:
        worker.stdin.write(request + "\n")
        worker.stdin.flush()
        for line in worker.stdout:
            if not line.endswith("\n"):
                break
            reply |= json.loads(line)
            is_anew = reply.pop("anew", False)
            if not reply.pop("more", False):
                return reply, True
            if is_anew:
                limit.restart()
    except (BrokenPipeError, ValueError):
        pass
    return reply, False


# ---- in the worker ---------------------------------------------------------------------------------------------------


def serve_lines(answer: Callable[[Reply], Iterator[Reply]]) -> None:
    """Answers the requests of standard input on standard output until nobody asks any more. Leaves interrupts to the
    main process (Ctrl-C reaches the whole process group), and dies with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(int(sys.argv[1]))
    for line in sys.stdin:
        for reply in answer(json.loads(line)):
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()
