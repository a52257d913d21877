"""Checkpoints: whole or not there, exact, and clear about what does not fit."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from coldframe.assembly import models
from coldframe.errors import UserError
from coldframe.train import checkpoint, resume
from coldframe.train.cohort import Cohort
from small import settings_json
from test_cohort import make_batch, make_cohort, weights


def save(
    folder: Path,
    cohort: Cohort,
    step: int,
    keep: int | None = 3,
    digest: str | None = None,
    spared: Collection[int] = (),
) -> Path:
    header: dict[str, Any] = {
        "step": step,
        "backbone_sha256": digest or models.hash_weights(cohort.backbone),  # as loaded, before any training
        "classes": ["a", "b", "c", "d", "e"],
        "config": {trial.name: settings_json() for trial in cohort.trials},
    }
    return checkpoint.save(folder, cohort, header, keep, spared)


def restore(cohort: Cohort, path: Path, classes: list[str] | None = None) -> int:
    return resume.restore(cohort, path, models.hash_weights(cohort.backbone), classes, True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train__decay_all": False, "model__backbone__freeze": False, "train__backbone_lr": 1e-4},
        {"model__backbone__freeze": False, "model__backbone__train_blocks": 1},
    ],
)
def test_a_run_that_stops_and_goes_on_ends_with_the_same_bytes(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole, first, second = (make_cohort(main=changes) for _ in range(3))
    digest = models.hash_weights(whole.backbone)
    for step in range(5):
        whole.step(step, *make_batch(step))
    for step in range(2):
        first.step(step, *make_batch(step))
    torch.manual_seed(99)  # a new process stands somewhere else in the global stream
    assert restore(second, save(tmp_path / "a", first, 2, digest=digest)) == 2
    for step in range(2, 5):
        second.step(step, *make_batch(step))
    paths = save(tmp_path / "b", whole, 5, digest=digest), save(tmp_path / "c", second, 5, digest=digest)
    files = sorted(file.name for file in paths[0].iterdir())
    assert files == ["checkpoint.json", "main.optimizer.safetensors", "main.safetensors"]
    for file in files:
        assert (paths[0] / file).read_bytes() == (paths[1] / file).read_bytes(), file


def test_the_mean_of_the_weights_is_what_a_checkpoint_is_used_for_outside_of_training(tmp_path: Path) -> None:
    changes = {"train__ema_decay": 0.5}
    trained, evaluated, resumed = (make_cohort(main=changes) for _ in range(3))
    for step in range(2):
        trained.step(step, *make_batch(step))
    path = save(tmp_path, trained, 2)
    resume.restore(evaluated, path, models.hash_weights(evaluated.backbone), None, False)
    restore(resumed, path)
    average = trained.trials[0].average
    assert not torch.equal(average["proj.2.weight"], weights(trained, "main")["proj.2.weight"])
    assert all(torch.equal(value, average[key]) for key, value in weights(evaluated, "main").items())
    assert all(torch.equal(value, average[key]) for key, value in checkpoint.read_weights(path).items())
    for key, value in weights(resumed, "main").items():
        assert torch.equal(value, weights(trained, "main")[key]), key
        assert torch.equal(resumed.trials[0].average[key], average[key]), key
    clips, _ = make_batch(5)
    assert torch.equal(evaluated.scores(clips)["main"], trained.scores(clips)["main"])


def test_latest_is_the_last_one_saved_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    cohort = make_cohort(main={})
    for step in (2, 4, 6, 10):
        save(tmp_path, cohort, step, keep=2)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-6", "step-10"]
    assert checkpoint.find_latest(tmp_path) == tmp_path / "step-10"
    save(tmp_path, cohort, 6, keep=None)  # the run was taken back
    assert checkpoint.find_latest(tmp_path) == tmp_path / "step-6"


def test_the_checkpoint_of_the_best_evaluation_stays_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = make_cohort(main={})
    for step in (2, 4, 6, 8):
        save(tmp_path, cohort, step, keep=1, spared={4})
    checkpoint.name_best(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "latest", "step-4", "step-8"]
    assert checkpoint.read_header(tmp_path / "best")["step"] == 4
    checkpoint.prune(tmp_path, 8, 1, {8})  # a later one is better
    checkpoint.name_best(tmp_path, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "latest", "step-8"]
    checkpoint.name_best(tmp_path, None)
    assert not (tmp_path / "best").is_symlink()
    monkeypatch.setattr(Path, "symlink_to", Mock(side_effect=OSError(errno.EPERM, "Operation not permitted")))
    checkpoint.name_best(tmp_path, 8)
    assert not (tmp_path / "best").is_symlink()
    assert checkpoint.read_header(tmp_path / "best")["step"] == 8
    checkpoint.name_best(tmp_path, None)
    (tmp_path / "best").mkdir()
    checkpoint.name_best(tmp_path, None)
    assert (tmp_path / "best").is_dir()
    with pytest.raises(UserError, match="is not what names the best checkpoint"):
        checkpoint.name_best(tmp_path, 8)


def test_a_run_that_was_taken_back_keeps_what_it_writes(tmp_path: Path) -> None:
    cohort = make_cohort(main={})
    for step in (2, 4, 6):
        save(tmp_path, cohort, step)
    save(tmp_path, cohort, 2, keep=1)
    assert checkpoint.find_latest(tmp_path) == tmp_path / "step-2"
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-2", "step-4", "step-6"]


def test_what_a_killed_save_left_is_cleared_and_a_replaced_checkpoint_comes_back(tmp_path: Path) -> None:
    cohort = make_cohort(main={})
    save(tmp_path, cohort, 2)
    target = save(tmp_path, cohort, 4)
    # Killed after the old one was moved aside and before the new one took its place.
    target.rename(tmp_path / "step-4.replaced")
    (tmp_path / "step-4.partial").mkdir()
    (tmp_path / "step-4.partial" / "main.safetensors").write_bytes(b"half")
    mine = [tmp_path / name for name in ("notes.partial", "step-4-best.replaced")]
    for path in mine:
        path.mkdir()
    checkpoint.recover(tmp_path)
    assert checkpoint.find_latest(tmp_path) == tmp_path / "step-4"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["latest", "notes.partial", "step-2", "step-4", "step-4-best.replaced"]
    (tmp_path / "latest").unlink()
    assert checkpoint.find_latest(tmp_path) == tmp_path / "step-4"
    assert checkpoint.find_latest(tmp_path / "nothing") is None


def test_a_save_that_fails_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = make_cohort(main={})
    save(tmp_path, cohort, 2)
    for error, words in (
        (OSError(errno.ENOSPC, "No space left on device"), "step-4  the disk is full. Free some room there"),
        (SafetensorError("I/O error: No space left on device"), "step-4  cannot be written: I/O error: No space left"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_file", Mock(side_effect=error))
            with pytest.raises(UserError, match=re.escape(f"{tmp_path}/{words}")) as told:
                save(tmp_path, cohort, 4)
        assert told.value.code == "file_system"
        assert checkpoint.find_latest(tmp_path) == tmp_path / "step-2"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-2"]


def test_nothing_that_was_there_goes_before_the_new_checkpoint_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = make_cohort(main={})
    for step in (2, 4):
        save(tmp_path, cohort, step)
    calls = record_calls(tmp_path, monkeypatch)
    save(tmp_path, cohort, 4, keep=1)
    files = ("checkpoint.json", "main.optimizer.safetensors", "main.safetensors")
    assert sorted(calls[:3]) == [f"sync step-4.partial/{name}" for name in files]
    assert calls[3:] == [
        *("sync step-4.partial", "rename step-4", "rename step-4.partial", "sync .", "remove step-4.replaced"),
        *("replace latest.partial-link", "sync .", "remove step-2"),
    ]


def record_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that takes up what the system is asked for from now on, with names below the folder."""
    calls: list[str] = []

    def spy(owner: Any, name: str, word: str) -> None:
        real = getattr(owner, name)

        def record(path: Any, *more: Any, **options: Any) -> Any:
            place = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else Path(path)
            calls.append(f"{word} {place.relative_to(folder)}")
            return real(path, *more, **options)

        monkeypatch.setattr(owner, name, record)

    for owner, name, word in (
        *((os, "fsync", "sync"), (os, "rename", "rename"), (os, "replace", "replace")),
        (shutil, "rmtree", "remove"),
    ):
        spy(owner, name, word)
    return calls


def test_a_checkpoint_that_the_user_has_copied_is_left_alone(tmp_path: Path) -> None:
    cohort = make_cohort(main={})
    best = save(tmp_path, cohort, 2)
    for name in ("step-2-best", "step-2.bak", "step-02"):
        shutil.copytree(best, tmp_path / name)
    save(tmp_path, cohort, 4, keep=1)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-4"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["latest", "step-02", "step-2-best", "step-2.bak", "step-4"]


@pytest.mark.parametrize("name", ["step-2", "latest"])
def test_a_folder_of_the_user_that_has_a_name_of_ours_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=rf"{name}  exists, and is "):
        save(tmp_path, make_cohort(main={}), 2)
    assert [path.name for path in tmp_path.rglob("*")] == [name, "thesis.txt"]


def test_on_a_disk_without_links_a_small_file_names_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = make_cohort(main={})
    monkeypatch.setattr(os, "symlink", Mock(side_effect=PermissionError(errno.EPERM, "Operation not permitted")))
    for step in (2, 4):
        save(tmp_path, cohort, step)
    save(tmp_path, cohort, 2)  # the run was taken back
    assert (tmp_path / "latest").read_text() == "step-2\n"
    assert checkpoint.find_latest(tmp_path) == tmp_path / "step-2"
    assert checkpoint.read_header(tmp_path / "latest")["step"] == 2
    assert checkpoint.read_weights(tmp_path / "latest").keys() == dict(cohort.trials[0].named_parameters()).keys()
    monkeypatch.undo()
    save(tmp_path, cohort, 4)  # the folder came to a disk that has links
    assert (tmp_path / "latest").is_symlink()


def test_a_model_of_another_shape_is_refused_with_every_difference(tmp_path: Path) -> None:
    path = save(tmp_path, make_cohort(main={}), 2)
    other = make_cohort(main={"data__num_classes": 7, "model__temporal__conv": False})
    with pytest.raises(UserError, match="does not fit the configured model") as error:
        restore(other, path)
    text = str(error.value)
    assert "proj.2.weight is (5, 32) in the file and (7, 32) in the configured model" in text
    assert "decoder.temporal_conv.0.weight has no place" in text
    assert "decoder.temporal_conv.1.bias has no place" in text


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("main.safetensors", "proj.2.bias"),
        ("main.optimizer.safetensors", "exp_avg_sq.proj.2.weight"),
        ("main.ema.safetensors", "decoder.cls_token"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named_and_not_gone_on_with(
    tmp_path: Path, file: str, name: str, value: float
) -> None:
    trained, resumed = (make_cohort(main={"train__ema_decay": 0.5}) for _ in range(2))
    trained.step(0, *make_batch(0))
    path = save(tmp_path, trained, 1)
    tensors = load_file(path / file)
    tensors[name].view(-1)[0] = value
    save_file(tensors, path / file)
    with pytest.raises(UserError, match=rf"{file}  holds numbers that are not finite: {name} \(.*take an older"):
        restore(resumed, path)


def test_an_optimizer_that_has_lost_something_does_not_begin_anew_in_silence(tmp_path: Path) -> None:
    trained, name = make_cohort(main={}), "exp_avg.proj.2.weight"
    trained.step(0, *make_batch(0))
    path = save(tmp_path, trained, 1)
    file = path / "main.optimizer.safetensors"
    whole = load_file(file)
    for changed in (
        {key: tensor for key, tensor in whole.items() if key != name},
        {**whole, name: whole[name][0].clone()},
        {**whole, f"{name}.more": whole[name].clone()},
    ):
        save_file(changed, file)
        with pytest.raises(UserError, match=rf"main\.optimizer\.safetensors  is not the optimizer's .*: {name}"):
            restore(make_cohort(main={}), path)
    untrained = make_cohort(main={})
    assert restore(make_cohort(main={}), save(tmp_path, untrained, 2)) == 2  # all of its clips were unreadable


def test_other_backbone_weights_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, make_cohort(main={}), 2)
    with pytest.raises(UserError, match="other backbone weights"):
        restore(make_cohort(main={"model__backbone__random_seed": 1}), path)


def test_classes_are_compared_by_name(tmp_path: Path) -> None:
    path = save(tmp_path, make_cohort(main={}), 2)
    cohort = make_cohort(main={})
    with pytest.raises(UserError, match=r"class 1 as 'b'.*'x'"):
        restore(cohort, path, ["a", "x", "c", "d", "e"])
    with pytest.raises(UserError, match=r"knows 5 classes.*names 2"):
        restore(cohort, path, ["a", "b"])
    assert restore(cohort, path, ["a", "b", "c", "d", "e"]) == 2


def test_broken_and_missing_files_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, make_cohort(main={}), 2)
    (path / "main.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"main\.safetensors  cannot be read"):
        restore(make_cohort(main={}), path)
    (path / "checkpoint.json").write_text("{")
    with pytest.raises(UserError, match=r"checkpoint\.json  cannot be read"):
        checkpoint.read_header(path)
    (path / "checkpoint.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="format 99"):
        checkpoint.read_header(path)
    with pytest.raises(UserError, match="is no checkpoint"):
        checkpoint.read_header(tmp_path)
