"""Runs one command on several machines of a Ray cluster, once on each: what a job of Ray starts for `launch.nodes`.

    python3 scripts/ray_machines.py --id KEY --nodes 2 --cpus 8 --gpus 4 --log FILE -- coldframe train ...

A placement group gives each machine a bundle of its own. The command reads in COLDFRAME_MACHINE whose machines they
are, and which of them it is on: `KEY:NUMBER`. The exit code is that of the first machine, which has the run. Needs ray
alone.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import ray
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

LOST = 3  # the code of a run that may be started again
INTERRUPTED = 130  # of one that was asked to end
POLL_SECONDS = 0.5
WAIT_SECONDS = 5
END_SECONDS = 60  # the other machines end once the first one says that it is over
PR_SET_PDEATHSIG = 1


def die_with_machine() -> None:
    """Ends the command with the process that started it, which Ray ends with its job."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@ray.remote(max_restarts=0, max_concurrency=2)
class Machine:
    """One of the machines: it runs the command in one thread, and hears in another."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_asked = False  # to end
        self._lock = threading.Lock()

    def run(self, command: list[str], cwd: str, variables: dict[str, str], log: str) -> int:
        """Returns the command's exit code, of one that was killed the number of the signal below zero."""
        with Path(log).open("ab") as output, self._lock:
            if self._is_asked:
                return INTERRUPTED
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_machine,
            )
        return self._process.wait()

    def signal(self, number: int) -> None:
        """Hands a signal on to the command, which is not started any more where it has not been."""
        with self._lock:
            self._is_asked = True
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)


def main() -> int:
    """Returns the exit code of the first machine's command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--id", required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--cpus", type=float, required=True)
    parser.add_argument("--gpus", type=float, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    ray.init(log_to_driver=False)
    group = reserve({"CPU": args.cpus, "GPU": args.gpus}, args.nodes, Path(args.log))
    machines = [
        Machine.options(
            num_cpus=args.cpus,
            num_gpus=args.gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
        ).remote()
        for number in range(args.nodes)
    ]
    asked: list[int] = []
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(each, lambda number, _: asked.append(number))
    runs = [
        machine.run.remote(args.command, str(Path.cwd()), {"COLDFRAME_MACHINE": f"{args.id}:{number}"}, args.log)
        for number, machine in enumerate(machines)
    ]
    code = watch(machines, runs, asked)
    end = time.monotonic() + END_SECONDS
    while len(ray.wait(runs, num_returns=len(runs), timeout=POLL_SECONDS)[0]) < len(runs) and time.monotonic() < end:
        pass
    return code


def reserve(bundle: dict[str, float], nodes: int, log: Path) -> PlacementGroup:
    """Waits until so many machines have room; meanwhile the time of the log tells the sweep that this is not stuck."""
    group = placement_group([bundle] * nodes, strategy="STRICT_SPREAD")
    if not group.wait(WAIT_SECONDS):
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        print(f"Waiting for {nodes} machines of Ray with {bundle} free on each; the cluster has {found}", flush=True)
    while not group.wait(WAIT_SECONDS):
        log.touch()
    return group


def watch(machines: list, runs: list, asked: list[int]) -> int:
    """Returns how the first machine's command ended; hands on what this process is asked meanwhile."""
    while True:
        while asked:
            asked.clear()
            for machine in machines:
                machine.signal.remote(signal.SIGUSR1)  # at which commands save; asked again they do not hurry
        if ray.wait(runs[:1], timeout=POLL_SECONDS)[0]:
            break
    try:
        code = ray.get(runs[0])
    except ray.exceptions.RayActorError as error:
        print(f"the first machine was lost: {error}", file=sys.stderr)
        return LOST
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
