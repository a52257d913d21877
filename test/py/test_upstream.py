"""The original's checkpoint files: read as they are, written as it reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coldframe.errors import UserError
from coldframe.train import resume, upstream
from test_cohort import make_batch, make_cohort, weights

FIXTURES = Path(__file__).parents[1] / "fixtures" / "parity"


@pytest.mark.parametrize("freeze", [True, False])
def test_a_trial_written_for_the_original_comes_back_and_goes_on_with_the_same_bytes(
    tmp_path: Path, freeze: bool
) -> None:
    changes = {"model__backbone__freeze": freeze}
    whole, other = make_cohort(main=changes), make_cohort(main=changes)
    for step in range(2):
        whole.step(step, *make_batch(step))
    upstream.write(tmp_path / "checkpoint-2.pth", whole.trials[0], 2)
    assert resume.restore(other, tmp_path / "checkpoint-2.pth", "", None, True) == 2
    for step in range(2, 4):
        one, two = (cohort.step(step, *make_batch(step))["main"] for cohort in (whole, other))
        assert one.loss == two.loss
    for name, value in weights(whole, "main").items():
        assert torch.equal(value, weights(other, "main")[name]), name


GROUPED = {"model__backbone__freeze": False, "train__decay_all": False, "train__backbone_lr": 1e-4}


def test_groups_of_parameters_are_written_as_they_are_and_come_back(tmp_path: Path) -> None:
    path, whole, other = tmp_path / "checkpoint-2.pth", make_cohort(main=GROUPED), make_cohort(main=GROUPED)
    for step in range(2):
        whole.step(step, *make_batch(step))
    notes = upstream.write(path, whole.trials[0], 2)
    assert "its --resume_path refuses the file, and --pretrain takes the weights" in notes[0]
    stored = torch.load(path, weights_only=True)
    names, groups = list(stored["model"]), stored["optimizer"]["param_groups"]
    rules = {names[i]: (group["weight_decay"], group["initial_lr"]) for group in groups for i in group["params"]}
    assert rules.keys() == set(names)
    for name, tensor in stored["model"].items():  # as the README says of the two keys
        decays = tensor.ndim > 1 and "pos" not in name
        rate = 1e-4 if ".backbone." in name else 1e-3
        assert rules[name] == (0.05 if decays else 0.0, pytest.approx(rate)), name
    for group, base, last in zip(groups, stored["lr_sched"]["base_lrs"], stored["lr_sched"]["_last_lr"], strict=True):
        assert (base, last) == (group["initial_lr"], group["lr"])
    told: list[str] = []
    assert resume.restore(other, path, "", None, True, told) == 2
    assert told == []
    for step in range(2, 4):
        one, two = (cohort.step(step, *make_batch(step))["main"] for cohort in (whole, other))
        assert one.loss == two.loss
    for name, value in weights(whole, "main").items():
        assert torch.equal(value, weights(other, "main")[name]), name
    plain = make_cohort(main={"model__backbone__freeze": False})
    resume.restore(plain, path, "", None, True, told)
    assert "was trained with another weight decay or rate" in told[0]


@pytest.mark.parametrize("step", [1, 4])
def test_the_written_rate_is_the_one_that_the_originals_schedule_has_then_and_after(tmp_path: Path, step: int) -> None:
    cohort = make_cohort(main={})
    cohort.step(0, *make_batch(0))
    upstream.write(tmp_path / "checkpoint.pth", cohort.trials[0], step)
    stored = torch.load(tmp_path / "checkpoint.pth", weights_only=True)

    def schedule() -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.CosineAnnealingLR]:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)

    undisturbed, scheduler = schedule()
    for _ in range(step):
        undisturbed.step()
        scheduler.step()
    resumed, later = schedule()
    group = {**stored["optimizer"]["param_groups"][0], "params": [0]}
    resumed.load_state_dict({"state": {}, "param_groups": [group]})
    later.load_state_dict(stored["lr_sched"])
    for _ in range(2):
        assert resumed.param_groups[0]["lr"] == pytest.approx(undisturbed.param_groups[0]["lr"], rel=1e-9)
        for one, its in ((undisturbed, scheduler), (resumed, later)):
            one.step()
            its.step()


def test_what_the_originals_files_cannot_hold_is_said(tmp_path: Path) -> None:
    part = make_cohort(main={"model__backbone__freeze": False, "model__backbone__train_blocks": 1})
    with pytest.raises(UserError, match=r"train_blocks  is 1; the original's checkpoints hold all of the backbone or"):
        upstream.write(tmp_path / "a.pth", part.trials[0], 0)
    warm = make_cohort(main={"train__warmup_steps": 2, "train__ema_decay": 0.9})
    assert upstream.write(tmp_path / "b.pth", warm.trials[0], 0) == [
        "The original knows no train.warmup_steps, train.ema_decay: to go on there is another training."
    ]
    assert upstream.write(tmp_path / "c.pth", make_cohort(main={}).trials[0], 0) == []


def test_states_numbered_by_other_groups_are_refused(tmp_path: Path) -> None:
    cohort = make_cohort(main={"train__decay_all": False})
    cohort.step(0, *make_batch(0))
    upstream.write(tmp_path / "a.pth", cohort.trials[0], 1)
    stored = torch.load(tmp_path / "a.pth", weights_only=True)
    order = [i for group in stored["optimizer"]["param_groups"] for i in group["params"]]
    stored["optimizer"]["state"] = {new: stored["optimizer"]["state"][old] for new, old in enumerate(order)}
    torch.save(stored, tmp_path / "b.pth")  # as torch numbers them by itself
    with pytest.raises(UserError, match="numbers its optimizer's states otherwise than its parameters"):
        upstream.read(tmp_path / "b.pth")


def test_moments_that_are_not_finite_are_named(tmp_path: Path) -> None:
    cohort = make_cohort(main={})
    cohort.step(0, *make_batch(0))
    cohort.trials[0].optimizer.state[cohort.trials[0].model.get_parameter("proj.2.bias")]["exp_avg"][1] = float("nan")
    upstream.write(tmp_path / "a.pth", cohort.trials[0], 1)
    with pytest.raises(UserError, match=r"not finite: exp_avg of proj\.2\.bias \(1 NaN, 0 infinite of 5\)"):
        resume.restore(make_cohort(main={}), tmp_path / "a.pth", "", None, True)
    assert resume.restore(make_cohort(main={}), tmp_path / "a.pth", "", None, False) == 1


def test_written_keys_and_their_order_are_the_originals(tmp_path: Path) -> None:
    """The order is what ties optimizer states to parameters."""
    fixture = torch.load(FIXTURES / "case_finetune.pt", weights_only=True)
    theirs = fixture["state_dict_keys"]
    num_blocks = 1 + max(int(name.split(".")[2]) for name in theirs if name.startswith("backbone.blocks."))
    changes = {
        "model__backbone__freeze": False,
        "model__backbone__num_layers": num_blocks,
        "model__decoder__num_layers": fixture["args"]["decoder_num_layers"],
        "model__temporal__conv": fixture["args"]["enable_temporal_conv"],
        "model__temporal__position_embedding": fixture["args"]["enable_temporal_pos_embed"],
        "model__temporal__cross_attention": fixture["args"]["enable_temporal_cross_attention"],
    }
    cohort = make_cohort(main=changes)
    cohort.step(0, *make_batch(0))
    upstream.write(tmp_path / "checkpoint-1.pth", cohort.trials[0], 1)
    stored = torch.load(tmp_path / "checkpoint-1.pth", weights_only=True)
    assert [name.removeprefix("module.") for name in stored["model"]] == theirs
    assert stored["next_step"] == 1
    for index, state in stored["optimizer"]["state"].items():
        assert state["exp_avg"].shape == list(stored["model"].values())[index].shape


def test_a_real_checkpoint_of_the_original_is_read_with_its_optimizer() -> None:
    path = FIXTURES / "ckpt_random_init" / "checkpoint-5.pth"
    stored = upstream.read(path)
    assert (stored.step, stored.total_steps, stored.scaler["scale"]) == (5, 10, 65536.0)
    assert stored.moments["exp_avg"].keys() == stored.weights.keys()
    assert all(stored.moments["exp_avg"][name].shape == value.shape for name, value in stored.weights.items())
    assert {float(step) for step in stored.moments["step"].values()} == {5.0}


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pth  cannot be read"):
        upstream.read(tmp_path / "text.pth")
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="has no `model`"):
        upstream.read(tmp_path / "other.pth")
