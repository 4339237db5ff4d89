"""Turn pairwise preferences into what is said of a judge: who wins, by how much, and how it judges.

Of each pair of stages the plain win rate, a tie half, and what is left of it at equal lengths;
of all pairs together one strength a stage (``pipeline.preferences``). Of the judge how often it
ties, prefers what it is shown first, and contradicts itself when the order is turned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from pipeline.bootstrap import Interval, bootstrap_mean
from pipeline.preferences import (
    RESAMPLES,
    Comparison,
    LengthControlled,
    Strength,
    control_length,
    rate_strengths,
)


@dataclass(frozen=True)
class PairFigures:
    """Hold how often one stage's answers were preferred to another's.

    Attributes:
        win_rate: share of comparisons won, ties half.
        ties: share of comparisons without a preference.
        same: share of comparisons of equal answers; ties all of them.
        longer: characters that the stage's answers are longer, on average.
        length_controlled: the same at equal lengths; None where the lengths always differ alike.
        prompts: how many were asked.
        comparisons: how many there are.
    """

    stage: str
    against: str
    win_rate: Interval
    ties: float
    same: float
    longer: float
    length_controlled: LengthControlled | None
    prompts: int
    comparisons: int


@dataclass(frozen=True)
class JudgeFigures:
    """Hold all that one judge's comparisons say.

    Attributes:
        pairs: stage against stage, the later of the line first.
        strengths: of the stages that comparisons connect with the base, the base first.
        ties: share of all comparisons without a preference.
        first_preferred: how often the answer shown first was preferred, ties half; 1/2 for a judge
            who does not care about places; None where no order was seen.
        disagreed: share of the pairs shown in both orders whose two verdicts differ; None where
            none was shown twice.
    """

    pairs: tuple[PairFigures, ...]
    strengths: tuple[Strength, ...]
    ties: float
    first_preferred: Interval | None
    disagreed: float | None
    prompts: int
    comparisons: int


def describe_judge(
    comparisons: Iterable[Comparison],
    order: Sequence[str],
    *,
    seed: int,
    samples: int = RESAMPLES,
) -> JudgeFigures:
    """Return the figures of one judge.

    Args:
        comparisons: at least one.
        order: the stages as the line has them; the first that was compared is the base. Others
            come after them, by name.
        seed: of the resampling.
        samples: how many resamples.

    Raises:
        ValueError: if there are no comparisons.
    """
    given = list(comparisons)
    if not given:
        raise ValueError("at least one comparison must be given")
    unknown = sorted({name for one in given for name in (one.stage, one.against)} - set(order))
    rank = {name: place for place, name in enumerate([*order, *unknown])}
    oriented = [one if rank[one.stage] > rank[one.against] else one.reversed for one in given]
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for one in oriented:
        groups.setdefault((one.stage, one.against), []).append(one)
    pairs = sorted(groups, key=lambda pair: (rank[pair[1]], rank[pair[0]]))
    shown = [(one.prompt, value) for one in oriented for value in one.first]
    twice = [one.first for one in oriented if len(one.first) == 2]
    return JudgeFigures(
        pairs=tuple(describe_pair(groups[pair], seed=seed, samples=samples) for pair in pairs),
        strengths=tuple(rate_strengths(oriented, list(rank), seed=seed, samples=samples)),
        ties=_share_of_ties(oriented),
        first_preferred=bootstrap_mean(
            [value for _, value in shown], [prompt for prompt, _ in shown], seed=seed
        )
        if shown
        else None,
        disagreed=float(np.mean([a + b != 1.0 for a, b in twice])) if twice else None,
        prompts=len({one.prompt for one in oriented}),
        comparisons=len(oriented),
    )


def describe_pair(
    comparisons: Sequence[Comparison], *, seed: int, samples: int = RESAMPLES
) -> PairFigures:
    """Return the figures of one pair of stages.

    Args:
        comparisons: of the same stage against the same other, at least one.
        seed: of the resampling.
        samples: how many resamples.
    """
    one = comparisons[0]
    prompts = [each.prompt for each in comparisons]
    return PairFigures(
        stage=one.stage,
        against=one.against,
        win_rate=bootstrap_mean([each.preference for each in comparisons], prompts, seed=seed),
        ties=_share_of_ties(comparisons),
        same=float(np.mean([each.same for each in comparisons])),
        longer=float(np.mean([each.longer for each in comparisons])),
        length_controlled=control_length(comparisons, seed=seed, samples=samples),
        prompts=len(set(prompts)),
        comparisons=len(comparisons),
    )


def to_rows(value: Any) -> Any:
    """Return figures as JSON has them: dataclasses and intervals as mappings."""
    if isinstance(value, Interval):
        return value._asdict()
    if is_dataclass(value):
        return {field.name: to_rows(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_rows(each) for key, each in value.items()}
    return [to_rows(each) for each in value] if isinstance(value, tuple | list) else value


def _share_of_ties(comparisons: Sequence[Comparison]) -> float:
    return float(np.mean([one.preference == 0.5 for one in comparisons]))
