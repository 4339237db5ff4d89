"""Measure how well scores predict held-out rankings: accuracy, calibration, leaning to length.

Scores come from anywhere (a reward model, a floor, the tiny world's gold), one a completion, so
that everything is measured on the same pairs by the same rule: pairs that the labeler tied are left
out and counted, equal scores are half right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from scipy.stats import spearmanr

from pipeline.bootstrap import bootstrap_difference, bootstrap_mean
from pipeline.calibration import expected_calibration_error
from pipeline.records import Ranking

Scores = Sequence[Sequence[float]]
"""One score a completion, a list a ranking."""

UNNAMED = "unnamed"


class ScoredPair(NamedTuple):
    """Hold one pair that a labeler ordered, and how the scores stand to it.

    Attributes:
        prompt: the prompt's id.
        labeler: who judged.
        group: the labeler's group.
        difference: score of the better completion minus that of the worse.
        rating_gap: rating of the better minus that of the worse; None where none were given.
    """

    prompt: str
    labeler: str
    group: str
    difference: float
    rating_gap: int | None

    @property
    def right(self) -> float:
        """Return 1 where the scores agree with the labeler, one half where they are equal."""
        return 0.5 if self.difference == 0 else float(self.difference > 0)


def pair_up(rankings: Sequence[Ranking], scores: Scores) -> tuple[list[ScoredPair], int]:
    """Return every ordered pair of every ranking, and how many pairs were tied."""
    pairs: list[ScoredPair] = []
    tied = 0
    for ranking, own in zip(rankings, scores, strict=True):
        for i, j in combinations(range(len(ranking.completions)), 2):
            if ranking.ranks[i] == ranking.ranks[j]:
                tied += 1
                continue
            better, worse = (i, j) if ranking.ranks[i] < ranking.ranks[j] else (j, i)
            ratings = ranking.ratings
            pairs.append(
                ScoredPair(
                    ranking.prompt.id,
                    ranking.labeler or UNNAMED,
                    ranking.group,
                    own[better] - own[worse],
                    None if ratings is None else ratings[better] - ratings[worse],
                )
            )
    return pairs, tied


def measure_accuracy(rankings: Sequence[Ranking], scores: Scores, seed: int) -> dict[str, Any]:
    """Measure the share of held-out pairs that the scores order as the labeler did.

    Returns:
        ``accuracy`` over pairs with the ends of its 95 % interval, ``low`` and ``high`` (bootstrap
        over prompts, whose pairs share completions), its ``n`` pairs and ``prompts``, the ``tied``
        pairs left out, and ``by_prompt``, the mean over prompts of each one's accuracy. The figures
        are None where there is no pair.
    """
    pairs, tied = pair_up(rankings, scores)
    by_prompt: dict[str, list[float]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt, []).append(pair.right)
    counts = {"n": len(pairs), "prompts": len(by_prompt), "tied": tied}
    if not pairs:
        return {**dict.fromkeys(("accuracy", "low", "high", "by_prompt")), **counts}
    interval = bootstrap_mean(
        [pair.right for pair in pairs], [pair.prompt for pair in pairs], seed=seed
    )
    return {
        "accuracy": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "by_prompt": float(np.mean([np.mean(right) for right in by_prompt.values()])),
        **counts,
    }


def compare_accuracy(
    rankings: Sequence[Ranking], ours: Scores, theirs: Scores, seed: int
) -> dict[str, float | None]:
    """Measure how far ahead our scores are of theirs, on the same held-out pairs.

    Returns:
        ``difference`` of the accuracies, and the ends of its 95 % interval, ``low`` and ``high``:
        paired by pair, bootstrapped over prompts. None where there is no pair.
    """
    first, second = (pair_up(rankings, scores)[0] for scores in (ours, theirs))
    if not first:
        return dict.fromkeys(("difference", "low", "high"))
    interval = bootstrap_difference(
        [pair.right for pair in first],
        [pair.right for pair in second],
        [pair.prompt for pair in first],
        seed=seed,
    )
    return {"difference": interval.estimate, "low": interval.low, "high": interval.high}


def split_accuracy(rankings: Sequence[Ranking], scores: Scores) -> dict[str, Any]:
    """Break the accuracy down by labeler, by labelers' group and by the gap between ratings.

    A negative gap is a rating that contradicts the rank.
    """
    pairs, _ = pair_up(rankings, scores)
    rated = [pair for pair in pairs if pair.rating_gap is not None]
    return {
        "by_labeler": _by(pairs, lambda pair: pair.labeler),
        "by_group": _by(pairs, lambda pair: pair.group),
        "by_rating_gap": _by(rated, lambda pair: f"{pair.rating_gap:+d}"),
    }


def measure_calibration(
    rankings: Sequence[Ranking], scores: Scores, bins: int = 10
) -> dict[str, float | None]:
    """Compare the confidence sigmoid(|r_i - r_j|) with how often the scores are right.

    Returns:
        ``ece``: expected calibration error over equal-mass bins; ``brier``: mean squared
        difference between confidence and outcome (0.25 for a coin); ``log_loss``: mean of
        -log sigmoid(r_w - r_l), nats a pair (log 2 for a coin). None where there is no pair.
    """
    pairs, _ = pair_up(rankings, scores)
    if not pairs:
        return dict.fromkeys(("ece", "brier", "log_loss"))
    difference = np.array([pair.difference for pair in pairs])
    right = np.array([pair.right for pair in pairs])
    confidence = expit(np.abs(difference))
    return {
        "ece": float(expected_calibration_error(confidence, right, bins)),
        "brier": float(np.mean((confidence - right) ** 2)),
        "log_loss": float(np.mean(np.logaddexp(0.0, -difference))),
    }


def describe_scores(rankings: Sequence[Ranking], scores: Scores) -> dict[str, float | None]:
    """Describe the scores of the distinct completions: how they spread, and lean to length.

    Returns:
        ``score_mean``, ``score_std`` (population) and ``length_correlation`` with characters.
    """
    known = {
        (ranking.prompt.id, text): score
        for ranking, own in zip(rankings, scores, strict=True)
        for text, score in zip(ranking.completions, own, strict=True)
    }
    values = list(known.values())
    if not values:
        return dict.fromkeys(("score_mean", "score_std", "length_correlation"))
    lengths = [len(text) for _, text in known]
    return {
        "score_mean": float(np.mean(values)),
        "score_std": float(np.std(values)),
        "length_correlation": correlate_with_length(lengths, values),
    }


def correlate_with_length(lengths: Sequence[int], scores: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None where either is constant."""
    if len(set(lengths)) < 2 or len(set(scores)) < 2:
        return None
    return float(spearmanr(lengths, scores).statistic)


def _by(pairs: Sequence[ScoredPair], key: Callable[[ScoredPair], str]) -> dict[str, Any]:
    grouped: dict[str, list[float]] = {}
    for pair in pairs:
        grouped.setdefault(key(pair), []).append(pair.right)
    return {
        name: {"accuracy": float(np.mean(grouped[name])), "n": len(grouped[name])}
        for name in sorted(grouped)
    }
