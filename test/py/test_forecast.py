"""The forecast against what it forecasts: parameters of real models, and the tensors that a real step makes.

What is counted is every tensor alive at once besides weights, so that the comparison needs no quiet machine; what a
process takes on top of its tensors, `coldframe bench memory` measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import small
from coldframe.assembly import forecast, models
from coldframe.assembly.sizes import size_backbone, size_decoder
from coldframe.backbones.shape import FLOAT_BYTES
from coldframe.machine.precision import DTYPES
from coldframe.settings import Settings
from coldframe.train.cohort import Cohort
from coldframe.train.trial import Trial, build_trial

CPU = torch.device("cpu")
# Large enough that weights and small vectors do not hide what grows with the clips.
WIDE: dict[str, Any] = {
    "data__num_frames": 5,
    "data__size": 96,
    "model__backbone__input_size": 96,
    "model__backbone__width": 192,
    "model__backbone__mlp_factor": 4,
    "model__backbone__num_layers": 4,
    "train__batch_size": 6,
    "eval__batch_size": 3,
}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations made and that are still alive, and the most there ever were."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._take(tensor.untyped_storage())
        return result

    def _take(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, key, storage.nbytes())

    def _leave(self, key: int, num_bytes: int) -> None:
        self._seen.discard(key)
        self.live -= num_bytes


def build_cohort(settings: Settings) -> Cohort:
    backbone, _, _ = models.build_backbone(settings, CPU, "fp32")
    return Cohort([build_trial("main", settings, backbone, CPU, "fp32")], backbone, CPU, "fp32")


def weights_of(trial: Trial, cohort: Cohort) -> list[torch.Tensor]:
    states = [value for state in trial.optimizer.state.values() for value in state.values()]
    average = list(trial.average.values())
    return [*trial.model.parameters(), *cohort.backbone.parameters(), *states, *average]


def count_step(settings: Settings) -> int:
    """Returns the most bytes at once in a second step, when all that stays is there."""
    cohort, data = build_cohort(settings), settings.data
    clips = torch.randn(settings.train.batch_size, 3, data.num_frames, data.size, data.size)
    labels = torch.zeros(len(clips), dtype=torch.int64)
    cohort.step(0, clips, labels)
    counter = LiveBytes([clips, labels, *weights_of(cohort.trials[0], cohort)])
    with counter:
        cohort.step(1, clips, labels)
    return counter.peak


def count_scores(settings: Settings) -> int:
    cohort, data, views = build_cohort(settings), settings.data, settings.eval
    num_clips = views.batch_size * views.spatial_views * views.temporal_views
    clips = torch.randn(num_clips, 3, data.num_frames, data.size, data.size)
    with LiveBytes([clips, *weights_of(cohort.trials[0], cohort)]) as counter:
        cohort.scores(clips)
    return counter.peak


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train__batch_size": 9},
        {"data__num_frames": 11},
        {"model__decoder__num_layers": 1},
        {"model__decoder__num_layers": 4},
        {"model__backbone__mlp_factor": 2},
        {"model__temporal__cross_attention": False},
        {"model__temporal__cross_attention": False, "model__temporal__conv": False},
        {"model__temporal__conv": False},
        {"train__micro_batches": 3},
        {"model__backbone__freeze": False},
        {"model__backbone__freeze": False, "model__backbone__train_blocks": 2},
    ],
    ids=str,
)
def test_the_tensors_of_a_step_are_those_forecast(changes: dict[str, Any]) -> None:
    settings = small.settings(**{**WIDE, **changes})
    trained = forecast.describe_model(settings)["parameters_trained"]
    waits = settings.train.micro_batches > 1
    most = max(forecast.count_transients(settings, 0 if waits else trained, "fp32"))
    most += forecast.count_features(settings, "fp32") + waits * 4 * trained
    assert count_step(settings) == pytest.approx(most, rel=0.06)


def test_the_tensors_of_an_evaluation_are_those_forecast() -> None:
    settings = small.settings(**WIDE)
    memory = forecast.describe_model(settings)["memory"]
    clips = forecast.BATCHES_IN_FLIGHT * 6 * 3 * 5 * 96**2 * 4  # videos and views of WIDE
    alone = memory["evaluation_bytes"] - memory["trial_bytes"] - clips
    backbone = forecast.PROCESS_BYTES + 4 * size_backbone(settings.model.backbone).count_parameters()
    assert count_scores(settings) == pytest.approx(alone - backbone, rel=0.06)


@pytest.mark.parametrize("switch", ["conv", "position_embedding", "cross_attention"])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_parameters_and_trial_bytes_are_those_of_the_real_model(switch: str, num_layers: int) -> None:
    settings = small.settings(**{f"model__temporal__{switch}": False, "model__decoder__num_layers": num_layers})
    cohort = build_cohort(settings)
    described, counted = forecast.describe_model(settings), cohort.count_parameters()
    assert described["parameters_total"] == counted["total"]
    assert described["parameters_trained"] == counted["trained"]
    assert described["memory"]["trial_bytes"] == 3 * 4 * counted["trained"]


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((768, 12, 12, 16, 224, 4), id="ViT-B/16"),
        pytest.param((1024, 24, 16, 14, 224, 4), id="ViT-L/14"),
        pytest.param((1024, 24, 16, 14, 336, 4), id="ViT-L/14@336px"),
        pytest.param((128, 4, 4, 8, 64, 4), id="tiny"),
        pytest.param((30, 3, 5, 6, 18, 2.65), id="a hidden layer of 79.5"),
        pytest.param((32, 1, 1, 16, 16, 0.1), id="one patch"),
    ],
)
def test_parameters_of_a_backbone_are_those_of_the_real_one(sizes: tuple[float, ...]) -> None:
    keys = ("width", "num_layers", "num_heads", "patch_size", "input_size", "mlp_factor")
    changes = {f"model__backbone__{key}": size for key, size in zip(keys, sizes, strict=True)}
    backbone = small.settings(**changes).model.backbone
    with torch.device("meta"):
        real = models.build_vision(backbone)
    assert size_backbone(backbone).count_parameters() == sum(parameter.numel() for parameter in real.parameters())


@pytest.mark.parametrize("changes", [{}, {"model__temporal__cross_attention": False}, {"data__num_frames": 1}], ids=str)
def test_sizes_tell_the_tokens_that_the_real_backbone_gives_and_the_real_decoder_reads(changes: dict[str, Any]) -> None:
    settings = small.settings(**changes)
    cohort = build_cohort(settings)
    shape = size_backbone(settings.model.backbone).shape(settings.data.num_frames)
    side = settings.data.size
    layers = cohort.features(torch.randn(2, 3, settings.data.num_frames, side, side))
    assert {layer.shape for layer in layers.values()} == {shape}
    assert layers[-1].tokens_NTLC.numel() == 2 * shape.clip_bytes / FLOAT_BYTES
    assert size_decoder(settings).wants == cohort.wants()


def test_numbers_take_the_bytes_that_they_take_in_torch() -> None:
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == forecast.ITEM_BYTES


def test_parameters_trained_follow_the_blocks_that_are() -> None:
    for train_blocks in (None, 1, 2):
        changes = {"model__backbone__freeze": False, "model__backbone__train_blocks": train_blocks}
        settings = small.settings(**changes)
        counted = build_cohort(settings).count_parameters()["trained"]
        assert forecast.describe_model(settings)["parameters_trained"] == counted


def test_the_parts_add_up_and_a_cohort_shares_all_but_its_own() -> None:
    one, averaged = (
        forecast.describe_model(small.settings(train__ema_decay=decay))["memory"] for decay in (None, 0.99)
    )
    parts = ("shared_bytes", "features_bytes", "trial_bytes", "transient_bytes")
    assert one["training_bytes"] == sum(one[part] for part in parts)
    assert averaged["trial_bytes"] * 3 == one["trial_bytes"] * 4
    assert [averaged[part] for part in parts if part != "trial_bytes"] == [
        one[part] for part in parts if part != "trial_bytes"
    ]


def test_operations_are_split_and_stored_features_leave_out_the_backbone() -> None:
    live = forecast.describe_model(small.settings())
    assert live["flops_per_view"] == live["backbone_flops_per_view"] + live["decoder_flops_per_view"]
    stored = {
        form: forecast.describe_model(small.settings(data__features="cache", features__form=form))
        for form in ("maps", "inputs")
    }
    assert stored["maps"]["backbone_flops_per_view"] == 0
    assert 0 < stored["inputs"]["backbone_flops_per_view"] < live["backbone_flops_per_view"]
    assert stored["maps"]["decoder_flops_per_view"] == live["decoder_flops_per_view"]


FORECAST = """
import json, os, sys
from coldframe import serve

reply = json.loads(serve.handle(sys.stdin.read()))
assert serve.__file__.startswith(os.getcwd()), "of another checkout"
heavy = [name for name in ("torch", "numpy", "av", "coldframe.session") if name in sys.modules]
print(json.dumps([reply, heavy]))
"""


def test_the_verb_forecasts_many_settings_at_once_and_imports_no_torch() -> None:
    many = [small.settings_json(model__decoder__num_layers=1 + i % 3, train__lr=0.1 * (1 + i)) for i in range(9)]
    request = json.dumps({"verb": "forecast", "trials": many})
    run = subprocess.run(
        [sys.executable, "-c", FORECAST],
        cwd=Path(forecast.__file__).parents[1],
        input=request,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    reply, heavy = json.loads(run.stdout)
    assert heavy == []
    models = reply["result"]["models"]
    assert models == [forecast.describe_model(Settings.from_json(one)) for one in many]
    assert models[0] == models[3]
    assert models[0]["memory"]["trial_bytes"] < models[1]["memory"]["trial_bytes"]


def test_a_machine_without_a_gpu_forecasts_for_one() -> None:
    memory = forecast.describe_model(small.settings(launch__device="cuda", train__precision="bf16"))["memory"]
    assert (memory["device"], memory["precision"]) == ("cuda", "bf16")
    on_cpu = forecast.describe_model(small.settings())["memory"]
    assert 0 < memory["training_bytes"] < on_cpu["training_bytes"]  # no process's own memory, half the bytes


def test_gradients_wait_where_a_batch_is_cut_or_launches_are_recorded() -> None:
    def count(**changes: Any) -> float:
        described = forecast.describe_model(small.settings(**changes))
        return described["memory"]["trial_bytes"] / (4 * described["parameters_trained"])

    assert count() == 3  # weights and two moments
    assert count(train__micro_batches=2) == 4
    gpu = {"launch__device": "cuda", "train__precision": "fp32"}
    assert count(**gpu) == 4
    assert count(**gpu, launch__cuda_graphs=False) == 3
    assert count(**gpu, train__compile=True) == 3
    assert count(**gpu, train__micro_batches=2) == 4


def test_what_stands_against_recorded_launches_is_named() -> None:
    assert forecast.prevents_replay(small.settings()) == []
    changes = {"train__micro_batches": 2, "train__compile": True, "model__backbone__freeze": False}
    assert forecast.prevents_replay(small.settings(**changes)) == [
        "train.micro_batches: 2",
        "train.compile: true",
        "model.backbone.freeze: false",
    ]


def test_multiply_adds_of_the_temporal_modules_are_those_of_their_sizes() -> None:
    """3 frames of 3 x 3 patches and a class token, 32 channels, 2 decoder layers."""

    def count(**off: bool) -> int:
        changes = {f"model__temporal__{name}": value for name, value in off.items()}
        return int(forecast.describe_model(small.settings(**changes))["decoder_flops_per_view"])

    assert count() - count(conv=False) == 2 * (3 * 3 * 10 * 32)  # three taps a token and channel
    maps, offsets = 2 * 2 * 9 * 9 * 32, 2 * 2 * 9 * 3 * 5 * 32
    assert count() - count(cross_attention=False) == 2 * (maps + offsets)


def test_of_several_devices_each_has_its_share_of_the_batch_and_a_gradient_that_goes_round() -> None:
    def describe(**changes: Any) -> dict[str, Any]:
        gpu = {"launch__device": "cuda", "train__precision": "fp16"}
        return forecast.describe_model(small.settings(**gpu, **changes))["memory"]

    alone = describe(train__batch_size=4, train__micro_batches=2)
    shared = describe(train__batch_size=32, train__micro_batches=2, launch__devices=4, launch__nodes=2)
    trained = forecast.describe_model(small.settings())["parameters_trained"]
    assert shared["transient_bytes"] - alone["transient_bytes"] == trained * 4
    assert {**shared, "transient_bytes": 0, "training_bytes": 0} == {**alone, "transient_bytes": 0, "training_bytes": 0}
