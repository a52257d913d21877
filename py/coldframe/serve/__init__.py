"""The protocol's Python side: one JSON string in, one JSON string out. Imports no torch, so starting is quick."""

from __future__ import annotations

import atexit
import faulthandler
import gc
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldframe import errors, heartbeat
from coldframe.machine.parent import leave_with

if TYPE_CHECKING:
    from coldframe.data.probe import Probing
    from coldframe.session import Session

VERBS = (
    "load",
    "describe",
    "forecast",
    "memory",
    "meet",
    "lock",
    "open",
    "advance",
    "evaluate",
    "save",
    "spare",
    "convert",
    "ensemble",
    "pair",
    "drop",
    "probe",
    "analyse",
    "picture",
    "measure",
    "predict",
    "open_timeline",
    "advance_timeline",
    "close_timeline",
    "explain",
    "export",
    "compare_export",
    "export_features",
    "inspect",
    "check_features",
    "forecast_features",
    "plan_features",
    "share_features",
    "merge_features",
    "build_features",
    "save_features",
    "forecast_clips",
    "share_clips",
    "merge_clips",
    "prepare_clips",
    "close",
)
# Asked of the first of several processes alone: they need no other one, or come before it is there.
ALONE = frozenset({"lock", "describe", "forecast", "memory", "probe", "measure"})

_session: Session | None = None
_probing: Probing | None = None
_is_closed = False


class _Deaths:
    """News of dead loader workers. torch raises it from SIGCHLD in whatever line runs; between two verbs that line is
    the bridge's, and the interpreter would end without a word. So there it is kept for the next verb."""

    def __init__(self) -> None:
        self._tell: Any = None
        self._is_listening = False
        self._news: tuple[int, Any] | None = None

    def hear(self) -> None:
        """Lets the news through from now on, and raises what came meanwhile."""
        self._is_listening = True
        news, self._news = self._news, None
        if news is not None:
            self._tell(*news)

    def keep(self) -> None:
        """Keeps the news from now on."""
        self._is_listening = False
        handler = signal.getsignal(signal.SIGCHLD)
        is_main = threading.current_thread() is threading.main_thread()  # others may not set handlers
        if is_main and callable(handler) and handler != self._on_signal:  # the first loader has put torch's in place
            self._tell = handler
            signal.signal(signal.SIGCHLD, self._on_signal)

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self._is_listening:
            self._tell(signum, frame)
        else:
            self._news = (signum, frame)


_deaths = _Deaths()


def handle(request: str) -> str:
    """Returns the reply to one request: `{ok: true, result, non_finite}` or `{ok: false, error}`. Never raises."""
    return answer(request, _call)


def answer(request: str, call: Callable[[str, dict[str, Any]], dict[str, Any]]) -> str:
    """Returns the reply to one request, with `call(verb, arguments)` doing the work."""
    global _is_closed
    try:
        _deaths.hear()
        arguments = json.loads(request)
        verb = arguments.pop("verb")
        if verb == "close":
            heartbeat.keep_on()
        reply = _encode(call(verb, arguments))
        _is_closed = verb == "close"
        _deaths.keep()
        return reply
    except BaseException as error:  # a SystemExit from some library must not end the runtime either
        _deaths.keep()
        with suppress(OSError):  # the log lies on a disk that may be full
            traceback.print_exc()  # it keeps every traceback, whatever the other side shows
        return encode_error(error)


def is_closed() -> bool:
    """Returns whether `close` has been answered: nothing will be asked any more."""
    return _is_closed


def start(options: str) -> None:
    """Makes this process a well-behaved child. `options` is JSON: `{parent: process id of Node}`."""
    leave_with(json.loads(options)["parent"])
    _stay()
    atexit.register(_leave)  # the first to be registered is the last to run
    os.dup2(2, 1)  # Node's stdout may carry JSON lines: no print may reach it, from C or a subprocess neither
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the watchdog asks where every thread is
    heartbeat.begin()
    _hide_channel()


def _call(verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    global _session, _probing
    if verb not in VERBS:
        raise LookupError(f"unknown verb {verb!r}; known are {', '.join(VERBS)}")
    if verb == "forecast":  # it is asked of sizes alone: neither a session nor `import torch`
        from coldframe.assembly.forecast import describe_models

        return describe_models(**arguments)
    if verb == "lock":  # before anything else is done with a run folder: torch would take seconds
        from coldframe.machine.lock import hold

        return {"note": hold(Path(arguments["run_dir"])).note}
    if verb == "probe":  # a list is checked before anything is opened: it needs decoders, not torch
        from coldframe.data.probe import Probing

        _probing = _probing or Probing()
        return _probing.advance(**arguments)
    if verb == "pair":  # two files of scores are compared: torch would take longer than that
        from coldframe.evaluate.paired import pair

        return pair(**arguments)
    if verb == "analyse":  # a report reads what is stored: numpy and decoders, no torch
        from coldframe.evaluate.analysis import analyse

        return analyse(**arguments)
    if verb == "picture":
        from coldframe.evaluate.thumbnails import picture_videos

        return picture_videos(**arguments)
    if verb == "measure":
        from coldframe.data.facts import measure

        return measure(**arguments)
    if verb == "close" and _probing is not None:
        _probing.close()
    if _session is None:
        if verb == "close":  # nothing was opened: leave without paying for `import torch`
            return {}
        _session = _open_session()
    if verb == "load":  # while lists are read on the other side
        return {}
    result: dict[str, Any] = getattr(_session, verb)(**arguments)
    return result


def _open_session() -> Session:
    """Imports torch. Collecting garbage meanwhile, and looking through all that came at each collection after it, finds
    nothing and costs a tenth of the start."""
    gc.disable()
    try:
        from coldframe.session import Session
    finally:
        gc.enable()
    gc.freeze()
    return Session()


def _encode(result: dict[str, Any]) -> str:
    try:
        return json.dumps({"ok": True, "result": result, "non_finite": []}, allow_nan=False)
    except ValueError:  # JSON has no NaN, and Node would raise on it: look for them only when there is one
        places: list[str] = []
        finite = _replace_non_finite(result, "", places)
        return json.dumps({"ok": True, "result": finite, "non_finite": places}, allow_nan=False)


def _replace_non_finite(value: Any, place: str, places: list[str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        places.append(place)
        return None
    if isinstance(value, dict):
        return {key: _replace_non_finite(item, _join(place, key), places) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_non_finite(item, _join(place, index), places) for index, item in enumerate(value)]
    return value


def _join(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def encode_error(error: BaseException) -> str:
    """Returns the reply that tells an error."""
    text = "".join(traceback.format_exception(error))
    return json.dumps({"ok": False, "error": {**errors.describe(error), "traceback": text}})


def _leave() -> None:
    """Ends the process after the last thing that others wanted done at its exit, once `close` has been answered: the
    interpreter would take down every module that torch brought, one object at a time, which takes a second."""
    if not _is_closed:
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(0)


def _stay() -> None:
    """Makes Ctrl-C, a closed terminal and a scheduler's SIGTERM do nothing: Node decides, and no step is torn."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Ignored signals are inherited, and multiprocessing ends its workers by SIGTERM: an empty handler is not.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.siginterrupt(signal.SIGTERM, False)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _hide_channel() -> None:
    """Keeps Node's channel from children: a spawned worker runs pythonia's main program and would listen there."""
    channel = os.environ.pop("NODE_CHANNEL_FD", None)
    if channel is not None:
        os.set_inheritable(int(channel), False)
