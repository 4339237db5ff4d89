from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from pipeline.calibration import expected_calibration_error
from pipeline.errors import ShapeError
from pipeline.tempering import confidence_at, fit_temperature, mend


def questions(n: int, scale: float, seed: int = 0, choices: int = 4):
    """Return log-likelihoods ``scale`` times too far apart, and right answers drawn from theirs."""
    rng = np.random.default_rng(seed)
    honest = log_softmax(rng.normal(0, 1.5, (n, choices)), axis=1)
    gold = [int(rng.choice(choices, p=np.exp(row))) for row in honest]
    return scale * honest, gold


def loss(logliks, gold, temperature: float) -> float:
    return -np.mean(
        [
            log_softmax(np.array(row) / temperature)[right]
            for row, right in zip(logliks, gold, strict=True)
        ]
    )


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_the_scale_that_was_put_in_is_found(scale):
    logliks, gold = questions(4000, scale)
    assert fit_temperature(logliks, gold) == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_temperature_has_a_lower_loss(seed):
    logliks, gold = questions(60, 2.0, seed)
    found = fit_temperature(logliks, gold)
    by_search = minimize_scalar(
        lambda power: loss(logliks, gold, math.exp(power)), bounds=(-5, 5), options={"xatol": 1e-9}
    )
    # The search knows the minimum of a flat bottom to about the root of a float's precision.
    assert found == pytest.approx(math.exp(by_search.x), rel=1e-5)
    assert loss(logliks, gold, found) <= by_search.fun + 1e-12


def test_questions_of_different_numbers_of_choices():
    logliks = [[0.0, -1.0], [-3.0, -1.0, -2.0], [0.0, -0.5, -4.0, -1.0]]
    gold = [1, 1, 0]
    found = fit_temperature(logliks, gold)
    for other in (0.98 * found, 1.02 * found):
        assert loss(logliks, gold, found) < loss(logliks, gold, other)


def test_a_shift_of_all_choices_changes_nothing_and_a_factor_scales_it():
    logliks, gold = questions(80, 2.0)
    found = fit_temperature(logliks, gold)
    assert fit_temperature(logliks - 50, gold) == pytest.approx(found)
    assert fit_temperature(7 * logliks, gold) == pytest.approx(7 * found)


def test_the_ends_of_the_scale():
    assert fit_temperature([[0.0, -1.0], [-2.0, -1.0]], [0, 1]) == 0
    assert fit_temperature([[0.0, -1.0], [-2.0, -1.0]], [1, 0]) == math.inf
    assert fit_temperature([[-1.0, -1.0]], [0]) == 1
    assert math.isnan(fit_temperature([], []))
    with pytest.raises(ShapeError):
        fit_temperature([[0.0, 1.0]], [])


def test_confidence_at_a_temperature():
    row = [0.0, -1.0, -1.0, 0.0]
    assert confidence_at(row, 2.0) == pytest.approx(softmax(np.array(row) / 2).max())
    assert confidence_at(row, math.inf) == 0.25
    assert confidence_at(row, 0.0) == 0.5


def test_mending_an_overconfident_model_leaves_little_error():
    logliks, gold = questions(3000, 3.0)
    correct = (logliks.argmax(axis=1) == gold).astype(float)
    before = expected_calibration_error(softmax(logliks, axis=1).max(axis=1), correct)
    found = mend(list(logliks), gold, correct.tolist(), 10)
    assert found.temperature == pytest.approx(3.0, rel=0.06)
    assert before > 0.15
    # 300 answers a bin: what is left is chance, some 0.02.
    assert found.error < 0.04


def test_the_error_that_is_left_is_that_of_the_other_halfs_temperature():
    logliks, gold = questions(41, 2.0)
    correct = (logliks.argmax(axis=1) == gold).astype(float)
    halves = [fit_temperature(logliks[half::2], gold[half::2]) for half in (0, 1)]
    sure = [softmax(row / halves[1 - i % 2]).max() for i, row in enumerate(logliks)]
    found = mend(list(logliks), gold, correct.tolist(), 5)
    assert found.error == pytest.approx(expected_calibration_error(sure, correct, 5))


def test_questions_without_a_right_answer_are_not_fitted():
    logliks, gold = questions(40, 2.0)
    some = [None if i in (3, 8) else right for i, right in enumerate(gold)]
    kept = [i for i in range(40) if i not in (3, 8)]
    found = mend(list(logliks), some, [1.0] * 40, 5)
    assert found.temperature == fit_temperature(logliks[kept], [gold[i] for i in kept])
    assert math.isnan(mend([[0.0, 1.0]], [1], [1.0], 5).error)
    assert math.isnan(mend([[0.0, 1.0]] * 2, [1, None], [1.0, 0.0], 5).error)
