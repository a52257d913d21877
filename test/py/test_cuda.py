"""The same promises on an NVIDIA GPU: near the CPU's numbers, alone or together bit for bit, a stop leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from caches import evaluate, extract, make_request, make_videos, train
from coldframe.assembly import models
from coldframe.data.clips import DummyClips
from coldframe.data.loader import train_loader
from coldframe.machine.device import choose_device, choose_precision
from coldframe.machine.environment import describe_environment, describe_memory
from coldframe.session import Session
from coldframe.train import checkpoint, resume
from coldframe.train.cohort import Cohort
from coldframe.train.schedule import stream_seed
from coldframe.train.trial import build_trial
from small import settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

TRIALS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shallow": {"model__decoder__num_layers": 1, "train__seed": 3, "train__lr": 0.01},
    "still": {"model__temporal__cross_attention": False, "train__clip_grad_norm": 0.5, "train__ema_decay": 0.8},
}
NO_DROPOUT = {"model__decoder__mlp_dropout": 0.0, "model__head__dropout": 0.0}  # its draws are the device's own


def make_cohort(device: str = "cuda", precision: str = "fp16", **trials: dict[str, Any]) -> Cohort:
    place = torch.device(device)
    built = {name: settings(**changes) for name, changes in trials.items()}
    backbone, _, _ = models.build_backbone(next(iter(built.values())), place, precision)
    built_trials = [build_trial(name, one, backbone, place, precision) for name, one in built.items()]
    return Cohort(built_trials, backbone, place, precision)


def step(cohort: Cohort, number: int, num_clips: int = 4) -> dict[str, float]:
    generator = torch.Generator().manual_seed(stream_seed("batch", number))
    clips = torch.randn(num_clips, 3, 3, 24, 24, generator=generator)
    labels = torch.randint(5, (num_clips,), generator=generator)
    results = cohort.step(number, clips.to(cohort.device), labels.to(cohort.device))
    return {name: result.loss for name, result in results.items()}


def weights(cohort: Cohort, name: str) -> dict[str, Tensor]:
    trial = next(trial for trial in cohort.trials if trial.name == name)
    return {key: parameter.detach().clone() for key, parameter in trial.named_parameters()}


def test_the_machine_is_described_and_half_precision_chosen() -> None:
    described = describe_environment()["devices"][0]
    device = torch.device(choose_device("auto"))
    assert device.type == "cuda"
    assert described["name"] == torch.cuda.get_device_name()
    assert described["memory_bytes"] >= describe_memory(device)["free_bytes"] > 0
    assert choose_precision("auto", str(device)) == ("fp16", [])


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("bf16", 0.05), ("fp16", 0.01)])
def test_losses_are_those_of_the_cpu(precision: str, limit: float) -> None:
    here = make_cohort("cuda", precision, one=NO_DROPOUT)
    there = make_cohort("cpu", "fp32", one=NO_DROPOUT)
    for number in range(5):
        assert step(here, number)["one"] == pytest.approx(step(there, number)["one"], abs=limit), number


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_trial_in_a_cohort_equals_the_trial_alone(precision: str) -> None:
    together = make_cohort(precision=precision, **TRIALS)
    losses = [step(together, number) for number in range(4)]
    for name, changes in TRIALS.items():
        alone = make_cohort(precision=precision, **{name: changes})
        assert [step(alone, number)[name] for number in range(4)] == [loss[name] for loss in losses], name
        for key, value in weights(alone, name).items():
            assert torch.equal(value, weights(together, name)[key]), (name, key)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_replayed_launches_give_what_launching_them_gives(precision: str) -> None:
    ways = {}
    for graphs in (False, True):
        trials = {name: {**changes, "launch__cuda_graphs": graphs} for name, changes in TRIALS.items()}
        cohort = make_cohort(precision=precision, **trials)
        losses = [step(cohort, number) for number in range(4)]
        cohort.drop(["plain"])
        losses += [step(cohort, number) for number in range(4, 7)]
        assert (cohort._recording is not None) == graphs
        ways[graphs] = losses, {name: weights(cohort, name) for name in ("shallow", "still")}
    assert ways[True][0] == ways[False][0]
    for name, values in ways[True][1].items():
        assert all(torch.equal(value, ways[False][1][name][key]) for key, value in values.items()), name


def test_an_odd_batch_between_replayed_ones_is_launched() -> None:
    losses = {}
    for graphs in (False, True):
        cohort = make_cohort(one={"launch__cuda_graphs": graphs})
        losses[graphs] = [step(cohort, number, 3 if number == 4 else 4)["one"] for number in range(7)]
    assert losses[True] == losses[False]


def test_a_run_that_stops_and_goes_on_ends_with_the_same_bytes(tmp_path: Path) -> None:
    straight, stopped, resumed = (make_cohort(**TRIALS) for _ in range(3))
    for trial in (*straight.trials, *stopped.trials):
        trial.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**30)  # too large: the first steps look for another
    for number in range(3):
        step(straight, number)
        step(stopped, number)
    header = {"step": 3, "backbone_sha256": "a", "classes": None, "config": {}}
    path = checkpoint.save(tmp_path, stopped, header, None)
    assert resume.restore(resumed, path, "a", None, training=True) == 3
    for number in range(3, 6):
        assert step(straight, number) == step(resumed, number), number
    for name in TRIALS:
        after = weights(resumed, name)
        assert all(torch.equal(value, after[key]) for key, value in weights(straight, name).items()), name


@pytest.mark.parametrize(("before", "after"), [("fp32", "fp16"), ("fp16", "bf16")])
def test_a_run_may_go_on_in_another_precision(before: str, after: str, tmp_path: Path) -> None:
    cohort = make_cohort(precision=before, one={})
    step(cohort, 0)
    path = checkpoint.save(tmp_path, cohort, {"step": 1, "backbone_sha256": "a", "classes": None, "config": {}}, None)
    resumed = make_cohort(precision=after, one={})
    assert resume.restore(resumed, path, "a", None, training=True) == 1
    assert all(torch.equal(value, weights(cohort, "one")[key]) for key, value in weights(resumed, "one").items())
    step(resumed, 1)


def test_an_overflow_of_half_precision_is_a_step_left_out_and_no_divergence() -> None:
    cohort = make_cohort(one={})
    (trial,) = cohort.trials
    trial.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**60)
    before = weights(cohort, "one")
    clips, labels = torch.randn(4, 3, 3, 24, 24, device="cuda"), torch.arange(4, device="cuda")
    result = cohort.step(0, clips, labels)["one"]
    assert result.diverged is None
    assert all(torch.equal(value, before[key]) for key, value in weights(cohort, "one").items())
    assert trial.scaler.get_scale() == 2.0**59
    clips[0, 0, 0, 0, 0] = torch.nan
    assert "not finite" in str(cohort.step(1, clips, labels)["one"].diverged)
    assert all(value.isfinite().all() for value in weights(cohort, "one").values())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_lie_in_pinned_memory_and_are_those_of_plain_memory(num_workers: int) -> None:
    clips = DummyClips(12, num_classes=5, num_frames=3, size=24, seed=1, num_views=None)
    common: dict[str, Any] = {"seed": 3, "start_step": 1, "num_steps": 5, "batch_size": 6}
    plain = list(train_loader(clips, **common, num_workers=0))
    pinned = list(train_loader(clips, **common, num_workers=num_workers, pin_memory=True))
    assert len(plain) == len(pinned) == 4
    for one, other in zip(plain, pinned, strict=True):
        assert other.clips.is_pinned()
        assert other.labels.is_pinned()
        assert torch.equal(one.clips, other.clips)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(other.clips.to("cuda", non_blocking=True).cpu(), one.clips)


@pytest.mark.parametrize("form", ["maps", "inputs", "one"])
def test_training_from_an_exact_cache_has_the_losses_of_the_same_views_computed_live(form: str, tmp_path: Path) -> None:
    folder = make_videos(tmp_path)
    request, lists = make_request(folder, tmp_path / "cache", launch__device="cuda", features__form=form)
    assert extract(request, lists)["done"]
    losses = train(request, lists)
    live = make_request(folder, tmp_path / "cache", launch__device="cuda", data__features=None)
    there = make_request(folder, tmp_path / "cache", launch__device="cpu", features__form=form)
    assert len(losses) == 6
    assert all(torch.isfinite(torch.tensor(losses)))
    scores = [evaluate(*one, tmp_path / str(i))["scores"] for i, one in enumerate(((request, lists), live, there))]
    assert abs(scores[0] - scores[1]).max() < 1e-4
    assert abs(scores[0] - scores[2]).max() < 1e-4


def test_a_session_trains_and_evaluates_in_half_precision_compiled_or_not(tmp_path: Path) -> None:
    folder = make_videos(tmp_path)
    changes = {"launch__device": "cuda", "train__precision": "auto", "data__features": None, **NO_DROPOUT}
    losses = {}
    for compiled in (False, True):
        request, lists = make_request(folder, tmp_path, train__compile=compiled, **changes)
        session = Session()
        opened = session.open("train", [{"name": "main", "settings": request}], dict(lists), None, None)
        assert (opened["device"], opened["precision"]) == ("cuda:0", "fp16")
        losses[compiled] = [step["trials"]["main"]["loss"] for step in session.advance(6)["steps"]]
        while not (evaluated := session.evaluate(100, str(tmp_path / "scores")))["done"]:
            pass
        assert evaluated["num_seen"] == evaluated["num_total"]
        session.close()
    assert losses[True] == pytest.approx(losses[False], abs=0.01)


def test_blocks_of_the_backbone_learn_in_half_precision() -> None:
    cohort = make_cohort(one={"model__backbone__freeze": False, "model__backbone__train_blocks": 2})
    before = weights(cohort, "one")
    for number in range(3):
        step(cohort, number)
    after = weights(cohort, "one")
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert any(key.startswith("backbone.transformer.resblocks.1.mlp") for key in moved)
    assert not any(key.startswith("backbone.transformer.resblocks.0") for key in before)


def test_a_forecast_is_of_the_device_and_its_precision() -> None:
    from coldframe.assembly.forecast import describe_model

    memory = describe_model(settings(launch__device="cuda", train__precision="auto"))["memory"]
    assert (memory["device"], memory["precision"]) == ("cuda:0", "fp16")
