"""Measure how well a model's confidence in its answers matches how often they are right.

Departures from the usual definitions:
1. The expected calibration error's bins hold equally many answers (Nguyen & O'Connor 2015,
   "adaptive binning"), not equally wide ranges of confidence: no bin is empty, and none rests on
   two answers.
2. Answers of equal confidence count with their average correctness, so that neither the order of
   the answers nor where a bin ends among equals changes the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import ShapeError


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Return the expected calibration error with equal-mass bins.

        ECE = sum_b n_b / n * | mean correct in b - mean confidence in b |

    Guo et al. 2017, eq. 3, over bins of equal mass. The answers are sorted by confidence and cut
    into ``bins`` runs whose sizes differ by one at most; with fewer answers than bins, each is a
    bin. No answers at all give NaN: nothing was measured.

    Args:
        confidence: the probability given to the chosen answer, [n].
        correct: 1 or True where it was right, [n].
        bins: how many bins, 1 or more.

    Raises:
        ShapeError: if the two differ in length.
        ValueError: if ``bins`` is less than 1, or a confidence lies outside [0, 1].
    """
    sure = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape:
        raise ShapeError(f"confidence {sure.shape} and correct {right.shape} must be [n] both")
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, got {bins}")
    if sure.size == 0:
        return float("nan")
    if sure.min() < 0 or sure.max() > 1:
        raise ValueError(f"confidence must lie in [0, 1], got {sure.min()} to {sure.max()}")
    right = _average_over_equals(sure, right)
    order = np.argsort(sure, kind="stable")
    gaps = [
        abs(float(np.sum(right[part] - sure[part])))
        for part in np.array_split(order, min(bins, sure.size))
    ]
    return sum(gaps) / sure.size


def _average_over_equals(
    key: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Replace each value by the mean over those of equal key."""
    _, group, size = np.unique(key, return_inverse=True, return_counts=True)
    mean: NDArray[np.float64] = np.bincount(group, weights=values) / size
    return mean[group]


def brier_score(probabilities: Sequence[ArrayLike], gold: Sequence[int]) -> float:
    """Return the multi-class Brier score: 0 at best, 2 at worst.

        B = 1/n sum_i sum_k (p_ik - [k = gold_i])^2

    Brier 1950, the original sum over all classes: for two classes twice the binary score. Questions
    may have different numbers of choices. No questions give NaN.

    Args:
        probabilities: for each question, the probability of each choice.
        gold: for each question, the index of the right choice.

    Raises:
        ShapeError: if the two differ in length.
    """
    if len(probabilities) != len(gold):
        raise ShapeError(f"{len(probabilities)} questions and {len(gold)} answers must be as many")
    if not len(gold):
        return float("nan")
    total = 0.0
    for row, right in zip(probabilities, gold, strict=True):
        error = np.array(row, dtype=np.float64)
        error[right] -= 1.0
        total += float(error @ error)
    return total / len(gold)


def standard_error(values: ArrayLike) -> float:
    """Return the standard error of the mean, s / sqrt(n) with n - 1 in s; NaN for less than two."""
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return float("nan")
    return float(array.std(ddof=1) / np.sqrt(array.size))
