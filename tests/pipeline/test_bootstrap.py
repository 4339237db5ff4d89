from __future__ import annotations

import numpy as np
import pytest

from pipeline.bootstrap import bootstrap_difference, bootstrap_mean, bootstrap_over_seeds
from pipeline.errors import ShapeError


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        found = bootstrap_mean(rng.normal(2, 1, 60), seed=trial, samples=300, level=0.9)
        covered += found.low <= 2 <= found.high
    # A binomial of 200 trials at 0.9 leaves [0.82, 0.96] once in a thousand times.
    assert 0.82 <= covered / 200 <= 0.96


def test_clusters_widen_the_interval_and_cover_where_single_values_do_not():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(30), 8)
    covered, naive = 0, 0
    for trial in range(120):
        values = rng.normal(0, 1, 30)[clusters] + rng.normal(0, 0.1, 240)
        whole = bootstrap_mean(values, clusters.tolist(), seed=trial, samples=200, level=0.9)
        single = bootstrap_mean(values, seed=trial, samples=200, level=0.9)
        covered += whole.low <= 0 <= whole.high
        naive += single.low <= 0 <= single.high
    assert covered / 120 >= 0.8
    assert naive / 120 <= 0.6


def test_interval_is_that_of_the_normal_for_many_values():
    values = np.random.default_rng(2).normal(5, 2, 2000)
    found = bootstrap_mean(values, seed=0, samples=4000)
    error = values.std() / np.sqrt(values.size)
    assert found.estimate == pytest.approx(values.mean())
    # Quantiles of 4000 resamples are good to a few percent of the standard error.
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_clusters_of_one_are_no_clusters():
    values = np.random.default_rng(3).random(40)
    names = [f"prompt {i}" for i in range(40)]
    assert bootstrap_mean(values, names, seed=5) == bootstrap_mean(values, seed=5)


def test_unequal_clusters_keep_the_mean_over_values():
    found = bootstrap_mean([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"], seed=0, samples=500)
    assert found.estimate == 0.75
    assert (found.low, found.high) == (0.0, 1.0)


def test_pairing_takes_out_what_both_share():
    rng = np.random.default_rng(4)
    hard = rng.normal(0, 10, 100)
    first, second = hard + 0.5 + rng.normal(0, 0.1, 100), hard + rng.normal(0, 0.1, 100)
    paired = bootstrap_difference(first, second, seed=0)
    assert paired.excludes_zero
    assert paired.estimate == pytest.approx(0.5, abs=0.1)
    swapped = bootstrap_difference(second, first, seed=0)
    assert swapped.estimate == pytest.approx(-paired.estimate)
    assert not bootstrap_difference(first, first, seed=0).excludes_zero


def test_seed_decides():
    values = np.random.default_rng(5).random(30)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_over_seeds_holds_the_spread_between_runs():
    rng = np.random.default_rng(6)
    runs = [rng.normal(mean, 0.1, 50) for mean in (0.0, 1.0, 2.0)]
    found = bootstrap_over_seeds(runs, seed=0, samples=1000)
    pooled = bootstrap_mean(np.concatenate(runs), seed=0, samples=1000)
    assert found.estimate == pytest.approx(pooled.estimate)
    assert found.high - found.low > 3 * (pooled.high - pooled.low)
    alone = bootstrap_over_seeds(runs[:1], seed=0, samples=1000)
    assert alone.high - alone.low < 0.1


def test_refusals():
    with pytest.raises(ShapeError):
        bootstrap_mean([1.0, 2.0], ["a"], seed=0)
    with pytest.raises(ShapeError):
        bootstrap_difference([1.0, 2.0], [1.0], seed=0)
    for empty in (lambda: bootstrap_mean([], seed=0), lambda: bootstrap_over_seeds([], seed=0)):
        with pytest.raises(ValueError, match="at least one"):
            empty()
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([1.0, float("nan")], seed=0)
