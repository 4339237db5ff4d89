"""Measure how good labels are: labeler by labeler, question by question, stage against stage.

Input is plain records (``pipeline.store.judged``), so that the same figures can be made of any
store. Departures from the literature:

1. Shares count pairs of outputs, not whole rankings, so that tasks with different K can be pooled.
2. A tie is half of either side everywhere but in the length bias, which is about decided pairs.
3. Intervals resample prompts, for answers about one prompt are not independent.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, product
from typing import Literal

import numpy as np

from pipeline.agreement import (
    DEFAULT_BOOTSTRAP,
    Bootstrap,
    Estimate,
    count_agreed,
    estimate,
    estimate_ratio,
    labeler_agreement,
)
from pipeline.flag_agreement import FlagAgreement, Vote, measure_flag
from pipeline.records import Ranking
from pipeline.store.decisions import KnownAnswer
from pipeline.store.judged import Judged

Tally = tuple[float, float]

SCREENING_FLAGS = 0.75
SCREENING_RANKINGS = 0.75
SCREENING_DEMONSTRATIONS = 6.0
"""Soft cut-offs of the labelers' screening (Ouyang et al. 2022, B.1); scores go from 1 to 7."""


@dataclass(frozen=True)
class LabelerQuality:
    """How one labeler works; every share is one of pairs, with its interval over prompts.

    Attributes:
        labeler: pseudonym.
        group: the labeler's.
        simulated: whether a program judges.
        judgments: pieces of work, of any purpose.
        seconds: median working time a piece, or None where none was measured.
        others: agreement with other labelers on the same tasks, a tie half.
        gold: agreement with the known rankings.
        gold_flags: share of the settled yes/no questions answered alike.
        repeats: agreement with their own earlier judgment of the same task.
        first_wins: how often the output shown first comes out ahead of another, a tie half; 0.5 for
            somebody who does not care about places, for orders are drawn.
        longer_wins: how often the longer of two wins, among decided pairs.
        others_longer_wins: the same of everybody else on the same prompts.
        hurry: agreement with others in the faster half of the work less that in the slower half.
    """

    labeler: str
    group: str
    simulated: bool
    judgments: int
    seconds: float | None
    others: Estimate | None
    gold: Estimate | None
    gold_flags: Estimate | None
    repeats: Estimate | None
    first_wins: Estimate | None
    longer_wins: Estimate | None
    others_longer_wins: Estimate | None
    hurry: Estimate | None


@dataclass(frozen=True)
class Screening:
    """How a labeler did in the screening test.

    Attributes:
        tasks: rankings done.
        flags: share of the settled yes/no questions answered as the lead did.
        rankings: share of pairs ordered as the lead did, a tie half.
        demonstrations: mean score of the demonstrations, 1 to 7.
        passed: whether all three reach the cut-offs; None while one is missing.
    """

    tasks: int
    flags: float | None
    rankings: float | None
    demonstrations: float | None

    @property
    def passed(self) -> bool | None:
        """Tell whether all three figures reach their cut-offs, None while one is missing."""
        if self.flags is None or self.rankings is None or self.demonstrations is None:
            return None
        return (
            self.flags >= SCREENING_FLAGS
            and self.rankings >= SCREENING_RANKINGS
            and self.demonstrations >= SCREENING_DEMONSTRATIONS
        )


@dataclass(frozen=True)
class WinRate:
    """How often labelers preferred one stage's outputs to another's, a tie half."""

    stage: str
    against: str
    share: Estimate


def for_agreement(judged: Iterable[Judged], kind: str = "ranking") -> list[Ranking]:
    """Return the orders that tell how far labelers agree: of ordinary work, one a labeler."""
    return [item.ranking for item in judged if item.purpose == "work" and item.kind == kind]


def measure_labelers(
    judged: Sequence[Judged],
    known: Mapping[str, KnownAnswer],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> list[LabelerQuality]:
    """Measure every labeler, by name.

    Those whose work was taken out of training are measured too, and are nobody else's measure.

    Args:
        judged: all judgments, of any purpose.
        known: the answers of gold and screening tasks, by task.
        bootstrap: how to draw the intervals.
    """
    work = [item for item in judged if item.purpose == "work"]
    crowd = [item for item in work if not item.excluded]
    others = labeler_agreement((item.ranking for item in crowd), ties=True, bootstrap=bootstrap)
    tasks = _by(crowd, lambda item: item.task)
    repeated = _pair_repeats(judged)
    found = []
    for name, own in sorted(_by(judged, lambda item: item.labeler).items()):
        done = [item for item in own if item.purpose == "work"]
        prompts = {item.prompt.id for item in done}
        elsewhere = [item for item in crowd if item.labeler != name and item.prompt.id in prompts]
        if own[0].excluded:
            shown = (item.ranking for item in (*crowd, *done))
            others |= labeler_agreement(shown, ties=True, bootstrap=bootstrap, only=name)
        seconds = [item.active_seconds for item in own if item.active_seconds is not None]
        found.append(
            LabelerQuality(
                labeler=name,
                group=own[0].group,
                simulated=own[0].simulated,
                judgments=len(own),
                seconds=statistics.median(seconds) if seconds else None,
                others=others.get(name),
                gold=_estimate(own, lambda item: agree_with(item, known), bootstrap),
                gold_flags=_estimate(own, lambda item: answer_like(item, known), bootstrap),
                repeats=_estimate(own, lambda item: _agree_twice(item, repeated), bootstrap),
                first_wins=_estimate(done, _first_wins, bootstrap),
                longer_wins=_estimate(done, _longer_wins, bootstrap),
                others_longer_wins=_estimate(elsewhere, _longer_wins, bootstrap),
                hurry=_hurry(done, tasks, bootstrap),
            )
        )
    return found


def measure_screening(
    judged: Iterable[Judged],
    known: Mapping[str, KnownAnswer],
    scores: Mapping[str, Sequence[int]],
) -> dict[str, Screening]:
    """Measure how labelers did in the screening test, by labeler.

    Args:
        judged: judgments; those of screening tasks count.
        known: the answers, by task.
        scores: by labeler, the leads' scores of their screening demonstrations.
    """
    taken = _by((item for item in judged if item.purpose == "screening"), lambda item: item.labeler)
    found = {}
    for name in sorted({*taken, *scores}):
        own = taken.get(name, [])
        rated = scores.get(name, ())
        found[name] = Screening(
            tasks=len(own),
            flags=_share(answer_like(item, known) for item in own),
            rankings=_share(agree_with(item, known) for item in own),
            demonstrations=statistics.fmean(rated) if rated else None,
        )
    return found


def measure_flags(
    judged: Iterable[Judged], names: Iterable[str], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> dict[str, FlagAgreement]:
    """Measure the agreement on each yes/no question, by name; outputs are what it is asked of."""
    work = [item for item in judged if item.purpose == "work"]
    return {name: measure_flag(_votes(work, name), bootstrap) for name in names}


def win_rates(judged: Iterable[Judged], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> list[WinRate]:
    """Estimate how often each stage's output was preferred, over comparisons of two stages.

    An output that several stages gave counts for each of them; against itself a stage is not
    compared. Pairs of stages come once, in the order of their names.
    """
    tallies: dict[tuple[str, str], dict[str, list[Tally]]] = defaultdict(lambda: defaultdict(list))
    for item in judged:
        if item.kind != "comparison" or item.purpose != "work":
            continue
        first, second = item.outputs
        won = 0.5 + 0.5 * float(np.sign(item.ranks[1] - item.ranks[0]))
        for one, other in product(first.stages, second.stages):
            if one < other:
                tallies[one, other][item.prompt.id].append((won, 1.0))
            elif other < one:
                tallies[other, one][item.prompt.id].append((1.0 - won, 1.0))
    rates = []
    for (one, other), prompts in sorted(tallies.items()):
        share = estimate_ratio([_sum(prompts[id_]) for id_ in sorted(prompts)], bootstrap)
        assert share is not None, "a pair of stages is here because it was compared"
        rates.append(WinRate(one, other, share))
    return rates


def count_by_time(
    times: Iterable[tuple[datetime, str]], unit: Literal["day", "hour"]
) -> list[tuple[datetime, str, int]]:
    """Count what came in each day or hour (UTC), by name; empty times are left out."""
    start = {"minute": 0, "second": 0, "microsecond": 0}
    if unit == "day":
        start["hour"] = 0
    counts = Counter((time.replace(**start), name) for time, name in times)  # type: ignore[arg-type]
    return [(time, name, counts[time, name]) for time, name in sorted(counts)]


def agree_with(item: Judged, known: Mapping[str, KnownAnswer]) -> Tally | None:
    """Compare a judgment with the known order: pairs alike, and pairs; None where none is known."""
    answer = known.get(item.task)
    if answer is None:
        return None
    return count_agreed(item.ranks, [answer.ranks[one.id] for one in item.outputs], ties=True)


def answer_like(item: Judged, known: Mapping[str, KnownAnswer]) -> Tally | None:
    """Compare a judgment with the settled questions: answered alike, and answered."""
    answer = known.get(item.task)
    if answer is None:
        return None
    alike = asked = 0
    for index, output in enumerate(item.outputs):
        for flag, right in answer.flags.get(output.id, {}).items():
            said = item.answer(index, flag)
            if said is not None:
                asked += 1
                alike += said == right
    return float(alike), float(asked)


def _by(items: Iterable[Judged], key: Callable[[Judged], str]) -> dict[str, list[Judged]]:
    groups: dict[str, list[Judged]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _estimate(
    items: Iterable[Judged], tally: Callable[[Judged], Tally | None], bootstrap: Bootstrap
) -> Estimate | None:
    prompts: dict[str, list[Tally]] = defaultdict(list)
    for item in items:
        counted = tally(item)
        if counted is not None:
            prompts[item.prompt.id].append(counted)
    return estimate_ratio([_sum(prompts[id_]) for id_ in sorted(prompts)], bootstrap)


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = np.array([*tallies], dtype=np.float64).reshape(-1, 2).sum(axis=0)
    return float(total[0]), float(total[1])


def _share(tallies: Iterable[Tally | None]) -> float | None:
    alike, all_ = _sum(tally for tally in tallies if tally is not None)
    return alike / all_ if all_ else None


def _votes(judged: Iterable[Judged], flag: str) -> Iterable[Vote]:
    for item in judged:
        for index, output in enumerate(item.outputs):
            said = item.answer(index, flag)
            if said is not None:
                yield Vote(item.prompt.id, output.id, said)


def _pair_repeats(judged: Iterable[Judged]) -> dict[tuple[str, str], Judged]:
    """Return each labeler's first judgment of the tasks that they met again."""
    again = {(item.labeler, item.repeats) for item in judged if item.purpose == "repeat"}
    return {
        (item.labeler, item.task): item for item in judged if (item.labeler, item.task) in again
    }


def _agree_twice(item: Judged, repeated: Mapping[tuple[str, str], Judged]) -> Tally | None:
    before = repeated.get((item.labeler, item.repeats or ""))
    if before is None or item.purpose != "repeat":
        return None
    return count_agreed(item.ranks, before.ranks, ties=True)


def _first_wins(item: Judged) -> Tally | None:
    if item.presented is None:
        return None
    first, *rest = item.presented
    ahead = [np.sign(item.ranks[other] - item.ranks[first]) for other in rest]
    return float(sum(0.5 + 0.5 * sign for sign in ahead)), float(len(ahead))


def _longer_wins(item: Judged) -> Tally:
    won = pairs = 0
    for i, j in combinations(range(len(item.outputs)), 2):
        longer = len(item.outputs[i].text) - len(item.outputs[j].text)
        better = item.ranks[j] - item.ranks[i]
        if longer and better:
            pairs += 1
            won += (longer > 0) == (better > 0)
    return float(won), float(pairs)


def _hurry(
    own: Sequence[Judged], tasks: Mapping[str, Sequence[Judged]], bootstrap: Bootstrap
) -> Estimate | None:
    """Compare the faster half of a labeler's work with the slower, by time an output."""
    paces = {item.assignment: _pace(item) for item in own if item.active_seconds is not None}
    if not paces:
        return None
    middle = statistics.median(paces.values())
    prompts: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for item in own:
        if item.assignment in paces:
            both = [
                count_agreed(item.ranks, other.ranks, ties=True)
                for other in tasks.get(item.task, ())
                if other.labeler != item.labeler
            ]
            fast = paces[item.assignment] <= middle
            counted, nothing = _sum(both), (0.0, 0.0)
            prompts[item.prompt.id].append((*counted, *nothing) if fast else (*nothing, *counted))
    tallies = np.array([np.sum(prompts[id_], axis=0) for id_ in sorted(prompts)])
    return estimate(
        tallies.reshape(-1, 4),
        lambda total: (
            float(total[0] / total[1] - total[2] / total[3])
            if total[1] and total[3]
            else float("nan")
        ),
        lambda tally: tally[:, 1] + tally[:, 3],
        bootstrap,
    )


def _pace(item: Judged) -> float:
    assert item.active_seconds is not None, "only measured work has a pace"
    return item.active_seconds / len(item.outputs)
