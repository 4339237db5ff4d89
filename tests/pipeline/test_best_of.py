from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pipeline.best_of import (
    beats,
    best_of_kl,
    best_weights,
    duel_weights,
    expect_win,
    interpolate,
    segment_of,
)

DISTINCT = [0.3, -1.0, 2.0, 0.7, -0.2, 1.1]
TIED = [0.3, -1.0, 2.0, 0.3, 2.0, 0.3]
ALIKE = [0.5] * 5


def winners(scores, subset):
    top = max(scores[i] for i in subset)
    return [i for i in subset if scores[i] == top]


def weights_by_enumeration(scores, n):
    """Pick from every subset, evenly among those that tie for the best."""
    weights = np.zeros(len(scores))
    subsets = list(itertools.combinations(range(len(scores)), n))
    for subset in subsets:
        best = winners(scores, subset)
        weights[best] += 1 / len(best) / len(subsets)
    return weights


def duels_by_enumeration(scores, n):
    count = len(scores)
    weights = np.zeros((count, count))
    for beside in range(count):
        others = [i for i in range(count) if i != beside]
        subsets = list(itertools.combinations(others, n))
        for subset in subsets:
            best = winners(scores, subset)
            weights[best, beside] += 1 / len(best) / len(subsets) / count
    return weights


@pytest.mark.parametrize("scores", [DISTINCT, TIED, ALIKE])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_best_of_a_random_subset_is_that_of_all_subsets(scores, n):
    np.testing.assert_allclose(
        best_weights(scores, n), weights_by_enumeration(scores, n), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("scores", [DISTINCT, TIED])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_one_beside_the_subset_is_that_of_all_subsets(scores, n):
    np.testing.assert_allclose(
        duel_weights(scores, n), duels_by_enumeration(scores, n), rtol=0, atol=1e-14
    )


def test_the_extremes_are_the_mean_and_the_maximum():
    np.testing.assert_allclose(best_weights(TIED, 1), 1 / 6, rtol=1e-14)
    assert best_weights(DISTINCT, 6).tolist() == [0, 0, 1, 0, 0, 0]
    assert best_weights(TIED, 6).tolist() == [0, 0, 0.5, 0, 0.5, 0]


def test_weights_of_many_completions_do_not_overflow():
    scores = np.random.default_rng(0).normal(size=600)
    for n in (1, 300, 599):
        assert best_weights(scores, n).sum() == pytest.approx(1, abs=1e-12)
        assert np.isfinite(best_weights(scores, n)).all()


def test_best_of_n_beats_one_sample_by_its_score_in_n_of_n_plus_one():
    # Of n + 1 draws that do not tie the single one is the best as often as any other.
    for n in (1, 2, 4, 5):
        weights = duel_weights(DISTINCT, n)
        assert expect_win(weights, np.array(DISTINCT)) == pytest.approx(n / (n + 1), abs=1e-14)


def test_values_that_the_picker_does_not_see_win_half():
    values = np.random.default_rng(1).normal(size=5)
    assert expect_win(duel_weights(ALIKE, 3), values) == pytest.approx(0.5, abs=1e-14)
    assert beats(np.array([1.0, 2.0]), np.array([1.0])).tolist() == [[0.5], [1.0]]


def test_the_kl_is_that_of_ranks():
    # The best of n of m equally likely ranks has P(k) = (k^n - (k-1)^n) / m^n; its KL from the
    # uniform distribution tends to the formula as the ranks grow fine.
    ranks = np.arange(1, 200_001, dtype=np.float64) / 200_000
    for n in (1, 2, 4, 16):
        picked = np.diff(np.concatenate([[0.0], ranks**n]))
        kept = picked > 0
        kl = (picked[kept] * np.log(picked[kept] * len(ranks))).sum()
        assert best_of_kl(n) == pytest.approx(kl, abs=1e-3)  # of a grid
    assert best_of_kl(1) == 0
    assert best_of_kl(2) == pytest.approx(math.log(2) - 0.5, abs=1e-15)


def test_ties_make_the_kl_smaller_than_the_formula():
    rng = np.random.default_rng(2)
    for n in (2, 4, 16):
        mass = rng.dirichlet(np.full(6, 0.5))
        top = np.cumsum(mass)
        picked = np.diff(np.concatenate([[0.0], top**n]))
        kept = picked > 0
        kl = (picked[kept] * np.log(picked[kept] / mass[kept])).sum()
        assert 0 < kl < best_of_kl(n)


def test_interpolation_is_linear_between_neighbours_and_nowhere_else():
    levels = np.array([0.0, 1.0, 3.0])
    points = np.array([[0.0, 2.0], [1.0, 4.0], [5.0, 4.0]])

    def at(level):
        return interpolate(points, levels, level)

    assert at(0.0).tolist() == [0, 2]
    assert at(0.25).tolist() == [0.25, 2.5]
    assert at(1.0).tolist() == [1, 4]
    assert at(2.0).tolist() == [3, 4]
    assert at(3.0).tolist() == [5, 4]
    assert at(-1e-9) is None
    assert at(3 + 1e-9) is None
    assert segment_of(np.array([0.0]), 0.0) is None
