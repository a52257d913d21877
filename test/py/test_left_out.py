"""Batches without a clip that can be read are passed: the rest of a run is what it would be, resumed or in a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clips import make_clip
from coldframe.errors import UserError
from coldframe.session import Session
from small import settings_json

DATA = {"data__dummy": False, "train__batch_size": 1, "train__steps": 6, "train__ema_decay": 0.5}


def write_list(folder: Path, num_good: int) -> str:
    paths = [make_clip(folder / f"{i}.mp4") for i in range(num_good)]
    (folder / "torn.mp4").write_bytes(b"no video")
    lines = [f"{path}\t{i}\n" for i, path in enumerate([*paths, folder / "torn.mp4"])]
    (folder / "train.tsv").write_text("".join(lines))
    return str(folder / "train.tsv")


def train(folder: Path, list_file: str, stops: list[int], *seeds: int, **changes: Any) -> list[dict[str, Any]]:
    """Returns the replies to `advance`; the run stops, saves and goes on in a new session at `stops`."""
    trials = [
        {"name": f"t{seed}", "settings": settings_json(**DATA, train__seed=seed, data__seed=0, **changes)}
        for seed in seeds
    ]
    lists = {"train": list_file, "val": None}
    folder.mkdir(exist_ok=True)
    replies = []
    for stop in stops:
        session = Session()
        session.open("train", trials, lists, None, str(folder), "auto")
        replies.append(session.advance(stop - session.running.step))
        session.save()
        session.close()
    return replies


def weights(folder: Path, seed: int) -> bytes:
    return (folder / "checkpoints" / "latest" / f"t{seed}.safetensors").read_bytes()


def test_a_batch_that_is_one_unreadable_video_is_left_out_wherever_the_run_stops(tmp_path: Path) -> None:
    list_file = write_list(tmp_path, 2)
    (whole,) = train(tmp_path / "whole", list_file, [6], 7, 8)
    assert [step["step"] for step in whole["steps"]] == [1, 2, 3, 4, 5, 6]
    left_out = [step["step"] for step in whole["steps"] if not step["trials"]]
    assert len(left_out) == 2, "each of three videos once in each of two passes"
    assert all(step["clips"] == (step["step"] not in left_out) for step in whole["steps"])
    assert {Path(video["path"]).name for video in whole["bad"]} == {"torn.mp4"}
    train(tmp_path / "alone", list_file, sorted({max(1, left_out[0] - 1), left_out[0], 6}), 7)
    assert weights(tmp_path / "alone", 7) == weights(tmp_path / "whole", 7) != weights(tmp_path / "whole", 8)


def test_a_list_of_which_nothing_can_be_read_ends_the_run(tmp_path: Path) -> None:
    list_file = write_list(tmp_path, 0)
    with pytest.raises(UserError, match=r"none of its 1 videos can be read. The first: .*torn.mp4"):
        train(tmp_path / "run", list_file, [6], 7)


def test_on_bad_video_fail_takes_no_step_from_the_first_on(tmp_path: Path) -> None:
    list_file = write_list(tmp_path, 2)
    (skipped,) = train(tmp_path / "skip", list_file, [6], 7)
    first = next(step["step"] for step in skipped["steps"] if not step["clips"])
    (failed,) = train(tmp_path / "fail", list_file, [6], 7, data__on_bad_video="fail")
    assert [Path(video["path"]).name for video in failed["bad"]] == ["torn.mp4"]
    assert (failed["step"], len(failed["steps"])) == (first - 1, first - 1)


def test_a_model_of_noise_reads_the_video_it_is_asked_about(tmp_path: Path) -> None:
    write_list(tmp_path, 1)
    session = Session()
    session.open("predict", [{"name": "main", "settings": settings_json()}], {"train": None, "val": None}, None, None)
    paths = [str(tmp_path / name) for name in ("0.mp4", "torn.mp4", "none.mp4")]
    good, torn, missing = session.predict(paths, 2)["predictions"]
    assert [len(good["classes"]), torn["classes"], missing["classes"]] == [2, None, None]
