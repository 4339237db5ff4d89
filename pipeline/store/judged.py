"""Read judgments as plain records, with all that the lead's pages and statistics ask of them.

Departure from the rows: a question of the labeling page that a judgment leaves out was answered
with no, for the page sends only what was ticked; in other judgments it was not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, selectinload

from pipeline.records import Prompt, Ranking
from pipeline.store.catalog import read_prompt
from pipeline.store.decisions import excluded_labelers
from pipeline.store.questions import OUTPUT_FLAGS
from pipeline.store.schema import (
    AssignmentRow,
    CompletionRow,
    JudgmentRow,
    LabelerRow,
    TaskRow,
)
from pipeline.store.values import Group

ASKED = frozenset(question.name for question in OUTPUT_FLAGS)


@dataclass(frozen=True)
class Output:
    """A completion that was judged.

    Attributes:
        id: the completion.
        text: its words.
        stages: the stages, or data sets, that it comes from, each once.
    """

    id: str
    text: str
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """The newest revision of a judgment; tuples run parallel to ``outputs``.

    Attributes:
        assignment: names the piece of work, all revisions together.
        task: the task.
        kind: ``ranking`` or ``comparison``.
        purpose: ``work``, ``screening``, ``gold`` or ``repeat``.
        repeats: the task that a repeat shows again.
        prompt: what was answered.
        split: the prompt's.
        labeler: pseudonym.
        group: the labeler's.
        simulated: whether a program judged.
        excluded: whether a lead took the labeler's work out of training.
        outputs: by id.
        ranks: dense, 1 the best.
        ratings: 1 to 7, or None where none were asked.
        flags: yes/no observations.
        presented: indices of ``outputs`` in the order that the labeler saw, or None where unknown.
        prompt_flags: yes/no observations on the prompt.
        none_acceptable: whether no output would do.
        comment: the labeler's note.
        active_seconds: working time.
        instructions: version that the labeler worked by.
        interface: version of the page, or None where the judgment was not made on it.
        revision: which one this is.
        submitted: when the first revision came, UTC.
        created: when this one came, UTC.
    """

    assignment: int
    task: str
    kind: str
    purpose: str
    repeats: str | None
    prompt: Prompt
    split: str
    labeler: str
    group: str
    simulated: bool
    excluded: bool
    outputs: tuple[Output, ...]
    ranks: tuple[int, ...]
    ratings: tuple[int, ...] | None
    flags: tuple[Mapping[str, bool], ...]
    presented: tuple[int, ...] | None
    prompt_flags: Mapping[str, bool]
    none_acceptable: bool
    comment: str
    active_seconds: float | None
    instructions: int | None
    interface: str | None
    revision: int
    submitted: datetime
    created: datetime

    @property
    def ranking(self) -> Ranking:
        """Return the order alone."""
        return Ranking(
            prompt=self.prompt,
            completions=tuple(output.text for output in self.outputs),
            ranks=self.ranks,
            ratings=self.ratings,
            labeler=self.labeler,
            group=cast("Group", self.group),
        )

    def answer(self, index: int, flag: str) -> bool | None:
        """Return what the labeler said of one output, or None where the question was not asked."""
        said = self.flags[index].get(flag)
        return False if said is None and self.interface is not None and flag in ASKED else said


def read_judged(session: Session, *where: ColumnElement[bool], newest: bool = True) -> list[Judged]:
    """Return judgments in the order in which they came.

    Args:
        session: any session.
        where: conditions on the joined judgment, assignment, task and labeler.
        newest: the newest revision of each piece of work only.
    """
    first_and_last = (
        select(
            JudgmentRow.assignment_id,
            func.max(JudgmentRow.revision).label("last"),
            func.min(JudgmentRow.created).label("first"),
        )
        .group_by(JudgmentRow.assignment_id)
        .subquery()
    )
    to_task = selectinload(JudgmentRow.assignment).selectinload(AssignmentRow.task)
    query = (
        select(JudgmentRow, first_and_last.c.first)
        .join(JudgmentRow.assignment)
        .join(AssignmentRow.labeler)
        .join(AssignmentRow.task)
        .join(first_and_last, first_and_last.c.assignment_id == JudgmentRow.assignment_id)
        .where(*where)
        .order_by(JudgmentRow.id)
        .options(
            selectinload(JudgmentRow.assignment).selectinload(AssignmentRow.labeler),
            to_task.selectinload(TaskRow.prompt),
            to_task.selectinload(TaskRow.completions).selectinload(CompletionRow.sources),
        )
    )
    if newest:
        query = query.where(JudgmentRow.revision == first_and_last.c.last)
    excluded = excluded_labelers(session)
    read = _task_reader()
    return [_read(row, first, excluded, read) for row, first in session.execute(query)]


def count_changes(session: Session) -> tuple[int, int, int]:
    """Return numbers that stay the same only while ``read_judged`` would give the same again."""
    newest = session.scalars(select(func.coalesce(func.max(JudgmentRow.id), 0))).one()
    aside = session.execute(
        select(TaskRow.id, TaskRow.purpose).where(TaskRow.purpose.in_(("screening", "gold")))
    )
    return newest, hash(frozenset(map(tuple, aside))), hash(excluded_labelers(session))


def was_presented(row: AssignmentRow, judgment: JudgmentRow) -> bool:
    """Tell whether the order of an assignment is one that somebody saw.

    An import that names no order has that of its file, and its lease never had time in it.
    """
    return judgment.interface is not None or row.lease_expires > row.created


def read_task(task: TaskRow) -> tuple[Prompt, tuple[Output, ...]]:
    """Return a task's prompt, and its outputs by id."""
    outputs = tuple(
        Output(row.id, row.text, tuple(dict.fromkeys(source.stage for source in row.sources)))
        for row in task.completions
    )
    return read_prompt(task.prompt), outputs


def _task_reader() -> Callable[[TaskRow], tuple[Prompt, tuple[Output, ...]]]:
    """Return a function that makes one record of each prompt and output, however often judged."""
    known: dict[str, tuple[Prompt, tuple[Output, ...]]] = {}

    def read(task: TaskRow) -> tuple[Prompt, tuple[Output, ...]]:
        if task.id not in known:
            known[task.id] = read_task(task)
        return known[task.id]

    return read


def _read(
    row: JudgmentRow,
    first: datetime,
    excluded: frozenset[int],
    read: Callable[[TaskRow], tuple[Prompt, tuple[Output, ...]]],
) -> Judged:
    assignment = row.assignment
    task: TaskRow = assignment.task
    labeler: LabelerRow = assignment.labeler
    prompt, outputs = read(task)
    ids = [output.id for output in outputs]
    shown = was_presented(assignment, row)
    return Judged(
        assignment=assignment.id,
        task=task.id,
        kind=task.kind,
        purpose=task.purpose,
        repeats=task.repeats,
        prompt=prompt,
        split=task.prompt.split,
        labeler=labeler.name,
        group=labeler.group,
        simulated=row.simulated,
        excluded=labeler.id in excluded,
        outputs=outputs,
        ranks=tuple(row.ranks[id_] for id_ in ids),
        ratings=None if row.ratings is None else tuple(row.ratings[id_] for id_ in ids),
        flags=tuple(row.flags.get(id_, {}) for id_ in ids),
        presented=tuple(ids.index(id_) for id_ in assignment.presented) if shown else None,
        prompt_flags=row.prompt_flags,
        none_acceptable=row.none_acceptable,
        comment=row.comment,
        active_seconds=row.active_seconds,
        instructions=row.instructions,
        interface=row.interface,
        revision=row.revision,
        submitted=first,
        created=row.created,
    )
