"""A child that does not outlive its parent, whenever that dies."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

PY = Path(__file__).parents[2] / "py"
# The child asks to die with its parent when that is dead already: it sees the end of a pipe that only the parent holds.
# A parent that dies closes its pipes first, and is still there for a moment.
PROGRAM = """
import os, sys
from coldframe.machine.parent import die_with_parent
ends, parent = os.pipe(), os.getpid()
if os.fork():
    print("forked", flush=True)
    sys.stdin.read()
os.close(ends[1])
os.read(ends[0], 1)
while os.getppid() == parent:
    pass
{how}
print("it lives")
"""
HOW = {
    "a process": "die_with_parent(parent)",
    # As torch starts one; its own watch takes the parent of now for the one that started it.
    "a loader worker": "import multiprocessing.process as p; p._parent_process = p._ParentProcess('main', parent, 0)\n"
    "from coldframe.data.loader import _start_worker; _start_worker(0)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread watches")
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_a_child_whose_parent_died_before_it_could_ask_leaves(how):
    command = [sys.executable, "-c", PROGRAM.format(how=how)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env={"PYTHONPATH": str(PY)}) as parent:
        assert parent.stdout.readline() == b"forked\n"
        parent.send_signal(signal.SIGKILL)
        said, _ = parent.communicate(timeout=300)  # to the end of the child's output, too
    assert said == b""
