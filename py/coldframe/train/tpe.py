"""A program: the next points of a TPE search as a function of seed and history. JSON in, JSON out, no torch.

    python -m coldframe.train.tpe < request.json

The study lives in memory and is built anew from the sweep's own journal each time: there is no second truth.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from coldframe.errors import UserError

Value = str | int | float | bool | None
Params = dict[str, Value]

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
}
# A space with few points left to find is asked so often for each new one before it counts as used up.
MAX_REDRAWS = 30


def suggest(request: dict[str, Any]) -> list[Params]:
    """Returns up to `num` new points, in order; fewer when the space has no more.

    request: `space` (list of {key, values, range, when}, each after what its condition names), `seed`, `num`,
        `history` (list of {params, value, state, intermediate: step -> value}; higher values are better) and `pending`
        (points that are still running: Optuna's constant liar keeps their neighbourhood free).
    """
    space = [Key(part) for part in request["space"]]
    history, pending = request["history"], request["pending"]
    study = make_study(request["seed"], len(history) + len(pending))
    for told in history:
        study.add_trial(make_trial(space, told))
    for params in pending:
        study.add_trial(make_trial(space, {"params": params, "value": None, "state": "running", "intermediate": {}}))
    seen = {identify(params) for params in [*(told["params"] for told in history), *pending]}
    points: list[Params] = []
    for _ in range(request["num"] * MAX_REDRAWS):
        if len(points) == request["num"]:
            break
        trial = study.ask()
        params = draw(space, trial)
        if identify(params) in seen:
            study.tell(trial, state=TrialState.FAIL)  # a running one would push the others away from it
            continue
        seen.add(identify(params))
        points.append(params)
    return points


def make_study(seed: int, num_told: int) -> optuna.Study:
    """Returns an empty study that maximises; each round has a random stream of its own."""
    stream = np.random.SeedSequence([seed, num_told]).generate_state(1)[0]
    # Keys that every point has are drawn jointly, conditional ones each from the points that had them; `group=True`,
    # which would draw those jointly too, was no better (LOG.md) and is experimental.
    sampler = optuna.samplers.TPESampler(seed=int(stream), constant_liar=True)
    return optuna.create_study(direction="maximize", sampler=sampler)


def identify(params: Params) -> str:
    """Returns a text that is equal for equal points; 1, true and "1" differ in it."""
    return json.dumps(params, sort_keys=True)


class Key:
    """One key of the space. Optuna is told a listed value by its number in the list, because it takes 1 for true."""

    def __init__(self, part: dict[str, Any]) -> None:
        self.key: str = part["key"]
        self.when: dict[str, list[Value]] = part["when"]
        self.values: list[Value] | None = part["values"]
        self.texts = [json.dumps(value) for value in self.values or []]
        self.range: dict[str, Any] = part["range"] or {}
        self.distribution = self._listed() if self.values is not None else self._numeric()

    def _listed(self) -> BaseDistribution:
        values = self.values or []
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        # Numbers in order are near to or far from each other; other values only differ.
        if len(numbers) == len(values) and numbers == sorted(numbers):
            return IntDistribution(0, len(values) - 1)
        return CategoricalDistribution(range(len(values)))

    def _numeric(self) -> BaseDistribution:
        low, high, log, step = (self.range[name] for name in ("low", "high", "log", "step"))
        if not self.range["is_integer"]:
            return FloatDistribution(low, high, log=log, step=step)
        step = step or 1
        return IntDistribution(low, high if log else low + (high - low) // step * step, log=log, step=step)

    def is_active(self, params: Params) -> bool:
        """Returns whether the key is varied at this point, whose keys before this one are there."""
        wanted = {key: {json.dumps(value) for value in values} for key, values in self.when.items()}
        return all(key in params and json.dumps(params[key]) in texts for key, texts in wanted.items())

    def encode(self, value: Value) -> Any:
        """Returns what Optuna is told of a value. Raises UserError for one that the space does not have."""
        if self.values is None:
            return value
        text = json.dumps(value)
        if text not in self.texts:
            raise UserError(f"history  {self.key} was {text}. The space has {', '.join(self.texts)}.")
        return self.texts.index(text)

    def draw(self, trial: optuna.Trial) -> Value:
        """Returns what Optuna draws, in the space's own values."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                index = trial.suggest_categorical(self.key, choices)
                return (self.values or [])[int(index or 0)]
            case IntDistribution(low=low, high=high, log=log, step=step):
                whole = trial.suggest_int(self.key, low, high, log=log, step=step)
                return whole if self.values is None else self.values[whole]
        assert isinstance(self.distribution, FloatDistribution)
        low, high, log, step = (self.range[name] for name in ("low", "high", "log", "step"))
        drawn = trial.suggest_float(self.key, low, high, log=log, step=step)
        if step:
            return float(f"{drawn:.12g}")
        # Four digits are all that a drawn number means, and they can be read.
        return float(min(max(float(f"{drawn:.4g}"), low), high))


def draw(space: list[Key], trial: optuna.Trial) -> Params:
    """Returns a point; keys whose condition does not hold are not in it."""
    params: Params = {}
    for key in space:
        if key.is_active(params):
            params[key.key] = key.draw(trial)
    return params


def make_trial(space: list[Key], told: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """Returns a point of the history, or a pending one (`running`). Raises UserError if it is not in the space."""
    keys = {key.key: key for key in space if key.key in told["params"]}
    if unknown := sorted(told["params"].keys() - keys.keys()):
        raise UserError(f"history  {', '.join(unknown)}: not in the space. It has {', '.join(k.key for k in space)}.")
    return optuna.trial.create_trial(
        state=STATES[told["state"]],
        value=told["value"] if told["state"] == "complete" else None,
        params={name: key.encode(told["params"][name]) for name, key in keys.items()},
        distributions={name: key.distribution for name, key in keys.items()},
        intermediate_values={int(step): value for step, value in told["intermediate"].items()},
    )


def main() -> int:
    """Returns the exit code: 0, or 2 for a history that does not fit the space."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        points = suggest(json.load(sys.stdin))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    json.dump({"points": points}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
