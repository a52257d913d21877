"""The feature cache on its way to the disk and there: killed, stopped, forecast, damaged."""

import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from caches import NUM_CLIPS, evaluate, extract, files_of, make_request, make_videos, shard_of, train, write_lists
from coldframe.assembly import batches, models
from coldframe.assembly.forecast import count_pass
from coldframe.cache.manifest import read_manifest
from coldframe.cache.passes import CLIPS_A_PASS, choose_pass
from coldframe.cache.read import StoredFeatures, open_cache
from coldframe.cache.write import Extraction
from coldframe.data.clips import read_list, sample_order
from coldframe.errors import UserError, explain
from coldframe.session import Session
from coldframe.session.stored import train_on
from coldframe.settings import Settings
from coldframe.train.cohort import Cohort
from coldframe.train.trial import build_trial

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_videos(tmp_path_factory.mktemp("videos"))


BUILDER = """
import json, sys
from coldframe.cache import shards, write
from coldframe.settings import Settings

shards.SHARD_BYTES = 1 << 15
settings, lists = json.loads(sys.stdin.readline())
extraction = write.Extraction(Settings.from_json(settings), lists)
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


def test_a_builder_that_is_killed_goes_on_and_leaves_the_same_bytes(folder, tmp_path):
    undisturbed = start_builder(folder, tmp_path / "whole")
    assert undisturbed.communicate(timeout=300)[1] == ""
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
    assert again.communicate(timeout=300)[1] == ""
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert written == {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in written}


def test_a_build_that_is_stopped_keeps_all_that_was_computed(folder, tmp_path):
    cache = tmp_path / "stopped"
    settings, lists = make_request(folder, cache)
    extraction = Extraction(Settings.from_json(settings), dict(lists))
    while (reply := extraction.advance(0, lambda: None))["num_done"] < 8:
        pass
    extraction.flush()
    extraction.close()
    assert [s.num_records for s in read_manifest(cache).parts["train"].shards] == [reply["num_done"]]
    assert extract(settings, lists)["done"]
    extract(*make_request(folder, tmp_path / "whole"))
    assert files_of(cache) == files_of(tmp_path / "whole")
    assert len(train(settings, lists)) == 6


def test_two_builders_do_not_write_one_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("coldframe.machine.lock.WAIT_SECONDS", 0.1)
    settings, lists = make_request(folder, tmp_path)
    first = Extraction(Settings.from_json(settings), dict(lists))
    first.advance(0, lambda: None)
    with pytest.raises(UserError, match=r"is in use by process \d+ .* or choose another data.features"):
        extract(settings, lists)
    first.close()
    assert extract(settings, lists)["done"]


def test_a_folder_that_cannot_be_written_is_told(folder, tmp_path):
    cache = tmp_path / "taken"
    cache.write_text("a file")
    settings, lists = make_request(folder, cache)
    with pytest.raises(FileExistsError) as refused:
        extract(settings, lists)
    assert refused.value.filename == str(cache)  # which makes it the user's
    assert explain(refused.value).startswith(f"{cache}  exists already, and is not what is needed there.")


def test_a_video_that_cannot_be_read_is_named_and_left_out_of_training_and_evaluation(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path / "cache", "torn", features__train_views=1, train__batch_size=8)
    reply = extract(settings, lists)
    assert {(video["list"], video["path"]) for video in reply["bad"]} == {
        ("train", str(folder / "bad.mp4")),
        ("val", str(folder / "bad.mp4")),
    }
    assert (reply["num_bad"], reply["num_videos"]) == (2, {"train": 8, "val": 8})
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
    session = Session()
    session.open("train", [{"name": "main", "settings": failing}], dict(lists), None, None)
    ended = session.advance(1)  # the step is not taken: who called names all that are known, and ends the run
    assert ended["steps"] == []
    assert ended["bad"] == [{"path": str(folder / "bad.mp4"), "reason": "is a text, not a video"}]
    session.close()


def test_the_forecast_has_the_bytes_that_are_then_written(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path, features__precision="fp16")
    extraction = Extraction(Settings.from_json(settings), dict(lists))
    forecast = extraction.forecast(lambda: None, train_on)
    assert forecast["seconds"]["measured_clips"] == CLIPS_A_PASS["cpu"]
    assert forecast["seconds"]["build"] > 0
    assert forecast["fits"]
    assert not list(tmp_path.iterdir())
    extract(settings, lists)
    written = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert forecast["bytes"]["total"] <= written < forecast["bytes"]["total"] + 3000  # headers, checksums, sources
    assert Extraction(Settings.from_json(settings), dict(lists)).forecast(lambda: None, train_on)["seconds"] is None


def test_numbers_too_large_for_half_precision_are_refused(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path, features__precision="fp16")
    extraction = Extraction(Settings.from_json(settings), dict(lists))
    with torch.no_grad():
        extraction.backbone.transformer.resblocks[-1].mlp.get_parameter("c_proj.bias").fill_(1e5)
    with pytest.raises(UserError, match=r"a feature is too large for it. Set fp32"):
        extraction.advance(1000, lambda: None)
    extraction.close()


def test_one_cache_serves_several_lists_to_evaluate_on(folder, tmp_path):
    """A sweep chooses on one list and evaluates its best trial on another."""
    chosen, lists = make_request(folder, tmp_path / "cache")
    torn = str(folder / "torn-val.txt")
    final, final_lists = make_request(folder, tmp_path / "cache", data__val_list=torn)
    final_lists["val"] = torn
    extract(chosen, lists)
    before = files_of(tmp_path / "cache")
    with pytest.raises(UserError, match=r"data.val_list: the cache holds no features of this list"):
        evaluate(final, final_lists, tmp_path)
    extract(final, final_lists)
    after = files_of(tmp_path / "cache")
    assert len(after) == len(before) + 1
    assert all(after[name] == before[name] for name in before if name != "features.json")
    for settings, these, num_bad in ((chosen, lists, 0), (final, final_lists, 1)):
        live = {**settings, "data": {**settings["data"], "features": None}}
        cached, decoded = evaluate(settings, these, tmp_path), evaluate(live, these, tmp_path)
        assert len(cached["indices"]) == len(read_list(these["val"])) - num_bad
        np.testing.assert_array_equal(cached["indices"], decoded["indices"])
        np.testing.assert_allclose(cached["scores"], decoded["scores"], atol=1e-5)


def pad(content: bytes, size: int) -> bytes:
    """Returns an MP4 of so many bytes, with a free box at its end."""
    more = size - len(content)
    return content + more.to_bytes(4, "big") + b"free" + bytes(more - 8)


@pytest.mark.parametrize("same_size", [True, False])
def test_a_video_that_was_replaced_in_place_is_told_and_computed_anew(tmp_path, same_size):
    folder = make_videos(tmp_path)
    video, other = (folder / name for name in ("3.mp4", "4.mp4"))
    size = 8 + max(video.stat().st_size, other.stat().st_size)
    video.write_bytes(pad(video.read_bytes(), size))
    settings, lists = make_request(folder, tmp_path / "cache", features__train_views=1)
    extract(settings, lists)
    names, losses = files_of(tmp_path / "cache").keys(), train(settings, lists)
    os.utime(video, ns=(1, 1))  # touched, or copied: the same bytes
    assert train(settings, lists) == losses
    video.write_bytes(pad(other.read_bytes(), size if same_size else size + 8))
    for refuse in (train, lambda *request: evaluate(*request, tmp_path)):
        with pytest.raises(UserError, match=r": 1 videos were changed after the cache was built, such as .*3\.mp4"):
            refuse(settings, lists)
    assert extract(settings, lists)["done"]
    assert train(settings, lists) != losses
    assert files_of(tmp_path / "cache").keys() == names
    video.unlink()  # a cache needs no videos
    assert len(train(settings, lists)) == 6


def test_reasons_of_two_bad_videos_stay_with_their_videos(folder, tmp_path):
    (folder / "text.mp4").write_text("words")
    (folder / "short.mp4").write_bytes((folder / "0.mp4").read_bytes()[:200])
    write_lists(folder, "two", [folder / "text.mp4", folder / "short.mp4", folder / "0.mp4"])
    settings, lists = make_request(folder, tmp_path, "two", features__train_views=1)
    reply = extract(settings, lists)
    clips = batches.evaluation_clips(Settings.from_json(settings), read_list(lists["val"]))
    reasons = {video.path: video.reason for video in (clips[0].clip, clips[1].clip)}
    assert len(set(reasons.values())) == 2
    assert {video["path"]: video["reason"] for video in reply["bad"]} == reasons
    assert read_manifest(tmp_path).parts["train"].bad == dict(enumerate(reasons.values()))


def test_clips_of_a_pass_are_as_many_as_memory_holds(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path, features__batch_size=5)
    assert Extraction(Settings.from_json(settings), dict(lists)).clips_a_pass == 5
    parsed = Settings.from_json(settings)
    takes = {size: count_pass(parsed, size, "fp16") for size in (1, 2, 4, 8, 16)}
    assert sorted(takes.values()) == list(takes.values())
    for size, num_bytes in takes.items():
        assert choose_pass(parsed, "fp16", num_bytes) == size
    assert choose_pass(parsed, "fp16", 1) == 1  # at least one
    assert choose_pass(parsed, "fp16", 2**50) == 16


# ---- damage ----------------------------------------------------------------------------------------------------------

TRAIN = "train-00000000.safetensors"


def change_row(file: Path, row: int, *, true_checksum: bool) -> None:
    """Flips the lowest bit of one stored number; with a checksum that agrees, makes noise of all of them."""
    shard = load_file(file)
    rows = shard["clips"].view(np.uint8)
    if true_checksum:
        shard["clips"][row] = np.random.default_rng(0).normal(size=shard["clips"].shape[1])
        shard["crc32"][row] = zlib.crc32(rows[row].data)
    else:
        rows[row, 400] ^= 1
    save_file(shard, file)


def train_without_last(settings: dict, lists: dict, num_listed: int) -> list[float]:
    """Returns the losses of the batches of a list of `num_listed` videos whose last one the cache knows nothing of."""
    parsed = Settings.from_json(settings)
    backbone, digest, _ = models.build_backbone(parsed, CPU, "fp32")
    cache = open_cache([parsed], digest, dict(lists))
    trial = build_trial("main", parsed, backbone, CPU, "fp32")
    cohort = Cohort([trial], StoredFeatures(cache.layout, backbone), CPU, "fp32")
    losses = []
    for step in range(parsed.train.steps):
        size = parsed.train.batch_size
        order = [i for i in sample_order(num_listed, parsed.data.seed, step * size, size) if i < num_listed - 1]
        rows = np.empty((len(order), cache.layout.numbers), np.float32)
        for row, record in zip(rows, order, strict=True):
            cache.read("train", record, row)
        labels = torch.tensor([i % 5 for i in order])
        losses.append(cohort.step(step, torch.from_numpy(rows), labels)["main"].loss)
    return losses


def test_what_lies_in_the_place_of_an_unreadable_video_reaches_no_number(folder, tmp_path):
    changes = {"features__train_views": 1, "train__batch_size": NUM_CLIPS + 1}
    late, late_lists = make_request(folder, tmp_path / "late", "late", **changes)
    good, good_lists = make_request(folder, tmp_path / "good", **changes)
    extract(late, late_lists)
    extract(good, good_lists)
    for role in ("train", "val"):
        change_row(shard_of(tmp_path / "late", role), NUM_CLIPS, true_checksum=True)
    assert train(late, late_lists) == train_without_last(good, good_lists, NUM_CLIPS + 1)
    found, without = (evaluate(*request, tmp_path) for request in ((late, late_lists), (good, good_lists)))
    assert found["indices"].tolist() == list(range(NUM_CLIPS))
    np.testing.assert_array_equal(found["scores"], without["scores"])


def test_a_damaged_record_ends_training_before_its_numbers_are_used_and_is_mended(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path, features__train_views=1)
    extract(settings, lists)
    sound, losses = files_of(tmp_path), train(settings, lists)
    orders = [sample_order(NUM_CLIPS, 5, step * 4, 4) for step in range(2)]
    record = next(i for i in orders[1] if i not in orders[0])
    change_row(tmp_path / TRAIN, record, true_checksum=False)
    session = Session()
    session.open("train", [{"name": "main", "settings": settings}], dict(lists), None, None)
    assert session.advance(1)["steps"][0]["trials"]["main"]["loss"] == losses[0]
    before = [parameter.clone() for _, parameter in session.running.cohort.trials[0].named_parameters()]
    with pytest.raises(UserError, match=f"{TRAIN}  record {record} is damaged. `coldframe features build` mends"):
        session.advance(1)
    after = [parameter for _, parameter in session.running.cohort.trials[0].named_parameters()]
    assert session.running.step == 1
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    session.close()
    extract(settings, lists)
    assert files_of(tmp_path) == sound


def test_a_damaged_record_ends_an_evaluation_without_a_result(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path / "cache", features__train_views=1)
    extract(settings, lists)
    shard = shard_of(tmp_path / "cache", "val")
    change_row(shard, 5, true_checksum=False)
    with pytest.raises(UserError, match=f"{shard.name}  record 5 is damaged"):
        evaluate(settings, lists, tmp_path)
    assert not list(tmp_path.glob("*.npz"))


def test_a_damaged_header_of_a_shard_is_told_with_the_repair(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path, features__train_views=1)
    extract(settings, lists)
    sound = files_of(tmp_path)
    name_at = sound[TRAIN].index(b"crc32")
    for at in (6, 8, name_at):  # the header's length, its first brace, a name in it
        damaged = bytearray(sound[TRAIN])
        damaged[at] ^= 1
        (tmp_path / TRAIN).write_bytes(damaged)
        with pytest.raises(UserError, match=f"{TRAIN}  has a damaged header. `coldframe features build` mends"):
            train(settings, lists)


def test_a_damaged_manifest_is_told_with_the_repair(folder, tmp_path):
    settings, lists = make_request(folder, tmp_path, features__train_views=1)
    extract(settings, lists)
    file = tmp_path / "features.json"
    sound = file.read_text()
    shifted = sound.replace('"first": 0', '"first": 1')  # rows of other clips, with checksums that agree
    for damaged in (shifted, sound[:-9], sound.replace('"sha256"', '"sha255"'), "[]", sound.replace('"', "\xff", 1)):
        assert damaged != sound
        file.write_bytes(damaged.encode("latin-1"))
        with pytest.raises(UserError, match=r"features.json  cannot be used: .* Remove the folder and build"):
            train(settings, lists)
