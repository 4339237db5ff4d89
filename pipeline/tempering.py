"""Find the temperature that would mend a model's confidence in its answers (Guo et al. 2017).

The answers' log-likelihoods are divided by T before the softmax: T above 1 makes an overconfident
model less sure, below 1 a timid one surer. Which answer is chosen never changes.

Departures from Guo et al.:
1. No validation set is needed: the error that is left is measured on each half of the questions at
   the temperature that fits the other half.
2. The ends of the scale are answers too: 0 where every right answer is the likeliest, infinity
   where even shares say more than the likelihoods do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import softmax

from pipeline.calibration import expected_calibration_error
from pipeline.errors import ShapeError

Floats = NDArray[np.float64]


class Mended(NamedTuple):
    """What a temperature does for the calibration.

    Attributes:
        temperature: the one that fits all questions; 0, infinity and NaN as in ``fit_temperature``.
        error: the expected calibration error that is left, each half at the other's temperature;
            NaN where a half has no question with a right answer.
    """

    temperature: float
    error: float


def fit_temperature(logliks: Sequence[ArrayLike], gold: Sequence[int]) -> float:
    """Return the temperature at which the right answers are likeliest.

        T = argmin_T  -1/n sum_i log softmax(l_i / T)_gold_i

    The loss is convex in b = 1/T, and its slope

        1/n sum_i ( E_{k ~ softmax(b l_i)} l_ik - l_i,gold_i )

    rises with b: its zero is the only minimum.

    Args:
        logliks: for each question, the log-likelihood of each choice, finite; numbers of choices
            may differ.
        gold: for each question, the index of the right choice.
    Returns:
        The temperature; 0 if the slope never rises to 0, infinity if it is never below, 1 if it is
        0 throughout (no likelihood differs), NaN without questions.

    Raises:
        ShapeError: if the two differ in length.
    """
    if len(logliks) != len(gold):
        raise ShapeError(f"{len(logliks)} questions and {len(gold)} answers must be as many")
    if not len(gold):
        return float("nan")
    gaps, real = _below_best(logliks)
    right = gaps[np.arange(len(gold)), np.asarray(gold)].mean()

    def slope(inverse: float) -> float:
        shares = softmax(np.where(real, inverse * gaps, -np.inf), axis=1)
        return float((shares * gaps).sum(axis=1).mean() - right)

    start = slope(0.0)
    if start >= 0:
        return 1.0 if right == 0 else float("inf")
    if right == 0:
        return 0.0
    low, high = 0.0, 1.0
    while slope(high) < 0:
        low, high = high, 2 * high
    return 1 / float(brentq(slope, low, high, xtol=1e-14, maxiter=1000))


def _below_best(logliks: Sequence[ArrayLike]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return how far each choice is below the likeliest, [questions, choices], and where one is."""
    rows = [np.asarray(row, dtype=np.float64) for row in logliks]
    gaps = np.zeros((len(rows), max(len(row) for row in rows)))
    real = np.zeros(gaps.shape, dtype=bool)
    for i, row in enumerate(rows):
        gaps[i, : len(row)] = row - row.max()
        real[i, : len(row)] = True
    return gaps, real


def confidence_at(logliks: ArrayLike, temperature: float) -> float:
    """Return the likeliest choice's share at a temperature, its limit at 0 and infinity."""
    row = np.asarray(logliks, dtype=np.float64)
    if np.isinf(temperature):
        return 1 / row.size
    if temperature == 0:
        return 1 / int((row == row.max()).sum())
    return float(softmax(row / temperature).max())


def mend(
    logliks: Sequence[ArrayLike], gold: Sequence[int | None], correct: Sequence[float], bins: int
) -> Mended:
    """Fit a temperature, and measure what error is left with one that was fitted elsewhere.

    Args:
        logliks: for each question, the log-likelihood of each choice.
        gold: for each question, the index of its right choice, None where it has none.
        correct: for each question, 1 where the likeliest choice is right.
        bins: of the expected calibration error.
    """
    whole = _fit(logliks, gold)
    if len(logliks) < 2:
        return Mended(whole, float("nan"))
    halves = [_fit(logliks[half::2], gold[half::2]) for half in (0, 1)]
    if np.isnan(halves).any():
        return Mended(whole, float("nan"))
    sure = [confidence_at(row, halves[1 - i % 2]) for i, row in enumerate(logliks)]
    return Mended(whole, expected_calibration_error(sure, correct, bins))


def _fit(logliks: Sequence[ArrayLike], gold: Sequence[int | None]) -> float:
    judged = [(row, right) for row, right in zip(logliks, gold, strict=True) if right is not None]
    return fit_temperature([row for row, _ in judged], [right for _, right in judged])
