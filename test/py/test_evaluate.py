"""Evaluation: means over views, each video once, accuracy with few classes."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from coldframe.assembly import batches
from coldframe.data.clips import normalize_, read_list
from coldframe.errors import UserError
from coldframe.evaluate.accuracy import accuracy
from coldframe.evaluate.evaluation import Evaluation, ensemble
from coldframe.machine.lock import RunLock
from small import settings
from test_cohort import CPU, make_cohort


def test_accuracy_counts_hits_among_the_best_and_per_class() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.3, 0.05, 0.15, 0.12, 0.08], [0.3, 0.2, 0.1, 0.1, 0.1, 0.15, 0.05]])
    found = accuracy(scores.repeat(2, 1), torch.tensor([2, 1, 3, 0]))
    assert found["top1"] == 0.5
    assert found["top5"] == 0.75
    assert found["per_class"] == [[0, 1, 1], [1, 1, 0], [2, 1, 1], [3, 1, 0]]
    assert found["confusion"] == [[0, 0, 1], [1, 0, 1], [2, 2, 1], [3, 2, 1]]


def test_top5_counts_the_fifth_and_not_the_sixth() -> None:
    scores = torch.tensor([[0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02]])
    assert accuracy(scores, torch.tensor([4]))["top5"] == 1.0
    assert accuracy(scores, torch.tensor([5]))["top5"] == 0.0


def test_an_ensemble_of_other_videos_is_refused(tmp_path: Path) -> None:
    scores, labels = np.full((3, 2), 0.5, np.float32), np.array([0, 1, 0])
    for name, indices, these in (("a", [0, 1, 2], labels), ("b", [0, 1, 3], labels), ("c", [0, 1, 2], 1 - labels)):
        np.savez(tmp_path / f"{name}.npz", scores=scores, labels=these, indices=np.array(indices))
    files = {name: str(tmp_path / f"{name}.npz") for name in "abc"}
    assert ensemble([files["a"], files["a"]])["num_videos"] == 3
    for other in "bc":
        with pytest.raises(UserError, match="Only evaluations of the same videos can be averaged"):
            ensemble([files["a"], files[other]])


def test_fewer_than_five_classes_give_a_top5_of_one() -> None:
    assert accuracy(torch.tensor([[0.2, 0.8], [0.6, 0.4]]), torch.tensor([0, 0]))["top5"] == 1.0


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_every_video_is_counted_once_and_scores_are_the_mean_over_views(tmp_path: Path, batch_size: int) -> None:
    chosen = settings(eval__batch_size=batch_size, eval__temporal_views=2)
    cohort = make_cohort(main={})
    list_file = tmp_path / "val.tsv"
    list_file.write_text("".join(f"/nowhere/{i}.mp4\t{i % 5}\n" for i in range(7)))
    found, _ = batches.evaluation_batches(chosen, str(list_file), CPU)
    items = read_list(list_file)
    evaluation = Evaluation(cohort, found, lambda x: normalize_(x, chosen.data.mean, chosen.data.std), items, 2)
    while not evaluation.advance(0, lambda: None):
        pass
    assert sorted(evaluation.indices) == list(range(7))
    results = evaluation.results()["main"]
    assert (results["num_videos"], results["num_bad"], results["views"]) == (7, 0, 2)
    again, _ = batches.evaluation_batches(chosen, str(list_file), CPU)
    first = next(again)
    views = normalize_(first.clips[0], chosen.data.mean, chosen.data.std)
    by_hand = torch.stack([cohort.scores(view[None])["main"][0] for view in views]).mean(dim=0)
    assert torch.allclose(torch.cat(evaluation.scores["main"])[0], by_hand, atol=1e-6)


def test_a_list_without_a_readable_video_is_an_error(tmp_path: Path) -> None:
    list_file = tmp_path / "val.tsv"
    list_file.write_text("/nowhere/a.mp4\t0\n")
    chosen = settings(data__dummy=False)
    found, _ = batches.evaluation_batches(chosen, str(list_file), CPU)
    evaluation = Evaluation(make_cohort(main={}), found, lambda x: x, read_list(list_file), 2)
    assert evaluation.advance(60, lambda: None)
    assert [path for path, _ in evaluation.bad] == ["/nowhere/a.mp4"]
    with pytest.raises(UserError, match="none of the 1 videos"):
        evaluation.results()


def test_a_run_folder_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldframe.machine.lock.WAIT_SECONDS", 0.0)
    lock = RunLock(tmp_path)
    with pytest.raises(UserError, match="is in use by process"):
        RunLock(tmp_path)
    lock.release()
    RunLock(tmp_path).release()


def test_a_disk_without_one_kind_of_lock_has_the_other_and_without_both_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOTSUP, "Operation not supported")))
    lock = RunLock(tmp_path)
    assert lock.note is None
    # A lock of this kind is the process's own: another process is kept out.
    child = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    tried = subprocess.run([sys.executable, "-c", child, tmp_path / "lock"], capture_output=True, text=True)
    assert "BlockingIOError" in tried.stderr
    lock.release()
    monkeypatch.setattr(fcntl, "lockf", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    note = f"{tmp_path}  lies on a disk that keeps no locks: see to it that no other process writes there."
    assert RunLock(tmp_path).note == note


def evaluate(cohort: Any, list_file: Path) -> Evaluation:
    list_file.write_text("".join(f"/nowhere/{i}.mp4\t{i % 5}\n" for i in range(4)))
    found, _ = batches.evaluation_batches(settings(), str(list_file), CPU)
    evaluation = Evaluation(cohort, found, lambda x: x / 255, read_list(list_file), 2)
    assert evaluation.advance(60, lambda: None)
    return evaluation


def test_scores_that_are_not_finite_are_no_result_and_name_the_weights(tmp_path: Path) -> None:
    cohort = make_cohort(good={}, damaged={"train__seed": 1})
    name, parameter = list(cohort.trials[1].named_parameters())[-1]
    with torch.no_grad():
        parameter.view(-1)[0] = float("nan")
    evaluation = evaluate(cohort, tmp_path / "val.tsv")
    why = evaluation.take_broken()
    assert list(why) == ["damaged"]
    assert why["damaged"].startswith("the scores of 4 of 4 videos are not finite. The weights ")
    assert name in why["damaged"]
    alone = evaluate(make_cohort(good={}), tmp_path / "val.tsv")
    assert alone.take_broken() == {}
    assert evaluation.results() == alone.results()


def test_scores_name_their_videos_in_the_order_of_the_list_and_parts_by_their_times(tmp_path: Path) -> None:
    list_file = tmp_path / "val.tsv"
    list_file.write_text("/v/ä b.mp4\t1\n/v/c.mp4\t0\t0.5\t2\n/v/d.mp4\t2\n")
    found = list(batches.evaluation_batches(settings(eval__batch_size=1), str(list_file), CPU)[0])
    first, part, _ = found
    cohort = make_cohort(one={}, two={"train__seed": 1})
    # The third cannot be read, and the second comes before the first.
    evaluation = Evaluation(cohort, iter([part, first]), lambda x: x / 255, read_list(list_file), 1)
    assert evaluation.advance(60, lambda: None)
    evaluation.write_scores(tmp_path)
    for name in ("one", "two"):
        with np.load(tmp_path / f"{name}.scores.npz", allow_pickle=False) as table:
            assert table["paths"].tolist() == ["/v/ä b.mp4", "/v/c.mp4#t=0.5,2"]
            assert table["indices"].tolist() == [0, 1]
            assert np.array_equal(table["scores"][1], evaluation.scores[name][0][0].numpy())


def test_no_ensemble_is_made_of_scores_that_are_not_finite(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{name}.npz") for name in ("sound", "broken")]
    scores = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]], np.float32)
    np.savez(files[0], scores=scores, labels=[0, 1, 1], indices=[0, 1, 2])
    assert ensemble([files[0], files[0]])["mean"]["top1"] == pytest.approx(2 / 3)
    scores[1, 0] = np.inf
    np.savez(files[1], scores=scores, labels=[0, 1, 1], indices=[0, 1, 2])
    with pytest.raises(UserError, match=r"broken\.npz  holds scores that are not finite, of 1 of 3 videos"):
        ensemble(files)
