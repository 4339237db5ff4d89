"""Make tasks of prompts and completions, and keep their mark of who still wants labelers.

Everything is idempotent: a task that is there already only takes the new numbers of labelers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import ColumnElement, ScalarSelect, func, or_, select, update
from sqlalchemy.orm import Session

from pipeline.errors import StoreError
from pipeline.store.decisions import counts
from pipeline.store.schema import (
    AssignmentRow,
    CompletionRow,
    LabelerRow,
    PromptRow,
    SourceRow,
    TaskCompletionRow,
    TaskRow,
)
from pipeline.store.values import TaskKind, task_id


class Overlap(NamedTuple):
    """How many labelers a task wants.

    Attributes:
        train: of the group whose judgments reach training.
        held_out: of those whose judgments are kept from it.
    """

    train: int
    held_out: int = 0


class Wanted(NamedTuple):
    """A task to make: a prompt and the completions that are compared, none for a demonstration."""

    prompt_id: str
    completions: Sequence[str] = ()


def add_task(
    session: Session,
    wanted: Wanted,
    overlap: Overlap,
    now: datetime,
    kind: TaskKind = "ranking",
) -> TaskRow:
    """Add a task, or return the one there is, unchanged."""
    row_id = task_id(wanted.prompt_id, wanted.completions, kind)
    row = session.get(TaskRow, row_id)
    if row is None:
        row = TaskRow(
            id=row_id,
            prompt_id=wanted.prompt_id,
            kind=kind,
            overlap=overlap.train,
            held_out_overlap=overlap.held_out,
            created=now,
        )
        session.add(row)
        session.flush()
        link_completions(session, row_id, wanted.completions)
    return row


def link_completions(session: Session, task: str, completions: Collection[str]) -> None:
    """Say which completions a new task compares."""
    session.add_all(
        TaskCompletionRow(task_id=task, completion_id=completion)
        for completion in sorted(set(completions))
    )
    session.flush()


def create_tasks(
    session: Session,
    kind: TaskKind,
    wanted: Iterable[Wanted],
    overlap: Overlap,
    now: datetime,
) -> int:
    """Make tasks and return how many are new; those that exist take the given overlap.

    Raises:
        StoreError: if nobody is wanted.
    """
    if overlap.train < 0 or overlap.held_out < 0 or overlap == (0, 0):
        raise StoreError(
            f"overlap must be 1 or more, got {overlap.train!r}. Ask for at least one judgment."
        )
    known = {task.id: task for task in session.scalars(select(TaskRow).where(TaskRow.kind == kind))}
    created = 0
    touched = []
    for item in wanted:
        row_id = task_id(item.prompt_id, item.completions, kind)
        touched.append(row_id)
        task = known.get(row_id)
        if task is None:
            add_task(session, item, overlap, now, kind)
            created += 1
        elif task.purpose == "work":
            task.overlap, task.held_out_overlap = overlap
    session.flush()
    for start in range(0, len(touched), 500):
        mark_open(session, TaskRow.id.in_(touched[start : start + 500]))
    return created


def rankings_wanted(session: Session, splits: Sequence[str]) -> Iterator[Wanted]:
    """Yield a ranking of all its completions for each prompt that has two or more."""
    for prompt_id, group in groupby(_completions(session, splits), key=lambda row: row[0]):
        completions = [row[1] for row in group]
        if len(completions) > 1:
            yield Wanted(prompt_id, completions)


def demonstrations_wanted(session: Session, splits: Sequence[str]) -> Iterator[Wanted]:
    """Yield a demonstration for each prompt that has no completion."""
    answered = select(CompletionRow.prompt_id)
    query = (
        select(PromptRow.id)
        .where(PromptRow.split.in_(splits), PromptRow.id.not_in(answered))
        .order_by(PromptRow.id)
    )
    yield from (Wanted(id_) for id_ in session.scalars(query))


def comparisons_wanted(
    session: Session, stages: tuple[str, str], splits: Sequence[str]
) -> Iterator[Wanted]:
    """Yield a comparison of two stages for each prompt that both have answered, with other words.

    Where a stage has several completions of a prompt, its first sample stands for it.
    """
    rows = session.execute(
        select(CompletionRow.prompt_id, SourceRow.stage, CompletionRow.id)
        .join(SourceRow, SourceRow.completion_id == CompletionRow.id)
        .join(PromptRow, PromptRow.id == CompletionRow.prompt_id)
        .where(PromptRow.split.in_(splits), SourceRow.stage.in_(stages))
        .order_by(CompletionRow.prompt_id, SourceRow.sample_index, CompletionRow.id)
    )
    for prompt_id, group in groupby(rows, key=lambda row: row[0]):
        first: dict[str, str] = {}
        for _, stage, completion in group:
            first.setdefault(stage, completion)
        pair = [first.get(stage) for stage in stages]
        if None not in pair and pair[0] != pair[1]:
            yield Wanted(prompt_id, [id_ for id_ in pair if id_ is not None])


def mark_open(session: Session, which: ColumnElement[bool]) -> None:
    """Set ``open`` on the tasks that meet a condition: whether they want further labelers.

    One statement, so that the database itself reads the overlap and the count under the row's lock.
    """
    still_wanted = or_(
        _done("train") < TaskRow.overlap, _done("held_out") < TaskRow.held_out_overlap
    )
    session.execute(
        update(TaskRow).where(which).values(open=still_wanted),
        execution_options={"synchronize_session": False},
    )


def _done(group: str) -> ScalarSelect[int]:
    return (
        select(func.count())
        .join_from(AssignmentRow, LabelerRow)
        .where(
            AssignmentRow.task_id == TaskRow.id,
            AssignmentRow.state == "done",
            LabelerRow.group == group,
            counts(AssignmentRow.labeler_id),
        )
        .correlate(TaskRow)
        .scalar_subquery()
    )


def _completions(session: Session, splits: Sequence[str]) -> Sequence[tuple[str, str]]:
    rows = session.execute(
        select(CompletionRow.prompt_id, CompletionRow.id)
        .join(PromptRow, PromptRow.id == CompletionRow.prompt_id)
        .where(PromptRow.split.in_(splits))
        .order_by(CompletionRow.prompt_id, CompletionRow.id)
    )
    return [(prompt_id, completion) for prompt_id, completion in rows]
