"""Find the tasks whose judgments a lead should look at, and say why.

Three reasons: labelers differ from each other, a labeler's ranks contradict their own ratings, and
most labelers order a pair against a reward model that is sure of it. Only submitted judgments are
looked at, so that no score can move a labeler.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from string import ascii_uppercase

from pipeline.store.decisions import Adjudication
from pipeline.store.judged import Judged, Output


@dataclass(frozen=True)
class InboxRules:
    """When a task comes before the lead.

    Attributes:
        agreement: labelers who agree on a smaller share of a task's pairs (a tie half) differ.
        contradiction: an output ranked ahead of another that was rated this much higher, or more.
        sureness: a reward model is sure of a pair whose scores lie this many of its spreads apart.
            The spread is the root mean square over prompts of the scores' standard deviation within
            one, so that it does not depend on what prompts are about.
    """

    agreement: float = 0.5
    contradiction: int = 1
    sureness: float = 2.0


@dataclass(frozen=True)
class Scores:
    """One reward model's scores of completions, by completion id."""

    stage: str
    checkpoint: str
    created: datetime
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Dispute:
    """A task that waits for a lead.

    Attributes:
        task: the task.
        judgments: what labelers said, the newest revision of each.
        reasons: why it is here, in words; outputs are lettered in the order of ``outputs``.
        scores: the newest reward model's, by completion id, or None.
    """

    task: str
    judgments: tuple[Judged, ...]
    reasons: tuple[str, ...]
    scores: Scores | None

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Return what was judged."""
        return self.judgments[0].outputs


def find_disputes(
    judged: Iterable[Judged],
    scores: Sequence[Scores],
    decisions: Mapping[str, Adjudication],
    rules: InboxRules,
) -> list[Dispute]:
    """Return the tasks that wait for a lead, those with most reasons and the newest first.

    A task that a lead decided comes back only when somebody judges it afterwards.

    Args:
        judged: newest revisions; ordinary rankings of labelers who are not excluded count.
        scores: of reward models, any order.
        decisions: the leads' decisions, by task.
        rules: what makes a task come.
    """
    tasks: dict[str, list[Judged]] = defaultdict(list)
    for item in judged:
        if (item.purpose, item.kind) == ("work", "ranking") and not item.excluded:
            tasks[item.task].append(item)
    models = [
        (model, score_spread(model, tasks.values()))
        for model in sorted(scores, key=lambda model: model.created, reverse=True)
    ]
    found = []
    for task, judgments in tasks.items():
        decided = decisions.get(task)
        if decided is not None and decided.created >= max(item.created for item in judgments):
            continue
        ids = {output.id for output in judgments[0].outputs}
        model, spread = next(
            ((one, spread) for one, spread in models if len(ids & one.scores.keys()) > 1),
            (None, 0.0),
        )
        reasons = [*_differ(judgments, rules), *_contradict(judgments, rules)]
        if model is not None:
            reasons += _oppose(judgments, model, spread, rules)
        if reasons:
            found.append(Dispute(task, tuple(judgments), tuple(reasons), model))
    found.sort(key=lambda one: one.task)
    found.sort(key=lambda one: max(item.created for item in one.judgments), reverse=True)
    return sorted(found, key=lambda one: len(one.reasons), reverse=True)


def score_spread(model: Scores, tasks: Iterable[Sequence[Judged]]) -> float:
    """Return the root mean square over tasks of the scores' standard deviation within one."""
    variances = []
    for judgments in tasks:
        known = [
            model.scores[output.id] for output in judgments[0].outputs if output.id in model.scores
        ]
        if len(known) > 1:
            variances.append(statistics.variance(known))
    return math.sqrt(statistics.fmean(variances)) if variances else 0.0


def _differ(judgments: Sequence[Judged], rules: InboxRules) -> Iterator[str]:
    agreed, pairs = 0.0, 0
    for one, other in combinations(judgments, 2):
        for i, j in combinations(range(len(one.ranks)), 2):
            s, t = _sign(one, i, j), _sign(other, i, j)
            agreed += 1 - abs(s - t) / 2
            pairs += 1
    if pairs and agreed / pairs < rules.agreement:
        yield f"{len(judgments)} labelers agree on {agreed / pairs:.0%} of the pairs"


def _contradict(judgments: Iterable[Judged], rules: InboxRules) -> Iterator[str]:
    for item in judgments:
        if item.ratings is None:
            continue
        pairs = [
            (item.ratings[j] - item.ratings[i], i, j)
            for i in range(len(item.ranks))
            for j in range(len(item.ranks))
            if item.ranks[i] < item.ranks[j]
        ]
        gap, i, j = max(pairs, default=(0, 0, 0))
        if gap >= rules.contradiction:
            yield (
                f"{item.labeler} ranks {letter(i)} ahead of {letter(j)} and rates it "
                f"{item.ratings[i]} against {item.ratings[j]}"
            )


def _oppose(
    judgments: Sequence[Judged], model: Scores, spread: float, rules: InboxRules
) -> Iterator[str]:
    outputs = judgments[0].outputs
    worst, said = 0.0, ""
    for i, j in combinations(range(len(outputs)), 2):
        if outputs[i].id not in model.scores or outputs[j].id not in model.scores:
            continue
        gap = model.scores[outputs[i].id] - model.scores[outputs[j].id]
        upper, lower = (i, j) if gap > 0 else (j, i)
        against = sum(_sign(item, upper, lower) < 0 for item in judgments)
        sure = spread > 0 and abs(gap) >= rules.sureness * spread
        if sure and 2 * against > len(judgments) and abs(gap) > worst:
            worst = abs(gap)
            said = (
                f"{model.stage} scores {letter(upper)} {abs(gap) / spread:.1f} spreads above "
                f"{letter(lower)}, and {against} of {len(judgments)} labelers say the contrary"
            )
    if said:
        yield said


def letter(index: int) -> str:
    """Return the letter by which reasons name an output."""
    return ascii_uppercase[index] if index < len(ascii_uppercase) else f"#{index + 1}"


def _sign(item: Judged, i: int, j: int) -> int:
    """Return 1 where the labeler puts i ahead of j, -1 where behind, 0 for a tie."""
    return (item.ranks[j] > item.ranks[i]) - (item.ranks[j] < item.ranks[i])
