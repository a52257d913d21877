"""One rank of a training, started by the agent: its main thread answers requests, and others carry them to it."""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from coldframe import serve
from coldframe.machine import ranks
from coldframe.machine.sharing import obey_parent_alone
from coldframe.serve.door import Door
from coldframe.serve.exchange import STATE_SECONDS, Doing, Exchange

GROUP_SECONDS = 24 * 3600.0  # nobody gives up in a collective: whoever hangs is found by what the ranks are doing


class Rank:
    """This process among the ranks."""

    def __init__(self, module: Any) -> None:
        self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._module = module
        self._doing = Doing(self.rank)
        self._requests: queue.SimpleQueue[tuple[int | None, str]] = queue.SimpleQueue()
        self._alone: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._exchange: Exchange | None = None
        self._is_there = threading.Event()
        self._is_told = threading.Event()
        self._has_joined = False

    def run(self) -> None:
        """Answers until the session is closed."""
        carry = self._carry_for_node if self.rank == 0 else self._carry
        for work in (carry, self._connect):
            threading.Thread(target=_or_leave, args=(work,), daemon=True).start()
        while not serve.is_closed():
            self._answer(*self._requests.get())
        if self.rank == 0:
            self._is_told.wait()  # Node hears it before this process goes

    def _answer(self, number: int | None, request: str) -> None:
        if number is None:
            self._alone.put(self._module.handle(request))
            return
        self._doing.request = number
        exchange = self._wait_for_exchange()
        try:
            self._join()
        except Exception as error:
            traceback.print_exc()
            reply = serve.encode_error(error)
        else:
            reply = self._module.handle(request)
        self._doing.request = None
        exchange.tell(number, reply)

    def _join(self) -> None:
        if not self._has_joined:
            ranks.start(GROUP_SECONDS)
            self._has_joined = True

    # ---- the threads that carry ------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Comes to the others, which takes an `import torch`, and from then on says what this rank is doing."""
        self._exchange = exchange = Exchange(self.rank, self.world_size)
        self._is_there.set()
        while True:
            exchange.tell_state(self._doing.describe())
            time.sleep(STATE_SECONDS)

    def _wait_for_exchange(self) -> Exchange:
        self._is_there.wait()
        assert self._exchange is not None
        return self._exchange

    def _carry(self) -> None:
        exchange, number = self._wait_for_exchange(), 0
        while True:
            self._requests.put((number, exchange.hear(number)))
            number += 1

    def _carry_for_node(self) -> None:
        door = Door(int(os.environ["COLDFRAME_PORT"]), os.environ.pop("COLDFRAME_TOKEN"))
        threading.Thread(target=_or_leave, args=(self._tell_states, door), daemon=True).start()

        def answer(number: int | None, request: str) -> str:
            self._requests.put((number, request))
            return self._alone.get() if number is None else ""

        door.serve(self._wait_for_exchange, answer)
        if not serve.is_closed():
            os._exit(1)  # Node has hung up: a rank that fails ends the others
        self._is_told.set()

    def _tell_states(self, door: Door) -> None:
        while True:
            door.send_states([self._doing.describe()] if self._exchange is None else self._exchange.states())
            time.sleep(STATE_SECONDS)


def _or_leave(work: Any, *arguments: Any) -> None:
    """Does work without which this rank is none; one that has been closed leaves by itself."""
    try:
        work(*arguments)
    except BaseException:
        if not serve.is_closed():
            traceback.print_exc()
            os._exit(1)


def main() -> None:
    """Runs a rank as torchrun's environment names it."""
    obey_parent_alone()
    agent, log = int(os.environ["COLDFRAME_AGENT"]), Path(os.environ["COLDFRAME_LOG"])
    rank = int(os.environ["RANK"])
    if rank > 0:  # lines of several in one file would be torn apart
        file = os.open(log.with_name(f"{log.stem}-rank-{rank}{log.suffix}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 2)
        os.close(file)
        os.environ.pop("COLDFRAME_TOKEN", None)
    serve.start(json.dumps({"parent": agent}))
    Rank(importlib.import_module(os.environ["COLDFRAME_MODULE"])).run()
    sys.exit(0)


if __name__ == "__main__":
    main()
