"""Clips with several labels, and skewed classes: losses, metrics and orders against numbers worked out by hand."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import caches
from coldframe.assembly import batches
from coldframe.data.clips import DummyClips, VideoList
from coldframe.data.labels import count_classes, read_label, stack_labels
from coldframe.data.loader import train_loader
from coldframe.data.order import ClassOrder
from coldframe.errors import UserError
from coldframe.evaluate.accuracy import accuracy, trace
from coldframe.session import Session
from coldframe.settings import Settings
from coldframe.train.targets.losses import ManyLabels, OneLabel, balance_answers, balance_classes, make_loss
from coldframe.train.targets.mixup import mix_batch
from small import settings, settings_json

CPU = torch.device("cpu")


# --- losses ---


def test_a_clip_counts_by_how_rare_its_class_is_and_not_by_its_batch() -> None:
    counts = count_classes([0, 0, 0, 2], 3)
    weights = balance_classes(counts)
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 1, 4 / (2 * 1)])  # n / (classes that occur * clips of one)
    logits, labels = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]]), torch.tensor([0, 2])
    nll = -logits.log_softmax(dim=1)[[0, 1], labels]
    loss = OneLabel(0, weights)
    assert loss.loss(logits, labels).item() == pytest.approx(((nll * weights[labels]).sum() / 2).item())
    halves = [loss.loss(logits[i : i + 1], labels[i : i + 1]).item() / 2 for i in range(2)]
    assert sum(halves) == pytest.approx(loss.loss(logits, labels).item())


def test_the_yes_and_the_no_of_a_class_count_by_how_rare_they_are() -> None:
    counts = count_classes([(0,), (0, 1), (), (0, 2)], 4)
    no, yes = balance_answers(counts)
    assert no.tolist() == pytest.approx([4 / 2, 4 / 6, 4 / 6, 1])
    assert yes.tolist() == pytest.approx([4 / 6, 4 / 2, 4 / 2, 1])
    logits, targets = torch.tensor([[0.3, -1.0, 2.0, 0.0]]), torch.tensor([[True, False, True, False]])
    p = logits.sigmoid()[0].tolist()
    terms = [yes[0] * -math.log(p[0]), no[1] * -math.log(1 - p[1]), yes[2] * -math.log(p[2]), -math.log(1 - p[3])]
    assert ManyLabels(0, torch.stack([no, yes])).loss(logits, targets).item() == pytest.approx(sum(terms) / 4)


def test_smoothing_moves_targets_towards_one_half() -> None:
    logits, targets = torch.tensor([[0.7, -0.2]]), torch.tensor([[True, False]])
    (a, b) = logits.sigmoid()[0].tolist()
    terms = -0.9 * math.log(a) - 0.1 * math.log(1 - a) - 0.1 * math.log(b) - 0.9 * math.log(1 - b)
    assert ManyLabels(0.2, None).loss(logits, targets).item() == pytest.approx(terms / 2)


def test_mixed_clips_have_the_labels_of_both_by_their_shares() -> None:
    chosen = settings(data__labels="multi", train__mixup=1.0)
    labels = stack_labels([(0, 1), (1, 4), ()], 5)
    _, targets = mix_batch(torch.randn(3, 3, 3, 24, 24), labels, chosen, 0)
    kept = targets[0, 0].item()
    assert 0 < kept < 1
    expected = kept * labels.float() + (1 - kept) * labels.float().flip(0)
    assert torch.allclose(targets, expected)
    hits = ManyLabels(0, None).count_hits(torch.tensor([[9.0, 0, 0, 0, 0]]), targets[:1])
    assert hits.item() == (kept >= 0.5)


def test_without_these_keys_the_loss_is_torch_s() -> None:
    logits, labels = torch.randn(4, 5), torch.tensor([0, 1, 4, 4])
    plain = make_loss(settings(train__label_smoothing=0.1), None, CPU)
    assert torch.equal(
        plain.loss(logits, labels), torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    )


# --- metrics ---

SCORES = [[0.9, 0.2, 0.5], [0.8, 0.7, 0.5], [0.7, 0.6, 0.5], [0.6, 0.6, 0.1], [0.5, 0.1, 0.9]]
LABELS = [[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 0], [1, 0, 0]]


def judge(**changes: Any) -> dict[str, Any]:
    return accuracy(torch.tensor(SCORES), torch.tensor(LABELS, dtype=torch.bool), **changes)


def test_average_precision_is_that_of_the_definition_with_ties_found_together() -> None:
    found = judge()
    by_hand = [(1 + 2 / 3 + 3 / 5) / 3, (1 / 2) * 1 + (1 / 2) * (2 / 3), 1 / 4]
    assert found["average_precision"] == pytest.approx(by_hand)
    # average_precision_score of scikit-learn 1.9.1
    assert by_hand == pytest.approx([0.75555556, 0.83333333, 0.25])
    assert found["map"] == pytest.approx(sum(by_hand) / 3)


def plain_average_precision(scores: list[float], labels: list[bool]) -> float:
    """Returns the sum over recalls as the definition has it: a point for each different score."""
    total, before, area = sum(labels), 0.0, 0.0
    for score in sorted(set(scores), reverse=True):
        found = [label for one, label in zip(scores, labels, strict=True) if one >= score]
        recall = sum(found) / total
        area, before = area + (recall - before) * sum(found) / len(found), recall
    return area


@pytest.mark.parametrize("seed", range(60))
def test_average_precision_and_thresholds_of_any_scores(seed: int) -> None:
    draw = random.Random(seed)
    pairs = [(draw.randint(0, 6), draw.random() < 0.3) for _ in range(draw.randint(1, 30))]
    scores, labels = [one / 6 for one, _ in pairs], [label for _, label in pairs]
    curve = trace(np.array(scores), np.array(labels))
    if not any(labels):
        assert curve.choose_threshold() == 0.5
        return
    assert curve.average_precision == pytest.approx(plain_average_precision(scores, labels))

    def f1(threshold: float) -> float:
        found = [one >= threshold for one in scores]
        correct = sum(a and b for a, b in zip(found, labels, strict=True))
        return 2 * correct / (sum(found) + sum(labels))

    chosen = curve.choose_threshold()
    assert f1(chosen) == pytest.approx(max(f1(one) for one in scores))
    assert chosen not in scores or chosen == 0  # it stands between them


def test_thresholds_part_the_classes_and_others_given_are_used() -> None:
    found = judge()
    assert found["thresholds"] == pytest.approx([0.25, 0.4, 0.3])
    assert found["per_class"] == [[0, 3, 3], [1, 2, 2], [2, 1, 1]]
    assert found["f1"] == pytest.approx((6 / 8 + 4 / 5 + 2 / 5) / 3)
    strict = judge(thresholds=[0.85, 0.65, 0.95])
    assert strict["per_class"] == [[0, 3, 1], [1, 2, 1], [2, 1, 0]]
    assert strict["f1"] == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    assert strict["thresholds"] == found["thresholds"]


def test_a_video_is_hit_by_any_of_its_labels_and_one_without_is_in_no_hit() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.1, 0.3, 0.9], [0.5, 0.6, 0.7]])
    found = accuracy(scores, stack_labels([(0, 1), (1,), ()], 3))
    assert found["top1"] == 0.5
    with pytest.raises(UserError, match="none of the 3 videos has a label"):
        accuracy(scores, stack_labels([(), (), ()], 3))


# --- labels and orders ---


def test_labels_of_a_list_are_read_as_they_are_written() -> None:
    assert [read_label(text) for text in ("5", "1,5,9", "-")] == [5, (1, 5, 9), ()]
    assert VideoList(b"/a b\t5\n/c\t1,2\n/d\t-\n").labels() == [5, (1, 2), ()]
    assert stack_labels([5, (1, 2), ()], 6).int().tolist() == [[0, 0, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0], [0] * 6]


def test_every_class_gives_as_many_clips_and_every_clip_of_it_comes_before_one_comes_again() -> None:
    labels = [0] * 6 + [1] * 2 + [3] * 1
    order = ClassOrder(labels, 5)
    drawn = order(0, 36)
    rounds = [[labels[i] for i in drawn[start : start + 3]] for start in range(0, 36, 3)]
    assert all(sorted(one) == [0, 1, 3] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert Counter(drawn) == {**dict.fromkeys(range(6), 2), 6: 6, 7: 6, 8: 12}
    assert drawn != ClassOrder(labels, 6)(0, 36)


def test_any_place_of_the_balanced_order_follows_from_itself() -> None:
    labels: list[Any] = [(0, 1), (1,), (), (2, 0), (1, 2), ()]
    whole = ClassOrder(labels, 7)(0, 60)
    again = ClassOrder(labels, 7)
    assert [again(place, 1)[0] for place in reversed(range(60))] == whole[::-1]
    assert again(13, 30) == whole[13:43]
    assert {2, 5} == {whole[i] for i in range(60) if not labels[whole[i]]}, "those without a label take turns too"


def test_the_loader_draws_in_that_order_wherever_it_starts() -> None:
    clips = DummyClips(6, num_classes=3, num_frames=2, size=8, seed=0)
    order = ClassOrder([0, 0, 0, 0, 1, 2], 3)
    load = partial(train_loader, clips, seed=3, num_steps=5, batch_size=3, num_workers=0, order=order)
    whole = [batch.indices.tolist() for batch in load(start_step=0)]
    assert [batch.indices.tolist() for batch in load(start_step=2)] == whole[2:]
    assert whole == [order(3 * step, 3) for step in range(5)]


# --- trainings ---


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = caches.make_videos(tmp_path_factory.mktemp("videos"))
    several = ["0,1", "1,4", "-", "2", "2,3,4", "0", "3"]
    for kind in ("train", "val"):
        lines = [f"{folder / f'{i}.mp4'}\t{label}\n" for i, label in enumerate(several)]
        (folder / f"several-{kind}.txt").write_text("".join(lines))
    return folder


def start(
    folder: Path, trials: dict[str, Any], lists: dict[str, Any], mode: str = "train", resume: str = "auto"
) -> Session:
    session = Session()
    each = [{"name": name, "settings": value} for name, value in trials.items()]
    run_dir = str(folder) if mode == "train" else None
    session.open(mode, each, lists, None, run_dir, resume)
    return session


def run(folder: Path, trials: dict[str, Any], lists: dict[str, Any], stops: list[int]) -> dict[str, Any]:
    """Returns the results of the last evaluation; the run stops, saves and goes on in a new session at `stops`."""
    for stop in stops:
        session = start(folder, trials, lists)
        session.advance(stop - session.running.step)
        session.save()
        found = session.evaluate(1000, str(folder / "evaluation"))
        session.close()
    results: dict[str, Any] = found["results"]
    return results


def stored(folder: Path, name: str) -> bytes:
    return (folder / "checkpoints" / "latest" / name).read_bytes()


def test_trials_with_several_labels_are_in_a_cohort_as_alone_and_resumed(tmp_path: Path, videos: Path) -> None:
    common = {"data__labels": "multi", "features__precision": "fp32", "eval__spatial_views": 1, "train__steps": 3}
    several = {
        "plain": {},
        "weighed": {"train__class_weights": "balanced", "train__label_smoothing": 0.1, "train__seed": 3},
    }
    made = {
        name: caches.make_request(videos, tmp_path / "cache", "several", **common, **changes)
        for name, changes in several.items()
    }
    lists = made["plain"][1]
    trials = {name: request for name, (request, _) in made.items()}
    caches.extract(trials["plain"], lists)
    together = run(tmp_path / "both", trials, lists, [3])
    for name in trials:
        alone = run(tmp_path / name, {name: trials[name]}, lists, [1, 3])
        assert alone[name] == together[name]
        assert stored(tmp_path / name, f"{name}.safetensors") == stored(tmp_path / "both", f"{name}.safetensors")
        chosen = json.loads(stored(tmp_path / name, "thresholds.json"))[name]
        assert chosen == {"step": 3, "values": together[name]["thresholds"]}
    assert together["plain"]["map"] != together["weighed"]["map"]
    assert [label for label, *_ in together["plain"]["per_class"]] == [0, 1, 2, 3, 4]


def test_predict_gives_every_class_that_reaches_its_threshold_of_the_checkpoint_or_of_an_evaluation(
    tmp_path: Path, videos: Path
) -> None:
    request, lists = caches.make_request(
        videos, tmp_path, "several", data__labels="multi", data__features=None, train__steps=2, eval__spatial_views=1
    )
    run(tmp_path / "run", {"main": request}, lists, [2])
    latest = tmp_path / "run" / "checkpoints" / "latest"

    def predict(changes: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
        settings_there = {**request, "eval": {**request["eval"], **changes}}
        session = start(tmp_path, {"main": settings_there}, {"train": None, "val": None}, "predict", str(latest))
        (found,) = session.predict([str(videos / "4.mp4")], 1)["predictions"]
        notes = session.running.notes
        session.close()
        return found["classes"], notes

    values = json.loads((latest / "thresholds.json").read_text())["main"]["values"]
    of_evaluation = tmp_path / "result.json"
    of_evaluation.write_text(json.dumps({"step": 2, "results": {"main": {"thresholds": [0.0] * 5}}}))
    every, _ = predict({"thresholds": str(of_evaluation)})
    assert sorted(one["label"] for one in every) == [0, 1, 2, 3, 4]
    assert [one["probability"] for one in every] == sorted((one["probability"] for one in every), reverse=True)
    own, _ = predict({})
    assert own == [
        {**one, "threshold": values[one["label"]]} for one in every if one["probability"] >= values[one["label"]]
    ]
    of_evaluation.write_text(json.dumps({"step": 2, "results": {"main": {"thresholds": [0.0] * 4}}}))
    with pytest.raises(UserError, match=r"result.json has 4 thresholds; there are 5 classes"):
        predict({"thresholds": str(of_evaluation)})
    (latest / "thresholds.json").unlink()
    none, notes = predict({})
    assert all(one["threshold"] == 0.5 for one in none)
    assert any("knows no thresholds" in note for note in notes)
    session = start(tmp_path, {"main": request}, {"train": None, "val": None}, "evaluate", str(latest))
    with pytest.raises(UserError, match=r"data.labels  is multi; the original trains a softmax"):
        session.convert("upstream", str(tmp_path / "up.pth"))
    session.close()


def test_balanced_clips_are_the_same_resumed_and_from_a_cache(tmp_path: Path, videos: Path) -> None:
    common = {"features__train_views": 1, "eval__spatial_views": 1, "train__steps": 3, "data__balance": "classes"}
    request, lists = caches.make_request(videos, tmp_path / "cache", **common)
    caches.extract(request, lists)
    whole = run(tmp_path / "whole", {"main": request}, lists, [3])
    assert run(tmp_path / "parts", {"main": request}, lists, [1, 3]) == whole
    assert stored(tmp_path / "parts", "main.safetensors") == stored(tmp_path / "whole", "main.safetensors")
    live = {**request, "data": {**request["data"], "features": None}}
    drawn = [
        [index for batch in found for index in batch.indices.tolist()]
        for found in (
            start(tmp_path / "a", {"main": request}, lists).running.start_training(),
            batches.training_batches(Settings.from_json(live), lists["train"], 0, CPU),
        )
    ]
    assert drawn[0] == drawn[1]
    plain = {**live, "data": {**live["data"], "balance": "none"}}
    unbalanced = batches.training_batches(Settings.from_json(plain), lists["train"], 0, CPU)
    assert drawn[0] != [index for batch in unbalanced for index in batch.indices.tolist()]


def test_noise_with_several_labels_trains(tmp_path: Path) -> None:
    request = settings_json(data__labels="multi", data__num_workers=2, train__class_weights="balanced", train__steps=2)
    session = start(tmp_path, {"main": request}, {"train": None, "val": None})
    steps = session.advance(2)["steps"]
    session.close()
    assert [math.isfinite(step["trials"]["main"]["loss"]) for step in steps] == [True, True]
