from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from pipeline.calibration import (
    BinnedConfidence,
    ReliabilityBin,
    brier_score,
    chance_error,
    count_confidences,
    error_of,
    expected_calibration_error,
    reliability,
    standard_error,
)
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


def drawn(n: int, seed: int = 0, gap: float = 0.0):
    """Return confidences in [0.3, 1], and outcomes that are right ``gap`` less often than said."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 1.0, n)
    return confidence, (rng.random(n) < confidence - gap).astype(float)


@pytest.mark.parametrize("bins", [5, 10])
def test_the_diagram_is_scikit_learns_with_quantile_bins(bins):
    confidence, correct = drawn(1000, gap=0.15)
    true, sure = calibration_curve(correct, confidence, n_bins=bins, strategy="quantile")
    points = reliability(confidence, correct, bins)
    assert [point.accuracy for point in points] == pytest.approx(true.tolist(), abs=1e-12)
    assert [point.confidence for point in points] == pytest.approx(sure.tolist(), abs=1e-12)
    assert {point.n for point in points} == {1000 // bins}
    theirs = float(np.abs(true - sure).mean())
    assert expected_calibration_error(confidence, correct, bins) == pytest.approx(theirs, abs=1e-12)
    assert error_of(points) == pytest.approx(theirs, abs=1e-12)


def test_brier_is_scikit_learns():
    rng = np.random.default_rng(2)
    shares = rng.dirichlet([1, 1, 1, 1], 300)
    gold = rng.integers(0, 4, 300)
    theirs = brier_score_loss(gold, shares, scale_by_half=False)
    assert brier_score(shares.tolist(), gold.tolist()) == pytest.approx(theirs, abs=1e-12)
    # Of two choices it is twice the binary score.
    two = np.column_stack([1 - shares[:, 0], shares[:, 0]])
    binary = brier_score_loss(gold == 0, shares[:, 0])
    ours = brier_score(two.tolist(), (gold == 0).astype(int).tolist())
    assert ours == pytest.approx(2 * binary, abs=1e-12)


def test_a_known_error_is_found():
    # Right 0.2 less often than said, everywhere: the error is 0.2 whatever the bins.
    confidence, correct = drawn(200_000, gap=0.2)
    # A bin's share of 20,000 outcomes is good to 0.0035.
    assert expected_calibration_error(confidence, correct, 10) == pytest.approx(0.2, abs=0.004)


def test_an_error_whose_sign_changes_is_counted_on_both_sides():
    # Sure of 0.6, right in 0.8; sure of 0.9, right in 0.7: 0.2 each, though 0 on the whole.
    confidence = np.repeat([0.6, 0.9], 1000)
    correct = np.concatenate([np.arange(1000) < 800, np.arange(1000) < 700])
    assert expected_calibration_error(confidence, correct, 2) == pytest.approx(0.2, abs=1e-12)


def test_chance_is_what_calibrated_answers_show():
    confidence, _ = drawn(120)
    rng = np.random.default_rng(9)
    errors = [
        expected_calibration_error(confidence, rng.random(120) < confidence, 10) for _ in range(400)
    ]
    # 200 draws against 400: either mean is good to 2 %.
    assert chance_error(confidence, 10) == pytest.approx(np.mean(errors), rel=0.08)
    assert chance_error(drawn(12_000)[0], 10) < chance_error(confidence, 10) / 5
    assert chance_error(np.ones(50), 10) == 0
    assert chance_error(confidence, 10) == chance_error(confidence, 10)
    assert math.isnan(chance_error([], 10))


def test_the_histogram_counts_every_answer_once():
    assert count_confidences([0.0, 0.05, 0.1, 0.95, 1.0], 10) == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]


def test_counting_as_they_come_is_counting_all_at_once():
    confidence, correct = drawn(50_000, gap=0.1)
    ours, other = BinnedConfidence(), BinnedConfidence()
    for part in range(0, 40_000, 10_000):
        ours.add(confidence[part : part + 10_000], correct[part : part + 10_000])
    other.add(confidence[40_000:], correct[40_000:])
    ours.merge(other)
    found = ours.reliability(10)
    exact = reliability(confidence, correct, 10)
    assert sum(point.n for point in found) == 50_000
    # A bin ends where one of 2,000 narrow ones does: at most 1/1400 of these answers move.
    for point, expected in zip(found, exact, strict=True):
        assert point.confidence == pytest.approx(expected.confidence, abs=1e-3)
        assert point.accuracy == pytest.approx(expected.accuracy, abs=0.01)
    assert error_of(found) == pytest.approx(
        expected_calibration_error(confidence, correct), abs=2e-3
    )


def test_predictions_of_one_confidence_are_one_bin():
    seen = BinnedConfidence()
    seen.add([1.0] * 9 + [0.5], [1] * 6 + [0] * 3 + [1])
    points = seen.reliability(5)
    assert points == (ReliabilityBin(0.5, 1.0, 1), ReliabilityBin(1.0, pytest.approx(2 / 3), 9))
    assert BinnedConfidence().reliability(5) == ()
    assert math.isnan(error_of(()))
    with pytest.raises(ValueError, match="confidence"):
        seen.add([1.2], [1])
