"""Ranks on this machine without torchrun: forks of a process that has imported torch, and has not computed with it."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch.distributed import TCPStore

from coldframe.machine import ranks
from coldframe.machine.parent import die_with_parent

T = TypeVar("T")


def run_ranks(size: int, work: Callable[[], T]) -> list[T]:
    """Returns what each of so many ranks returned. Where one of them fails the others are killed, and so is this."""
    with tempfile.TemporaryDirectory(prefix="coldframe-") as name:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        files = [Path(name, f"{rank}.pkl") for rank in range(size)]
        pids = [_fork(work, files[rank], rank, size, store.port) for rank in range(size)]
        for _ in range(size):
            pid, status = os.wait()
            pids.remove(pid)
            if status != 0:
                for other in pids:
                    os.kill(other, signal.SIGKILL)
                raise SystemExit(f"a rank of {size} failed")
        return [pickle.loads(file.read_bytes()) for file in files]


def _fork(work: Callable[[], object], file: Path, rank: int, size: int, port: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with_parent(parent)
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ.update({name: str(number) for name, number in numbers.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
        ranks.start(60)
        file.write_bytes(pickle.dumps(work()))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
