"""The optimizer is torch's own to the bit, and training starts without torch's compiler."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import small
from coldframe.train.gradients.adamw import AdamW


def train(
    kind: type[torch.optim.Optimizer], found_inf: float | None = None
) -> tuple[list[torch.Tensor], dict[str, Any]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))
    groups = [{"params": [p for p in model.parameters() if p.ndim == n], "weight_decay": 0.1 * n} for n in (1, 2)]
    optimizer = kind(groups, lr=0.01, fused=True)  # type: ignore[call-arg]
    for step in range(4):
        optimizer.zero_grad(set_to_none=True)
        model(torch.randn(6, 5)).square().sum().backward()
        if found_inf is not None and step == 2:
            optimizer.found_inf = torch.tensor(found_inf)  # type: ignore[attr-defined]
        optimizer.step()
        if step == 1:
            optimizer.load_state_dict(optimizer.state_dict())
    return [each.detach() for each in model.parameters()], optimizer.state_dict()


@pytest.mark.parametrize("found_inf", [None, 1.0])
def test_weights_and_state_are_those_of_torchs_optimizer(found_inf: float | None):
    (weights, state), (expected, expected_state) = train(AdamW, found_inf), train(torch.optim.AdamW, found_inf)
    assert all(torch.equal(one, other) for one, other in zip(weights, expected, strict=True))
    assert state["param_groups"] == expected_state["param_groups"]
    assert sorted(state["state"]) == sorted(expected_state["state"]) == [0, 1, 2, 3]
    for number, values in expected_state["state"].items():
        assert sorted(values) == ["exp_avg", "exp_avg_sq", "step"]
        assert all(torch.equal(state["state"][number][name], value) for name, value in values.items())


def test_hooks_of_a_step_are_called():
    weight = nn.Parameter(torch.ones(2))
    optimizer = AdamW([weight], lr=0.1)
    seen: list[str] = []
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    weight.sum().backward()
    optimizer.step()
    assert seen == ["after"]


SESSION = """
import json, sys
from coldframe import serve

for line in sys.stdin:
    reply = json.loads(serve.handle(line))
    assert reply["ok"], reply
print(json.dumps([name for name in ("torch", "torch._dynamo", "sympy") if name in sys.modules]))
"""


def test_a_session_trains_saves_and_goes_on_without_the_compiler(tmp_path: Path):
    def session(resume: str, steps: int) -> list[str]:
        trials = [{"name": "main", "settings": small.settings_json()}]
        lists = {"train": None, "val": None}
        opened = {"mode": "train", "trials": trials, "lists": lists, "classes": None, "run_dir": str(tmp_path)}
        verbs = [
            {"verb": "open", **opened, "resume": resume},
            {"verb": "advance", "steps": steps},
            {"verb": "save"},
            {"verb": "close"},
        ]
        lines = "".join(f"{json.dumps(verb)}\n" for verb in verbs)
        command = [sys.executable, "-c", SESSION]
        ended = subprocess.run(command, input=lines, capture_output=True, text=True, check=False, timeout=300)
        assert ended.returncode == 0, ended.stderr
        found: list[str] = json.loads(ended.stdout)
        return found

    assert session("never", 2) == ["torch"]
    assert session("auto", 1) == ["torch"]
