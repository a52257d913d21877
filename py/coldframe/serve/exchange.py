"""What ranks tell each other beside the training: requests, how they went, and what each is doing, over torchrun's
store.

It goes on while the training itself waits in a collective, from which no message could come.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from coldframe import heartbeat
from coldframe.machine import ranks

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

Reply = dict[str, Any]
State = dict[str, Any]

STATE_SECONDS = 1.0
# What the rank may still hear that fails first: how another one fared, or, from torchrun, that another one is gone.
SETTLE_SECONDS = 1.0
LOST_SECONDS = 10.0
_POLL_SECONDS = 0.05
_PART = 1_000_000  # characters: a store takes 8 MB at once
_LONG = timedelta(days=7)  # nobody gives up here: whoever hangs is found by what the ranks are doing


class Exchange:
    """A rank's end of it. Every request has a number; all ranks hear it and say how it went."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.host = socket.gethostname()
        self._hearing, self._telling = _connect(), _connect()  # one that waits keeps its connection
        self._result = ""
        self._prefix = f"coldframe/{os.environ['TORCHELASTIC_RUN_ID']}"

    def _key(self, *parts: object) -> str:
        return "/".join((self._prefix, *map(str, parts)))

    # ---- requests --------------------------------------------------------------------------------------------------

    def publish(self, number: int, request: str) -> None:
        """Lets the other ranks hear a request."""
        parts = [request[begin : begin + _PART] for begin in range(0, len(request), _PART)]
        for place, part in enumerate(parts):
            self._telling.set(self._key("request", number, place), part)
        self._telling.set(self._key("request", number), str(len(parts)))

    def hear(self, number: int) -> str:
        """Returns a request, once there is one of that number."""
        num_parts = int(self._hearing.get(self._key("request", number)))
        parts = (self._hearing.get(self._key("request", number, place)) for place in range(num_parts))
        return b"".join(parts).decode()

    def tell(self, number: int, reply: str) -> None:
        """Says how a request went here. Of results the first rank's is taken, which asks for them: none is sent."""
        told = json.loads(reply)
        if told["ok"]:
            self._result = reply
        mine = {"ok": True} if told["ok"] else told
        self._telling.set(self._key("reply", number, self.rank), json.dumps({"host": self.host, "reply": mine}))
        is_last = self._telling.add(self._key("count", number), 1) == self.world_size
        if is_last or not told["ok"]:
            self._telling.set(self._key("over", number), "1")

    @property
    def result(self) -> str:
        """The reply to the last request that went well here."""
        return self._result

    def collect(self, number: int) -> list[Reply | None]:
        """Returns the replies of all ranks, once all are there; where one is an error, those that are there a moment
        later: the ranks that wait for it in a collective will not answer."""
        self._hearing.wait([self._key("over", number)])
        replies = self._replies(number)
        begin = time.monotonic()
        while None in replies and time.monotonic() < begin + _patience(replies):
            time.sleep(_POLL_SECONDS)
            replies = self._replies(number)
        return replies

    def _replies(self, number: int) -> list[Reply | None]:
        return [self._read(self._key("reply", number, rank)) for rank in range(self.world_size)]

    def forget(self, number: int) -> None:
        """Removes what was said of a request that is over."""
        num_parts = int(self._telling.get(self._key("request", number)))
        keys: list[tuple[object, ...]] = [("request", number), ("count", number), ("over", number)]
        keys += [("request", number, place) for place in range(num_parts)]
        keys += [("reply", number, rank) for rank in range(self.world_size)]
        for parts in keys:
            self._telling.delete_key(self._key(*parts))

    # ---- what every rank is doing ----------------------------------------------------------------------------------

    def tell_state(self, state: State) -> None:
        """Says what this rank is doing."""
        self._telling.set(self._key("state", self.rank), json.dumps(state))

    def states(self) -> list[State]:
        """Returns what all ranks are doing, of those that have come."""
        found = (self._read(self._key("state", rank)) for rank in range(self.world_size))
        return [state for state in found if state is not None]

    def _read(self, key: str) -> dict[str, Any] | None:
        if not self._telling.check([key]):
            return None
        read: dict[str, Any] = json.loads(self._telling.get(key))
        return read


def _patience(replies: list[Reply | None]) -> float:
    errors = [each["reply"]["error"] for each in replies if each is not None and not each["reply"]["ok"]]
    is_lost = bool(errors) and all(error["code"] == "peer_lost" for error in errors)
    return LOST_SECONDS if is_lost else SETTLE_SECONDS


def _connect() -> TCPStore:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    port = int(os.environ["MASTER_PORT"])
    return TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, timeout=_LONG, wait_for_workers=False)


class Doing:
    """What this rank's main thread is at: told each second, while it computes and while it waits."""

    def __init__(self, rank: int) -> None:
        self._rank, self._host = rank, socket.gethostname()
        self._lock = threading.Lock()
        self._beats = 0
        self.request: int | None = None

    def describe(self) -> State:
        """Returns it; `beats` and `progress` change while the process lives and while its work goes on."""
        with self._lock:
            self._beats += 1
            return {
                "rank": self._rank,
                "host": self._host,
                "pid": os.getpid(),
                "beats": self._beats,
                "progress": heartbeat.last(),
                "is_waiting": ranks.waiting_since() is not None,
                "is_busy": self.request is not None,
            }
