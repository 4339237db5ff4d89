"""Put intervals around means by resampling (Efron 1979) what was drawn: prompts, seeds.

Answers to one prompt are not independent, so whole prompts are resampled; two stages that answered
the same prompts are compared by their differences, which leaves the prompts' own difficulty out.
Intervals of one run are percentile intervals expanded for few clusters (Hesterberg 2015): plain
ones are too narrow by the population variance and the normal's tails. Those over seeds, of which
there are three or so, are plain. A seed makes each reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit

from pipeline.errors import ShapeError

# Resampled indices are drawn in blocks of about this many numbers, to bound memory.
BLOCK = 4_000_000


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Tell whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    values: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Return the mean of the values and its expanded percentile interval.

    A resample draws as many clusters as there are, with replacement, and takes the mean of all
    values in them. With one cluster the interval is the estimate alone: nothing is known of the
    spread.

    Args:
        values: what was measured, [n], at least one.
        clusters: the prompt of each value; None makes each value a cluster of its own.
        seed: of the resampling.
        samples: how many resamples.
        level: mass inside the interval.

    Raises:
        ShapeError: if the clusters are not as many as the values.
        ValueError: if there are no values, or one is not finite.
    """
    array = _check_values(values)
    names = range(array.size) if clusters is None else clusters
    if len(names) != array.size:
        raise ShapeError(f"{array.size} values and {len(names)} clusters must be as many")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    sums = np.bincount(index, weights=array)
    counts = np.bincount(index).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = []
    for size in blocks(samples, len(sums)):
        drawn = rng.integers(len(sums), size=(size, len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = expanded_tail(level, [(1.0, len(sums))])
    return _interval(float(array.mean()), np.concatenate(means), tail)


def bootstrap_difference(
    first: ArrayLike,
    second: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int,
    samples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Return the mean of ``first - second`` and its interval, value paired with value.

    Args:
        first: what was measured on one stage, [n].
        second: the same on another stage, in the same order, [n].
        clusters: the prompt of each pair; None makes each pair a cluster of its own.
        seed: of the resampling.
        samples: how many resamples.
        level: mass inside the interval.

    Raises:
        ShapeError: if the two differ in length.
    """
    a, b = _check_values(first), _check_values(second)
    if a.shape != b.shape:
        raise ShapeError(f"paired values must be as many, got {a.size} and {b.size}")
    return bootstrap_mean(a - b, clusters, seed=seed, samples=samples, level=level)


def bootstrap_over_seeds(
    runs: Sequence[ArrayLike], *, seed: int, samples: int = 2000, level: float = 0.95
) -> Interval:
    """Return the mean over training runs and its interval, runs resampled on top of prompts.

    A resample draws runs with replacement, and within each drawn run its values with replacement;
    the mean is taken over the runs' means. The interval so holds what another seed would have
    changed.

    Args:
        runs: for each seed, a value a prompt (or a paired difference).
        seed: of the resampling.
        samples: how many resamples.
        level: mass inside the interval.

    Raises:
        ValueError: if there are no runs, or one has no values.
    """
    if not len(runs):
        raise ValueError("at least one run must be given")
    arrays = [_check_values(run) for run in runs]
    estimate = float(np.mean([array.mean() for array in arrays]))
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    for i in range(samples):
        picked = rng.integers(len(arrays), size=len(arrays))
        means[i] = np.mean([rng.choice(arrays[run], arrays[run].size).mean() for run in picked])
    return _interval(estimate, means, (1 - level) / 2)


def _check_values(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.size == 0:
        raise ValueError("at least one value must be given")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite")
    return array


def resample(
    clusters: Sequence[Hashable],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int,
    samples: int,
) -> NDArray[np.float64]:
    """Return a statistic of what is measured where clusters are drawn anew, [samples, ...].

    Args:
        clusters: of each value, [n].
        statistic: a function of the values' weights, [block, n], to [block, ...].
        seed: of the resampling.
        samples: how many resamples.
    """
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    rng = np.random.default_rng(seed)
    even = np.full(len(numbers), 1 / len(numbers))
    found = [
        statistic(rng.multinomial(len(numbers), even, size=size)[:, index].astype(np.float64))
        for size in blocks(samples, len(index))
    ]
    return np.concatenate(found)


def blocks(samples: int, width: int) -> list[int]:
    """Return how many resamples, of so many numbers each, are drawn at a time."""
    step = max(1, BLOCK // width)
    return [min(step, samples - start) for start in range(0, samples, step)]


def expanded_tail(level: float, groups: Sequence[tuple[float, int]]) -> float:
    """Return what a percentile interval of a mean over groups leaves out at each end.

        tail = Phi( -t_{(1 + level)/2, df} * sqrt( sum_g v_g / sum_g (n_g - 1)/n_g v_g ) )
        v_g  = s_g^2 / n_g

    Hesterberg 2015, the expanded percentile interval, whose one group has df = n - 1; several have
    Welch and Satterthwaite's df = (sum_g v_g)^2 / sum_g v_g^2 / (n_g - 1).

    Args:
        level: mass that the interval is to hold.
        groups: for each group that is resampled by itself, its values' variance s_g^2 and number.
    """
    shares = [(variance / n, n) for variance, n in groups if n > 1 and variance > 0]
    if not shares:
        return (1 - level) / 2
    total = sum(share for share, _ in shares)
    df = total**2 / sum(share**2 / (n - 1) for share, n in shares)
    narrow = total / sum(share * (n - 1) / n for share, n in shares)
    return float(ndtr(-stdtrit(df, (1 + level) / 2) * np.sqrt(narrow)))


def _interval(estimate: float, resampled: NDArray[np.float64], tail: float) -> Interval:
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))
