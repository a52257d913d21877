"""Runs cases on several ranks. One process imports torch and forks the ranks of each number asked for, and each of them
goes through all cases: `run_cases(module, folder, [1, 2, 4])[2]["case"]` is what the two ranks returned."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_cases(module: str, folder: Path, sizes: list[int]) -> dict[int, dict[str, list[Any]]]:
    """Returns by number of ranks and name of the case what each rank returned. `module` lies beside this file and has
    CASES, by name; those that are a (numbers of ranks, case) are for these numbers alone. A case is called with a
    folder that the ranks of one number share."""
    path = os.pathsep.join(str(ROOT / each) for each in ("py", "test/py", "scripts"))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, __file__, module, str(folder), *map(str, sizes)]
    found = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    results: dict[int, dict[str, list[Any]]] = {}
    for size in sizes:
        each = pickle.loads((folder / f"{size}.pkl").read_bytes())
        results[size] = {name: [one[name] for one in each] for name in each[0]}
    return results


def _run(cases: dict[str, Any], folder: Path, size: int) -> dict[str, Any]:
    pairs = {name: case if isinstance(case, tuple) else ((size,), case) for name, case in cases.items()}
    return {name: case(folder) for name, (sizes, case) in pairs.items() if size in sizes}


def _main() -> None:
    from fork_ranks import run_ranks

    module, folder, *sizes = sys.argv[1:]
    cases = importlib.import_module(module).CASES
    for size in map(int, sizes):
        (Path(folder) / str(size)).mkdir()
        found = run_ranks(size, partial(_run, cases, Path(folder) / str(size), size))
        (Path(folder) / f"{size}.pkl").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    _main()
