"""The feature cache: what comes out of it is what the backbone gives, whatever happens while it is built."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clips import make_clip
from coldframe import build
from coldframe.clip import LayerFeatures
from coldframe.cohort import Cohort
from coldframe.data import normalize_, read_list
from coldframe.extract import CLIPS_A_PASS, Extraction
from coldframe.features import StoredFeatures, choose_view, open_cache
from coldframe.manifest import read_manifest
from coldframe.session import Session
from coldframe.settings import Settings
from small import settings_json

CPU = torch.device("cpu")
NUM_CLIPS, NUM_VIEWS = 7, 3
FORMS = ("maps", "inputs", "one")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Seven videos that can be read, in lists of their own for training and evaluation."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [make_clip(folder / f"{i}.mp4", num_frames=14 + i, seed=i, size=(48, 32)) for i in range(NUM_CLIPS)]
    (folder / "bad.mp4").write_text("no video")
    write_lists(folder, "good", paths)
    write_lists(folder, "torn", [*paths[:3], folder / "bad.mp4", *paths[3:]])
    return folder


def write_lists(folder: Path, name: str, paths: list[Path]) -> None:
    for kind in ("train", "val"):
        lines = [f"{path}\t{i % 5}\n" for i, path in enumerate(paths)]
        (folder / f"{name}-{kind}.txt").write_text("".join(lines))


def make_request(
    folder: Path, cache: Path, name: str = "good", **changes: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns settings and lists, as TypeScript would hand them over."""
    lists = {kind: str(folder / f"{name}-{kind}.txt") for kind in ("train", "val")}
    common: dict[str, Any] = {
        "data__dummy": False,
        "data__train_list": lists["train"],
        "data__val_list": lists["val"],
        "data__augment": "rand-m7-n4-mstd0.5-inc1",
        "data__features": str(cache),
        "data__seed": 5,
        "features__precision": "fp32",
        "features__train_views": NUM_VIEWS,
        "eval__spatial_views": 3,
    }
    return settings_json(**{**common, **changes}), lists


def extract(settings: dict[str, Any], lists: dict[str, str]) -> dict[str, Any]:
    extraction = Extraction(Settings.from_json(settings), dict(lists))
    try:
        return extraction.advance(1000, lambda: None)
    finally:
        extraction.close()


def train(settings: dict[str, Any], lists: dict[str, str], step: int = 0) -> list[float]:
    session = Session()
    session.open("train", [{"name": "main", "settings": settings}], dict(lists), None, None)
    session.step = step
    losses = [step["trials"]["main"]["loss"] for step in session.advance(6)["steps"]]
    session.close()
    return losses


def evaluate(settings: dict[str, Any], lists: dict[str, str], output: Path) -> dict[str, np.ndarray]:
    session = Session()
    session.open("evaluate", [{"name": "main", "settings": settings}], dict(lists), None, None)
    while not session.evaluate(100, str(output))["done"]:
        pass
    session.close()
    with np.load(output / "scores.npz") as scores:
        return {"scores": scores["scores"], "labels": scores["labels"], "indices": scores["indices"]}


class LiveFeatures(StoredFeatures):
    """Computes the features of the clips that a cache stored, in the passes that it was built in, when they are asked
    for: what comes in are the numbers of records."""

    def __init__(self, settings: Settings, lists: dict[str, str]) -> None:
        super().__init__(Extraction(settings, dict(lists)).layout, build.build_backbone(settings, CPU, "fp32")[0])
        self.settings = settings
        self.whole, _, _ = build.build_backbone(settings, CPU, "fp32")
        self.clips = build.training_clips(settings, read_list(lists["train"]))

    def forward(self, records_N1: torch.Tensor, *, num_layers: int, with_maps: bool) -> list[LayerFeatures]:
        each = [self.of_record(int(record), num_layers) for record in records_N1.flatten()]
        return [
            LayerFeatures(*(torch.cat(parts) for parts in zip(*layer, strict=True)))
            for layer in zip(*each, strict=True)
        ]

    def of_record(self, record: int, num_layers: int) -> list[LayerFeatures]:
        size = CLIPS_A_PASS["cpu"]
        first = record - record % size
        records = range(first, min(first + size, NUM_CLIPS * NUM_VIEWS))
        places = [(r % NUM_VIEWS, r // NUM_VIEWS, r // NUM_VIEWS) for r in records]
        clips = torch.stack([self.clips[place].clip for place in places])
        clips = normalize_(clips, self.settings.data.mean, self.settings.data.std)
        layers = self.whole(clips, num_layers=num_layers, with_maps=True)
        place = slice(record - first, record - first + 1)
        return [LayerFeatures(*(part[place] for part in layer)) for layer in layers]


def train_live(settings: Settings, lists: dict[str, str]) -> list[float]:
    """Returns the losses of training on the stored views, drawn as a cache draws them, features computed live."""
    backbone, digest, _ = build.build_backbone(settings, CPU, "fp32")
    cache = open_cache([settings], digest, dict(lists))
    trial = build.build_trial("main", settings, backbone, CPU, "fp32")
    cohort = Cohort([trial], LiveFeatures(settings, lists), CPU, "fp32")
    losses = []
    for step, batch in enumerate(cache.training_batches(settings, lists["train"], 0, False)):
        views = [choose_view(settings.data.seed, step, i, NUM_VIEWS) for i in range(len(batch.labels))]
        records = batch.indices * NUM_VIEWS + torch.tensor(views)
        losses.append(cohort.step(step, records[:, None], batch.labels)["main"].loss)
    return losses


@pytest.fixture(scope="module")
def caches(folder, tmp_path_factory) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    requests = {}
    for form in FORMS:
        for precision in ("fp32", "fp16"):
            cache = tmp_path_factory.mktemp(f"{form}-{precision}")
            changes = {"features__form": form, "features__precision": precision}
            requests[f"{form} {precision}"] = make_request(folder, cache, **changes)
            assert extract(*requests[f"{form} {precision}"])["done"]
    return requests


@pytest.mark.parametrize("form", FORMS)
def test_training_from_an_exact_cache_has_the_losses_of_the_same_views_computed_live(caches, form):
    settings, lists = caches[f"{form} fp32"]
    losses = train(settings, lists)
    assert len(set(losses)) == 6
    live = train_live(Settings.from_json(settings), lists)
    if form == "maps":
        assert losses == live  # the very same features
    else:
        assert losses == pytest.approx(live, abs=1e-5)  # blocks run again, on batches of another size


def test_forms_agree_and_half_precision_is_near(caches):
    losses = {name: train(*request) for name, request in caches.items()}
    for name, found in losses.items():
        assert found == pytest.approx(losses["maps fp32"], abs=1e-5 if "fp32" in name else 1e-2), name
    assert losses["maps fp16"] != losses["maps fp32"]


@pytest.mark.parametrize("form", FORMS)
def test_evaluation_from_the_cache_equals_evaluation_of_the_videos(caches, form, tmp_path):
    settings, lists = caches[f"{form} fp32"]
    cached = evaluate(settings, lists, tmp_path)
    settings = {**settings, "data": {**settings["data"], "features": None}}
    direct = evaluate(settings, lists, tmp_path)
    assert cached["scores"].shape == (NUM_CLIPS, 5)
    np.testing.assert_allclose(cached["scores"], direct["scores"], atol=1e-6)
    assert (cached["indices"] == direct["indices"]).all()
    assert (cached["labels"] == direct["labels"]).all()


def test_trials_of_a_cohort_come_out_of_a_deeper_cache_as_they_do_alone(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path, features__form="inputs", model__decoder__num_layers=3)
    extract(settings, lists)
    changes: list[dict[str, Any]] = [
        {"model__decoder__num_layers": 2},
        {"model__decoder__num_layers": 1, "train__seed": 4, "model__temporal__cross_attention": False},
    ]
    trials = [make_request(folder, tmp_path, features__form="inputs", **change)[0] for change in changes]
    session = Session()
    named = [{"name": f"trial-{i}", "settings": trial} for i, trial in enumerate(trials)]
    session.open("train", named, dict(lists), None, None)
    together = session.advance(6)["steps"]
    session.close()
    for i, trial in enumerate(trials):
        assert [step["trials"][f"trial-{i}"]["loss"] for step in together] == train(trial, lists)


def test_every_view_is_drawn_and_a_step_does_not_depend_on_where_training_began(caches):
    settings, lists = caches["maps fp32"]
    parsed = Settings.from_json(settings)
    cache = open_cache([parsed], build.build_backbone(parsed, CPU, "fp32")[1], dict(lists))
    batches = list(cache.training_batches(parsed, lists["train"], 0, False))
    later = list(cache.training_batches(parsed, lists["train"], 4, False))
    assert [batch.indices.tolist() for batch in batches[4:]] == [batch.indices.tolist() for batch in later]
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(batches[4:], later, strict=True))
    live = list(
        build.training_batches(replace(parsed, data=replace(parsed.data, features=None)), lists["train"], 0, CPU)
    )
    assert [batch.indices.tolist() for batch in batches] == [batch.indices.tolist() for batch in live]
    assert {choose_view(5, step, i, NUM_VIEWS) for step in range(6) for i in range(4)} == set(range(NUM_VIEWS))


def test_clips_of_one_video_are_different_views_of_it(caches):
    settings, lists = caches["maps fp32"]
    settings = {**settings, "data": {**settings["data"], "clips_per_video": 2}}
    parsed = Settings.from_json(settings)
    cache = open_cache([parsed], build.build_backbone(parsed, CPU, "fp32")[1], dict(lists))
    for batch in cache.training_batches(parsed, lists["train"], 0, False):
        assert batch.indices[0::2].tolist() == batch.indices[1::2].tolist()
        assert not any(torch.equal(a, b) for a, b in zip(batch.clips[0::2], batch.clips[1::2], strict=True))


# ---- building --------------------------------------------------------------------------------------------------------

BUILDER = """
import json, sys
from coldframe import extract
from coldframe.settings import Settings

extract.SHARD_BYTES = 1 << 15
settings, lists = json.loads(sys.stdin.readline())
extraction = extract.Extraction(Settings.from_json(settings), lists)
while not extraction.advance(0, lambda: None)["done"]:
    print(len(extraction.manifest.parts["train"].shards), flush=True)
    sys.stdin.readline()  # waits for a word of the test, or for the end of its words
extraction.close()
"""


def start_builder(folder: Path, cache: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    builder = subprocess.Popen([sys.executable, "-c", BUILDER], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    request = make_request(folder, cache, data__num_workers=1, features__train_views=2)
    print(json.dumps(request), file=builder.stdin, flush=True)
    return builder


def files_of(cache: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in cache.iterdir() if file.name != "lock"}


def test_a_builder_that_is_killed_goes_on_and_leaves_the_same_bytes(folder, tmp_path):
    undisturbed = start_builder(folder, tmp_path / "whole")
    assert undisturbed.communicate(timeout=60)[1] == ""
    builder = start_builder(folder, tmp_path / "killed")
    while int(builder.stdout.readline()) < 2:
        print(file=builder.stdin, flush=True)
    print(file=builder.stdin, flush=True)  # and in the middle of the next pass
    os.kill(builder.pid, signal.SIGKILL)
    builder.wait()
    kept = read_manifest(tmp_path / "killed").parts["train"].shards
    assert 2 <= len(kept) < len(read_manifest(tmp_path / "whole").parts["train"].shards)
    written = {shard.file: (tmp_path / "killed" / shard.file).stat().st_mtime_ns for shard in kept}
    again = start_builder(folder, tmp_path / "killed")
    assert again.communicate(timeout=60)[1] == ""
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert written == {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in written}


def test_a_build_that_is_stopped_keeps_all_that_was_computed(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path)
    extraction = Extraction(Settings.from_json(settings), dict(lists))
    while (reply := extraction.advance(0, lambda: None))["num_done"] < 8:
        pass
    extraction.flush()
    extraction.close()
    assert [s.num_records for s in read_manifest(tmp_path).parts["train"].shards] == [reply["num_done"]]
    assert extract(settings, lists)["done"]
    assert [shard.first for shard in read_manifest(tmp_path).parts["train"].shards] == [0, reply["num_done"]]
    assert len(train(settings, lists)) == 6


def test_a_damaged_shard_is_found_when_read_and_built_again(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path)
    extract(settings, lists)
    sound = files_of(tmp_path)
    file = tmp_path / "train-00000000.safetensors"
    damaged = bytearray(sound[file.name])
    damaged[-100] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"train-00000000.safetensors  record \d+ is damaged. `coldframe features"):
        train(settings, lists)
    extract(settings, lists)
    assert files_of(tmp_path) == sound


def test_two_builders_do_not_write_one_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("coldframe.environment.LOCK_WAIT_SECONDS", 0.1)
    settings, lists = make_request(folder, tmp_path)
    first = Extraction(Settings.from_json(settings), dict(lists))
    first.advance(0, lambda: None)
    with pytest.raises(ValueError, match=r"is in use by process \d+ .* or choose another data.features"):
        extract(settings, lists)
    first.close()
    assert extract(settings, lists)["done"]


def test_a_video_that_cannot_be_read_is_named_and_left_out_of_training_and_evaluation(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path / "cache", "torn", features__train_views=1, train__batch_size=8)
    reply = extract(settings, lists)
    assert {video["path"] for video in reply["bad"]} == {str(folder / "bad.mp4")}
    assert (reply["num_bad"], reply["num_videos"]) == (2, 16)
    session = Session()
    session.open("train", [{"name": "main", "settings": settings}], dict(lists), None, None)
    steps = session.advance(2)
    assert [step["clips"] for step in steps["steps"]] == [7, 7]
    assert steps["bad"] == [{"path": str(folder / "bad.mp4"), "reason": reply["bad"][0]["reason"]}] * 2
    found = session.evaluate(100, str(tmp_path))["results"]["main"]
    assert (found["num_videos"], found["num_bad"]) == (7, 1)
    session.close()
    assert extract(settings, lists)["bad"] == reply["bad"]  # also by a later start
    failing = {**settings, "data": {**settings["data"], "on_bad_video": "fail"}}
    with pytest.raises(ValueError, match=r"bad.mp4  is not a video"):
        train(failing, lists)


def test_the_forecast_has_the_bytes_that_are_then_written(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path, features__precision="fp16")
    extraction = Extraction(Settings.from_json(settings), dict(lists))
    forecast = extraction.forecast(lambda: None)
    assert forecast["seconds"]["measured_clips"] == CLIPS_A_PASS["cpu"]
    assert forecast["seconds"]["build"] > 0
    assert forecast["fits"]
    assert not list(tmp_path.iterdir())
    extract(settings, lists)
    written = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert forecast["bytes"]["total"] <= written < forecast["bytes"]["total"] + 2000  # headers and checksums
    assert Extraction(Settings.from_json(settings), dict(lists)).forecast(lambda: None)["seconds"] is None


def test_a_cache_of_something_else_is_refused_with_every_difference(caches, folder):
    settings, lists = caches["maps fp32"]
    changes = {
        "data__stride": 3,
        "data__seed": 6,
        "data__mirror": True,
        "eval__temporal_views": 1,
        "model__backbone__random_seed": 1,
        "features__precision": "fp16",
        "model__decoder__num_layers": 3,
    }
    other, _ = make_request(folder, Path(settings["data"]["features"]), **changes)
    with pytest.raises(ValueError, match="is not a cache of this configuration") as refused:
        train(other, lists)
    text = str(refused.value)
    assert "data.stride: 2 in the cache, 3 here" in text
    assert "data.mirror: false in the cache, true here" in text
    assert "eval.temporal_views: 2 in the cache, 1 here" in text
    assert 'features.precision: "fp32" in the cache, "fp16" here' in text
    assert "model.decoder.num_layers: 2 in the cache, 3 wanted here" in text
    assert "model.backbone.weights (SHA-256): " in text
    assert text.count("in the cache") == len(changes)
    with pytest.raises(ValueError, match="holds a cache of another configuration"):
        extract(other, lists)


def test_another_list_is_refused(caches, folder):
    settings, _ = caches["maps fp32"]
    other, other_lists = make_request(folder, Path(settings["data"]["features"]), "torn")
    with pytest.raises(ValueError, match=r"data.train_list \(SHA-256\): .*\.\.\. in the cache(.|\n)*data.val_list"):
        train(other, other_lists)


def test_a_cache_that_is_not_whole_is_refused(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path)
    with pytest.raises(ValueError, match=r"holds no feature cache. Run `coldframe features build` first"):
        train(settings, lists)
    extract(settings, {**lists, "val": None})
    with pytest.raises(ValueError, match=r"data.val_list: the cache holds none"):
        train(settings, lists)
    extract(settings, lists)
    assert extract(settings, {**lists, "val": None})["num_total"] == NUM_CLIPS * NUM_VIEWS
    (tmp_path / "val-00000000.safetensors").unlink()
    with pytest.raises(ValueError, match=r"val-00000000.safetensors is missing"):
        train(settings, lists)
    extract(settings, lists)
    (tmp_path / "features.json").write_text('{"format": 9}')
    with pytest.raises(ValueError, match=r"features.json  cannot be used: it has format 9"):
        train(settings, lists)


def test_numbers_too_large_for_half_precision_are_refused(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path, features__precision="fp16")
    extraction = Extraction(Settings.from_json(settings), dict(lists))
    with torch.no_grad():
        extraction.backbone.transformer.resblocks[-1].mlp.get_parameter("c_proj.bias").fill_(1e5)
    with pytest.raises(ValueError, match=r"a feature is too large for it. Set fp32"):
        extraction.advance(1000, lambda: None)
    extraction.close()
