"""The same numbers on any number of ranks: two and four processes over gloo against one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rank_training
from ranked import run_cases

Found = dict[int, dict[str, list[Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("ranks")
    rank_training.prepare(folder)
    return run_cases("rank_training", folder, [2, 1, 4])


def by_trial(found: dict[str, Any], key: str) -> dict[str, list[float]]:
    names = {name for step in found["steps"] for name in step}
    return {name: [step[name][key] for step in found["steps"] if name in step] for name in names}


def differ(one: dict[str, Any], other: dict[str, Any], key: str = "loss") -> float:
    """Returns how far two trainings are apart at most, of numbers above one as a share of them."""
    ours, theirs = by_trial(one, key), by_trial(other, key)
    assert ours.keys() == theirs.keys()
    return max(abs(a - b) / max(1, abs(b)) for name in ours for a, b in zip(ours[name], theirs[name], strict=True))


def every_rank_says(told: list[Any]) -> Any:
    """Returns what all of them say."""
    for each in told[1:]:
        np.testing.assert_equal(each, told[0])
    return told[0]


def test_two_ranks_have_the_bytes_of_one_with_twice_the_micro_batches(found: Found) -> None:
    alone, two = (every_rank_says(found[size]["cohort_of_two_shards"]) for size in (1, 2))
    np.testing.assert_equal(two, alone)
    assert two["dropped"] == ["lost"]
    assert len(by_trial(two, "loss")["plain"]) == 6


@pytest.mark.parametrize("case", ["mixed_of_two_shards", "whole_of_two_shards"])
def test_so_do_mixed_clips_and_a_trained_backbone(found: Found, case: str) -> None:
    alone, two = (every_rank_says(found[size][case]) for size in (1, 2))
    assert two == alone
    assert len(two["files"]) >= 2


@pytest.mark.parametrize(("case", "limit"), [("whole_of_four_shards", 1e-6), ("whole_with_bad_videos", 1e-4)])
def test_a_trained_backbone_stays_close(found: Found, case: str, limit: float) -> None:
    """AdamW turns what is left of a true zero into a step of the full rate, hence the limits."""
    alone, two, four = (every_rank_says(found[size][case]) for size in (1, 2, 4))
    for many in (two, four):
        assert many["clips"] == alone["clips"]
        assert differ(many, alone) < limit
        assert differ(many, alone, "grad_norm") < 1e-5  # of all micro-batches


def test_four_ranks_stay_close_over_twenty_steps(found: Found) -> None:
    alone, two, four = (every_rank_says(found[size]["cohort_of_four_shards"]) for size in (1, 2, 4))
    for many in (two, four):
        assert len(many["steps"]) == 20
        assert differ(many, alone) < 1e-6
        assert differ(many, alone, "top1") == 0


def test_a_bad_video_does_not_bend_the_mean_of_the_others(found: Found) -> None:
    alone, two, four = (every_rank_says(found[size]["bad_videos"]) for size in (1, 2, 4))
    assert sorted(set(alone["clips"])) == [3, 4]
    for many in (two, four):
        assert many["clips"] == alone["clips"]
        assert many["bad"] == alone["bad"]
        assert differ(many, alone) < 1e-6
        assert differ(many, alone, "grad_norm") < 1e-5


def test_where_no_bad_video_is_allowed_all_ranks_stop_before_the_same_step(found: Found) -> None:
    alone, two, four = (every_rank_says(found[size]["refused_videos"]) for size in (1, 2, 4))
    assert len(alone["bad"]) == 1
    assert [len(each["steps"]) for each in (two, four)] == [len(alone["steps"])] * 2
    assert two["bad"] == four["bad"] == alone["bad"]


@pytest.mark.parametrize("case", ["evaluation", "cached"])
def test_an_evaluation_counts_each_video_once_in_the_order_of_the_list(found: Found, case: str) -> None:
    told = {size: every_rank_says(found[size][case]) for size in (1, 2, 4)}
    if case == "cached":
        told = {size: each[1] for size, each in told.items()}
    for size in (1, 2, 4):
        one = told[size]
        assert one["scores"]["indices"].tolist() == [0, 1, 2, 4, 5, 6, 7]
        assert [Path(video["path"]).name for video in one["bad"]] == ["bad.mp4"]
        assert (one["results"]["main"]["num_videos"], one["results"]["main"]["num_bad"]) == (7, 1)
        assert one["seen"][-1] == 8
        assert one["files"] == ["scores.npz"]
        np.testing.assert_allclose(one["scores"]["scores"], told[1]["scores"]["scores"], atol=1e-6)
        np.testing.assert_equal(one["scores"]["labels"], told[1]["scores"]["labels"])
        assert one["results"]["main"]["top1"] == told[1]["results"]["main"]["top1"]


def test_stored_features_are_dealt_out_as_clips_are(found: Found) -> None:
    alone, two, four = (every_rank_says(found[size]["cached"])[0] for size in (1, 2, 4))
    for many in (two, four):
        assert many["clips"] == alone["clips"]
        assert differ(many, alone) < 1e-6


def test_a_run_that_two_ranks_began_goes_on_with_any_number(found: Found) -> None:
    one, two, four = (every_rank_says(found[size]["stopped_with_two"]) for size in (1, 2, 4))
    for each in (one, two, four):
        assert (each["from"], len(each["steps"])) == (3, 3)
        assert differ(each, two) < 1e-6


def test_one_rank_of_a_node_reads_the_backbone_and_all_have_the_same_memory(found: Found) -> None:
    told = {size: found[size]["reading_once"] for size in (1, 2, 4)}
    digests = {str(digest) for each in told.values() for digest, _, _ in each}
    assert len(digests) == 1
    ((found_digest, again, *frozen), (_, _, *trained)) = told[4][3][0]
    assert found_digest == again
    assert (frozen, trained) == ([False, False], [True, True])
    for size in (2, 4):
        for _, places, still_open in told[size]:
            size_kb, written_kb = max(places)
            assert size_kb > 1000
            assert written_kb == 0
            assert still_open == []
    assert told[1][0][1:] == ([], [])


def test_a_machine_with_other_files_is_named_by_all(found: Found) -> None:
    first, second = found[2]["other_lists"]
    assert first == second
    assert "rank 1 on " in first
    assert "differ in the list data.train_list" in first


def test_losses_are_numbers(found: Found) -> None:
    for case in ("cohort_of_four_shards", "mixed_of_two_shards", "whole_of_two_shards"):
        assert all(math.isfinite(loss) for losses in by_trial(found[1][case][0], "loss").values() for loss in losses)
