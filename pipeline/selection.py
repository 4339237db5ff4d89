"""Choose which prompts people should rank: where reward models disagree, and a random slice.

Every prompt has a known chance of being chosen, its *propensity*, so that figures over all prompts
can be estimated from the chosen ones without bias (weights 1 / propensity), and the random slice is
a uniform sample by itself. Departure from ranking by uncertainty and taking the top, which has
neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """One chosen prompt.

    Attributes:
        index: which of the candidates it is.
        policy: whether it belongs to the random slice or was drawn by disagreement.
        propensity: the chance that it had of being chosen, by either.
    """

    index: int
    policy: Literal["random", "disagreement"]
    propensity: float


def disagreement(scores: Floats) -> float:
    """Return how little reward models know about the order of one prompt's completions.

        p_m(i > j) = sigmoid(score_mi - score_mj)
        d = mean over pairs of Var_m p_m(i > j);   with one model, of p (1 - p)

    The variance is what further labels can remove; with one model, near-zero gaps stand in for it.

    Args:
        scores: centred scores, [models, completions].

    Returns:
        A number from 0 to 1/4; 0 where there is no pair.
    """
    models, completions = scores.shape
    if completions < 2:
        return 0.0
    upper = np.triu_indices(completions, k=1)
    gaps = (scores[:, :, None] - scores[:, None, :])[:, upper[0], upper[1]]
    preferred = 1.0 / (1.0 + np.exp(-gaps))
    each = preferred.var(axis=0) if models > 1 else preferred[0] * (1.0 - preferred[0])
    return float(each.mean())


def inclusion_probabilities(weights: Floats, size: int) -> Floats:
    """Return chances proportional to the weights, at most 1, that sum to ``size``.

    What a weight is above its share of certainty goes to the others, until no chance is above 1.
    Weights of 0 share what is left only when all others are certain.

    Args:
        weights: 0 or more each, [items].
        size: how many are to be chosen, at most the number of items.
    """
    assert 0 <= size <= len(weights), f"cannot choose {size} of {len(weights)}"
    chances = np.zeros(len(weights))
    certain = np.zeros(len(weights), dtype=bool)
    while True:
        left = size - int(certain.sum())
        free = ~certain
        mass = weights[free].sum()
        if mass > 0:
            chances[free] = left * weights[free] / mass
        elif left:
            chances[free] = left / free.sum()
        above = free & (chances >= 1.0)
        if not above.any():
            return chances
        chances[above] = 1.0
        certain |= above


def choose(uncertainty: Sequence[float], size: int, random_share: float, seed: int) -> list[Chosen]:
    """Draw ``size`` candidates: a random slice, and the rest by disagreement.

    The chance of a candidate mixes both, and systematic sampling gives every candidate exactly its
    chance (Madow 1949). A chosen one belongs to the random slice with the random part of its
    chance, so that the slice is uniform over the candidates.

    Args:
        uncertainty: of each candidate, 0 or more.
        size: how many to draw; all candidates where there are fewer.
        random_share: share of the random slice, from 0 to 1.
        seed: of the draw.

    Returns:
        The chosen, by index.
    """
    count = len(uncertainty)
    size = min(size, count)
    if size == 0:
        return []
    rng = np.random.default_rng(seed)
    weights = np.asarray(uncertainty, dtype=np.float64)
    share = weights / weights.sum() if weights.sum() > 0 else np.full(count, 1.0 / count)
    floor = random_share * size / count
    chances = inclusion_probabilities(random_share / count + (1.0 - random_share) * share, size)
    order = rng.permutation(count)
    ends = np.cumsum(chances[order])
    # The last end is the size but for rounding, and every point must lie below an end.
    ends[-1] = max(ends[-1], float(size))
    points = rng.random() + np.arange(size)
    picked = np.sort(order[np.searchsorted(ends, points, side="right")])
    slices = rng.random(size) < floor / chances[picked]
    return [
        Chosen(int(index), "random" if in_slice else "disagreement", float(chances[index]))
        for index, in_slice in zip(picked, slices, strict=True)
    ]
