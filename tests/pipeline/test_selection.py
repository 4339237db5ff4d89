from __future__ import annotations

import numpy as np
import pytest

from pipeline.selection import choose, disagreement, inclusion_probabilities


def test_disagreement_is_the_mean_variance_of_the_preferred_order():
    scores = np.array([[0.0, 1.0, -2.0], [0.5, 0.0, 3.0]])
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    by_hand = np.mean(
        [np.var([sigmoid(row[i] - row[j]) for row in scores]) for i, j in [(0, 1), (0, 2), (1, 2)]]
    )
    assert disagreement(scores) == pytest.approx(by_hand, abs=1e-12)


def test_models_that_agree_have_none_and_opposites_have_most():
    same = np.array([[3.0, -1.0], [3.0, -1.0]])
    opposite = np.array([[50.0, -50.0], [-50.0, 50.0]])
    assert disagreement(same) == 0
    assert disagreement(opposite) == pytest.approx(0.25)


def test_one_model_is_asked_where_its_gaps_are_small():
    near, far = disagreement(np.array([[0.0, 0.0]])), disagreement(np.array([[0.0, 9.0]]))
    assert near == pytest.approx(0.25)
    assert far < 0.001


def test_a_single_completion_leaves_nothing_to_disagree_about():
    assert disagreement(np.array([[1.0], [2.0]])) == 0


def test_chances_are_proportional_until_one_is_certain():
    chances = inclusion_probabilities(np.array([1.0, 2.0, 3.0, 94.0]), 2)
    assert chances == pytest.approx([1 / 6, 2 / 6, 3 / 6, 1.0])
    assert inclusion_probabilities(np.array([0.0, 0.0, 5.0]), 2) == pytest.approx([0.5, 0.5, 1.0])
    assert inclusion_probabilities(np.array([1.0, 1.0]), 2) == pytest.approx([1.0, 1.0])


def test_every_candidate_is_chosen_as_often_as_it_says():
    uncertainty = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.0, 0.24, 0.03]
    draws, size = 20_000, 4
    counts, slices = np.zeros(10), np.zeros(10)
    for seed in range(draws):
        chosen = choose(uncertainty, size, random_share=0.3, seed=seed)
        assert len({item.index for item in chosen}) == size
        for item in chosen:
            counts[item.index] += 1
            slices[item.index] += item.policy == "random"
    known = {
        item.index: item.propensity
        for seed in range(100)
        for item in choose(uncertainty, size, random_share=0.3, seed=seed)
    }
    expected = np.array([known[index] for index in range(10)])
    assert expected.sum() == pytest.approx(size)
    # Four standard errors of a frequency over 20,000 draws.
    assert counts / draws == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(draws))
    assert slices / draws == pytest.approx(0.3 * size / 10, abs=4 * 0.33 / np.sqrt(draws))


def test_estimates_from_the_chosen_have_no_bias():
    uncertainty = np.linspace(0.01, 0.25, 12)
    values = np.linspace(-1, 3, 12) ** 2
    estimates = [
        sum(values[item.index] / item.propensity for item in choose(uncertainty, 5, 0.2, seed)) / 12
        for seed in range(4000)
    ]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(values.mean(), abs=4 * error)


def test_fewer_candidates_than_asked_for_are_all_chosen():
    chosen = choose([0.1, 0.0, 0.2], 9, random_share=0.5, seed=1)
    assert [item.index for item in chosen] == [0, 1, 2]
    assert all(item.propensity == 1.0 for item in chosen)
    assert choose([], 3, random_share=0.5, seed=1) == []


def test_the_same_seed_chooses_the_same():
    uncertainty = [0.1] * 50
    assert choose(uncertainty, 9, 0.3, seed=5) == choose(uncertainty, 9, 0.3, seed=5)
    assert choose(uncertainty, 9, 0.3, seed=5) != choose(uncertainty, 9, 0.3, seed=6)
