"""Measure how far labelers agree: the ceiling for any model of their preferences.

All measures are sums over prompts of a few numbers each (a *tally*), so that the bootstrap
resamples prompts by weighing tallies and never looks at a pair twice. Departures from the
literature:

1. Agreement pools all comparisons, so a prompt with more completions or labelers weighs more, as a
   comparison-wise reward-model accuracy does.
2. Two judgments of one labeler are not compared: that would be consistency, not agreement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Ranking

Floats = NDArray[np.float64]
Metric = Literal["nominal", "ordinal", "interval"]

RATING_VALUES = np.arange(1.0, 8.0)
PORTION = 4_000_000
"""Weights that a bootstrap holds at a time."""


@dataclass(frozen=True)
class Estimate:
    """A statistic with its bootstrap interval.

    Attributes:
        value: the statistic on all prompts.
        low: lower end of the interval.
        high: upper end of the interval.
        prompts: prompts that contribute.
        count: what was counted: comparisons, pairs of labelers, or ratings.
    """

    value: float
    low: float
    high: float
    prompts: int
    count: int


@dataclass(frozen=True)
class Bootstrap:
    """How to draw an interval: percentiles over resampled prompts.

    Attributes:
        samples: resamples.
        level: coverage of the interval.
        seed: of the resampling.
    """

    samples: int = 1000
    level: float = 0.95
    seed: int = 0

    def interval(
        self, tallies: Floats, statistic: Callable[[Floats], float]
    ) -> tuple[float, float]:
        """Resample prompts with replacement and return the interval of the statistic.

        Args:
            tallies: one row a prompt, [prompts, ...].
            statistic: a function of the tallies' sum over prompts; resamples on which it is
                undefined (NaN) are left out.
        """
        rng = np.random.default_rng(self.seed)
        prompts = len(tallies)
        values: list[float] = []
        while len(values) < self.samples:
            # In portions, for a weight a prompt and resample is much memory in large stores.
            size = min(self.samples - len(values), max(1, PORTION // prompts))
            weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=size)
            totals = np.tensordot(weights.astype(np.float64), tallies, axes=1)
            values += [statistic(total) for total in totals]
        tail = (1 - self.level) / 2
        low, high = np.nanquantile(values, [tail, 1 - tail])
        return float(low), float(high)


DEFAULT_BOOTSTRAP = Bootstrap()


def pairwise_agreement(
    rankings: Iterable[Ranking], *, ties: bool, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> Estimate | None:
    """Estimate how often two labelers order two completions of a prompt alike.

        agreement = sum a(s, t) / n,   s, t in {-1, 0, +1} the two labelers' signs
        a = 1 where s = t;  1/2 where exactly one of them is 0;  0 where s = -t != 0

    With ``ties`` every comparison counts, a tie against a preference as half an agreement, as
    WebGPT counts neutral answers (Nakano et al. 2021). Without, only comparisons that both
    labelers decided count, as a reward model trained without ties is measured.

    Args:
        rankings: of any prompts; those of one prompt are compared over the completions they share.
        ties: whether comparisons in which a labeler tied count.
        bootstrap: how to draw the interval.

    Returns:
        The estimate, or None where no two labelers judged the same comparison.
    """
    tallies = [
        _sum_pairs((_count_pairs(a, b, ties=ties) for a, b in _labeler_pairs(group)))
        for group in _by_prompt(rankings)
    ]
    return estimate_ratio(tallies, bootstrap)


def labeler_agreement(
    rankings: Iterable[Ranking],
    *,
    ties: bool,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    only: str | None = None,
) -> dict[str, Estimate]:
    """Estimate each named labeler's pairwise agreement with all others, by name.

    Labelers who share no comparison with anyone are left out.

    Args:
        rankings: as ``pairwise_agreement`` takes them.
        ties: whether comparisons in which a labeler tied count.
        bootstrap: how to draw the intervals.
        only: estimate this labeler's alone.
    """
    by_name: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for group in _by_prompt(rankings):
        counts: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for pair in _labeler_pairs(group):
            names = {item.labeler for item in pair if item.labeler and only in (None, item.labeler)}
            if names:
                count = _count_pairs(*pair, ties=ties)
                for name in names:
                    counts[name].append(count)
        for name, found in counts.items():
            by_name[name].append(_sum_pairs(found))
    estimates = {name: estimate_ratio(by_name[name], bootstrap) for name in sorted(by_name)}
    return {name: found for name, found in estimates.items() if found is not None}


def mean_kendall_tau(
    rankings: Iterable[Ranking], *, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> Estimate | None:
    """Estimate the mean Kendall tau-b between two labelers' rankings of a prompt.

        tau_b = (concordant - discordant) / sqrt((n - ties_a) (n - ties_b))

    Undefined, and left out, where one of the two tied everything.

    Returns:
        The estimate, ``count`` being pairs of rankings, or None where there is no such pair.
    """
    # Not at the top: it takes 0.7 s to import, and the labeling app is to open at once.
    from scipy.stats import kendalltau

    tallies: list[tuple[float, float]] = []
    for group in _by_prompt(rankings):
        total, pairs = 0.0, 0
        for first, second in _labeler_pairs(group):
            a, b = _shared_ranks(first, second)
            if len(set(a)) > 1 and len(set(b)) > 1:
                total += float(kendalltau(a, b, variant="b").statistic)
                pairs += 1
        tallies.append((total, pairs))
    return estimate_ratio(tallies, bootstrap)


def rating_alpha(
    rankings: Iterable[Ranking],
    *,
    metric: Metric = "ordinal",
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Estimate | None:
    """Estimate Krippendorff's alpha of the 1-to-7 ratings, each completion being a unit.

    Returns:
        The estimate, ``count`` being ratings, or None where alpha is undefined: no completion with
        two ratings, or all ratings equal.
    """
    tallies = []
    for group in _by_prompt(rankings):
        units: dict[str, list[float]] = defaultdict(list)
        for ranking in group:
            for text, rating in zip(ranking.completions, ranking.ratings or (), strict=False):
                units[text].append(float(rating))
        tallies.append(coincidences(units.values(), RATING_VALUES))
    return estimate(
        np.array(tallies).reshape(-1, len(RATING_VALUES), len(RATING_VALUES)),
        lambda total: alpha_of(total, RATING_VALUES, metric),
        lambda tally: tally.sum(axis=(1, 2)),
        bootstrap,
    )


def krippendorff_alpha(ratings: Floats, metric: Metric) -> float:
    """Return Krippendorff's alpha of a reliability matrix.

    Args:
        ratings: [coders, units], NaN where a coder did not judge a unit.
        metric: how far two values are apart; see ``alpha_of``.

    Returns:
        Alpha: 1 perfect agreement, 0 what chance gives; NaN where it is undefined.
    """
    values = np.unique(ratings[~np.isnan(ratings)])
    units = [unit[~np.isnan(unit)].tolist() for unit in ratings.T]
    return alpha_of(coincidences(units, values), values, metric)


def coincidences(units: Iterable[Sequence[float]], values: Floats) -> Floats:
    """Count pairs of values within units, [values, values].

        o_ck = sum_u (pairs (c, k) of different coders in u) / (m_u - 1)

    ``m_u`` is the number of values of unit u; units with one value have no pair. Krippendorff,
    *Computing Krippendorff's Alpha-Reliability* (2011), section C.
    """
    table = np.zeros((len(values), len(values)))
    for unit in units:
        if len(unit) < 2:
            continue
        n = (np.asarray(unit)[:, None] == values[None, :]).sum(axis=0).astype(np.float64)
        table += (np.outer(n, n) - np.diag(n)) / (len(unit) - 1)
    return table


def alpha_of(table: Floats, values: Floats, metric: Metric) -> float:
    """Return Krippendorff's alpha of a coincidence table.

        alpha = 1 - (n - 1) sum_{c<k} o_ck d_ck^2 / sum_{c<k} n_c n_k d_ck^2

    ``n_c`` are the table's margins and ``n`` its sum. Squared distances: nominal, 1 where c and k
    differ; interval, (c - k)^2; ordinal, (sum_{g=c..k} n_g - (n_c + n_k) / 2)^2. Krippendorff
    (2011), section C.
    """
    margins = table.sum(axis=1)
    expected = np.outer(margins, margins)
    distances = _squared_distances(margins, values, metric)
    disagreement_by_chance = float((expected * distances).sum())
    if disagreement_by_chance == 0.0:
        return float("nan")
    observed = float((table * distances).sum())
    return 1.0 - (float(margins.sum()) - 1.0) * observed / disagreement_by_chance


def _squared_distances(margins: Floats, values: Floats, metric: Metric) -> Floats:
    if metric == "nominal":
        return 1.0 - np.eye(len(values))
    if metric == "interval":
        return np.square(values[:, None] - values[None, :])
    # The sum from c to k less half of both ends is the distance between the values' mid-ranks.
    middle = np.cumsum(margins) - margins / 2
    return np.square(middle[:, None] - middle[None, :])


def _by_prompt(rankings: Iterable[Ranking]) -> list[list[Ranking]]:
    groups: dict[str, list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        groups[ranking.prompt.id].append(ranking)
    return [groups[id_] for id_ in sorted(groups)]


def _labeler_pairs(group: Sequence[Ranking]) -> Iterator[tuple[Ranking, Ranking]]:
    for first, second in combinations(group, 2):
        if first.labeler is None or first.labeler != second.labeler:
            yield first, second


def _shared_ranks(first: Ranking, second: Ranking) -> tuple[list[int], list[int]]:
    one = dict(zip(first.completions, first.ranks, strict=True))
    other = dict(zip(second.completions, second.ranks, strict=True))
    shared = [text for text in one if text in other]
    return [one[text] for text in shared], [other[text] for text in shared]


def count_agreed(first: Sequence[int], second: Sequence[int], *, ties: bool) -> tuple[float, float]:
    """Compare two orders of the same things and return pairs that agree, and pairs that count.

    Args:
        first: ranks, 1 the best.
        second: other ranks of the same things, in the same order.
        ties: whether a pair that one side tied counts: half an agreement with a preference, a whole
            one with another tie.
    """
    a, b = np.asarray(first), np.asarray(second)
    upper = np.triu_indices(len(a), k=1)
    s = np.sign(a[:, None] - a[None, :])[upper]
    t = np.sign(b[:, None] - b[None, :])[upper]
    if not ties:
        decided = (s != 0) & (t != 0)
        s, t = s[decided], t[decided]
    # |s - t| is 0 for agreement, 1 for a tie against a preference, 2 for opposites.
    return float((1 - np.abs(s - t) / 2).sum()), float(len(s))


def estimate_ratio(
    tallies: Sequence[tuple[float, float]], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> Estimate | None:
    """Estimate a share: the sum of all prompts' first numbers over that of their second.

    Returns:
        The estimate, ``count`` being the second sum, or None where that is 0.
    """
    return estimate(
        np.array(tallies, dtype=np.float64).reshape(-1, 2),
        lambda total: float(total[0] / total[1]) if total[1] else float("nan"),
        lambda tally: tally[:, 1],
        bootstrap,
    )


def estimate(
    tallies: Floats,
    statistic: Callable[[Floats], float],
    count: Callable[[Floats], Floats],
    bootstrap: Bootstrap,
) -> Estimate | None:
    """Estimate a statistic of the sum of the prompts' tallies.

    Args:
        tallies: one row a prompt, [prompts, ...].
        statistic: a function of the sum over prompts; NaN where it is undefined.
        count: what each prompt contributes, [prompts]; those with 0 are no part of the population.
        bootstrap: how to draw the interval.

    Returns:
        The estimate, or None where it is undefined.
    """
    counts = count(tallies)
    # A prompt that was never compared tells nothing, and is no member of the resampled population.
    tallies, counts = tallies[counts > 0], counts[counts > 0]
    value = statistic(tallies.sum(axis=0))
    if np.isnan(value):
        return None
    low, high = bootstrap.interval(tallies, statistic)
    return Estimate(value, low, high, len(tallies), round(float(counts.sum())))


def _count_pairs(first: Ranking, second: Ranking, *, ties: bool) -> tuple[float, float]:
    return count_agreed(*_shared_ranks(first, second), ties=ties)


def _sum_pairs(counts: Iterable[tuple[float, float]]) -> tuple[float, float]:
    agreed = counted = 0.0
    for one, all_ in counts:
        agreed, counted = agreed + one, counted + all_
    return agreed, counted
