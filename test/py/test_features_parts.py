"""A feature cache that several builders compute: the same files as of one, whatever happens to them."""

import shutil
from pathlib import Path

import pytest

from caches import extract, files_of, make_request, make_videos
from coldframe.cache import shards
from coldframe.cache.manifest import read_manifest
from coldframe.cache.parts import Merge, Share
from coldframe.cache.write import Extraction
from coldframe.errors import UserError
from coldframe.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_videos(tmp_path_factory.mktemp("videos"))


def build_part(settings: dict, lists: dict, share: Share, num_calls: int = 1000) -> Extraction:
    """Returns the builder of a part after so many passes."""
    extraction = Extraction(Settings.from_json(settings), dict(lists), share)
    for _ in range(num_calls):
        if extraction.advance(0, lambda: None)["done"]:
            break
    return extraction


def share_of(cache: Path, index: int, count: int) -> Share:
    return Share(cache / "parts" / f"p{index + 1}", index, count)


def merge(settings: dict, lists: dict, cache: Path) -> dict:
    merging = Merge(Settings.from_json(settings), dict(lists), sorted((cache / "parts").iterdir()), 2)
    merged = merging.advance(1000, lambda: None)
    merging.close()
    return merged


def compare(cache: Path, whole: Path) -> None:
    shutil.rmtree(cache / "parts")
    assert files_of(cache) == files_of(whole)


@pytest.mark.parametrize("shard_bytes", [1 << 28, 1 << 15])
def test_parts_of_which_one_is_stopped_and_goes_on_make_the_files_of_a_whole_build(
    folder, tmp_path, monkeypatch, shard_bytes
):
    monkeypatch.setattr(shards, "SHARD_BYTES", shard_bytes)
    whole, lists = make_request(folder, tmp_path / "whole", "torn")
    extract(whole, lists)
    cache = tmp_path / "cache"
    settings, _ = make_request(folder, cache, "torn")
    for index in range(3):
        extraction = build_part(settings, lists, share_of(cache, index, 3), num_calls=4 if index == 1 else 1000)
        extraction.flush()
        extraction.close()
    assert merge(settings, lists, cache)["num_missing"] > 0  # what is not there yet is said, and nothing else is lost
    extraction = build_part(settings, lists, share_of(cache, 1, 3))
    extraction.close()
    merged = merge(settings, lists, cache)
    assert merged["num_missing"] == 0
    assert {(bad["list"], bad["path"]) for bad in merged["bad"]} == {
        (role, str(folder / "bad.mp4")) for role in ("train", "val")
    }
    compare(cache, tmp_path / "whole")


def build_both_ways(folder: Path, tmp_path: Path) -> tuple[dict, dict, Path]:
    """Returns settings, lists and folder of a cache in two parts, not merged yet; one of the same is in `whole`."""
    whole, lists = make_request(folder, tmp_path / "whole")
    extract(whole, lists)
    cache = tmp_path / "cache"
    settings, _ = make_request(folder, cache)
    for index in range(2):
        build_part(settings, lists, share_of(cache, index, 2)).close()
    return settings, lists, cache


def test_a_merge_that_was_killed_between_moving_and_noting_goes_on(folder, tmp_path):
    settings, lists, cache = build_both_ways(folder, tmp_path)
    moved = next((cache / "parts" / "p1").glob("*.safetensors"))
    moved.replace(cache / moved.name)
    assert merge(settings, lists, cache)["num_missing"] == 0
    compare(cache, tmp_path / "whole")


def test_a_shard_that_is_damaged_before_the_merge_is_missing_and_built_again(folder, tmp_path):
    settings, lists, cache = build_both_ways(folder, tmp_path)
    shard = read_manifest(cache / "parts" / "p2").parts["train"].shards[0]
    content = bytearray((cache / "parts" / "p2" / shard.file).read_bytes())
    content[-5] ^= 1
    (cache / "parts" / "p2" / shard.file).write_bytes(content)
    assert merge(settings, lists, cache)["num_missing"] == shard.num_records
    for index in range(2):
        extraction = build_part(settings, lists, share_of(cache, index, 2))
        done = extraction.advance(0, lambda: None)
        assert done["num_total"] == (shard.num_records if index == 1 else 0)
        extraction.close()
    assert merge(settings, lists, cache)["num_missing"] == 0
    compare(cache, tmp_path / "whole")


def test_parts_that_were_computed_otherwise_are_refused(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path)
    build_part(settings, lists, share_of(tmp_path, 0, 2)).close()
    other, _ = make_request(folder, tmp_path, data__stride=3)
    build_part(other, lists, share_of(tmp_path, 1, 2)).close()
    with pytest.raises(UserError, match=r"p2 holds a cache .*:\n.*data.stride: 3 in the cache, 2 here"):
        merge(settings, lists, tmp_path)
    with pytest.raises(UserError, match=r"p1 holds a cache of another configuration"):
        build_part(other, lists, share_of(tmp_path, 0, 2))


@pytest.mark.parametrize("first", [1, 2])
def test_so_are_parts_with_more_layers_or_fewer(folder, tmp_path, first):
    for index, num_layers in enumerate([first, 3 - first]):
        settings, lists = make_request(folder, tmp_path, model__decoder__num_layers=num_layers)
        build_part(settings, lists, share_of(tmp_path, index, 2)).close()
    with pytest.raises(UserError, match=r"p2 holds a cache .*:\n.*model.decoder.num_layers"):
        merge(settings, lists, tmp_path)


def test_parts_take_what_a_cache_lacks_and_leave_what_it_has(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path / "cache")
    begun = Extraction(Settings.from_json(settings), dict(lists))
    while (reply := begun.advance(0, lambda: None))["num_done"] < 8:
        pass
    begun.flush()
    begun.close()
    totals = []
    for index in range(2):
        extraction = build_part(settings, lists, share_of(tmp_path / "cache", index, 2))
        totals.append(extraction.advance(0, lambda: None)["num_total"])
        extraction.close()
    assert sum(totals) == reply["num_total"] - reply["num_done"]
    assert merge(settings, lists, tmp_path / "cache")["num_missing"] == 0
    whole, _ = make_request(folder, tmp_path / "whole")
    extract(whole, lists)
    compare(tmp_path / "cache", tmp_path / "whole")


def test_shares_hold_every_record_once_in_full_passes():
    for num_records, limit, records_a_pass, count in [(21, 8, 2, 4), (7, 64, 2, 9), (1000, 10, 5, 3), (0, 8, 2, 2)]:
        ranges = [Share(Path(), index, count).of(num_records, limit, records_a_pass) for index in range(count)]
        assert [record for part in ranges for record in part] == list(range(num_records))
        assert all(part.start % records_a_pass == 0 for part in ranges if part)
    many = [Share(Path(), index, 3).of(1000, 10, 5) for index in range(3)]
    assert all(part.start % 10 == 0 for part in many)  # whole shards are only moved
    assert [len(part) for part in many] == [330, 330, 340]
