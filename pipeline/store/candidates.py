"""Keep reward models' scores of completions, and make tasks of the prompts chosen by them.

Scores serve selection and the lead; no labeler ever sees one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.records import Prompt
from pipeline.store.catalog import read_prompt
from pipeline.store.schema import CompletionRow, PromptRow, TaskRow
from pipeline.store.schema_app import ScoreRow
from pipeline.store.tasking import Overlap, Wanted, add_task, rankings_wanted
from pipeline.store.values import Choice, task_id


@dataclass(frozen=True)
class Candidate:
    """A prompt that may become a ranking task.

    Attributes:
        prompt_id: the prompt.
        completions: the ids of all its completions, in order.
        scores: checkpoint to its scores of them, parallel; only checkpoints that scored all.
    """

    prompt_id: str
    completions: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]


def unscored(
    session: Session, checkpoint: str, splits: Sequence[str]
) -> list[tuple[Prompt, Choice]]:
    """Return every completion without a score of a checkpoint, with its prompt, by id."""
    scored = select(ScoreRow.completion_id).where(ScoreRow.checkpoint == checkpoint)
    rows = session.execute(
        select(PromptRow, CompletionRow)
        .join(CompletionRow, CompletionRow.prompt_id == PromptRow.id)
        .where(PromptRow.split.in_(splits), CompletionRow.id.not_in(scored))
        .order_by(CompletionRow.prompt_id, CompletionRow.id)
    )
    return [(read_prompt(prompt), Choice(row.id, row.text)) for prompt, row in rows]


def add_scores(
    session: Session,
    stage: str,
    checkpoint: str,
    scores: Mapping[str, float],
    now: datetime,
) -> None:
    """Keep a reward model's scores by completion id; one that is there already stays."""
    known = set(
        session.scalars(select(ScoreRow.completion_id).where(ScoreRow.checkpoint == checkpoint))
    )
    session.add_all(
        ScoreRow(completion_id=id_, checkpoint=checkpoint, stage=stage, score=score, created=now)
        for id_, score in scores.items()
        if id_ not in known
    )


def read_candidates(
    session: Session, checkpoints: Sequence[str], splits: Sequence[str]
) -> list[Candidate]:
    """Return the prompts with two or more completions that are no ranking task yet, by id."""
    wanted = list(rankings_wanted(session, splits))
    tasks = set(session.scalars(select(TaskRow.id).where(TaskRow.kind == "ranking")))
    known: dict[str, dict[str, float]] = defaultdict(dict)
    for row in session.scalars(select(ScoreRow).where(ScoreRow.checkpoint.in_(checkpoints))):
        known[row.checkpoint][row.completion_id] = row.score
    return [
        Candidate(item.prompt_id, tuple(item.completions), _scores_of(item, known))
        for item in wanted
        if task_id(item.prompt_id, item.completions) not in tasks
    ]


def add_selected(
    session: Session,
    chosen: Iterable[tuple[Candidate, Mapping[str, Any]]],
    overlap: Overlap,
    now: datetime,
) -> int:
    """Make ranking tasks of chosen candidates, each with how it was chosen; return how many."""
    count = 0
    for candidate, selection in chosen:
        wanted = Wanted(candidate.prompt_id, candidate.completions)
        add_task(session, wanted, overlap, now).selection = dict(selection)
        count += 1
    return count


def _scores_of(
    wanted: Wanted, known: Mapping[str, Mapping[str, float]]
) -> dict[str, tuple[float, ...]]:
    return {
        checkpoint: tuple(scores[id_] for id_ in wanted.completions)
        for checkpoint, scores in sorted(known.items())
        if all(id_ in scores for id_ in wanted.completions)
    }
