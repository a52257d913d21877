"""McNemar's test of paired scores, against published values and SciPy's formula written out."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest

from coldframe.errors import UserError
from coldframe.evaluate.paired import mcnemar, pair


@pytest.mark.parametrize(
    ("only_first", "only_other", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 0.0625),  # 2 / 2**5
        (8, 1, 0.0390625),  # 2 (1 + 9) / 2**9
        (86, 150, 3.7158e-05),  # Agresti, Categorical Data Analysis (1990), p. 350: the approval ratings; exact
    ],
)
def test_mcnemar_is_the_two_sided_binomial_test(only_first: int, only_other: int, p: float) -> None:
    assert mcnemar(only_first, only_other) == pytest.approx(p, rel=1e-4)
    assert mcnemar(only_other, only_first) == mcnemar(only_first, only_other)


def test_mcnemar_of_many_videos_is_finite() -> None:
    tail = sum(comb(3000, k) for k in range(1401)) / 2**3000
    assert mcnemar(1400, 1600) == pytest.approx(2 * tail, rel=1e-12)
    assert 0 < mcnemar(20_000, 20_300) < 1


def write(file: Path, right: list[int], indices: list[int], labels: list[int] | None = None, named: bool = True) -> str:
    """Writes scores of videos that are right (1) or not, as an evaluation does."""
    truth = np.array(labels or [index % 2 for index in indices])
    best = np.where(np.array(right) == 1, truth, 1 - truth)
    paths = {"paths": np.array([f"/v/{index}.mp4" for index in indices])} if named else {}
    np.savez(file, scores=np.eye(2, dtype=np.float32)[best], labels=truth, indices=np.array(indices), **paths)
    return str(file)


def test_videos_are_paired_by_their_places_in_one_list_and_by_their_paths_in_two(tmp_path: Path) -> None:
    first = write(tmp_path / "a.npz", [1, 1, 1, 0, 0], [0, 1, 2, 3, 4])
    # Video 3 could not be read, and the order is another.
    other = write(tmp_path / "b.npz", [1, 0, 0, 1], [4, 2, 1, 0])
    counts = {"both": 1, "only_first": 2, "only_other": 1, "neither": 0}
    sizes = {"num_first": 5, "num_other": 4, "num_shared": 4}
    for is_same_list in (True, False):
        assert pair(first, other, is_same_list) == {"reason": None, **sizes, **counts, "p": 1.0}


def test_what_cannot_be_paired_says_why(tmp_path: Path) -> None:
    first = write(tmp_path / "a.npz", [1, 1], [0, 1])
    older = write(tmp_path / "b.npz", [1, 1], [0, 1], named=False)
    relabelled = write(tmp_path / "c.npz", [1, 1], [0, 1], labels=[1, 0])
    twice = write(tmp_path / "d.npz", [1, 1], [0, 0])
    np.savez(tmp_path / "e.npz", scores=np.ones((2, 2)), labels=np.ones((2, 2), bool), indices=[0, 1])
    assert pair(first, older, True)["reason"] is None
    for file, words in ((older, "did not name"), (relabelled, "other labels"), (twice, "stands twice")):
        assert words in pair(first, file, False)["reason"]
    assert "several labels" in pair(first, str(tmp_path / "e.npz"), True)["reason"]
    (tmp_path / "f.npz").write_text("no scores")
    with pytest.raises(UserError, match="is no file of scores"):
        pair(first, str(tmp_path / "f.npz"), True)
