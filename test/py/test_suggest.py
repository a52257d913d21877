"""The TPE program: what it draws stays in the space, follows from seed and history alone, and learns."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from coldframe.errors import UserError
from coldframe.train.tpe import Params, suggest


def number(key: str, low: float, high: float, **more: Any) -> dict[str, Any]:
    span = {"low": low, "high": high, "log": False, "step": None, "is_integer": False, **more}
    return {"key": key, "values": None, "range": span, "when": {}}


def listed(key: str, values: list[Any], when: dict[str, list[Any]] | None = None) -> dict[str, Any]:
    return {"key": key, "values": values, "range": None, "when": when or {}}


SPACE = [
    number("lr", 1e-4, 1e-1, log=True),
    number("depth", 1, 6, step=1, is_integer=True),
    number("width", 8, 512, log=True, is_integer=True),
    number("rate", 0, 1, step=0.25),
    listed("mode", [1, True, None, "1"]),
    listed("dropout", [0, 0.5], when={"depth": [2, 3]}),
    listed("deep", [False, True], when={"dropout": [0.5]}),
]


def ask(num: int, history: list[dict[str, Any]] | None = None, **more: Any) -> list[Params]:
    return suggest({"space": SPACE, "seed": 0, "num": num, "history": history or [], "pending": [], **more})


def told(params: Params, value: float) -> dict[str, Any]:
    return {"params": params, "value": value, "state": "complete", "intermediate": {}}


def score(params: Params) -> float:
    lr, depth = params["lr"], params["depth"]
    assert isinstance(lr, float)
    assert isinstance(depth, int)
    return -((math.log10(lr) + 2) ** 2) - 0.1 * abs(depth - 2) + (0.2 if params.get("dropout") == 0.5 else 0)


def test_points_stay_in_the_space_and_hold_active_keys_only() -> None:
    history: list[dict[str, Any]] = []
    for _ in range(8):
        history += [told(params, score(params)) for params in ask(8, history)]
    points = [entry["params"] for entry in history]
    assert len({json.dumps(params) for params in points}) == 64
    for params in points:
        assert 1e-4 <= params["lr"] <= 1e-1
        assert params["lr"] == float(f"{params['lr']:.4g}")
        assert params["depth"] in range(1, 7)
        assert params["width"] in range(8, 513)
        assert params["rate"] in (0, 0.25, 0.5, 0.75, 1)
        assert ("dropout" in params) == (params["depth"] in (2, 3))
        assert ("deep" in params) == (params.get("dropout") == 0.5)
    assert {json.dumps(params["mode"]) for params in points} == {"1", "true", "null", '"1"'}
    assert {params.get("deep") for params in points} == {None, False, True}


def test_points_follow_from_seed_and_history_alone() -> None:
    first = ask(6)
    assert ask(6) == first
    assert ask(3) == first[:3]
    assert ask(6, seed=1) != first
    history = [told(params, score(params)) for params in first]
    assert ask(6, history) == ask(6, history)
    assert not [params for params in ask(6, history) if params in first]


def test_it_learns_more_than_chance() -> None:
    found, drawn = [], []
    for seed in range(3):
        history: list[dict[str, Any]] = []
        for _ in range(6):
            history += [told(params, score(params)) for params in ask(6, history, seed=seed)]
        found += [entry["value"] for entry in history[-12:]]
        drawn += [score(params) for params in ask(10, seed=100 + seed)]  # the first ten are random
    assert sum(found) / len(found) > sum(drawn) / len(drawn) + 0.3


def test_what_was_pruned_early_or_diverged_is_avoided() -> None:
    space = [number("lr", 0, 1)]
    states: list[dict[str, Any]] = []
    for index in range(40):
        lr = index / 40
        if lr < 0.5:
            states.append(told({"lr": lr}, 0.5))
        else:
            intermediate = {"10": 0.1} if lr < 0.75 else {}
            states.append({"params": {"lr": lr}, "value": None, "state": "pruned", "intermediate": intermediate})
    points = ask(20, states, space=space)
    assert sum(params["lr"] < 0.5 for params in points if isinstance(params["lr"], float)) >= 15


def test_a_failed_point_says_nothing_but_is_not_asked_again() -> None:
    space = [listed("mode", ["a", "b"])]
    failed = {"params": {"mode": "a"}, "value": None, "state": "failed", "intermediate": {}}
    assert ask(5, [failed], space=space) == [{"mode": "b"}]


def test_pending_points_are_not_asked_again() -> None:
    space = [listed("mode", ["a", "b", "c"])]
    assert ask(5, [told({"mode": "a"}, 1)], space=space, pending=[{"mode": "c"}]) == [{"mode": "b"}]


def test_a_history_of_another_space_is_refused() -> None:
    with pytest.raises(UserError, match=r'mode was "z"\. The space has "a", "b"'):
        ask(1, [told({"mode": "z"}, 1)], space=[listed("mode", ["a", "b"])])
    with pytest.raises(UserError, match=r"other: not in the space\. It has mode"):
        ask(1, [told({"other": 1}, 1)], space=[listed("mode", ["a", "b"])])


def test_the_program_starts_without_torch() -> None:
    code = "import coldframe.train.tpe, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
