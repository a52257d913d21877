"""The linear decoder: its numbers against plain torch, in a cohort with EVL, from caches, and in checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import caches
import small
from coldframe.assembly import forecast, models
from coldframe.assembly.sizes import size_decoder
from coldframe.backbones.clip.model import VisionTransformer
from coldframe.backbones.interface import Layer, run
from coldframe.backbones.shape import TokenShape, Wants
from coldframe.decoders.linear.model import Linear
from coldframe.errors import UserError
from coldframe.session import Session
from coldframe.train.trial import build_trial
from test_cohort import make_batch, make_cohort, train, weights
from test_forecast import WIDE, count_step

LINEAR: dict[str, Any] = {"model__decoder__kind": "linear"}
SHAPE = TokenShape(3, 2, 2, 2, 8)  # a class token, a register, four patches


def make_layers(num_layers: int) -> dict[int, Layer]:
    norm = nn.LayerNorm(8)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    norm.requires_grad_(False)
    return {i: Layer(torch.randn(2, 3, 6, 8) * 3, None, SHAPE, norm) for i in range(-num_layers, 0)}


@pytest.mark.parametrize("pool", ["class", "patches", "both"])
@pytest.mark.parametrize("frames", ["mean", "concat"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_logits_are_those_of_plain_torch(pool: Any, frames: Any, num_layers: int) -> None:
    torch.manual_seed(0)
    layers = make_layers(num_layers)
    decoder = Linear(shape=SHAPE, num_layers=num_layers, pool=pool, frames=frames, num_classes=5)
    found = []
    for layer in layers.values():
        normal = torch.stack([layer.norm(frame) for frame in layer.tokens_NTLC.unbind(1)])  # type: ignore[misc]
        if pool != "patches":
            found.append(normal[:, :, 0])
        if pool != "class":
            found.append((normal[:, :, 2] + normal[:, :, 3] + normal[:, :, 4] + normal[:, :, 5]) / 4)
    rows = torch.cat(found, dim=-1)
    clips = sum(rows) / 3 if frames == "mean" else torch.cat(list(rows), dim=-1)
    expected = clips @ decoder.proj.weight.T + decoder.proj.bias
    torch.testing.assert_close(decoder(layers), expected)


def test_weights_begin_small_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    decoder = Linear(shape=TokenShape(8, 1, 14, 14, 768), num_layers=4, pool="both", frames="mean", num_classes=400)
    assert decoder.proj.weight.shape == (400, 4 * 2 * 768)
    assert decoder.proj.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not decoder.proj.bias.any()


def test_the_order_of_frames_counts_where_they_stand_side_by_side_and_nowhere_else() -> None:
    backbone, _, _ = models.build_backbone(small.settings(), torch.device("cpu"), "fp32")
    clips, _ = make_batch(0)
    for frames, same in (("mean", True), ("concat", False)):
        decoder = models.make_decoder(small.settings(**LINEAR, model__decoder__frames=frames))
        before, after = (decoder(run(backbone, video, decoder.wants)) for video in (clips, clips[:, :, [2, 0, 1]]))
        assert torch.allclose(before, after, atol=1e-6) == same


def test_a_backbone_without_a_class_token_has_none_to_read() -> None:
    shape = TokenShape(3, 0, 2, 2, 8)
    assert Linear(shape=shape, num_layers=1, pool="patches", frames="mean", num_classes=5).proj.weight.shape == (5, 8)
    with pytest.raises(UserError, match=r"model\.decoder\.pool  is class; .* Set it to patches"):
        Linear(shape=shape, num_layers=1, pool="class", frames="mean", num_classes=5)


TRIALS: dict[str, dict[str, Any]] = {
    "evl": {},
    "class": LINEAR,
    "patches": {**LINEAR, "model__decoder__pool": "patches", "model__decoder__num_layers": 3, "train__seed": 4},
    "both": {**LINEAR, "model__decoder__pool": "both", "model__decoder__frames": "concat", "train__ema_decay": 0.8},
}


def test_trials_of_both_kinds_in_a_cohort_equal_each_alone() -> None:
    together = make_cohort(**TRIALS)
    losses = train(together)
    assert together.wants() == Wants.last(3, relations=True, final_norm=True)
    for name, changes in TRIALS.items():
        alone = make_cohort(**{name: changes})
        assert train(alone)[name] == losses[name], name
        for key, value in weights(alone, name).items():
            assert torch.equal(value, weights(together, name)[key]), (name, key)


def test_a_cohort_reads_the_final_norm_that_the_weights_hold(tmp_path: Path) -> None:
    chosen = small.settings()
    backbone, digest, _ = models.build_backbone(chosen, torch.device("cpu"), "fp32")
    state = {f"visual.{name}": value for name, value in backbone.state_dict().items()}
    norm = {"visual.ln_post.weight": torch.rand(32), "visual.ln_post.bias": torch.rand(32)}
    torch.save(state, tmp_path / "without.pt")
    torch.save({**state, **norm}, tmp_path / "with.pt")
    built: dict[str, VisionTransformer] = {}
    for name in ("with", "without"):
        file = str(tmp_path / f"{name}.pt")
        each = small.settings(model__backbone__weights=file, **LINEAR)
        built[name], found, _ = models.build_backbone(each, torch.device("cpu"), "fp32")
        assert found == digest  # as ever: what was trained or cached on it goes on
    x = torch.randn(2, 32)
    norms = {name: backbone.final_norm for name, backbone in built.items()}
    assert norms["without"] is None
    assert norms["with"] is not None
    expected = nn.functional.layer_norm(x, (32,), norm["visual.ln_post.weight"], norm["visual.ln_post.bias"])
    torch.testing.assert_close(norms["with"](x), expected)
    with pytest.raises(UserError, match=r"without\.pt  holds no norm behind the last block"):
        build_trial("main", each, built["without"], torch.device("cpu"), "fp32")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__decoder__pool": "both", "model__decoder__frames": "concat"},
        {"model__decoder__pool": "patches", "model__decoder__num_layers": 1, "train__micro_batches": 3},
        {"model__decoder__pool": "patches", "model__backbone__freeze": False},
    ],
    ids=str,
)
def test_parameters_and_tensors_of_a_step_are_those_forecast(changes: dict[str, Any]) -> None:
    chosen = small.settings(**{**WIDE, **LINEAR, **changes})
    described = forecast.describe_model(chosen)
    decoder = models.make_decoder(chosen)
    assert size_decoder(chosen).count_parameters() == sum(p.numel() for p in decoder.parameters())
    assert size_decoder(chosen).wants == decoder.wants
    waits = chosen.train.micro_batches > 1
    trained = described["parameters_trained"]
    most = max(forecast.count_transients(chosen, 0 if waits else trained, "fp32"))
    most += forecast.count_features(chosen, "fp32") + waits * 4 * trained
    assert count_step(chosen) == pytest.approx(most, rel=0.06)


def run_cached(folder: Path, cache: Path, form: str, changes: dict[str, Any], output: Path) -> dict[str, Any]:
    """Returns the losses of a training from a cache that EVL's configuration built, and what it is worth."""
    request, lists = caches.make_request(folder, cache, features__form=form)
    if not cache.exists():
        caches.extract(request, lists)
    session = Session()
    chosen, _ = caches.make_request(folder, cache, features__form=form, **changes)
    trials = [{"name": "evl", "settings": request}, {"name": "main", "settings": chosen}]
    session.open("train", trials, dict(lists), None, str(output), "never")
    steps = session.advance(4)["steps"]
    path = session.save()["path"]
    done: dict[str, Any] = {"done": False}
    while not done["done"]:
        done = session.evaluate(100, str(output / "evaluation"))
    session.close()
    return {"losses": [step["trials"]["main"]["loss"] for step in steps], "path": path, **done["results"]["main"]}


def test_it_trains_from_caches_of_any_form_beside_evl(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    caches.make_videos(videos)
    changes = {**LINEAR, "model__decoder__pool": "both"}
    found = {
        form: run_cached(videos, tmp_path / form, form, changes, tmp_path / f"run-{form}")
        for form in ("maps", "inputs", "one")
    }
    assert found["maps"]["losses"] == found["inputs"]["losses"] == found["one"]["losses"]
    assert len({result["top1"] for result in found.values()}) == 1
    session, (chosen, lists) = Session(), caches.make_request(videos, tmp_path / "maps", data__features=None, **changes)
    path, none = Path(found["maps"]["path"]) / "main.safetensors", {"train": None, "val": None}
    chosen["run"]["init_from"] = str(path)
    opened = session.open("train", [{"name": "main", "settings": chosen}], dict(lists), None, None, "never")
    assert any("2 of 2 weights taken" in note for note in opened["notes"])
    with pytest.raises(UserError, match=r"model\.decoder\.kind  is linear; the original knows EVL alone"):
        session.convert("upstream", str(tmp_path / "up.pth"))
    session.close()
    session.open("predict", [{"name": "main", "settings": chosen}], none, None, None, found["maps"]["path"])
    (answer,) = session.predict([str(videos / "0.mp4")], 5)["predictions"]
    assert sum(one["probability"] for one in answer["classes"]) == pytest.approx(1)
    session.close()


def test_other_pooling_is_another_function_of_the_same_weights(tmp_path: Path) -> None:
    session, none = Session(), {"train": None, "val": None}
    first = small.settings_json(**LINEAR)
    session.open("train", [{"name": "main", "settings": first}], none, None, str(tmp_path), "never")
    session.advance(1)
    path = session.save()["path"]
    session.close()
    other = small.settings_json(**LINEAR, model__decoder__pool="patches", run__init_from=path)
    with pytest.raises(UserError, match=r"was trained with model\.decoder\.pool: class; here it is patches"):
        session.open("train", [{"name": "main", "settings": other}], none, None, str(tmp_path / "b"), "never")


def test_tokens_stay_as_they_are_for_other_trials() -> None:
    layers = make_layers(2)
    before: list[Tensor] = [layer.tokens_NTLC.clone() for layer in layers.values()]
    Linear(shape=SHAPE, num_layers=2, pool="both", frames="mean", num_classes=5)(layers).sum().backward()
    assert all(torch.equal(a, layer.tokens_NTLC) for a, layer in zip(before, layers.values(), strict=True))
