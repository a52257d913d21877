"""Worker processes that take work as JSON lines and answer in such lines, as `coldframe.prepare.transcode` does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Reply = dict[str, Any]


class Workers:
    """Processes that re-encode clips, each fed by a thread of its own. They need no torch, and one that dies over a
    broken file is replaced."""

    def __init__(self, num_workers: int) -> None:
        self._threads = ThreadPoolExecutor(num_workers)
        self._own = threading.local()
        self._processes: set[subprocess.Popen[str]] = set()
        self._is_closed = False

    def submit(self, request: Reply) -> Future[Reply]:
        return self._threads.submit(self._ask, json.dumps(request))

    def _ask(self, request: str) -> Reply:
        code = 0
        for _ in range(2):  # once more: it may have been killed for what another process took
            worker = self._worker()
            assert worker.stdin is not None
            assert worker.stdout is not None
            try:
                worker.stdin.write(request + "\n")
                worker.stdin.flush()
                answer = worker.stdout.readline()
            except (BrokenPipeError, ValueError):
                answer = ""
            if answer.endswith("\n"):
                reply: Reply = json.loads(answer)
                return reply
            code = worker.wait()
            self._own.worker = None
            if self._is_closed:
                break
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return {"reason": f"ends the process that re-encodes it {how}"}

    def _worker(self) -> subprocess.Popen[str]:
        worker: subprocess.Popen[str] | None = getattr(self._own, "worker", None)
        if worker is None:
            # -P: a file in the current folder may have the name of a module.
            command = [sys.executable, "-P", "-m", "coldframe.prepare.transcode"]
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
            self._own.worker = worker
            self._processes.add(worker)
        return worker

    def close(self) -> None:
        """Kills the workers; clips that they have in hand stay undone."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in list(self._processes):
            worker.kill()
        self._threads.shutdown(wait=True)
        for worker in list(self._processes):
            worker.kill()  # one that was just starting
            worker.wait()
