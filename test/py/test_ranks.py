"""What ranks say to each other, over gloo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ranked import ROOT, run_cases

Found = dict[int, dict[str, list[Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return run_cases("rank_words", tmp_path_factory.mktemp("ranks"), [1, 2])


def test_every_rank_gathers_what_each_gave(found: Found) -> None:
    for size in (1, 2):
        everyone = [{"rank": rank, "places": (rank, size)} for rank in range(size)]
        assert found[size]["gather"] == [everyone] * size


def test_reductions_are_sums_on_every_rank_and_nobody_waits_afterwards(found: Found) -> None:
    assert found[1]["reduce"] == [([1.0] * 3, [10.0] * 2, None)]
    assert found[2]["reduce"] == [([3.0] * 3, [20.0] * 2, None)] * 2


def test_a_lost_rank_is_told_as_such_and_not_as_the_cause(found: Found) -> None:
    (error, waiting_since), alone = found[2]["lose"]
    assert (error["kind"], error["code"]) == ("bug", "peer_lost")
    assert error["message"].startswith("rank 0 on ")
    assert waiting_since is None
    assert alone == 1


def test_a_process_by_itself_never_asks_torch_distributed() -> None:
    program = (
        "import os, sys, torch\n"
        "sys.modules['torch.distributed'] = None\n"  # importing it raises from now on
        "from coldframe.machine import ranks\n"
        "os.environ.update(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', LOCAL_WORLD_SIZE='1')\n"
        "ranks.start(1)\n"
        "ranks.reduce_(torch.ones(1)).wait()\n"
        "ranks.barrier()\n"
        "assert ranks.gather('me') == ['me'] and ranks.is_first()\n"
        "ranks.end()\n"
    )
    env = {"PYTHONPATH": str(Path(ROOT, "py"))}
    subprocess.run([sys.executable, "-c", program], env=env, check=True, timeout=300)
