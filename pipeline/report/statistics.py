"""Say what changed between two stages, and whether it is more than chance.

Both stages answered the same documents (or prompts), so everything here is paired: the unit is
one document's difference d_i. A mean over tasks gives every task the same weight,

    D = 1/G sum_g 1/n_g sum_i d_gi

1. The interval is a percentile bootstrap over documents, expanded for few of them
   (``pipeline.bootstrap``); for a mean over tasks they are drawn anew within each task, since the
   tasks themselves were chosen and not drawn. It covers in 95 % of simulated data sets (a test
   holds it to that) where some ten documents differ; with fewer, the p-value is still exact.
2. The p-value is the randomization test of Fisher (1935): under the hypothesis that the stages are
   alike, each d_i could as well have had the other sign. For one task of right and wrong answers
   this is McNemar's exact test (1947).
3. p-values of one family are adjusted by Holm (1979).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.bootstrap import blocks, expanded_tail

SIGNIFICANT = 0.05
RESAMPLES = 2_000
FEW_VALUES = 8
"""Documents a distinct value from which on counting values is faster than drawing documents."""
# Signs that are drawn for a p-value: 1e-5 is the least that can come out, which Holm's adjustment
# of some hundred comparisons leaves below 0.05.
SIGN_DRAWS = 100_000
# Differences whose signs are held at a time, to bound memory.
BITS_AT_ONCE = 16
BITS_SET = np.array([byte.bit_count() for byte in range(256)])
"""How many bits of a byte are set: a binomial with p = 1/2 is a count of random bits."""

Key = TypeVar("Key", bound=Hashable)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """Hold a paired difference.

    Attributes:
        difference: mean difference, later minus earlier.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        n: documents or prompts that both stages answered.
        p: two-sided p-value.
        p_holm: p-value adjusted within its family; None where there is no family.
    """

    difference: float
    low: float
    high: float
    n: int
    p: float
    p_holm: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Tell whether the interval lies wholly on one side of 0."""
        return self.low > 0 or self.high < 0

    @property
    def significant(self) -> bool:
        """Tell whether the change is significant at 5 %, adjusted where there is a family."""
        return (self.p if self.p_holm is None else self.p_holm) < SIGNIFICANT


def pair(later: Mapping[str, float], earlier: Mapping[str, float]) -> Floats:
    """Return later minus earlier for each document that both have, in order of their names."""
    return np.array([later[name] - earlier[name] for name in sorted(later.keys() & earlier.keys())])


def compare(groups: Sequence[Floats], seed: int) -> Change | None:
    """Compare two stages by the differences of their documents, one array a task.

    Returns:
        The change, or None where a task has no document that both stages answered.
    """
    if not groups or any(len(group) == 0 for group in groups):
        return None
    low, high = bootstrap_interval(groups, seed)
    return Change(
        difference=float(np.mean([group.mean() for group in groups])),
        low=low,
        high=high,
        n=sum(len(group) for group in groups),
        p=sign_flip(groups, seed),
    )


def bootstrap_interval(groups: Sequence[Floats], seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean over groups, documents redrawn within each."""
    generator = np.random.default_rng(seed)
    total = np.zeros(RESAMPLES)
    for group in groups:
        total += _resampled_means(group, generator)
    spreads = [
        (float(group.var(ddof=1)) if len(group) > 1 else 0.0, len(group)) for group in groups
    ]
    tail = expanded_tail(1 - SIGNIFICANT, spreads)
    low, high = np.quantile(total / len(groups), [tail, 1 - tail])
    return float(low), float(high)


def _resampled_means(group: Floats, generator: np.random.Generator) -> Floats:
    # Turned so that its mean is positive: the stages swapped have the same interval, turned.
    turn = -1.0 if (group.mean(), (group**3).mean()) < (0, 0) else 1.0
    # Documents of equal difference are alike: a resample is how often each value is drawn.
    values, counts = np.unique(turn * group, return_counts=True)
    if len(values) * FEW_VALUES <= len(group):
        drawn = generator.multinomial(len(group), counts / len(group), RESAMPLES)
        means: Floats = turn * (drawn @ values) / len(group)
        return means
    return np.concatenate(
        [
            group[generator.integers(len(group), size=(size, len(group)))].mean(axis=1)
            for size in blocks(RESAMPLES, len(group))
        ]
    )


def sign_flip(groups: Sequence[Floats], seed: int) -> float:
    """Return the two-sided p-value of the mean over groups when every difference's sign is a coin.

        p = (1 + #{|D*| >= |D|}) / (1 + draws)

    Differences of one size within a group are drawn together: their signs' sum is 2 B - m with
    B ~ Binomial(m, 1/2).
    """
    generator = np.random.default_rng(seed)
    drawn = np.zeros(SIGN_DRAWS)
    for group in groups:
        sizes, counts = np.unique(np.abs(group[group != 0]), return_counts=True)
        drawn += _flip_each(sizes[counts == 1], generator) / len(group)
        for size, count in zip(sizes[counts > 1], counts[counts > 1], strict=True):
            drawn += size * (2.0 * _heads(int(count), generator) - count) / len(group)
    observed = abs(sum(group.mean() for group in groups))
    # Sums in another order differ in the last bits; a tie counts as reached.
    reached = np.abs(drawn) >= observed - 1e-12
    return float((1 + reached.sum()) / (1 + SIGN_DRAWS))


def _heads(coins: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how many of some fair coins show heads, once a draw: bits that are set."""
    whole, rest = divmod(coins, 8)
    heads = np.zeros(SIGN_DRAWS, dtype=np.int64)
    for bits in [255] * whole + [(1 << rest) - 1] * (rest > 0):
        raw = np.frombuffer(generator.bytes(SIGN_DRAWS), dtype=np.uint8)
        heads += BITS_SET[raw & bits]
    return heads


def _flip_each(sizes: Floats, generator: np.random.Generator) -> Floats:
    """Return sums of differences of which no two are alike, each sign drawn by a bit."""
    total = np.zeros(SIGN_DRAWS)
    for at in range(0, len(sizes), BITS_AT_ONCE):
        some = sizes[at : at + BITS_AT_ONCE]
        raw = np.frombuffer(generator.bytes(len(some) * SIGN_DRAWS // 8), dtype=np.uint8)
        heads = np.unpackbits(raw).reshape(len(some), SIGN_DRAWS)
        total += 2 * (some @ heads.astype(np.float64)) - some.sum()
    return total


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Adjust a family of p-values so that the chance of any false finding stays at the level.

        p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),   p_(1) <= ... <= p_(m)

    Holm 1979.
    """
    adjusted: dict[Key, float] = {}
    largest = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[key]))
        adjusted[key] = largest
    return adjusted


def adjust(changes: Mapping[Key, Change]) -> dict[Key, Change]:
    """Return the changes of one family with Holm's adjusted p-values, in the same order."""
    adjusted = holm({key: change.p for key, change in changes.items()})
    return {key: replace(change, p_holm=adjusted[key]) for key, change in changes.items()}
