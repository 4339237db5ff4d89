"""Set the floors that a reward model must beat: counting words, and preferring longer text.

Both are fitted on the rankings that the reward model trains on and score single completions, so
that they are measured on the same held-out pairs by the same code. A reward model that is no better
than these has learnt no more than vocabulary or length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from pipeline.ranking_accuracy import (
    Scores,
    compare_accuracy,
    measure_accuracy,
    split_accuracy,
)
from pipeline.records import Ranking

Scorer = Callable[[Sequence[str]], list[float]]
"""Score texts, each by itself."""

WORD = r"(?u)\b\w+\b"


def fit_bag_of_words(rankings: Sequence[Ranking]) -> Scorer:
    """Fit a Bradley-Terry model on word counts.

        P(w above l) = sigmoid(a . (n_w - n_l)),   score(x) = a . n_x

    n_x counts the lower-cased words of x. Logistic regression without an intercept on the
    differences, with the L2 penalty |a|^2 / 2; each ranking weighs the same.

    Args:
        rankings: to fit on; without an untied pair or a single word, every text scores 0.
    """
    chosen, rejected, weights = _untied_pairs(rankings)
    if not any(re.search(WORD, text) for text in (*chosen, *rejected)):
        return lambda texts: [0.0] * len(texts)
    vectorizer = CountVectorizer(token_pattern=WORD).fit([*chosen, *rejected])
    difference = vectorizer.transform(chosen) - vectorizer.transform(rejected)
    # Each pair stands in both directions, so that the classifier sees two classes; half the weight
    # each keeps the penalty's strength.
    model = LogisticRegression(fit_intercept=False, max_iter=1000)
    model.fit(
        vstack([difference, -difference]),
        np.repeat([1, 0], len(chosen)),
        sample_weight=np.tile(weights, 2) / 2,
    )
    coefficients = model.coef_[0]

    def score(texts: Sequence[str]) -> list[float]:
        return [float(value) for value in vectorizer.transform(texts) @ coefficients]

    return score


def fit_length(rankings: Sequence[Ranking]) -> Scorer:
    """Prefer longer text, or shorter, whichever the labelers did more often; in characters.

    Args:
        rankings: to choose the sign on; longer where they say nothing.
    """
    chosen, rejected, weights = _untied_pairs(rankings)
    longer = [
        np.sign(len(better) - len(worse)) for better, worse in zip(chosen, rejected, strict=True)
    ]
    sign = 1.0 if float(np.dot(longer, weights)) >= 0 else -1.0
    return lambda texts: [sign * len(text) for text in texts]


def score_texts(scorer: Scorer, rankings: Sequence[Ranking]) -> list[list[float]]:
    """Score every completion of every ranking."""
    return [scorer(ranking.completions) for ranking in rankings]


def measure_floors(
    training: Sequence[Ranking], held_out: Sequence[Ranking], scores: Scores, seed: int
) -> dict[str, dict[str, Any]]:
    """Fit each floor on the training rankings and measure it on the held-out ones.

    Args:
        training: what the reward model was trained on.
        held_out: what it was measured on.
        scores: its scores there.
        seed: of the intervals.
    Returns:
        By floor, what ``measure_accuracy`` and ``split_accuracy`` say, and by how much the reward
        model is ``ahead`` of it.
    """
    scorers = {"bag_of_words": fit_bag_of_words(training), "length": fit_length(training)}
    floors = {name: score_texts(scorer, held_out) for name, scorer in scorers.items()}
    return {
        name: {
            **measure_accuracy(held_out, floor, seed),
            "ahead": compare_accuracy(held_out, scores, floor, seed),
            **split_accuracy(held_out, floor),
        }
        for name, floor in floors.items()
    }


def _untied_pairs(rankings: Sequence[Ranking]) -> tuple[list[str], list[str], list[float]]:
    """Return chosen and rejected texts, and each pair's weight: 1 / (pairs of its ranking)."""
    chosen: list[str] = []
    rejected: list[str] = []
    weights: list[float] = []
    for ranking in rankings:
        ordered = [
            (better, worse)
            for better, a in zip(ranking.completions, ranking.ranks, strict=True)
            for worse, b in zip(ranking.completions, ranking.ranks, strict=True)
            if a < b
        ]
        chosen += [better for better, _ in ordered]
        rejected += [worse for _, worse in ordered]
        weights += [1 / max(len(ordered), 1)] * len(ordered)
    return chosen, rejected, weights
