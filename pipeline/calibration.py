"""Measure how well a model's confidence in its answers matches how often they are right.

Departures from the usual definitions:
1. The expected calibration error's bins hold equally many answers (Nguyen & O'Connor 2015,
   "adaptive binning"), not equally wide ranges of confidence: no bin is empty, and none rests on
   two answers.
2. Answers of equal confidence count with their average correctness, so that neither the order of
   the answers nor where a bin ends among equals changes the result.
3. With few answers a calibrated model has an error too, of noise: ``chance_error`` says how much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import ShapeError

Floats = NDArray[np.float64]
NARROW = 2_000
"""Bins of equal width that predictions are counted in as they come."""
DRAWS = 200
"""Outcomes drawn for the error that a calibrated model shows: its mean is good to a few percent."""


class ReliabilityBin(NamedTuple):
    """One point of a reliability diagram.

    Attributes:
        confidence: mean confidence of its answers.
        accuracy: share of them that is right.
        n: how many they are.
    """

    confidence: float
    accuracy: float
    n: int


class _Bins:
    """Sort answers by confidence, and say where equals and where equal-mass bins begin."""

    def __init__(self, confidence: Floats, bins: int) -> None:
        self.order = np.argsort(confidence, kind="stable")
        self.confidence = confidence[self.order]
        _, self.equals, self.equal = np.unique(
            self.confidence, return_index=True, return_counts=True
        )
        parts = np.array_split(np.arange(confidence.size), min(bins, confidence.size))
        self.starts = np.array([part[0] for part in parts])
        self.sizes = np.array([len(part) for part in parts])

    def sums(self, correct: Floats) -> Floats:
        """Return how many answers of each bin are right, [..., bins], from [..., n]."""
        ordered = correct[..., self.order]
        means = np.add.reduceat(ordered, self.equals, axis=-1) / self.equal
        smoothed = np.repeat(means, self.equal, axis=-1)
        total: Floats = np.add.reduceat(smoothed, self.starts, axis=-1)
        return total

    def errors(self, correct: Floats) -> Floats:
        """Return the expected calibration error of each row of outcomes, [...]."""
        gaps = np.abs(self.sums(correct) - np.add.reduceat(self.confidence, self.starts))
        error: Floats = gaps.sum(axis=-1) / self.confidence.size
        return error


def reliability(
    confidence: ArrayLike, correct: ArrayLike, bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """Return a reliability diagram's points: equal-mass bins, least confidence first.

    The answers are sorted by confidence and cut into ``bins`` runs whose sizes differ by one at
    most; with fewer answers than bins, each is a bin.

    Args:
        confidence: the probability given to the chosen answer, [n].
        correct: 1 or True where it was right, [n].
        bins: how many bins, 1 or more.

    Raises:
        ShapeError: if the two differ in length.
        ValueError: if ``bins`` is less than 1, or a confidence lies outside [0, 1].
    """
    sure, right = _check(confidence, correct, bins)
    if sure.size == 0:
        return ()
    found = _Bins(sure, bins)
    means = np.add.reduceat(found.confidence, found.starts) / found.sizes
    shares = found.sums(right) / found.sizes
    return tuple(
        ReliabilityBin(float(mean), float(share), int(size))
        for mean, share, size in zip(means, shares, found.sizes, strict=True)
    )


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Return the expected calibration error with equal-mass bins.

        ECE = sum_b n_b / n * | mean correct in b - mean confidence in b |

    Guo et al. 2017, eq. 3, over the bins of ``reliability``. No answers at all give NaN: nothing
    was measured.

    Args:
        confidence: the probability given to the chosen answer, [n].
        correct: 1 or True where it was right, [n].
        bins: how many bins, 1 or more.

    Raises:
        ShapeError: if the two differ in length.
        ValueError: if ``bins`` is less than 1, or a confidence lies outside [0, 1].
    """
    sure, right = _check(confidence, correct, bins)
    return float(_Bins(sure, bins).errors(right)) if sure.size else float("nan")


def chance_error(confidence: ArrayLike, bins: int = 10) -> float:
    """Return the expected calibration error that a calibrated model would show by chance.

    Its answers are right as often as their confidences say; the mean error over drawn outcomes is
    what this many answers cannot tell from 0. The draws are the same every time.

    Args:
        confidence: the probability given to the chosen answer, [n].
        bins: as in ``expected_calibration_error``.
    """
    sure, _ = _check(confidence, np.zeros(np.shape(confidence)), bins)
    if sure.size == 0:
        return float("nan")
    found, generator = _Bins(sure, bins), np.random.default_rng(0)
    # In rows, to bound memory: a task may have a million answers.
    step = max(1, 4_000_000 // sure.size)
    errors = [
        found.errors((generator.random((min(step, DRAWS - at), sure.size)) < sure).astype(float))
        for at in range(0, DRAWS, step)
    ]
    return float(np.concatenate(errors).mean())


def error_of(points: Iterable[ReliabilityBin]) -> float:
    """Return the expected calibration error of a reliability diagram; NaN without answers."""
    points = list(points)
    total = sum(point.n for point in points)
    gap = sum(point.n * abs(point.accuracy - point.confidence) for point in points)
    return gap / total if total else float("nan")


def count_confidences(confidence: ArrayLike, bins: int = 10) -> list[int]:
    """Return a confidence histogram: answers in ``bins`` equal ranges of [0, 1]."""
    counts, _ = np.histogram(np.asarray(confidence, dtype=np.float64), bins, (0.0, 1.0))
    return [int(count) for count in counts]


def _check(confidence: ArrayLike, correct: ArrayLike, bins: int) -> tuple[Floats, Floats]:
    sure = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape:
        raise ShapeError(f"confidence {sure.shape} and correct {right.shape} must be [n] both")
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, got {bins}")
    if sure.size and not (sure.min() >= 0 and sure.max() <= 1):
        raise ValueError(f"confidence must lie in [0, 1], got {sure.min()} to {sure.max()}")
    return sure, right


class BinnedConfidence:
    """Count predictions by confidence as they come, in memory that does not grow.

    They are kept as counts and sums in narrow bins of equal width; equal-mass bins are put together
    of those at the end, and so end where a narrow one does.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(NARROW, dtype=np.int64)
        self.confidence = np.zeros(NARROW)
        self.correct = np.zeros(NARROW)

    def add(self, confidence: ArrayLike, correct: ArrayLike) -> None:
        """Count predictions: their confidences in [0, 1], and 1 where they were right, [n]."""
        sure, right = _check(confidence, correct, 1)
        place = np.minimum((sure * NARROW).astype(np.int64), NARROW - 1)
        self.counts += np.bincount(place, minlength=NARROW)
        self.confidence += np.bincount(place, weights=sure, minlength=NARROW)
        self.correct += np.bincount(place, weights=right, minlength=NARROW)

    def merge(self, other: BinnedConfidence) -> None:
        """Count another's predictions too."""
        self.counts += other.counts
        self.confidence += other.confidence
        self.correct += other.correct

    def reliability(self, bins: int = 10) -> tuple[ReliabilityBin, ...]:
        """Return a reliability diagram's points, of about equally many predictions each."""
        total = int(self.counts.sum())
        if not total:
            return ()
        # A narrow bin belongs where its middle prediction does.
        middle = np.cumsum(self.counts) - self.counts / 2
        place = np.minimum((middle * bins / total).astype(np.int64), bins - 1)
        counts, sure, right = (
            np.bincount(place, weights=values, minlength=bins)
            for values in (self.counts, self.confidence, self.correct)
        )
        return tuple(
            ReliabilityBin(float(sure[b] / counts[b]), float(right[b] / counts[b]), int(counts[b]))
            for b in range(bins)
            if counts[b]
        )


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
