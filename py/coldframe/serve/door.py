"""Where Node asks the first rank, over loopback: its requests go to all ranks, and the reply comes when all have said
how it went for them."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from coldframe import serve
from coldframe.serve.exchange import Exchange, Reply, State


class Door:
    """The connection to Node. `{token, pid}` is said first; then come `{id, request}` and go `{id, reply, rank,
    is_broken}` and `{states}`, a line of JSON each."""

    def __init__(self, port: int, token: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._lock = threading.Lock()
        self._send({"token": token, "pid": os.getpid()})

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            self._socket.sendall(data)

    def send_states(self, states: list[State]) -> None:
        """Tells Node what the ranks are doing."""
        self._send({"states": states})

    def serve(self, exchange: Callable[[], Exchange], answer: Callable[[int | None, str], str]) -> None:
        """Hands requests on until Node closes the connection. `answer(number, request)` is this rank's own reply;
        requests without a number are its alone."""
        number = 0
        for line in self._lines:
            message = json.loads(line)
            request = message["request"]
            if json.loads(request)["verb"] in serve.ALONE:
                self._send({"id": message["id"], "reply": answer(None, request), "rank": 0, "is_broken": False})
                continue
            others = exchange()
            others.publish(number, request)
            answer(number, request)  # begins it; how it went comes with those of the others
            replies = others.collect(number)
            self._send({"id": message["id"], **summarize(replies, others.result)})
            if None not in replies:
                others.forget(number)
            number += 1


def summarize(replies: list[Reply | None], result: str) -> dict[str, Any]:
    """Returns what Node is told of a request: the first rank's reply with its result, or the error that counts, and
    whether the ranks cannot go on after it."""
    failed = [(rank, each) for rank, each in enumerate(replies) if each is not None and not each["reply"]["ok"]]
    if not failed:
        return {"reply": result, "rank": 0, "is_broken": False}
    # One that waited for another knows no cause; of several causes the lowest rank's is told, whoever was first.
    causes = [one for one in failed if one[1]["reply"]["error"]["code"] != "peer_lost"] or failed
    rank, reply = causes[0]
    error = dict(reply["reply"]["error"])
    if error["kind"] == "bug" and len(causes) < len(replies):  # what all do alike is the program's; this may pass
        error["message"] = f"rank {rank} on {reply['host']}: {error['message']}"
        if error["code"] == "bug":
            error["code"] = "rank_failed"
    return {"reply": json.dumps({"ok": False, "error": error}), "rank": rank, "is_broken": None in replies}
