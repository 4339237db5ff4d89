"""The interval of a paired difference holds the truth as often as it says, on simulated data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, t

from pipeline.bootstrap import bootstrap_mean, expanded_tail
from pipeline.report.statistics import bootstrap_interval

DATA_SETS = 1_000
OUTCOMES = np.array([-1.0, 0.0, 1.0])


def outcomes(size: int, fallen: float, risen: float):
    """Return a drawing of paired right and wrong answers, and their true mean difference."""
    shares = [fallen, 1 - fallen - risen, risen]
    return lambda draw: [draw.choice(OUTCOMES, size, p=shares)], risen - fallen


def two_tasks():
    sizes = (40, 80)
    return (
        lambda draw: [draw.choice(OUTCOMES, size, p=[0.15, 0.75, 0.1]) for size in sizes],
        -0.05,
    )


CASES = {
    "64 documents": outcomes(64, 0.15, 0.1),
    "100 documents": outcomes(100, 0.1, 0.05),
    "300 documents": outcomes(300, 0.05, 0.03),
    "20 values of a normal": (lambda draw: [draw.normal(0.3, 1, 20)], 0.3),
    "two tasks": two_tasks(),
}


@pytest.mark.parametrize("case", CASES)
def test_the_paired_bootstrap_covers_at_95_percent(case: str) -> None:
    draw_groups, truth = CASES[case]
    draw = np.random.default_rng(0)
    covered = 0
    for seed in range(DATA_SETS):
        low, high = bootstrap_interval(draw_groups(draw), seed)
        covered += low <= truth <= high
    assert covered / DATA_SETS == pytest.approx(0.95, abs=0.02)


def test_a_plain_percentile_interval_of_few_values_would_not(monkeypatch) -> None:
    monkeypatch.setattr("pipeline.report.statistics.expanded_tail", lambda *_: 0.025)
    draw = np.random.default_rng(0)
    covered = 0
    for seed in range(DATA_SETS):
        low, high = bootstrap_interval([draw.normal(0.3, 1, 20)], seed)
        covered += low <= 0.3 <= high
    assert covered / DATA_SETS < 0.935


def test_one_group_is_expanded_as_hesterberg_prints_it() -> None:
    for n in (5, 10, 20, 60):
        expected = norm.cdf(-np.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1))
        assert expanded_tail(0.95, [(3.0, n)]) == pytest.approx(expected, rel=1e-9)
    assert expanded_tail(0.95, [(1.0, 10**7)]) == pytest.approx(0.025, abs=1e-6)


def test_a_group_without_spread_counts_for_nothing() -> None:
    one = expanded_tail(0.95, [(0.2, 40)])
    assert expanded_tail(0.95, [(0.2, 40), (0.0, 5), (0.3, 1)]) == one
    assert expanded_tail(0.95, [(0.0, 5)]) == pytest.approx(0.025)
    # Two alike have twice the degrees of freedom.
    assert one < expanded_tail(0.95, [(0.2, 40), (0.2, 40)]) < 0.025


def test_the_intervals_of_prompts_are_expanded_too() -> None:
    values = np.random.default_rng(1).normal(0, 1, 8)
    found = bootstrap_mean(values, seed=0, samples=20_000)
    error = values.std(ddof=1) / np.sqrt(8)
    # Student's t with 7 degrees of freedom, 2.36, and not the normal's 1.96.
    assert (found.high - found.low) / (2 * error) == pytest.approx(2.36, abs=0.25)
    assert (found.high - found.low) / (2 * error) > 2.0
