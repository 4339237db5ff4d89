"""Make comparisons of answers and judgments, and put figures of all judges together. No models.

Judges by value (the tiny world's gold, a reward model) prefer the higher; the same answer to a
prompt ties with itself, whatever a reward model's rounding says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from pipeline.bootstrap import Interval, bootstrap_mean
from pipeline.evaluation.people import JUDGES
from pipeline.preferences import Comparison, prefer
from pipeline.store.judged import Judged
from pipeline.win_rates import JudgeFigures

GOLD, REWARD, LLM = "gold", "reward", "llm"
VALUES = {GOLD: "utility", REWARD: "score"}
"""Judges by value, and where their values stand in a row."""

Row = Mapping[str, Any]
Answers = Mapping[str, Row]
"""One stage's rows by prompt."""
Judgments = Mapping[str, Sequence[Comparison]]
"""Comparisons by judge."""


@dataclass(frozen=True)
class Point:
    """Hold what a model has gained over what it started from, and how far it went.

    Attributes:
        name: the stage, or one of its checkpoints.
        step: the checkpoint's iteration; None for a finished stage.
        kl: from the start, nats a completion; None where it was not measured.
        score: mean score of the reward model; None without one.
        win_rates: judge to the win rate against the start's answers, ties half.
        overstated: judge to the reward model's win rate less the judge's, paired by prompt.
    """

    name: str
    step: int | None
    kl: Interval | None
    score: Interval | None
    win_rates: Mapping[str, Interval]
    overstated: Mapping[str, Interval]


def compare_values(
    key: str, stage: str, against: str, ours: Answers, theirs: Answers
) -> Iterator[Comparison]:
    """Yield a comparison for each prompt that both answered and where both have the value."""
    for prompt, row in ours.items():
        other = theirs.get(prompt)
        if other is not None and key in row and key in other:
            same = row["completion"] == other["completion"]
            yield Comparison(
                prompt,
                stage,
                against,
                prefer(row[key], other[key], same=same),
                len(row["completion"]) - len(other["completion"]),
                same=same,
            )


def compare_people(
    judged: Iterable[Judged], stages: Collection[str] | None = None
) -> dict[str, list[Comparison]]:
    """Return the comparisons that labelers made, of ``people`` and of ``simulated`` ones.

    An output that several stages gave counts for each of them; with itself a stage is not compared.

    Args:
        judged: comparisons that count.
        stages: only of these; None takes all.
    """
    found: dict[str, list[Comparison]] = {}
    for item in judged:
        one, other = item.outputs
        won = 0.5 + 0.5 * float(np.sign(item.ranks[1] - item.ranks[0]))
        first = () if item.presented is None else (won if item.presented[0] == 0 else 1.0 - won,)
        longer = len(one.text) - len(other.text)
        for ours, theirs in product(one.stages, other.stages):
            if ours != theirs and (stages is None or {ours, theirs} <= {*stages}):
                found.setdefault(JUDGES[item.simulated], []).append(
                    Comparison(item.prompt.id, ours, theirs, won, longer, first)
                )
    return found


def between(comparisons: Iterable[Comparison], stage: str, against: str) -> list[Comparison]:
    """Return the comparisons of two stages, seen from the first."""
    return [
        one if one.stage == stage else one.reversed
        for one in comparisons
        if {one.stage, one.against} == {stage, against}
    ]


def with_rival(comparisons: Sequence[Comparison], against: str | None) -> list[Comparison]:
    """Return the comparisons with one stage, all of them where none is named."""
    return [one for one in comparisons if against in (None, one.stage, one.against)]


def pair_stages(stages: Sequence[str], against: str | None) -> list[tuple[str, str]]:
    """Return who is compared with whom: every pair, the later first, or all with one."""
    if against is not None:
        return [(stage, against) for stage in stages if stage != against]
    return [(late, early) for i, early in enumerate(stages) for late in stages[i + 1 :]]


def describe_start(name: str, answers: Answers, seed: int) -> Point:
    """Return the point that PPO starts from: no KL, and as often better as worse than itself."""
    return Point(name, None, Interval(0.0, 0.0, 0.0), _mean(answers, "score", seed), {}, {})


def describe_point(
    name: str, step: int | None, answers: Answers, judgments: Judgments, seed: int
) -> Point:
    """Return a model's point.

    Args:
        name: the stage, or one of its checkpoints.
        step: the checkpoint's iteration; None for a finished stage.
        answers: its rows.
        judgments: its comparisons with the start.
        seed: of the resampling.
    """
    rates = {
        judge: bootstrap_mean(
            [one.preference for one in own], [one.prompt for one in own], seed=seed
        )
        for judge, own in judgments.items()
        if own
    }
    trained_on = {one.prompt: one.preference for one in judgments.get(REWARD, ())}
    overstated: dict[str, Interval] = {}
    for judge, own in judgments.items():
        both = [one for one in own if one.prompt in trained_on]
        if judge != REWARD and both:
            gaps = [trained_on[one.prompt] - one.preference for one in both]
            overstated[judge] = bootstrap_mean(gaps, [one.prompt for one in both], seed=seed)
    kl, score = (_mean(answers, key, seed) for key in ("log_ratio", "score"))
    return Point(name, step, kl, score, rates, overstated)


def flatten_figures(judges: Mapping[str, JudgeFigures], rival: str) -> dict[str, dict[str, float]]:
    """Return the estimates by stage under flat keys, as they are logged.

    A rate at equal lengths that the data do not tell is left out.

    Args:
        judges: figures by judge.
        rival: the stage whose pairs are logged; all pairs stand in the file.
    """
    flat: dict[str, dict[str, float]] = {}
    for judge, figures in judges.items():
        for own in figures.strengths[1:]:
            key = f"win_rates/{judge}/strength"
            flat.setdefault(own.stage, {})[key] = own.strength.estimate
        for pair in figures.pairs:
            if rival not in (pair.stage, pair.against):
                continue
            turned = pair.stage == rival
            named = flat.setdefault(pair.against if turned else pair.stage, {})
            key = f"win_rates/{judge}/vs_{rival}"
            named[key] = _turn(pair.win_rate.estimate, turned=turned)
            controlled = pair.length_controlled
            if controlled is not None and not controlled.separated:
                rate = controlled.win_rate.estimate
                named[f"{key}_length_controlled"] = _turn(rate, turned=turned)
    return flat


def _turn(rate: float, *, turned: bool) -> float:
    return 1.0 - rate if turned else rate


def _mean(answers: Answers, key: str, seed: int) -> Interval | None:
    values = [row[key] for row in answers.values() if key in row]
    return bootstrap_mean(values, seed=seed) if values else None
