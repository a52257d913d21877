"""The protocol's Python side. That it holds over the real bridge is test/runtime.test.ts."""

import errno
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from coldframe import serve
from coldframe.errors import UserError
from coldframe.video.frames import BadVideo


def ask(result: Any, **request: Any) -> dict[str, Any]:
    """Returns the reply of a session whose verb returns `result`, or raises it."""

    def call(verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if isinstance(result, BaseException):
            raise result
        return result(verb, arguments) if callable(result) else result

    reply = serve.answer(json.dumps({"verb": "advance", **request}), call)
    return json.loads(reply, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def run_python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, **options)


def test_a_verb_gets_its_arguments_by_name():
    reply = ask(lambda verb, arguments: {"verb": verb, **arguments}, steps=3)
    assert reply == {"ok": True, "result": {"verb": "advance", "steps": 3}, "non_finite": []}


def test_non_finite_numbers_become_null_and_their_places_are_named():
    nan, inf = float("nan"), float("inf")
    reply = ask({"steps": [{"loss": 1.0, "lr": -inf}, {"loss": nan}], "pair": (inf, 2), "text": "NaN"})
    assert reply["result"] == {"steps": [{"loss": 1.0, "lr": None}, {"loss": None}], "pair": [None, 2], "text": "NaN"}
    assert reply["non_finite"] == ["steps.0.lr", "steps.1.loss", "pair.0"]


def test_a_user_error_has_its_message_alone_and_a_code():
    error = ask(UserError("a.yaml:1:1  unknown key\na.yaml:2:1  unknown key"))["error"]
    assert (error["kind"], error["message"]) == ("user", "a.yaml:1:1  unknown key\na.yaml:2:1  unknown key")
    assert "in answer" in error["traceback"]
    assert error["code"] == "invalid"
    assert ask(UserError("runs/a  is in use", code="in_use"))["error"]["code"] == "in_use"
    bad = pickle.loads(pickle.dumps(BadVideo("a.mp4", "has no video track")))  # as loader workers hand it over
    assert ask(bad)["error"] | {"traceback": ""} == {
        **{"kind": "user", "code": "bad_video", "message": "a.mp4  has no video track", "traceback": ""}
    }


FILE_SYSTEM = {
    errno.ENOSPC: r"the disk is full\. Free some room there; the same command goes on\.",
    errno.EDQUOT: r"the quota of this disk is used up\. Free some room",
    errno.EROFS: r"lies on a read-only file system\. Name a place that can be written\.",
    errno.EACCES: r"may not be used: the permission is missing\. Change its permissions, or name another place\.",
    errno.ENOTDIR: r"lies below a file, and only a folder can hold it\. Name another place\.",
    errno.ELOOP: r"cannot be used: .*symbolic links\. Mend it, or name another place\.",
}


@pytest.mark.parametrize("number", FILE_SYSTEM)
def test_an_error_of_the_file_system_is_for_the_user_with_its_path_and_what_to_do(number: int):
    error = ask(OSError(number, os.strerror(number), "runs/a/lock"))["error"]
    assert (error["kind"], error["code"]) == ("user", "file_system")
    assert re.fullmatch(f"runs/a/lock  {FILE_SYSTEM[number]}.*", error["message"])


def test_a_full_disk_is_for_the_user_also_where_no_path_is_known():
    error = ask(OSError(errno.ENOSPC, "No space left on device"))["error"]
    assert (error["kind"], error["message"]) == (
        "user",
        "disk  the disk is full. Free some room there; the same command goes on.",
    )


@pytest.mark.parametrize(
    "error",
    [
        KeyError("loss"),
        ValueError("zip() argument 2 is shorter than argument 1"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        KeyboardInterrupt(),
    ],
)
def test_any_other_exception_is_a_bug_with_its_type_and_traceback(error: BaseException):
    reply = ask(error)["error"]
    assert (reply["kind"], reply["code"]) == ("bug", "bug")
    assert reply["message"].startswith(type(error).__name__)
    assert "Traceback" in reply["traceback"]


def test_running_out_of_memory_is_for_the_user_with_advice():
    def allocate(verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"tensor": torch.empty(2**60)}

    for cause in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), allocate):
        error = ask(cause)["error"]
        assert (error["kind"], error["code"]) == ("user", "out_of_memory")
        assert "train.micro_batches" in error["message"]


@pytest.mark.parametrize("request_text", ["", "[1]", "{}", '{"verb": "no_such_verb"}', '{"verb": "_open"}'])
def test_a_malformed_request_or_unknown_verb_is_a_bug(request_text: str):
    reply = json.loads(serve.handle(request_text))
    assert (reply["ok"], reply["error"]["kind"]) == (False, "bug")


def test_a_result_that_is_not_json_is_a_bug():
    assert ask({"loss": torch.zeros(1)})["error"]["kind"] == "bug"


def test_starting_and_closing_unused_imports_no_torch():
    code = (
        "import json, os, sys; from coldframe import serve; serve.start(json.dumps({'parent': os.getppid()}));"
        """reply = serve.handle('{"verb": "close"}'); sys.stderr.write(reply + str('torch' in sys.modules))"""
    )
    assert run_python(code).stderr == '{"ok": true, "result": {}, "non_finite": []}False'


def test_start_sends_every_print_to_stderr_and_leaves_when_the_parent_is_gone():
    code = (
        "import json, os; from coldframe import serve; serve.start(json.dumps({'parent': %s})); os.system('echo here')"
    )
    stays = run_python(code % "os.getppid()")
    assert (stays.stdout, stays.stderr, stays.returncode) == ("", "here\n", 0)
    assert run_python(code % "1 << 22").returncode == 1


def test_start_ignores_signals_but_its_children_can_be_terminated():
    code = (
        "import json, os, signal, subprocess, time; from coldframe import serve\n"
        "serve.start(json.dumps({'parent': os.getppid()}))\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): os.kill(os.getpid(), number)\n"
        "ready, done = os.pipe()\n"
        "pid = os.fork()\n"
        "if pid == 0: os.write(done, b'.'); time.sleep(60)\n"
        "os.read(ready, 1); os.kill(pid, signal.SIGTERM)\n"
        "executed = subprocess.Popen(['sleep', '60']); executed.terminate()\n"
        "os.write(2, json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), executed.wait()]).encode())"
    )
    assert json.loads(run_python(code).stderr) == [-signal.SIGTERM, -signal.SIGTERM]


def test_progress_touches_the_log_only_after_start(tmp_path: Path):
    log = tmp_path / "runtime.log"
    code = (
        "import json, os; from coldframe import heartbeat, serve; before = os.fstat(2).st_mtime_ns\n"
        "heartbeat.progress()\n"
        "unstarted = os.fstat(2).st_mtime_ns; serve.start(json.dumps({'parent': os.getppid()})); heartbeat.progress()\n"
        "assert before == unstarted < os.fstat(2).st_mtime_ns"
    )
    with log.open("w") as file:
        os.utime(log, ns=(0, 0))
        subprocess.run([sys.executable, "-c", code], stderr=file, check=True, timeout=300)
    assert log.read_text() == ""


DEATH_BETWEEN_VERBS = """
import json, os, signal, sys, time
from torch.utils.data import DataLoader
from coldframe import serve

loader = iter(DataLoader(range(100), num_workers=2))

def ask(call):
    return json.loads(serve.answer('{"verb": "advance"}', call))

print(ask(lambda verb, arguments: {"value": next(loader).item()})["ok"])
os.kill(loader._workers[0].pid, signal.SIGKILL)
time.sleep(0.5)
print("still here")
error = ask(lambda verb, arguments: {})["error"]
print(error["code"], error["message"])
sys.stdout.flush()
os._exit(0)
"""


def test_a_loader_worker_that_dies_between_two_verbs_is_told_by_the_next_one():
    outcome = run_python(DEATH_BETWEEN_VERBS)
    first, second, third = outcome.stdout.splitlines()
    assert (first, second) == ("True", "still here"), outcome.stderr
    assert third.startswith("worker_died DataLoader worker")
    assert "killed by signal" in third
