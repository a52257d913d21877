"""The original's checkpoint files: read as they are, written as it reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coldframe import build, upstream
from coldframe.errors import UserError
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
    assert build.restore(other, tmp_path / "checkpoint-2.pth", "", None, True) == 2
    for step in range(2, 4):
        one, two = (cohort.step(step, *make_batch(step))["main"] for cohort in (whole, other))
        assert one.loss == two.loss
    for name, value in weights(whole, "main").items():
        assert torch.equal(value, weights(other, "main")[name]), name


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


def test_init_from_takes_the_weights_of_the_original_alone(tmp_path: Path) -> None:
    source, fresh = make_cohort(main={}), make_cohort(main={"train__seed": 5})
    source.step(0, *make_batch(0))
    upstream.write(tmp_path / "checkpoint-1.pth", source.trials[0], 1)
    notes = build.initialize(fresh.trials[0], tmp_path / "checkpoint-1.pth")
    assert all(torch.equal(value, weights(fresh, "main")[name]) for name, value in weights(source, "main").items())
    assert not fresh.trials[0].optimizer.state
    assert len(notes) == 1
