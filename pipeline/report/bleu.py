"""Compare the BLEU of two stages' translations: one figure of a corpus, and no mean over documents.

    BLEU = 100 * BP * (p_1 p_2 p_3 p_4)^(1/4),   p_n = matches_n / totals_n
    BP   = exp(1 - r / c) where the c words written are fewer than the r of the references, else 1

Papineni et al. 2002. matches_n counts the runs of n words that stand in the reference too, and
totals_n all of them, summed over the corpus; every document's own counts are in its row. As
sacrebleu has it by default, the k-th n without a match has 1/2^k of one, and a corpus without any
match, or without a run of four words, has 0.

1. The interval is a percentile bootstrap over documents, expanded for few of them, as it is for a
   mean (``pipeline.report.statistics``): each is drawn for both stages at once (Koehn 2004).
2. The p-value is a randomization test: if the stages are alike, each document's two translations
   could as well be the other's, so they change places by a coin (Riezler and Maxwell 2005).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.bootstrap import blocks, expanded_tail, resample
from pipeline.report.statistics import RESAMPLES, SIGN_DRAWS, SIGNIFICANT, Change

ORDERS = 4
"""Longest run of words that is counted."""
ROUNDING = 1e-9
"""By how much a BLEU of sums in another order may differ."""

Floats = npt.NDArray[np.float64]
Counts = Mapping[str, Any]
"""Of a document: ``matches`` and ``totals``, four each, ``words`` and ``reference_words``."""


def measure_bleu(documents: Mapping[str, Counts]) -> float:
    """Return the BLEU of documents together, from the counts of each."""
    return float(_bleu(_arrange(documents, sorted(documents)).sum(axis=0)))


def bleu_error(documents: Mapping[str, Counts], seed: int) -> float:
    """Return the standard error of the documents' BLEU: its spread where they are drawn anew."""
    counts = _arrange(documents, sorted(documents))
    drawn = resample(
        range(len(counts)), lambda weights: _bleu(weights @ counts), seed=seed, samples=RESAMPLES
    )
    return float(drawn.std(ddof=1))


def compare_bleu(
    later: Mapping[str, Counts], earlier: Mapping[str, Counts], seed: int
) -> Change | None:
    """Compare two stages by the counts of their documents.

    Returns:
        The change, or None where no document is there of both.
    """
    names = sorted(later.keys() & earlier.keys())
    if not names:
        return None
    ours, theirs = _arrange(later, names), _arrange(earlier, names)
    difference = float(_bleu(ours.sum(axis=0)) - _bleu(theirs.sum(axis=0)))
    drawn = resample(
        names,
        lambda weights: _bleu(weights @ ours) - _bleu(weights @ theirs),
        seed=seed,
        samples=RESAMPLES,
    )
    tail = expanded_tail(1 - SIGNIFICANT, [(1.0, len(names))])
    low, high = np.quantile(drawn, [tail, 1 - tail])
    p = _swap(ours, theirs, abs(difference), seed)
    return Change(difference, float(low), float(high), len(names), p)


def _arrange(documents: Mapping[str, Counts], names: list[str]) -> Floats:
    """Return the counts, [documents, 10]: matches, totals, words, words of the reference."""
    return np.array(
        [
            [*own["matches"], *own["totals"], own["words"], own["reference_words"]]
            for own in (documents[name] for name in names)
        ],
        dtype=np.float64,
    )


def _bleu(sums: Floats) -> Floats:
    """Return the BLEU of summed counts, [..., 10] to [...]."""
    matches, totals = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    words, reference = sums[..., -2], sums[..., -1]
    none = matches == 0
    smoothed = np.where(none, 0.5 ** np.cumsum(none, axis=-1), matches)
    precision = smoothed / np.maximum(totals, 1)
    penalty = np.minimum(0.0, 1 - reference / np.maximum(words, 1))
    scores = 100 * np.exp(penalty + np.log(precision).mean(axis=-1))
    return np.asarray(np.where(matches.any(axis=-1) & totals.all(axis=-1), scores, 0.0))


def _swap(ours: Floats, theirs: Floats, observed: float, seed: int) -> float:
    """Return the share of draws whose difference is no smaller, the observed one among them."""
    generator = np.random.default_rng(seed)
    apart = theirs - ours
    apart = apart[apart.any(axis=1)]
    before, after = theirs.sum(axis=0), ours.sum(axis=0)
    reached = 0
    for size in blocks(SIGN_DRAWS, max(1, len(apart))):
        moved = generator.integers(2, size=(size, len(apart)), dtype=np.int8) @ apart
        drawn = np.abs(_bleu(after + moved) - _bleu(before - moved))
        reached += int((drawn >= observed - ROUNDING).sum())
    return (1 + reached) / (1 + SIGN_DRAWS)
