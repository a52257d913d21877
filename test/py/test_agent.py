"""What the agent of a node gives its ranks."""

import os

import pytest

from coldframe.serve.agent import share_threads


@pytest.mark.parametrize(
    ("given", "num_ranks", "threads"), [("", 4, "4"), ("2", 4, "2"), ("16", 8, "2"), ("", 32, "1")]
)
def test_ranks_share_the_processors(monkeypatch: pytest.MonkeyPatch, given: str, num_ranks: int, threads: str):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.delenv("COLDFRAME_CPUS", raising=False)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, given)
    share_threads(num_ranks)
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == (threads, threads)
