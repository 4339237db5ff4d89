"""Read how the labeling stands: the people, the queue, what was skipped and reported."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from pipeline.records import Prompt
from pipeline.store.catalog import read_prompt
from pipeline.store.inbox import Scores
from pipeline.store.schema import AssignmentRow, LabelerRow, PromptRow, TaskRow
from pipeline.store.schema_app import ExclusionRow, PromptReportRow, ScoreRow, SkipRow


@dataclass(frozen=True)
class Person:
    """A labeler as the lead sees them.

    Attributes:
        id: in the store.
        name: pseudonym.
        kind: ``human`` or ``simulated``.
        group: ``train`` or ``held_out``.
        admitted: whether they get more than screening tasks.
        kinds: kinds of task that they may be given, None for all.
        excluded: why their work was taken out of training, or None.
        skips: tasks that they passed over.
    """

    id: int
    name: str
    kind: str
    group: str
    admitted: bool
    kinds: tuple[str, ...] | None
    excluded: str | None
    skips: int


@dataclass(frozen=True)
class Report:
    """A labeler's remark that a prompt should not be labeled as it is."""

    id: int
    prompt: Prompt
    labeler: str
    reason: str
    resolved: bool
    created: datetime


@dataclass(frozen=True)
class Queue:
    """How far the tasks of one kind, purpose and split are.

    Attributes:
        kind: of task.
        purpose: of task.
        split: of the prompts.
        tasks: how many there are.
        open: how many still want labelers.
        wanted: labelers wanted, over all tasks.
        done: pieces of work submitted.
        held: tasks in somebody's hands.
    """

    kind: str
    purpose: str
    split: str
    tasks: int
    open: int
    wanted: int
    done: int
    held: int


def read_people(session: Session) -> list[Person]:
    """Return every labeler, by name."""
    skips = (
        select(AssignmentRow.labeler_id, func.count().label("skips"))
        .join(SkipRow, SkipRow.assignment_id == AssignmentRow.id)
        .group_by(AssignmentRow.labeler_id)
        .subquery()
    )
    query = (
        select(LabelerRow, ExclusionRow.reason, skips.c.skips)
        .outerjoin(ExclusionRow, ExclusionRow.labeler_id == LabelerRow.id)
        .outerjoin(skips, skips.c.labeler_id == LabelerRow.id)
    )
    found = [
        Person(
            id=row.id,
            name=row.name,
            kind=row.kind,
            group=row.group,
            admitted=row.admitted,
            kinds=None if row.kinds is None else tuple(row.kinds),
            excluded=reason,
            skips=skipped or 0,
        )
        for row, reason, skipped in session.execute(query)
    ]
    return sorted(found, key=lambda person: person.name)


def read_queue(session: Session, now: datetime) -> list[Queue]:
    """Count tasks and the labelers that they want, by kind, purpose and split."""
    key = (TaskRow.kind, TaskRow.purpose, PromptRow.split)
    tasks = (
        select(
            *key,
            func.count(),
            func.sum(case((TaskRow.open, 1), else_=0)),
            func.sum(TaskRow.overlap + TaskRow.held_out_overlap),
        )
        .join(TaskRow.prompt)
        .group_by(*key)
    )
    is_held = (AssignmentRow.state == "leased") & (AssignmentRow.lease_expires > now)
    work = (
        select(
            *key,
            func.sum(case((AssignmentRow.state == "done", 1), else_=0)),
            func.sum(case((is_held, 1), else_=0)),
        )
        .join(AssignmentRow, AssignmentRow.task_id == TaskRow.id)
        .join(TaskRow.prompt)
        .group_by(*key)
    )
    taken = {
        (kind, purpose, split): (int(done), int(held))
        for kind, purpose, split, done, held in session.execute(work)
    }
    return [
        Queue(
            kind,
            purpose,
            split,
            int(count),
            int(waiting),
            int(wanted),
            *taken.get((kind, purpose, split), (0, 0)),
        )
        for kind, purpose, split, count, waiting, wanted in sorted(
            session.execute(tasks).all(), key=lambda row: (row[0], row[1], row[2])
        )
    ]


def read_skips(session: Session) -> dict[str, int]:
    """Count skipped tasks by reason."""
    query = select(SkipRow.reason, func.count()).group_by(SkipRow.reason)
    return {reason: int(count) for reason, count in session.execute(query)}


def read_reports(session: Session) -> list[Report]:
    """Return what labelers reported of prompts: what waits first, then the newest."""
    query = (
        select(PromptReportRow, PromptRow, LabelerRow.name)
        .join(PromptRow, PromptRow.id == PromptReportRow.prompt_id)
        .join(LabelerRow, LabelerRow.id == PromptReportRow.labeler_id)
        .order_by(PromptReportRow.resolved, PromptReportRow.id.desc())
    )
    return [
        Report(row.id, read_prompt(prompt), name, row.reason, row.resolved, row.created)
        for row, prompt, name in session.execute(query)
    ]


def read_scores(session: Session) -> list[Scores]:
    """Return each reward model's scores."""
    found: dict[str, list[ScoreRow]] = {}
    for row in session.scalars(select(ScoreRow)):
        found.setdefault(row.checkpoint, []).append(row)
    return [
        Scores(
            stage=rows[0].stage,
            checkpoint=checkpoint,
            created=max(row.created for row in rows),
            scores={row.completion_id: row.score for row in rows},
        )
        for checkpoint, rows in found.items()
    ]
