"""What a report finds in scores: confusions, likely label errors, calibration, pictures."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clips import make_clip
from coldframe.errors import UserError
from coldframe.evaluate import analysis, calibration
from coldframe.evaluate.thumbnails import picture_videos
from coldframe.session.inference import name_classes
from small import settings


def write_scores(folder: Path, scores: list[list[float]], labels: list[object], name: str = "scores.npz") -> str:
    file = folder / name
    names = np.array([f"{chr(97 + i)}.mp4" for i in range(len(scores))])
    np.savez(file, scores=np.array(scores, np.float32), labels=labels, indices=np.arange(len(scores)), paths=names)
    return str(file)


def test_confusions_by_hand(tmp_path: Path) -> None:
    scores = [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.45, 0.35, 0.2], [0, 0, 1]]
    found = analysis.analyse(write_scores(tmp_path, scores, [0, 0, 1, 1, 1, 2]), None, None, 2)
    assert found["confusion"] == [[0, 0, 1], [0, 1, 1], [1, 0, 2], [1, 1, 1], [2, 2, 1]]
    assert found["pairs"] == [[0, 1, 1, 2]]
    assert found["mistakes"] == [[0, 1, "b.mp4"], [1, 0, "c.mp4"], [1, 0, "e.mp4"]]
    assert found["order"] == [0, 1, 2]
    assert found["classes"][1] == {
        **{"label": 1, "num_videos": 3, "num_correct": 1, "num_predicted": 2, "taken_for": [0, 2]}
    }
    worst, confused, uncertain = (found["clips"][kind] for kind in ("worst", "confused", "uncertain"))
    assert [clip["name"] for clip in worst] == ["b.mp4", "e.mp4"]  # 0.2 and 0.35 for their labels
    assert worst[0]["labels"] == [[0, pytest.approx(0.2)]]
    assert [label for label, _ in worst[0]["best"]] == [1, 0, 2]
    assert {clip["name"] for clip in confused} == {"c.mp4", "e.mp4"}  # 0.1 apart, the others 0.3 and more
    assert uncertain[0]["name"] == "e.mp4"


def test_pairs_count_both_ways() -> None:
    assert analysis.list_pairs([[0, 1, 3], [0, 2, 2], [2, 0, 2]]) == [[0, 2, 2, 2], [0, 1, 3, 0]]


def test_classes_that_are_taken_for_each_other_stand_side_by_side() -> None:
    right = [[label, label, 10] for label in range(6)]
    order = analysis.order_by_confusion([*right, [0, 5, 4], [5, 3, 3], [1, 4, 1]], 6)
    assert order in ([0, 5, 3, 1, 4, 2], [3, 5, 0, 1, 4, 2])


def test_label_errors_are_as_many_as_the_confident_joint_says() -> None:
    """Means of own probabilities: 0.6 of class 0 (0.9, 0.8, 0.1), 0.75 of class 1 (0.7, 0.8)."""
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8]])
    labels = np.array([0, 0, 0, 1, 1])
    assert analysis.count_label_errors(scores, labels) == pytest.approx(1)  # of 3 confident ones with label 0
    assert analysis.find_label_errors(scores, labels) == [(2, 1, pytest.approx(-0.8))]
    # A video that is wrong, and of whose class the model is not confident (0.7 is below the mean 0.75), is none.
    scores[2] = [0.3, 0.7]
    assert analysis.count_label_errors(scores, labels) == 0
    assert analysis.find_label_errors(scores, labels) == []
    # Of label 1 one of two videos counts, and it is off: so are both, of which one is taken for another class.
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.95, 0.05], [0.45, 0.55]])
    assert analysis.count_label_errors(scores, np.array([0, 0, 1, 1])) == pytest.approx(1)


def test_planted_label_errors_come_first() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 30)
    logits = random.normal(size=(600, 20))
    logits[np.arange(600), labels] += 5
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = random.choice(600, 25, replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + 7) % 20
    found = analysis.find_label_errors(scores, given)
    assert len({video for video, _, _ in found[:25]} & set(wrong.tolist())) >= 20
    assert len({video for video, _, _ in found} & set(wrong.tolist())) >= 23
    assert all(guess == labels[video] for video, guess, _ in found if video in wrong)


def test_calibration_by_hand() -> None:
    told = calibration.measure(np.array([0.95, 0.95, 0.55, 0.5]), np.array([True, False, True, True]))
    assert told["ece"] == pytest.approx((2 * 0.45 + 0.45 + 0.5) / 4)  # bins of a fifteenth: the last two fall apart
    assert [bin[2] for bin in told["bins"]] == [1, 1, 2]
    assert calibration.measure(np.array([1.0]), np.array([True]))["ece"] == 0


def draw(count: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores that are right as often as they say once they are scaled by the temperature, and labels."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(count, 5))
    right = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (right.cumsum(axis=1) < random.random((count, 1))).sum(axis=1)
    sharp = np.exp(temperature * logits)
    return (sharp / sharp.sum(axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_temperature_is_found_again(temperature: float) -> None:
    scores, labels = draw(20_000, temperature, 1)
    assert calibration.fit_temperature(scores, labels) == pytest.approx(temperature, rel=0.03)
    told = calibration.calibrate(scores, labels, draw(20_000, temperature, 2))
    assert told["after"]["ece"] < 0.02 < told["before"]["ece"]
    assert told["after"]["nll"] < told["before"]["nll"]
    assert (calibration.scale(scores, 3.0).argmax(axis=1) == scores.argmax(axis=1)).all()


def test_temperature_without_another_list_is_told_by_halves() -> None:
    """Even videos are three times too sure, odd ones are not: each half is scaled by what the other gives."""
    sure, labels = draw(4000, 3.0, 3)
    fair, others = draw(4000, 1.0, 4)
    scores = np.stack([sure, fair], axis=1).reshape(-1, 5)
    told = calibration.calibrate(scores, np.stack([labels, others], axis=1).ravel(), None)
    swapped = np.stack([sure, calibration.scale(fair, 3.0)], axis=1).reshape(-1, 5)
    expected = calibration.measure(
        swapped.max(axis=1), swapped.argmax(axis=1) == np.stack([labels, others], axis=1).ravel()
    )
    assert told["after"]["ece"] == pytest.approx(expected["ece"], abs=0.02)


def test_no_temperature_where_videos_cannot_tell_one() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])  # all right: the sharper the likelier
    assert calibration.calibrate(scores, np.array([0, 1, 0]), None)["temperature"] is None


def test_predict_scales_by_the_temperature() -> None:
    """The same as `scale`; 1 leaves every bit as it is."""
    scores_K = torch.tensor([0.1, 0.7, 0.2, 0, 0])
    plain, warm = (
        name_classes(SimpleNamespace(settings=settings(eval__temperature=temperature), classes=None), scores_K, 3)
        for temperature in (1, 2.0)
    )
    assert [one["probability"] for one in plain] == scores_K[[1, 2, 0]].tolist()
    scaled = calibration.scale(scores_K.numpy()[None], 2.0)[0]
    assert [one["probability"] for one in warm] == pytest.approx(sorted(scaled, reverse=True)[:3])


def test_several_labels_a_video(tmp_path: Path) -> None:
    scores = [[0.9, 0.8], [0.1, 0.1], [0.9, 0.1], [0.1, 0.9], [0.05, 0.8]]
    labels = [[True, True], [False, False], [True, False], [True, True], [False, False]]
    found = analysis.analyse(write_scores(tmp_path, scores, labels), None, None, 3)
    assert found["is_multi"]
    errors = [(error["name"], error["suggested"], error["is_missing"]) for error in found["label_errors"]]
    # the mean of class 0 with its label is 0.63, without it 0.075: 0.1 with it is more than that; class 1: 0.85, 0.33
    assert errors == []
    scores[3][0], scores[4][1] = 0.01, 0.9
    found = analysis.analyse(write_scores(tmp_path, scores, labels), None, None, 3)
    errors = [(error["name"], error["suggested"], error["is_missing"]) for error in found["label_errors"]]
    assert errors == [("d.mp4", 0, False), ("e.mp4", 1, True)]
    assert found["calibration"]["temperature"] is None
    assert found["clips"]["worst"][0]["name"] == "d.mp4"


def test_what_is_no_file_of_scores_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    file.write_bytes(b"no")
    with pytest.raises(UserError, match="is no file of scores"):
        analysis.analyse(str(file), None, None, 3)
    with pytest.raises(UserError, match="not finite"):
        analysis.analyse(write_scores(tmp_path, [[math.nan, 1.0]], [0]), None, None, 3)
    other = write_scores(tmp_path, [[0.2, 0.3, 0.5]], [0], "other.npz")
    with pytest.raises(UserError, match="has other classes"):
        analysis.analyse(write_scores(tmp_path, [[0.5, 0.5]], [0]), None, other, 3)


def test_older_scores_are_named_by_their_list(tmp_path: Path) -> None:
    np.savez(tmp_path / "old.npz", scores=[[0.1, 0.9], [0.2, 0.8]], labels=[0, 1], indices=[0, 2])
    listed = tmp_path / "val.tsv"
    listed.write_text("a.mp4\t0\nbad.mp4\t1\nb.mp4\t1\t2\t3.5\n")
    assert analysis.load_scores(tmp_path / "old.npz", listed).names == ["a.mp4", "b.mp4#t=2,3.5"]
    assert analysis.load_scores(tmp_path / "old.npz", None).names == ["video 1 of the list", "video 3 of the list"]


def test_pictures_are_strips_of_frames(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", num_frames=24)
    whole, part, gone = picture_videos([str(path), f"{path}#t=0,0.2", str(tmp_path / "no.mp4")], 4, 40)["pictures"]
    assert gone is None
    assert (whole["height"], whole["address"][:23]) == (40, "data:image/jpeg;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(whole["address"][23:])))
    assert image.size == (whole["width"], 40)
    assert part["address"] != whole["address"]
