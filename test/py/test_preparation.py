"""A folder of prepared clips: what a stop, a kill or several processes leave of it is gone on with."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clips import make_clip
from coldframe.data.clips import Listed
from coldframe.errors import UserError
from coldframe.machine.processes import Workers
from coldframe.prepare.clips import Preparation, Share, plan_targets, read_manifest
from small import settings


def test_names_do_not_collide() -> None:
    root = "/data/k"
    sources = [
        "/data/k/a/1.mp4",
        "/data/k/a/2.avi",
        "/data/k/a/2.mp4",
        "/data/k/./A/1.MP4",
        "/data/k/b c: d.webm",
        "/elsewhere/a/1.mp4",
        "/data/k/../k2/x",
    ]
    targets = plan_targets(dict.fromkeys(sources, root), {source: Listed(source, 0) for source in sources})
    assert len({target.casefold() for target in targets.values()}) == len(sources)
    assert targets["/data/k/b c: d.webm"] == "clips/b c: d.mp4"
    assert targets["/elsewhere/a/1.mp4"] == "clips/outside/elsewhere/a/1.mp4"
    assert targets["/data/k/../k2/x"] == "clips/outside/data/k2/x.mp4"
    assert targets["/data/k/a/2.avi"].startswith("clips/a/2-")
    other = plan_targets(dict.fromkeys(reversed(sources), root), {source: Listed(source, 0) for source in sources})
    assert other == targets


class Request:
    """Four clips and a broken one in a list, and what prepares them."""

    def __init__(self, folder: Path) -> None:
        (folder / "videos").mkdir()
        paths = [make_clip(folder / "videos" / f"{i}.mp4", num_frames=12, seed=i) for i in range(4)]
        broken = folder / "videos" / "broken.mp4"
        broken.write_text("no video")
        self.sources = [str(path) for path in [*paths[:2], broken, *paths[2:]]]
        self.lists = {"train": str(folder / "train.tsv"), "val": None}
        Path(folder / "train.tsv").write_text("".join(f"{path}\t{i}\n" for i, path in enumerate(self.sources)))
        self.folder, self.root = folder / "ready", str(folder / "videos")

    def open(self, share: Share | None = None, **changes: Any) -> Preparation:
        base = {"data__train_list": f"{self.root}/train.txt", "data__root": self.root, "data__num_workers": 2}
        return Preparation(settings(**base, **changes), self.lists, self.folder, share)

    def run(self, share: Share | None = None, **changes: Any) -> dict[str, Any]:
        work = self.open(share, **changes)
        try:
            return self.finish(work)
        finally:
            work.close()

    def finish(self, work: Preparation) -> dict[str, Any]:
        replies = [work.advance(0.05, lambda: None)]
        while not replies[-1]["done"]:
            replies.append(work.advance(0.05, lambda: None))
        return {**replies[-1], "bad": [video for reply in replies for video in reply["bad"]]}

    def part(self, index: int) -> Share:
        return Share(self.folder / "parts" / f"p{index + 1}", index, 2)

    def hashes(self) -> dict[str, str]:
        _, records = read_manifest(self.folder / "manifest.jsonl")
        return {source: record["sha256"] for source, record in records.items()}


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return Request(tmp_path)


def test_lists_manifest_and_bad_videos(request_: Request) -> None:
    result = request_.run()
    reason = "is a text, not a video"
    assert result["bad"] == [{"path": request_.sources[2], "reason": reason}]
    assert (result["num_done"], result["num_total"], result["num_bad"]) == (5, 5, 1)
    assert (request_.folder / "train.txt").read_text() == "".join(f"clips/{i}.mp4 {j}\n" for i, j in enumerate("0134"))
    assert (request_.folder / "bad-videos.tsv").read_text() == f"{request_.sources[2]}\t{reason}\n"
    _, records = read_manifest(request_.folder / "manifest.jsonl")
    for source, record in records.items():
        target = request_.folder / record["target"]
        assert hashlib.sha256(target.read_bytes()).hexdigest() == record["sha256"]
        assert hashlib.sha256(Path(source).read_bytes()).hexdigest() == record["source_sha256"]
        assert (target.stat().st_size, record["num_frames"]) == (record["size_bytes"], 12)
    assert result["size_bytes"] == sum(record["size_bytes"] for record in records.values())


def test_only_what_is_missing_torn_or_changed_is_done_again(request_: Request) -> None:
    request_.run()
    hashes, journal = request_.hashes(), request_.folder / "manifest.jsonl"
    times = {path: path.stat().st_mtime_ns for path in (request_.folder / "clips").iterdir()}
    *whole, last = journal.read_bytes().splitlines(keepends=True)
    torn = json.loads(last)
    journal.write_bytes(b"".join(whole) + last[:-9])
    changed = next(source for source in request_.sources if source in hashes and source != torn["source"])
    make_clip(changed, num_frames=13, seed=9)
    request_.run()
    again = {path.name for path, before in times.items() if path.stat().st_mtime_ns != before}
    assert again == {Path(torn["target"]).name, Path(changed).name}
    assert request_.hashes() == {**hashes, changed: request_.hashes()[changed]} != hashes
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_source_replaced_by_one_of_the_same_size_is_done_again(request_: Request) -> None:
    source = Path(request_.sources[0])

    def make(seed: int) -> None:
        make_clip(source, num_frames=12, seed=seed)
        num_free = 50_000 - source.stat().st_size  # a box that readers pass over
        source.write_bytes(source.read_bytes() + num_free.to_bytes(4, "big") + b"free" + bytes(num_free - 8))

    make(0)
    request_.run()
    before = request_.hashes()
    make(9)
    assert source.stat().st_size == 50_000
    request_.run()
    assert [path for path, digest in request_.hashes().items() if digest != before[path]] == [str(source)]


def test_other_settings_are_refused_by_name(request_: Request) -> None:
    request_.run()
    with pytest.raises(UserError, match=r"other settings:\n  prepare\.gop: 4 there, 8 here\nGive another --output"):
        request_.open(prepare__gop=8)


def test_one_writer_at_a_time(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldframe.machine.lock.WAIT_SECONDS", 0.2)
    one, two = request_.open(), request_.open()
    one.advance(0, lambda: None)
    with pytest.raises(UserError, match=r"is in use by process \d+ .* or choose another --output"):
        two.advance(0, lambda: None)
    one.close()
    two.close()


def test_its_own_clips_are_no_source(request_: Request, tmp_path: Path) -> None:
    request_.run()
    Path(request_.lists["train"] or "").write_text(f"{request_.folder}/clips/0.mp4\t0\n")
    with pytest.raises(UserError, match="lies in it"):
        request_.open()


def test_forecast_is_near_and_writes_nothing(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    work = request_.open()
    forecast = work.forecast(lambda: None)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=9))
    tight = work.forecast(lambda: None)
    work.close()
    assert not request_.folder.exists()
    assert (forecast["fits"], tight["fits"], tight["free_bytes"]) == (True, False, 9)
    assert (forecast["num_clips"], forecast["num_todo"], forecast["measured_clips"]) == (5, 5, 4)
    assert forecast["source_bytes"] == sum(Path(source).stat().st_size for source in request_.sources)
    result = request_.run()
    bytes_ = forecast["bytes"]
    assert bytes_["low"] <= result["size_bytes"] <= bytes_["high"]
    assert bytes_["estimate"] == pytest.approx(result["size_bytes"], rel=0.05)


def test_a_worker_that_dies_is_replaced_and_its_clip_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.mp4")  # nobody writes: who opens it waits
    clip = make_clip(tmp_path / "clip.mp4", num_frames=4)
    workers = Workers(1, "coldframe.prepare.transcode", "re-encodes it")

    def request(source: Path) -> dict[str, Any]:
        encoding = {"short_side": 64, "gop": 4, "crf": 21, "preset": "superfast"}
        return {
            "source": str(source),
            "target": f"{tmp_path}/ready.mp4",
            "encoding": encoding,
            "max_frames": None,
            "part": None,
        }

    try:
        stuck, after = workers.submit(request(tmp_path / "endless.mp4")), workers.submit(request(clip))
        for number in (1, 2):
            while len(workers._processes) < number:
                time.sleep(0.01)
            for worker in list(workers._processes):
                worker.kill()
        assert stuck.result(60) == {"reason": "ends the process that re-encodes it by SIGKILL"}
        assert after.result(60)["made"]["num_frames"] == 4
    finally:
        workers.close()
    assert all(worker.poll() is not None for worker in workers._processes)


def test_two_shares_of_which_one_is_stopped_make_the_folder_of_one_preparation(request_: Request) -> None:
    whole = request_.run()
    names = ("train.txt", "bad-videos.tsv")
    written, hashes = [(request_.folder / name).read_bytes() for name in names], request_.hashes()
    shutil.rmtree(request_.folder)

    stopped = request_.open(request_.part(0))
    stopped.advance(0, lambda: None)
    stopped.close()
    parts = [request_.run(request_.part(index)) for index in range(2)]
    assert [(part["num_total"], part["num_clips"]) for part in parts] == [(3, 5), (2, 5)]
    assert not (request_.folder / "train.txt").exists()  # the lists are of all clips

    bad = {video["path"]: video["reason"] for part in parts for video in part["bad"]}
    merging = request_.open()
    merged = merging.merge([request_.part(index).folder for index in range(2)], bad, lambda: None)
    merging.close()
    assert merged == {**whole, "num_done": 5}
    assert [(request_.folder / name).read_bytes() for name in names] == written
    assert request_.hashes() == hashes
    assert request_.run()["num_done"] == 5  # and it is one that can be gone on with


def test_what_a_share_has_made_and_is_not_there_is_made_again(request_: Request) -> None:
    parts = [request_.run(request_.part(index)) for index in range(2)]
    (request_.folder / "clips" / "0.mp4").write_bytes(b"cut")
    merging = request_.open()
    bad = {video["path"]: video["reason"] for part in parts for video in part["bad"]}
    folders = [request_.part(index).folder for index in range(2)]
    assert merging.merge(folders, bad, lambda: None)["done"] is False
    result = request_.finish(merging)
    merging.close()
    assert (result["num_bad"], result["num_total"]) == (1, 5)
    assert (request_.folder / "clips" / "0.mp4").stat().st_size > len(b"cut")


def test_a_share_prepared_with_other_settings_is_refused(request_: Request) -> None:
    request_.run(request_.part(0))
    with pytest.raises(UserError, match=r"p1 {2}holds clips prepared with .*:\n {2}prepare.crf: 23 there, 30"):
        request_.open(request_.part(0), prepare__crf=30)
