"""`run.init_from`: what is taken, what is put in another order, and what would silently read other features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coldframe.assembly import models
from coldframe.backbones.clip.model import VisionTransformer
from coldframe.errors import UserError
from coldframe.train import checkpoint, upstream
from coldframe.train.cohort import Cohort
from coldframe.train.initial import initialize
from coldframe.train.trial import build_trial
from small import settings, settings_json
from test_cohort import CPU, make_batch, make_cohort, weights

CLASSES = ["a", "b", "c", "d", "e"]
TRAINED = {"model__backbone__freeze": False}


def digest_of(cohort: Cohort) -> str:
    return models.hash_weights(cohort.backbone)


def save(folder: Path, cohort: Cohort, digest: str, classes: list[str] | None = CLASSES, **changes: Any) -> Path:
    config = {trial.name: settings_json(**changes) for trial in cohort.trials}
    header = {"step": 1, "backbone_sha256": digest, "classes": classes, "config": config}
    return checkpoint.save(folder, cohort, header, None)


@pytest.fixture(scope="module")
def trained() -> Cohort:
    cohort = make_cohort(main={})
    cohort.step(0, *make_batch(0))
    return cohort


def start(path: Path, classes: list[str] | None = CLASSES, **changes: Any) -> tuple[Cohort, list[str]]:
    cohort = make_cohort(main={"train__seed": 5, **changes})
    return cohort, initialize(cohort.trials[0], path, digest_of(cohort), classes)


def test_what_fits_is_taken_and_what_does_not_is_said(tmp_path: Path, trained: Cohort) -> None:
    path = save(tmp_path, trained, digest_of(trained))
    same, notes = start(path)
    assert all(torch.equal(value, weights(same, "main")[name]) for name, value in weights(trained, "main").items())
    assert len(notes) == 1
    other, notes = start(path, [*CLASSES, "f", "g"], data__num_classes=7)
    assert torch.equal(weights(other, "main")["proj.0.weight"], weights(trained, "main")["proj.0.weight"])
    assert "Fresh are proj.2.bias, proj.2.weight." in notes
    wide = settings(model__backbone__width=64, model__decoder__qkv_dim=48, data__num_classes=6)
    fresh = build_trial("main", wide, trained.backbone, CPU, "fp32")
    with pytest.raises(UserError, match="holds no weight that fits"):
        initialize(fresh, path, digest_of(trained), None)


def test_the_weights_of_the_original_are_taken_alone(tmp_path: Path, trained: Cohort) -> None:
    upstream.write(tmp_path / "checkpoint-1.pth", trained.trials[0], 1)
    fresh, notes = start(tmp_path / "checkpoint-1.pth", None)
    assert all(torch.equal(value, weights(fresh, "main")[name]) for name, value in weights(trained, "main").items())
    assert not fresh.trials[0].optimizer.state
    assert len(notes) == 1
    assert "knows no class names" in start(tmp_path / "checkpoint-1.pth")[1][1]


@pytest.mark.parametrize("file", ["", "main.safetensors"])
def test_rows_of_the_head_follow_the_names_of_the_classes(tmp_path: Path, trained: Cohort, file: str) -> None:
    path = save(tmp_path, trained, digest_of(trained)) / file
    ours = ["e", "a", "c", "d", "b"]
    fresh, notes = start(path, ours)
    for row, name in enumerate(ours):
        for key in ("proj.2.weight", "proj.2.bias"):
            assert torch.equal(weights(fresh, "main")[key][row], weights(trained, "main")[key][CLASSES.index(name)])
    assert "same classes in another order" in notes[1]


def test_as_many_other_classes_get_a_fresh_head(tmp_path: Path, trained: Cohort) -> None:
    path = save(tmp_path, trained, digest_of(trained))
    fresh, notes = start(path, ["a", "b", "c", "d", "x"])
    alone = make_cohort(main={"train__seed": 5})
    assert torch.equal(weights(fresh, "main")["proj.2.weight"], weights(alone, "main")["proj.2.weight"])
    assert torch.equal(weights(fresh, "main")["proj.0.bias"], weights(trained, "main")["proj.0.bias"])
    assert "knows other classes (5) than data.classes (5): the head begins fresh." in notes[2]


def test_another_backbone_is_refused(tmp_path: Path, trained: Cohort) -> None:
    path = save(tmp_path, trained, digest_of(trained))
    with pytest.raises(UserError, match=r"was trained on other backbone weights .* Set model\.backbone\.weights"):
        start(path, model__backbone__random_seed=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model__backbone__num_heads": 4}, r"model\.backbone\.num_heads: 2; here it is 4"),
        ({"model__backbone__activation": "gelu"}, r"model\.backbone\.activation: quick_gelu; here it is gelu"),
        ({"model__decoder__num_heads": 2}, r"model\.decoder\.num_heads: 4; here it is 2"),
    ],
)
def test_another_function_of_the_same_weights_is_refused(
    tmp_path: Path, trained: Cohort, change: dict[str, Any], words: str
) -> None:
    path = save(tmp_path, trained, digest_of(trained))
    with pytest.raises(UserError, match=words):
        start(path, **change)


def test_the_same_weights_at_another_input_size_are_the_same_backbone(tmp_path: Path) -> None:
    sizes = {"width": 32, "num_layers": 3, "num_heads": 2, "patch_size": 8, "mlp_factor": 2}
    build_small = make_cohort(main={}).backbone
    assert isinstance(build_small, VisionTransformer)
    torch.save(VisionTransformer(**sizes, input_size=24).state_dict() | build_small.state_dict(), tmp_path / "clip.pt")
    file = {"model__backbone__weights": str(tmp_path / "clip.pt")}
    small = make_cohort(main=file)
    still = {"model__temporal__cross_attention": False}  # whose offsets are the grid's
    path = save(tmp_path / "a", make_cohort(main=file | still), digest_of(small), **file)
    large = {"model__backbone__input_size": 32, "data__size": 32}
    assert digest_of(make_cohort(main=file | large)) != digest_of(small)
    assert len(start(path, **file, **large, **still)[1]) == 1


def test_a_backbone_that_was_trained_does_not_stay_behind(tmp_path: Path) -> None:
    frozen, tuned = make_cohort(main={}), make_cohort(main=TRAINED)
    tuned.step(0, *make_batch(0))
    path = save(tmp_path, tuned, digest_of(frozen))
    with pytest.raises(UserError, match=r"trained with the rest, .* Set model\.backbone\.freeze: false"):
        start(path)
    with pytest.raises(UserError, match=r"trained with the rest"):
        start(path, **TRAINED, model__backbone__train_blocks=1)
    whole, _ = start(path, **TRAINED, model__backbone__random_seed=3)  # all of it is in the file
    assert all(torch.equal(value, weights(whole, "main")[name]) for name, value in weights(tuned, "main").items())
    cohort = make_cohort(main={})
    with torch.no_grad():
        for name, parameter in cohort.backbone.named_parameters():
            parameter.copy_(weights(tuned, "main")[f"backbone.{name}"])
    assert initialize(cohort.trials[0], path, digest_of(cohort), CLASSES)  # its backbone is the one here


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    broken = make_cohort(main={})
    with torch.no_grad():
        broken.trials[0].model.get_parameter("proj.2.bias")[1] = float("nan")
    with pytest.raises(UserError, match=r"proj\.2\.bias \(1 NaN, 0 infinite of 5\)"):
        start(save(tmp_path, broken, digest_of(broken)))
