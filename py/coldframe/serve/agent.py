"""A program: the agent of a node. It starts this node's ranks by torchrun's own agent and tells how they ended.

It dies with Node, and they with it. COLDFRAME_LAUNCH says what to start; what came of it is a line of JSON on the
descriptor that REPORT names.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from coldframe.machine.parent import leave_with

REPORT = 3


def main() -> None:
    """Runs the ranks until all are through or one has failed."""
    os.set_inheritable(REPORT, False)
    launch = json.loads(os.environ.pop("COLDFRAME_LAUNCH"))
    leave_with(launch["parent"])
    signal.signal(signal.SIGUSR1, _hand_on)
    os.environ["COLDFRAME_AGENT"] = str(os.getpid())
    report = run(launch)
    os.write(REPORT, json.dumps(report).encode() + b"\n")
    sys.stderr.flush()
    os._exit(0 if not report["failures"] else 1)  # the interpreter would take down every module that torch brought


def run(launch: dict[str, Any]) -> dict[str, Any]:
    """Returns how the ranks failed, the first one first; none where all have left by themselves."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # Node tells it, in words
    config = LaunchConfig(
        nproc_per_node=launch["devices"],
        run_id=launch["id"],
        **_place(launch),
        max_restarts=0,  # Node starts anew: a kept store would lead the new ranks to the old ones
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),  # ranks open their logs themselves
        signals_to_handle="SIGQUIT",  # Node decides what a scheduler's signals and Ctrl-C mean
    )
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "coldframe.serve.rank")
    except ChildFailedError as error:
        failures = [
            {"rank": rank, "host": socket.gethostname(), "pid": failure.pid, "code": failure.exitcode}
            for rank, failure in error.failures.items()
        ]
        return {"failures": failures}
    return {"failures": []}


def _place(launch: dict[str, Any]) -> dict[str, Any]:
    """Returns where the ranks meet: on one machine a port that is free, of several where the first one says."""
    if "nodes" not in launch:
        return {
            **{"min_nodes": 1, "max_nodes": 1, "rdzv_backend": "c10d"},
            **{"rdzv_endpoint": "localhost:0", "local_addr": "localhost"},
        }
    nodes, address = launch["nodes"], launch["address"]
    endpoint = f"[{address}]:{launch['port']}" if ":" in address else f"{address}:{launch['port']}"
    return {
        **{"min_nodes": nodes, "max_nodes": nodes, "rdzv_backend": "static", "rdzv_endpoint": endpoint},
        "rdzv_configs": {"rank": launch["node"]},
    }


def _hand_on(number: int, _: Any) -> None:
    """The stacks that are asked for are those of the ranks."""
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            os.kill(int(pid), number)


if __name__ == "__main__":
    main()
