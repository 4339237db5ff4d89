from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.calibration import brier_score, expected_calibration_error, standard_error
from pipeline.errors import ShapeError


def slow_ece(confidence, correct, bins):
    """Sum over bins by loops, answers of equal confidence replaced by their average."""
    pairs = sorted(zip(confidence, correct, strict=True), key=lambda pair: pair[0])
    smoothed = []
    for sure, _ in pairs:
        equals = [right for other, right in pairs if other == sure]
        smoothed.append((sure, sum(equals) / len(equals)))
    bins = min(bins, len(smoothed))
    total, start = 0.0, 0
    for b in range(bins):
        size = len(smoothed) // bins + (b < len(smoothed) % bins)
        part = smoothed[start : start + size]
        start += size
        mean_sure = sum(sure for sure, _ in part) / size
        mean_right = sum(right for _, right in part) / size
        total += size / len(smoothed) * abs(mean_right - mean_sure)
    return total


def test_ece_by_hand():
    # Two bins of two: |0.5 - 0.55| and |1 - 0.85|, each with half of the weight.
    found = expected_calibration_error([0.5, 0.6, 0.8, 0.9], [1, 0, 1, 1], bins=2)
    assert found == pytest.approx(0.5 * 0.05 + 0.5 * 0.15, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_ece_equals_the_brute_force_sum(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    confidence = rng.choice([0.1, 0.25, 0.5, 0.9], n) if seed % 2 else rng.random(n)
    correct = rng.random(n) < 0.5
    for bins in (1, 3, 10):
        expected = slow_ece(confidence.tolist(), correct.tolist(), bins)
        assert expected_calibration_error(confidence, correct, bins) == pytest.approx(
            expected, abs=1e-12
        )


def test_ece_of_calibrated_and_of_overconfident_answers():
    confidence = np.repeat([0.25, 0.5, 0.75], 4)
    correct = [1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0]
    assert expected_calibration_error(confidence, correct, bins=3) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error([1.0] * 8, [0] * 8, bins=4) == 1


def test_ece_does_not_depend_on_the_order_of_the_answers():
    rng = np.random.default_rng(3)
    confidence, correct = rng.choice([0.3, 0.6, 0.9], 40), rng.random(40) < 0.6
    order = rng.permutation(40)
    first = expected_calibration_error(confidence, correct, 7)
    assert first == pytest.approx(expected_calibration_error(confidence[order], correct[order], 7))
    assert first > 0


def test_ece_edges():
    assert math.isnan(expected_calibration_error([], [], 10))
    assert expected_calibration_error([0.7], [1], 10) == pytest.approx(0.3)
    with pytest.raises(ShapeError):
        expected_calibration_error([0.5, 0.5], [1], 10)
    with pytest.raises(ValueError, match="bins"):
        expected_calibration_error([0.5], [1], 0)
    with pytest.raises(ValueError, match="confidence"):
        expected_calibration_error([1.5], [1], 10)


def test_brier_by_hand():
    # (0.7-1)^2 + 0.2^2 + 0.1^2 = 0.14; two choices, wrong: 0.6^2 + 0.6^2 = 0.72.
    assert brier_score([[0.7, 0.2, 0.1], [0.4, 0.6]], [0, 0]) == pytest.approx((0.14 + 0.72) / 2)


def test_brier_is_between_0_and_2_and_chance_for_uniform_answers():
    assert brier_score([[0.0, 1.0]], [1]) == 0
    assert brier_score([[0.0, 1.0]], [0]) == 2
    assert brier_score([[0.25] * 4] * 3, [0, 1, 3]) == pytest.approx(0.75)
    assert math.isnan(brier_score([], []))
    with pytest.raises(ShapeError):
        brier_score([[1.0]], [])


def test_standard_error():
    assert standard_error([0, 1, 1, 0]) == pytest.approx(math.sqrt(1 / 3) / 2)
    assert math.isnan(standard_error([1.0]))
