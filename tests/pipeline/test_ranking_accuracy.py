from __future__ import annotations

import math

import pytest

from pipeline.ranking_accuracy import (
    compare_accuracy,
    correlate_with_length,
    describe_scores,
    measure_accuracy,
    measure_calibration,
    pair_up,
    split_accuracy,
)
from pipeline.records import Prompt, Ranking

FIRST = Prompt.from_text("first")
SECOND = Prompt.from_text("second")
RANKINGS = [
    Ranking(FIRST, ("a", "bb", "ccc"), (1, 2, 2), (7, 4, 5), "ann"),
    Ranking(SECOND, ("a", "bb"), (2, 1), (3, 2), "bea", "held_out"),
    Ranking(SECOND, ("a", "dddd"), (1, 2)),
]
# Right, equal (a half), tied; wrong; right.
SCORES = [[1.0, 0.0, 1.0], [0.5, 0.0], [0.5, -0.5]]


def test_accuracy_by_hand() -> None:
    found = measure_accuracy(RANKINGS, SCORES, seed=0)
    assert found["accuracy"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert found["by_prompt"] == pytest.approx((0.75 + 0.5) / 2)
    assert (found["n"], found["tied"], found["prompts"]) == (4, 1, 2)
    # Two prompts of 0.75 and 0.5: no resample leaves that range.
    assert (found["low"], found["high"]) == (0.5, 0.75)


def test_the_interval_is_over_prompts_and_not_over_pairs() -> None:
    ranking = Ranking(FIRST, tuple("abcdefghi"), tuple(range(1, 10)))
    scores = [[0.0, 5.0, 1.0, 8.0, 2.0, 3.0, 7.0, 4.0, 6.0]]
    found = measure_accuracy([ranking], scores, seed=0)
    assert found["n"] == 36
    assert found["low"] == found["high"] == found["accuracy"]


def test_opposite_scores_have_the_opposite_accuracy() -> None:
    turned = [[-score for score in row] for row in SCORES]
    total = (
        measure_accuracy(RANKINGS, SCORES, seed=0)["accuracy"]
        + measure_accuracy(RANKINGS, turned, seed=0)["accuracy"]
    )
    assert total == pytest.approx(1.0)


def test_the_lead_over_other_scores_is_paired() -> None:
    turned = [[-score for score in row] for row in SCORES]
    assert set(compare_accuracy(RANKINGS, SCORES, SCORES, seed=0).values()) == {0.0}
    ahead = compare_accuracy(RANKINGS, SCORES, turned, seed=0)
    behind = compare_accuracy(RANKINGS, turned, SCORES, seed=0)
    own = measure_accuracy(RANKINGS, SCORES, seed=0)["accuracy"]
    assert ahead["difference"] == pytest.approx(2 * own - 1)
    assert behind["low"] == pytest.approx(-ahead["high"])
    assert ahead["low"] <= ahead["difference"] <= ahead["high"]
    tied = [Ranking(FIRST, ("a", "b"), (1, 1))]
    assert set(compare_accuracy(tied, [[0.0, 1.0]], [[1.0, 0.0]], seed=0).values()) == {None}


def test_no_pairs_give_no_figures() -> None:
    tied = [Ranking(FIRST, ("a", "b"), (1, 1))]
    found = measure_accuracy(tied, [[0.0, 1.0]], seed=0)
    assert found["accuracy"] is None
    assert found["low"] is None
    assert (found["n"], found["tied"]) == (0, 1)
    assert measure_calibration(tied, [[0.0, 1.0]]) == {"ece": None, "brier": None, "log_loss": None}


def test_breakdowns_by_hand() -> None:
    parts = split_accuracy(RANKINGS, SCORES)
    assert parts["by_labeler"] == {
        "ann": {"accuracy": 0.75, "n": 2},
        "bea": {"accuracy": 0.0, "n": 1},
        "unnamed": {"accuracy": 1.0, "n": 1},
    }
    assert parts["by_group"] == {
        "held_out": {"accuracy": 0.0, "n": 1},
        "train": {"accuracy": pytest.approx(2.5 / 3), "n": 3},
    }
    # 7 above 4 and 5; then a 2 ranked above a 3; the third ranking has no ratings.
    assert parts["by_rating_gap"] == {
        "+2": {"accuracy": 0.5, "n": 1},
        "+3": {"accuracy": 1.0, "n": 1},
        "-1": {"accuracy": 0.0, "n": 1},
    }


def test_a_shift_changes_no_accuracy_and_no_calibration() -> None:
    shifted = [[score + 3.0 for score in row] for row in SCORES]
    assert measure_accuracy(RANKINGS, shifted, seed=0) == measure_accuracy(RANKINGS, SCORES, seed=0)
    assert measure_calibration(RANKINGS, shifted) == pytest.approx(
        measure_calibration(RANKINGS, SCORES)
    )


def test_equal_scores_are_a_coin() -> None:
    found = measure_calibration(RANKINGS, [[0.0] * len(row) for row in SCORES])
    assert found["ece"] == pytest.approx(0.0, abs=1e-12)
    assert found["log_loss"] == pytest.approx(math.log(2))


def test_confidence_that_is_always_right_is_calibrated_as_it_grows() -> None:
    rankings = [Ranking(Prompt.from_text(str(i)), ("a", "b"), (1, 2)) for i in range(20)]
    sure, unsure = ([[gap, 0.0]] * 20 for gap in (20.0, 0.1))
    assert measure_calibration(rankings, sure)["brier"] < 1e-12
    assert measure_calibration(rankings, unsure)["ece"] == pytest.approx(
        1 - 1 / (1 + math.exp(-0.1))
    )
    wrong = [[-20.0, 0.0]] * 20
    assert measure_calibration(rankings, wrong)["brier"] == pytest.approx(1.0)


def test_length_is_correlated_by_rank() -> None:
    assert correlate_with_length([1, 2, 3, 4], [0.1, 0.2, 9.0, 10.0]) == pytest.approx(1.0)
    assert correlate_with_length([1, 2, 3, 4], [4.0, 3.0, 2.0, -9.0]) == pytest.approx(-1.0)
    assert correlate_with_length([1, 2, 3], [1.0, 1.0, 1.0]) is None


def test_each_completion_is_described_once() -> None:
    # "a" of the second prompt was judged twice.
    found = describe_scores(RANKINGS, SCORES)
    assert found["score_mean"] == pytest.approx((1.0 + 0.0 + 1.0 + 0.5 + 0.0 - 0.5) / 6)
    assert found["length_correlation"] == pytest.approx(
        correlate_with_length([1, 2, 3, 1, 2, 4], [1.0, 0.0, 1.0, 0.5, 0.0, -0.5])
    )


def test_pairs_follow_the_ranks_and_not_the_order() -> None:
    ((pair,), tied) = pair_up([Ranking(FIRST, ("a", "b"), (2, 1))], [[0.0, 1.5]])
    assert (pair.difference, pair.right, tied) == (1.5, 1.0, 0)
