from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from pipeline.bootstrap import bootstrap_mean
from pipeline.report.statistics import RESAMPLES, adjust, compare, holm, pair, sign_flip


@pytest.fixture
def outcomes() -> np.ndarray:
    return np.random.default_rng(3).choice([-1.0, 0.0, 1.0], 80, p=[0.3, 0.55, 0.15])


def test_holm_equals_a_case_worked_by_hand() -> None:
    # Ordered: 0.005*4 = 0.02; 0.01*3 = 0.03; 0.03*2 = 0.06; 0.04*1 = 0.04, raised to 0.06.
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_holm_equals_statsmodels() -> None:
    p_values = np.random.default_rng(5).random(40) ** 3
    ours = holm(dict(enumerate(p_values.tolist())))
    theirs = multipletests(p_values, method="holm")[1]
    assert [ours[i] for i in range(40)] == pytest.approx(theirs.tolist(), abs=1e-12)


def test_sign_flip_on_one_task_is_mcnemars_exact_test(outcomes: np.ndarray) -> None:
    exact = binomtest(int((outcomes > 0).sum()), int((outcomes != 0).sum())).pvalue
    # Three standard errors of 100,000 draws at p = 0.05.
    assert sign_flip([outcomes], seed=0) == pytest.approx(exact, abs=0.002)


def test_sign_flip_is_uniform_when_the_stages_are_alike() -> None:
    draw = np.random.default_rng(9)
    p_values = [sign_flip([draw.choice([-1.0, 0.0, 1.0], 60)], seed=i) for i in range(200)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.09


def test_no_difference_has_p_one_and_an_interval_of_nothing() -> None:
    change = compare([np.zeros(20), np.zeros(5)], seed=0)
    assert change is not None
    assert (change.difference, change.low, change.high, change.p) == (0, 0, 0, 1)
    assert not change.excludes_zero


def test_swapping_the_stages_turns_the_sign_and_keeps_p(outcomes: np.ndarray) -> None:
    there, back = compare([outcomes], seed=1), compare([-outcomes], seed=1)
    assert there is not None
    assert back is not None
    assert back.difference == pytest.approx(-there.difference)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-12)
    assert back.p == there.p


def test_every_task_weighs_the_same_however_many_documents_it_has() -> None:
    change = compare([np.ones(10), np.zeros(1000)], seed=0)
    assert change is not None
    assert change.difference == pytest.approx(0.5)


@pytest.mark.parametrize("alike", [True, False])
def test_one_task_has_the_interval_of_bootstrap_mean(outcomes: np.ndarray, alike: bool) -> None:
    values = outcomes if alike else outcomes + np.random.default_rng(0).normal(0, 0.2, 80)
    change = compare([values], seed=4)
    assert change is not None
    expected = bootstrap_mean(values, seed=4, samples=RESAMPLES)
    # An end of an interval from 2,000 resamples is good to 0.08 standard errors of the mean, 0.07.
    assert (change.difference, change.low, change.high) == pytest.approx(tuple(expected), abs=0.02)


def test_the_p_value_of_differences_of_which_no_two_are_alike_is_exact() -> None:
    values = np.random.default_rng(8).normal(0, 1, 12) + 0.6
    signs = np.array(np.meshgrid(*[[-1, 1]] * 12)).reshape(12, -1)
    exact = np.mean(np.abs(values @ signs) >= abs(values.sum()) - 1e-12)
    assert 0.01 < exact < 0.5
    # Three standard errors of 100,000 draws.
    assert sign_flip([values], seed=1) == pytest.approx(exact, abs=0.004)
    mixed = np.concatenate([values, np.ones(6), np.zeros(5)])
    flips = np.array(np.meshgrid(*[[-1, 1]] * 12)).reshape(12, -1).T @ values
    heads = np.random.default_rng(2).binomial(6, 0.5, len(flips))
    by_hand = np.mean(np.abs(flips + 2 * heads - 6) >= abs(mixed.sum()))
    # The ones' signs are drawn once a pattern here: 4,096 draws.
    assert sign_flip([mixed], seed=1) == pytest.approx(by_hand, abs=0.02)


def test_the_interval_of_a_mean_over_tasks_has_its_normal_width() -> None:
    draw = np.random.default_rng(2)
    groups = [draw.choice([-1.0, 0.0, 1.0], size) for size in (300, 150, 600)]
    change = compare(groups, seed=0)
    assert change is not None
    spread = np.sqrt(sum(group.var() / len(group) for group in groups)) / len(groups)
    # 2,000 resamples give an end of the interval to a few percent.
    assert change.high - change.low == pytest.approx(2 * 1.96 * spread, rel=0.08)


def test_only_documents_that_both_stages_answered_are_compared() -> None:
    assert pair({"a": 1, "b": 1, "c": 0}, {"c": 1, "b": 0, "d": 1}).tolist() == [1, -1]
    assert compare([np.ones(3), pair({"a": 1}, {"b": 1})], seed=0) is None


def test_adjusting_keeps_the_differences_and_can_take_significance_away(
    outcomes: np.ndarray,
) -> None:
    change = compare([outcomes], seed=0)
    assert change is not None
    family = adjust(dict.fromkeys(range(100), change))
    assert family[0].difference == change.difference
    assert family[0].p_holm == min(1, 100 * change.p)
    assert family[0].significant == (100 * change.p < 0.05)
