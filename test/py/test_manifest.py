"""What a cache depends on: every key of the configuration is sorted here, so that a new one has to be, too."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from coldframe.cache import manifest
from coldframe.cache.manifest import Layout, Manifest, Part, Shard, describe_key, describe_parts, find_differences
from coldframe.settings import Backbone, Data, Eval, Features
from small import settings

BASE: dict[str, Any] = {"data__augment": "rand-m7", "data__dummy": False}
# Another value of each key that changes a stored number, and how the difference is told.
CHANGING: dict[str, tuple[Any, str]] = {
    "data__train_list": ("other", "data.train_list (SHA-256)"),
    "data__train_root": ("/a", 'data.train_root: null in the cache, "/a" here'),
    "data__val_root": ("/b", 'data.val_root: null in the cache, "/b" here'),
    "data__root": ("/c", 'data.train_root: null in the cache, "/c" here'),
    "data__num_frames": (4, "data.num_frames: 3 in the cache, 4 here"),
    "data__stride": (3, "data.stride: 2 in the cache, 3 here"),
    "data__sampling": ("tsn", 'data.sampling: "dense" in the cache, "tsn" here'),
    "data__size": (32, "data.size: 24 in the cache, 32 here"),
    "data__mean": (
        [0.5, 0.4, 0.4],
        "data.mean: [0.48145466, 0.4578275, 0.40821073] in the cache, [0.5, 0.4, 0.4] here",
    ),
    "data__std": ([0.5, 0.2, 0.2], "data.std: [0.26862954, 0.26130258, 0.27577711] in the cache, [0.5, 0.2, 0.2] here"),
    "data__augment": (None, 'data.augment: "rand-m7" in the cache, null here'),
    "data__mirror": (True, "data.mirror: false in the cache, true here"),
    "data__interpolation": ("random", 'data.interpolation: "bicubic" in the cache, "random" here'),
    "data__short_clips": ("last_frame", 'data.short_clips: "recipe" in the cache, "last_frame" here'),
    "data__reader": ("torchcodec", 'data.reader: "pyav" in the cache, "torchcodec" here'),
    "data__seed": (7, "data.seed: 0 in the cache, 7 here"),
    "model__backbone__num_heads": (4, "model.backbone.num_heads: 2 in the cache, 4 here"),
    "model__backbone__activation": ("gelu", 'model.backbone.activation: "quick_gelu" in the cache, "gelu" here'),
    "model__backbone__width": (64, "model.backbone.width: 32 in the cache, 64 here"),
    "model__backbone__input_size": (32, "patches of a frame: 9 in the cache, 16 here"),
    "features__form": ("one", 'features.form: "maps" in the cache, "one" here'),
    "features__precision": ("fp32", 'features.precision: "fp16" in the cache, "fp32" here'),
    "features__train_views": (2, "features.train_views: 1 in the cache, 2 here"),
    "eval__spatial_views": (3, "eval.spatial_views: 1 in the cache, 3 here"),
    "eval__temporal_views": (1, "eval.temporal_views: 2 in the cache, 1 here"),
    "model__decoder__num_layers": (3, "model.decoder.num_layers: 2 in the cache, 3 wanted here"),
}
# Told by the SHA-256 of the backbone's weights, or as a part of its own (the list to evaluate on).
ELSEWHERE = {"preset", "num_layers", "patch_size", "mlp_factor", "weights", "weights_sha256", "random_seed", "val_list"}
# Change no stored number; a backbone that is trained has no cache.
UNCHANGING: dict[str, Any] = {
    "data__classes": "names.txt",
    "data__num_classes": 6,
    "data__labels": "multi",
    "data__balance": "classes",
    "data__num_workers": 3,
    "data__clips_per_video": 2,
    "data__features": "elsewhere",
    "data__on_bad_video": "fail",
    "data__max_bad_fraction": 0.5,
    "data__dummy": True,
    "model__backbone__train_blocks": 1,
    "model__backbone__freeze": False,
    "features__batch_size": 4,
    "eval__batch_size": 1,
    "eval__every": 3,
    "eval__thresholds": "result.json",
    "eval__temperature": 2.0,
    "model__decoder__num_layers": 1,
    "train__batch_size": 8,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lists")
    (folder / "list").write_text("a.mp4\t0\n")
    (folder / "other").write_text("b.mp4\t0\n")
    return folder


def describe(folder: Path, **changes: Any) -> Manifest:
    lists = {"data__train_list": "list", "data__val_list": "list", **changes}
    named = {key: str(folder / lists.pop(key)) for key in ("data__train_list", "data__val_list")}
    chosen = settings(**{**BASE, **lists, **named})
    parts = describe_parts(chosen, {"train": named["data__train_list"], "val": named["data__val_list"]})
    return Manifest(Layout.of(chosen), describe_key(chosen, "5" * 64), "fp32", parts)


def test_every_key_is_sorted() -> None:
    sections = {"data": Data, "model__backbone": Backbone, "features": Features, "eval": Eval}
    for section, kind in sections.items():
        for field in dataclasses.fields(kind):
            key = f"{section}__{field.name}"
            assert (key in CHANGING) + (key in UNCHANGING) + (field.name in ELSEWHERE) == 1, key


@pytest.mark.parametrize("key", CHANGING)
def test_a_key_that_changes_a_stored_number_is_told(folder: Path, key: str) -> None:
    value, words = CHANGING[key]
    found = find_differences(describe(folder), describe(folder, **{key: value}))
    assert any(line.startswith(words) for line in found), found


@pytest.mark.parametrize("key", UNCHANGING)
def test_a_key_that_changes_none_is_not(folder: Path, key: str) -> None:
    assert find_differences(describe(folder), describe(folder, **{key: UNCHANGING[key]})) == []


def test_what_has_no_effect_makes_no_difference(folder: Path) -> None:
    plain, tsn = {"data__augment": None}, {"data__sampling": "tsn"}
    for common, change in ((plain, {"data__interpolation": "random"}), (tsn, {"data__stride": 5})):
        assert find_differences(describe(folder, **common), describe(folder, **common, **change)) == []


def test_weights_precision_and_list_of_another_cache_are_told(folder: Path) -> None:
    have, wanted = describe(folder), describe(folder, data__val_list="other")
    wanted.key["model.backbone.weights (SHA-256)"] = "6" * 64
    wanted.computed_in = "bf16"
    assert find_differences(have, wanted) == [
        'precision that it is computed in: "fp32" in the cache, "bf16" here',
        f"model.backbone.weights (SHA-256): {'5' * 16}... in the cache, {'6' * 16}... here",
    ]
    assert wanted.parts.keys() - have.parts.keys()  # a part of its own, which `open_cache` misses


@pytest.mark.parametrize("form", ["maps", "inputs", "one"])
def test_maps_are_missed_where_they_would_be_stored(folder: Path, form: str) -> None:
    without = describe(folder, features__form=form, model__temporal__cross_attention=False)
    found = find_differences(without, describe(folder, features__form=form))
    told = ["model.temporal.cross_attention: the cache has no maps for it"]
    assert found == (told if form == "maps" else [])


def test_a_shard_that_is_dropped_takes_its_bad_records_along() -> None:
    first, second = (Shard(f"{at}", at, 4, 1, "") for at in (0, 4))
    part = Part("train", 8, 1, {}, [first, second], {1: "torn", 5: "torn"})
    part.drop(first)
    assert (part.shards, part.bad, list(part.gaps())) == ([second], {5: "torn"}, [range(4)])


def test_an_older_cache_that_does_not_say_what_stands_before_the_patches_is_read(folder: Path, tmp_path: Path) -> None:
    built = describe(folder)
    built.write(tmp_path)
    file = tmp_path / manifest.MANIFEST
    value = json.loads(file.read_text())
    del value["layout"]["prefix"], value["sha256"]
    file.write_text(json.dumps({**value, "sha256": manifest._hash_value(value)}))
    found = manifest.read_manifest(tmp_path)
    assert found is not None
    assert find_differences(found, built) == []
    assert found.layout.shapes == [[(3, 1 + 9, 32), (2, 9, 9), (2, 9, 9)]] * 2
