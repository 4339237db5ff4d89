"""Say what picking the best of n completions gives, from one larger draw of them.

Best-of-n draws n completions from a policy and keeps the one that the reward model scores highest
(Stiennon et al. 2020, Nakano et al. 2021). It needs no training, so it is the least that PPO has to
beat. Nothing is drawn anew for each n: of N completions every subset of n is as likely as any
other, so the mean over all subsets is an unbiased estimate, and ranks give it in closed form,

    P(the k-th lowest of N is the best of a random n-subset) = C(k - 1, n - 1) / C(N, n)

Completions of equal score are put in random order; each then has the mean of its group's ranks.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def best_of_kl(n: int) -> float:
    """Return the KL of best-of-n from the policy that it draws from, in nats.

        KL = log n - (n - 1) / n

    Stiennon et al. 2020, G.3. It holds where no two draws tie; where they can, as when a short
    completion is drawn twice, it is an upper bound (Beirami et al. 2024).
    """
    return math.log(n) - (n - 1) / n


def best_weights(scores: ArrayLike, n: int) -> Floats:
    """Return the probability of each completion to be the best of a random n-subset.

    Args:
        scores: what the best is picked by, [N].
        n: size of the subset, 1 to N.
    Returns:
        Probabilities, [N], that sum to 1; equal scores have equal ones.
    """
    array = np.asarray(scores, dtype=np.float64)
    count = len(array)
    assert 1 <= n <= count, f"a subset of {n} needs as many completions, got {count}"
    by_rank = np.array([math.comb(k, n - 1) / math.comb(count, n) for k in range(count)])
    group = _tie_groups(array)
    places = _group_of_rank(group)
    mean = np.bincount(places, weights=by_rank) / np.bincount(places)
    return np.asarray(mean[group], dtype=np.float64)


def duel_weights(scores: ArrayLike, n: int) -> Floats:
    """Return the probability of each pair: the best of a random n-subset, and one drawn beside it.

        P(k-th best, j-th beside) = 1 / N * C(k - 1 - [j < k], n - 1) / C(N - 1, n)

    The second is none of the subset: a single completion that best-of-n is compared with.

    Args:
        scores: what the best is picked by, [N].
        n: size of the subset, 1 to N - 1.
    Returns:
        Probabilities, [N, N], winners in rows; the diagonal is 0 and all sum to 1.
    """
    array = np.asarray(scores, dtype=np.float64)
    count = len(array)
    assert 1 <= n < count, f"a subset of {n} and one beside it need more than {count} completions"
    by_rank = _duels_by_rank(count, n)
    group = _tie_groups(array)
    places = _group_of_rank(group)
    member = np.eye(places.max() + 1)[places]
    sizes = member.sum(axis=0)
    pairs = np.outer(sizes, sizes) - np.diag(sizes)
    mean = (member.T @ by_rank @ member) / np.where(pairs > 0, pairs, 1)
    weights = mean[np.ix_(group, group)]
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights, dtype=np.float64)


def expect_win(weights: Floats, values: Floats) -> float:
    """Return how often the winner of a pair is worth more than the one beside it, ties half.

    Args:
        weights: of ``duel_weights``, [N, N].
        values: what each completion is worth, which need not be what it was picked by, [N].
    """
    return float((weights * beats(values, values)).sum())


def beats(ours: Floats, theirs: Floats) -> Floats:
    """Return 1 where ours is worth more, 1/2 where both are alike, else 0, [ours, theirs]."""
    return (np.sign(ours[:, None] - theirs[None, :]) + 1) / 2


def interpolate(values: Floats, levels: Floats, level: float) -> Floats | None:
    """Return the values between two points, linear in the level; None outside all of them.

    Args:
        values: at each point, [points, prompts].
        levels: of the points, ascending, [points].
        level: where to look.
    """
    left = segment_of(levels, level)
    if left is None:
        return None
    share = (level - levels[left]) / (levels[left + 1] - levels[left])
    return np.asarray((1 - share) * values[left] + share * values[left + 1])


def segment_of(levels: Floats, level: float) -> int | None:
    """Return the point that begins the segment in which a level lies, None outside all of them."""
    if len(levels) < 2 or not levels[0] <= level <= levels[-1]:
        return None
    return min(int(np.searchsorted(levels, level, side="right")) - 1, len(levels) - 2)


@functools.cache
def _duels_by_rank(count: int, n: int) -> Floats:
    """Return the probability of each pair of ranks, none of which tie, [N, N]."""
    every = count * math.comb(count - 1, n)
    return np.array(
        [
            [0.0 if j == k else math.comb(k - (j < k), n - 1) / every for j in range(count)]
            for k in range(count)
        ]
    )


def _tie_groups(scores: Floats) -> NDArray[np.intp]:
    """Number the distinct scores from the lowest, [N]."""
    return np.unique(scores, return_inverse=True)[1]


def _group_of_rank(group: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return which group has each rank, lowest first, [N]."""
    return np.sort(group)
