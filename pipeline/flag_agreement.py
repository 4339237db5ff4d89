"""Measure how far labelers agree on yes/no questions.

Most flags are rare, so that two people who never looked would agree on nearly all outputs.
Krippendorff's alpha and Gwet's AC1 both correct for chance and read chance differently: on rare
flags alpha falls far below AC1 (Gwet 2008). Both are given, and the share of yes beside them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.agreement import (
    DEFAULT_BOOTSTRAP,
    Bootstrap,
    Estimate,
    Floats,
    alpha_of,
    coincidences,
    estimate,
    estimate_ratio,
)

YES_AND_NO = np.array([0.0, 1.0])


class Vote(NamedTuple):
    """One labeler's answer about one thing.

    Attributes:
        prompt: what resampling draws; all answers about a prompt's outputs go together.
        item: what was asked about.
        yes: the answer.
    """

    prompt: str
    item: str
    yes: bool


@dataclass(frozen=True)
class FlagAgreement:
    """How far labelers agree on one question.

    Attributes:
        alpha: Krippendorff's, nominal; ``count`` is answers. None where undefined: no item with two
            answers, or all answers equal.
        ac1: Gwet's; ``count`` is items with two answers or more.
        prevalence: share of yes among the answers.
    """

    alpha: Estimate | None
    ac1: Estimate | None
    prevalence: Estimate | None


def measure_flag(votes: Iterable[Vote], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> FlagAgreement:
    """Measure the agreement on one question, with intervals over prompts."""
    prompts: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for vote in votes:
        prompts[vote.prompt][vote.item].append(vote.yes)
    groups = [list(prompts[prompt].values()) for prompt in sorted(prompts)]
    if not groups:
        return FlagAgreement(None, None, None)
    return FlagAgreement(
        alpha=_alpha(groups, bootstrap),
        ac1=_ac1(groups, bootstrap),
        prevalence=estimate_ratio(
            [(float(sum(map(sum, items))), float(sum(map(len, items)))) for items in groups],
            bootstrap,
        ),
    )


def gwet_ac1(counts: Floats) -> float:
    """Return Gwet's AC1 of nominal answers, any number of labelers an item.

        AC1 = (p_a - p_e) / (1 - p_e)
        p_a = mean over items with r_i >= 2 of sum_k r_ik (r_ik - 1) / (r_i (r_i - 1))
        p_e = sum_k pi_k (1 - pi_k) / (q - 1),   pi_k = mean over items of r_ik / r_i

    Gwet 2008, *Computing inter-rater reliability and its variance in the presence of high
    agreement*; items with one answer count in pi_k alone.

    Args:
        counts: r_ik, how many labelers gave item i the answer k, [items, q].

    Returns:
        AC1: 1 perfect agreement, 0 what chance gives; NaN where no item has two answers.
    """
    return _ac1_of(_ac1_tally(counts))


def _alpha(groups: Sequence[Sequence[Sequence[bool]]], bootstrap: Bootstrap) -> Estimate | None:
    tallies = [coincidences([list(map(float, u)) for u in items], YES_AND_NO) for items in groups]
    return estimate(
        np.array(tallies),
        lambda total: alpha_of(total, YES_AND_NO, "nominal"),
        lambda tally: tally.sum(axis=(1, 2)),
        bootstrap,
    )


def _ac1(groups: Sequence[Sequence[Sequence[bool]]], bootstrap: Bootstrap) -> Estimate | None:
    tallies = [
        _ac1_tally(np.array([[len(votes) - sum(votes), sum(votes)] for votes in items], float))
        for items in groups
    ]
    return estimate(np.array(tallies), _ac1_of, lambda tally: tally[:, 1], bootstrap)


def _ac1_tally(counts: Floats) -> Floats:
    """Sum what AC1 is made of: agreement, items that have one, then r_ik / r_i of all items."""
    answers = counts.sum(axis=1)
    counts, answers = counts[answers > 0], answers[answers > 0]
    several = answers > 1
    pairs = answers[several] * (answers[several] - 1)
    agreed = (counts[several] * (counts[several] - 1)).sum(axis=1) / pairs
    shares = (counts / answers[:, None]).sum(axis=0)
    return np.concatenate([[agreed.sum(), several.sum()], shares])


def _ac1_of(tally: Floats) -> float:
    if not tally[1]:
        return float("nan")
    observed = tally[0] / tally[1]
    shares = tally[2:] / tally[2:].sum()
    by_chance = float((shares * (1 - shares)).sum()) / (len(shares) - 1)
    return float((observed - by_chance) / (1 - by_chance))
