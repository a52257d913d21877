"""The feature cache: what comes out of it is what the backbone gives, and a cache of something else is refused."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caches import NUM_CLIPS, NUM_VIEWS, evaluate, extract, make_request, make_videos, shard_of, train
from coldframe.assembly import batches, models
from coldframe.backbones.interface import Layer, Relations
from coldframe.backbones.shape import Wants
from coldframe.cache.passes import CLIPS_A_PASS
from coldframe.cache.read import StoredFeatures, choose_view, open_cache, read_fully
from coldframe.cache.write import Extraction
from coldframe.data.clips import normalize_, read_list
from coldframe.errors import UserError
from coldframe.session import Session
from coldframe.settings import Settings
from coldframe.train.cohort import Cohort
from coldframe.train.trial import build_trial
from layers import tensors_of

CPU = torch.device("cpu")
FORMS = ("maps", "inputs", "one")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_videos(tmp_path_factory.mktemp("videos"))


class LiveFeatures(StoredFeatures):
    """Computes the features of the clips that a cache stored, in the passes that it was built in, when they are asked
    for: what comes in are the numbers of records."""

    def __init__(self, settings: Settings, lists: dict[str, str]) -> None:
        super().__init__(Extraction(settings, dict(lists)).layout, models.build_backbone(settings, CPU, "fp32")[0])
        self.settings = settings
        self.whole, _, _ = models.build_backbone(settings, CPU, "fp32")
        self.clips = batches.training_clips(settings, read_list(lists["train"]))

    def forward(self, records_N1: torch.Tensor, wants: Wants) -> dict[int, Layer]:
        each = [self.of_record(int(record), wants) for record in records_N1.flatten()]
        return {i: self.join([layers[i] for layers in each]) for i in each[0]}

    def join(self, layers: list[Layer]) -> Layer:
        tokens, *relations = (torch.cat(parts) for parts in zip(*map(tensors_of, layers), strict=True))
        return Layer(tokens, Relations(*relations), layers[0].shape)

    def of_record(self, record: int, wants: Wants) -> dict[int, Layer]:
        size = CLIPS_A_PASS["cpu"]
        first = record - record % size
        records = range(first, min(first + size, NUM_CLIPS * NUM_VIEWS))
        places = [(r % NUM_VIEWS, r // NUM_VIEWS, r // NUM_VIEWS) for r in records]
        clips = torch.stack([self.clips[place].clip for place in places])
        clips = normalize_(clips, self.settings.data.mean, self.settings.data.std)
        layers = self.whole(clips, wants)
        place = slice(record - first, record - first + 1)
        return {
            i: Layer(layer.tokens_NTLC[place], Relations(*(maps[place] for maps in layer.relations)), layer.shape)
            for i, layer in layers.items()
        }


def train_live(settings: Settings, lists: dict[str, str]) -> list[float]:
    """Returns the losses of training on the stored views, drawn as a cache draws them, features computed live."""
    backbone, digest, _ = models.build_backbone(settings, CPU, "fp32")
    cache = open_cache([settings], digest, dict(lists))
    trial = build_trial("main", settings, backbone, CPU, "fp32")
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
    cache = open_cache([parsed], models.build_backbone(parsed, CPU, "fp32")[1], dict(lists))
    stored = list(cache.training_batches(parsed, lists["train"], 0, False))
    later = list(cache.training_batches(parsed, lists["train"], 4, False))
    assert [batch.indices.tolist() for batch in stored[4:]] == [batch.indices.tolist() for batch in later]
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(stored[4:], later, strict=True))
    live = list(
        batches.training_batches(replace(parsed, data=replace(parsed.data, features=None)), lists["train"], 0, CPU)
    )
    assert [batch.indices.tolist() for batch in stored] == [batch.indices.tolist() for batch in live]
    assert {choose_view(5, step, i, NUM_VIEWS) for step in range(6) for i in range(4)} == set(range(NUM_VIEWS))


def test_clips_of_one_video_are_different_views_of_it(caches):
    settings, lists = caches["maps fp32"]
    settings = {**settings, "data": {**settings["data"], "clips_per_video": 2}}
    parsed = Settings.from_json(settings)
    cache = open_cache([parsed], models.build_backbone(parsed, CPU, "fp32")[1], dict(lists))
    for batch in cache.training_batches(parsed, lists["train"], 0, False):
        assert batch.indices[0::2].tolist() == batch.indices[1::2].tolist()
        assert not any(torch.equal(a, b) for a, b in zip(batch.clips[0::2], batch.clips[1::2], strict=True))


@pytest.mark.parametrize(
    "pin", [False, pytest.param(True, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
)
def test_a_batch_has_the_rows_of_its_good_records_in_their_order(folder, tmp_path, pin):
    changes = {"features__train_views": 1, "train__batch_size": 5, "train__steps": 8, "eval__batch_size": 3}
    settings, lists = make_request(folder, tmp_path, "torn", **changes)
    extract(settings, lists)
    parsed = Settings.from_json(settings)
    cache = open_cache([parsed], models.build_backbone(parsed, CPU, "fp32")[1], dict(lists))
    evaluation, num_videos = cache.evaluation_batches(parsed, lists["val"], pin)
    kept = {
        "train": list(cache.training_batches(parsed, lists["train"], 0, pin)),
        "val": list(evaluation),
    }
    assert num_videos == NUM_CLIPS + 1
    for name, found in kept.items():
        assert {len(batch.bad) for batch in found} == {0, 1}
        for batch in found:
            assert len(batch.clips) == len(batch.labels) == len(batch.indices)
            assert batch.clips.is_pinned() == batch.labels.is_pinned() == pin
            for index, clip in zip(batch.indices.tolist(), batch.clips, strict=True):
                row = np.empty(clip.shape, np.float32)
                assert cache.read(name, index, row) is None
                assert (clip.numpy() == row).all()


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
    with pytest.raises(UserError, match="is not a cache of this configuration") as refused:
        train(other, lists)
    text = str(refused.value)
    assert "data.stride: 2 in the cache, 3 here" in text
    assert "data.mirror: false in the cache, true here" in text
    assert "eval.temporal_views: 2 in the cache, 1 here" in text
    assert 'features.precision: "fp32" in the cache, "fp16" here' in text
    assert "model.decoder.num_layers: 2 in the cache, 3 wanted here" in text
    assert "model.backbone.weights (SHA-256): " in text
    assert text.count("in the cache") == len(changes)
    with pytest.raises(UserError, match="holds a cache of another configuration"):
        extract(other, lists)


def test_another_list_is_refused(caches, folder):
    settings, _ = caches["maps fp32"]
    other, other_lists = make_request(folder, Path(settings["data"]["features"]), "torn")
    with pytest.raises(UserError, match=r"data.train_list \(SHA-256\): .*\.\.\. in the cache(.|\n)*data.val_list"):
        train(other, other_lists)


def test_another_root_is_refused(caches, folder):
    settings, lists = caches["maps fp32"]
    other, _ = make_request(folder, Path(settings["data"]["features"]), data__train_root="/elsewhere")
    with pytest.raises(UserError, match=r'data.train_root: null in the cache, "/elsewhere" here'):
        train(other, lists)


def test_a_cache_that_is_not_whole_is_refused(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path)
    with pytest.raises(UserError, match=r"holds no feature cache. Run `coldframe features build` first"):
        train(settings, lists)
    extract(settings, {**lists, "val": None})
    with pytest.raises(UserError, match=r"data.val_list: the cache holds no features of this list"):
        train(settings, lists)
    extract(settings, lists)
    assert extract(settings, {**lists, "val": None})["num_total"] == NUM_CLIPS * NUM_VIEWS
    shard_of(tmp_path, "val").unlink()
    with pytest.raises(UserError, match=r"val-[0-9a-f]{12}-00000000.safetensors is missing"):
        train(settings, lists)
    extract(settings, lists)
    (tmp_path / "features.json").write_text('{"format": 9}')
    with pytest.raises(UserError, match=r"features.json  cannot be used: it has format 9"):
        train(settings, lists)


@pytest.mark.parametrize("form", ["inputs", "one"])
def test_a_cache_built_without_cross_attention_serves_training_with_it(folder, tmp_path, form):
    changes = {"features__form": form, "features__train_views": 1}
    for name, crossed in (("with", True), ("without", False)):
        cross = {"model__temporal__cross_attention": crossed}
        extract(*make_request(folder, tmp_path / name, **changes, **cross))
    losses = [train(*make_request(folder, tmp_path / name, **changes)) for name in ("with", "without")]
    assert losses[0] == losses[1]
    off = make_request(folder, tmp_path / "without", **changes, model__temporal__cross_attention=False)
    assert train(*off) != losses[0]


def test_the_view_of_a_video_is_that_of_its_first_place_in_the_batch(caches):
    settings, lists = caches["maps fp32"]
    parsed = Settings.from_json({**settings, "data": {**settings["data"], "clips_per_video": 2}})
    cache = open_cache([parsed], models.build_backbone(parsed, CPU, "fp32")[1], dict(lists))
    for step, batch in enumerate(cache.training_batches(parsed, lists["train"], 0, False)):
        for place, (index, clip) in enumerate(zip(batch.indices.tolist(), batch.clips, strict=True)):
            view = (choose_view(5, step, place - place % 2, NUM_VIEWS) + place % 2) % NUM_VIEWS
            row = np.empty(clip.shape, np.float32)
            assert cache.read("train", index * NUM_VIEWS + view, row) is None
            assert (clip.numpy() == row).all()


class Stingy(io.BytesIO):
    """Gives a few bytes a call, as the system gives 2 GiB at most."""

    def readinto(self, buffer):
        return super().readinto(memoryview(buffer)[:3])


def test_a_record_that_takes_several_reads_is_read_whole():
    buffer = bytearray(10)
    assert read_fully(Stingy(b"0123456789abc"), memoryview(buffer)) == 10
    assert bytes(buffer) == b"0123456789"
    assert read_fully(Stingy(b"0123"), memoryview(buffer)) == 4
