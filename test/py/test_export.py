"""Exported models give what the cohort gives, and a file that does not is found out."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from coldframe.assembly.models import build_backbone
from coldframe.evaluate.export.model import Comparison, shrink, write_onnx, write_torch
from coldframe.train.cohort import Cohort
from coldframe.train.trial import build_trial
from small import settings

CPU = torch.device("cpu")
pytestmark = pytest.mark.slow  # half a minute each, in torch's own exporter


def make_cohort(seed: int = 0, **changes: Any) -> Cohort:
    wanted = settings(**changes)
    backbone, _, _ = build_backbone(wanted, CPU, "fp32")
    trial = build_trial("main", wanted, backbone, CPU, "fp32")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # a fresh decoder's temporal modules are zero, and would hide what is lost
        for _, parameter in trial.named_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Cohort([trial], backbone, CPU, "fp32")


def compare(cohort: Cohort, file: Path) -> dict[str, Any]:
    found = Comparison(cohort, cohort.trials[0].settings, file, None, 4).advance(60)
    assert (found["done"], found["num_seen"], found["is_noise"]) == (True, 4, True)
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Path]:
    cohort, file = make_cohort(), tmp_path_factory.mktemp("onnx") / "model.onnx"
    written = write_onnx(cohort, cohort.trials[0].settings, file, "fp32", {"classes": ["a"]})
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    assert written == {"opset": 20, "size_bytes": file.stat().st_size, "sha256": {"model.onnx": found}}
    return cohort, file


def test_onnx_takes_any_number_of_clips_and_is_known_from_another_model(exported: tuple[Cohort, Path]) -> None:
    cohort, file = exported
    model = onnx.load(file)
    assert {each.key: each.value for each in model.metadata_props}["coldframe"] == '{"classes": ["a"]}'
    clips, scores = model.graph.input[0], model.graph.output[0]
    sizes = [each.dim_value for each in clips.type.tensor_type.shape.dim]
    assert (clips.name, sizes, scores.name) == ("video", [0, 3, 3, 24, 24], "probabilities")  # 0: any number
    found = compare(cohort, file)
    assert found["largest_difference"] < 1e-6
    assert found["agreement"] == 1
    assert compare(make_cohort(seed=1), file)["largest_difference"] > 1e-3


@pytest.mark.parametrize(("precision", "share", "limit"), [("fp16", 0.75, 5e-3), ("int8", 0.75, 0.05)])
def test_smaller_forms_are_smaller_and_their_difference_is_told(
    exported: tuple[Cohort, Path], tmp_path: Path, precision: str, share: float, limit: float
) -> None:
    cohort, whole = exported
    file = tmp_path / "model.onnx"
    shutil.copy(whole, file)
    shrink(file, precision, is_large=False)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]
    assert file.stat().st_size < share * whole.stat().st_size
    assert 1e-7 < compare(cohort, file)["largest_difference"] < limit


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 5e-3), ("int8", 0.05)])
def test_weights_that_one_file_does_not_hold_lie_beside_it(
    exported: tuple[Cohort, Path], tmp_path: Path, precision: str, limit: float
) -> None:
    cohort, whole = exported
    file, data = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    onnx.save(onnx.load(whole), file, save_as_external_data=True, location=data.name, size_threshold=0)
    num_bytes = data.stat().st_size
    shrink(file, precision, is_large=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert data.stat().st_size < num_bytes  # the larger weights are gone
    assert compare(cohort, file)["largest_difference"] < limit


@pytest.mark.parametrize(
    "changes",
    [{}, {"model__decoder__kind": "linear"}, {"model__backbone__freeze": False}],
    ids=["evl", "linear", "tuned"],
)
def test_torch_archive(tmp_path: Path, changes: dict[str, Any]) -> None:
    cohort = make_cohort(**changes)
    file = tmp_path / "model.pt2"
    write_torch(cohort, cohort.trials[0].settings, file, {})
    assert compare(cohort, file)["largest_difference"] < 1e-6
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.pt2", "model.safetensors"]
    assert all(parameter.requires_grad for _, parameter in cohort.trials[0].named_parameters())
