"""Runs cases on several ranks. One process imports torch and forks the ranks of each number asked for, and each of them
goes through all cases: `run_cases(module, folder, [1, 2, 4])[2]["case"]` is what the two ranks returned."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Case = Callable[[Path], Any]  # of a folder that the ranks of one number share


def run_cases(module: str, folder: Path, sizes: list[int]) -> dict[int, dict[str, list[Any]]]:
    """Returns by number of ranks and name of the case what each rank returned. `module` lies beside this file and has
    CASES, by name; those that are a (numbers of ranks, case) are for these numbers alone."""
    path = os.pathsep.join(str(ROOT / each) for each in ("py", "test/py", "scripts"))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, __file__, module, str(folder), *map(str, sizes)]
    found = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    results: dict[int, dict[str, list[Any]]] = {}
    for size in sizes:
        each = [pickle.loads((folder / f"{size}-{rank}.pkl").read_bytes()) for rank in range(size)]
        results[size] = {name: [one[name] for one in each] for name in each[0]}
    return results


def _main() -> int:
    from torch.distributed import TCPStore

    module, folder, *sizes = sys.argv[1:]
    cases = importlib.import_module(module).CASES
    for size in map(int, sizes):
        (Path(folder) / str(size)).mkdir()
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        pids = [_fork(cases, Path(folder), rank, size, store.port) for rank in range(size)]
        for _ in range(size):
            pid, status = os.wait()
            pids.remove(pid)
            if status != 0:
                for other in pids:
                    os.kill(other, signal.SIGKILL)
                return 1
    return 0


def _fork(cases: dict[str, Any], folder: Path, rank: int, size: int, port: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        from coldframe.machine import ranks
        from coldframe.machine.parent import die_with_parent

        die_with_parent(parent)
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ.update({name: str(number) for name, number in numbers.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
        ranks.start(60)
        results = {}
        for name, case in cases.items():
            only, case = case if isinstance(case, tuple) else ((size,), case)
            if size in only:
                results[name] = case(folder / str(size))
        (folder / f"{size}-{rank}.pkl").write_bytes(pickle.dumps(results))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(_main())
