"""Whether processes of this machine find each other and sum up what each has, as the ranks of a training do: tried for
real, in a program of its own, which may hang or die without taking the session along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from coldframe.machine import ranks
from coldframe.machine.parent import leave_with

SECONDS = 60.0  # for each way; a meeting takes less than one on a quiet machine
NUM_PROCESSES = 2  # over gloo
NUM_NUMBERS = 2**20


def try_meeting() -> list[dict[str, Any]]:
    """Returns for each way that is here (gloo between processes, NCCL between GPUs where there are several) how many
    met, the seconds it took, and the problem, None where all is well."""
    command = [sys.executable, "-P", "-m", "coldframe.machine.meeting", str(os.getpid())]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=4 * SECONDS, check=True)
        found: list[dict[str, Any]] = json.loads(run.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).splitlines()
        return [_describe("gloo", NUM_PROCESSES, 0.0, lines[-1] if lines else "nothing was said")]
    return found


def _describe(backend: str, num_processes: int, seconds: float, problem: str | None) -> dict[str, Any]:
    return {"backend": backend, "num_processes": num_processes, "seconds": seconds, "problem": problem}


def _main() -> None:
    leave_with(int(sys.argv[1]))
    import torch
    import torch.distributed as dist

    ways = [("gloo", NUM_PROCESSES)] if dist.is_gloo_available() else []
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # GPUs are counted without CUDA, which no fork survives
    num_gpus = torch.cuda.device_count()
    if num_gpus > 1 and dist.is_nccl_available():
        ways.append(("nccl", num_gpus))
    print(json.dumps([_meet(backend, number) for backend, number in ways]))


def _meet(backend: str, number: int) -> dict[str, Any]:
    """Returns what came of so many processes, each of them forked."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.multiprocessing.spawn import start_processes

    started = time.monotonic()
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = start_processes(_join, (backend, number, store.port), number, join=False, start_method="fork")  # type: ignore[no-untyped-call]
    problem = None
    try:
        while not processes.join(timeout=1):
            if time.monotonic() > started + SECONDS:
                raise TimeoutError(f"not through after {SECONDS:.0f} s")
    except Exception as error:
        problem = str(error).strip().splitlines()[-1]
    for process in processes.processes:
        process.kill()
    return _describe(backend, number, time.monotonic() - started, problem)


def _join(rank: int, backend: str, number: int, port: int) -> None:
    """One of the ranks, as torchrun would start it. Raises where the sum is wrong."""
    leave_with(os.getppid())
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"})
    import torch

    ranks.start(SECONDS)
    device = f"cuda:{rank}" if backend == "nccl" else "cpu"
    numbers = torch.full((NUM_NUMBERS,), float(rank + 1), device=device)
    ranks.reduce_(numbers).wait()
    expected = number * (number + 1) / 2
    if not bool((numbers == expected).all()):
        raise ArithmeticError(f"the sum over {number} ranks is {numbers[0].item()} and should be {expected}")
    ranks.end()


if __name__ == "__main__":
    _main()
