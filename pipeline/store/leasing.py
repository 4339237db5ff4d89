"""Hand tasks to labelers, safely under concurrency.

A place on a task is taken by an assignment that is done, or leased with time left, of a labeler
whose work counts; the train group has ``overlap`` places and held-out labelers
``held_out_overlap``. Who was taken out of training gets no further task. Whoever gives out or fills
a place holds the task's row: SQLite's single writer sees to that, and on other databases ``SELECT
... FOR UPDATE`` does. The tasks are counted again under the lock, because a row that another
session has just filled is still in the snapshot that the search saw.

Screening, gold and repeat tasks have no places to run out of: every labeler gets each one once, or
it was made for one labeler.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import ColumnElement, and_, exists, func, literal, or_, select
from sqlalchemy.orm import Session, joinedload

from pipeline.errors import LeaseLostError, StoreError
from pipeline.store.decisions import counts
from pipeline.store.schema import AssignmentRow, LabelerRow, TaskRow
from pipeline.store.tasking import link_completions, mark_open
from pipeline.store.values import TASK_KINDS, hash_content

LEASE = timedelta(minutes=30)
REPEAT_AFTER = 5
"""A labeler meets a task again only after so many others."""


@dataclass(frozen=True)
class LeaseRules:
    """How tasks are handed out.

    Attributes:
        duration: how long a task is held without a sign of life.
        gold_rate: chance that a task is one with a known answer, while there are some.
        repeat_rate: chance that a task is one that the labeler has judged before.
        seed: of both draws, which are keyed by labeler and count of tasks.
    """

    duration: timedelta = LEASE
    gold_rate: float = 0.0
    repeat_rate: float = 0.0
    seed: int = 0


def lease(
    session: Session, labeler_id: int, rules: LeaseRules, now: datetime
) -> AssignmentRow | None:
    """Give a labeler a task: the one they hold, else one with a free place, else None.

    A task that the labeler has done or skipped is never given again; one whose lease they let run
    out may be.

    Raises:
        StoreError: if there is no such labeler.
    """
    labeler = lock_labeler(session, labeler_id)
    leased = session.scalars(
        select(AssignmentRow)
        .where(AssignmentRow.labeler_id == labeler_id, AssignmentRow.state == "leased")
        .order_by(AssignmentRow.id)
    ).all()
    held = next((row for row in leased if row.lease_expires > now), None)
    if held is None:
        task = _find_task(session, labeler, rules, now)
        if task is None:
            return None
        # The token of a lease that ran out stays, so that work in a page that is still open can be
        # submitted.
        lapsed = next((row for row in leased if row.task_id == task.id), None)
        held = lapsed or _assign(session, task, labeler, now)
        held.lease_expires = now + rules.duration
        session.flush()
    return held


def renew(
    session: Session, assignment: AssignmentRow, duration: timedelta, now: datetime
) -> datetime:
    """Hold a task for longer and return until when; a lease that ran out is taken up again.

    Raises:
        LeaseLostError: if it ran out and others have filled the places.
    """
    if assignment.state == "leased":
        keep_place(session, assignment, now)
        assignment.lease_expires = now + duration
        session.flush()
    return assignment.lease_expires


def keep_place(session: Session, assignment: AssignmentRow, now: datetime) -> None:
    """Make sure that a leased assignment has its place, or can have it back.

    Raises:
        LeaseLostError: if the lease ran out and others have filled the places.
    """
    if assignment.state != "leased" or assignment.lease_expires > now:
        return
    task = session.scalars(
        select(TaskRow).where(TaskRow.id == assignment.task_id).with_for_update()
    ).one()
    group = assignment.labeler.group
    if task.purpose == "work" and places_taken(session, task.id, group, now) >= places(task, group):
        raise LeaseLostError(
            f"The lease of task {task.id} ran out and others have filled it, got a judgment after "
            f"{assignment.lease_expires:%Y-%m-%d %H:%M} UTC. Lease another task."
        )


def lock_labeler(session: Session, labeler_id: int) -> LabelerRow:
    """Return a labeler whose row is held, so that two pages of theirs take turns.

    Raises:
        StoreError: if there is no such labeler.
    """
    labeler = session.get(LabelerRow, labeler_id, with_for_update=True)
    if labeler is None:
        raise StoreError(f"No labeler {labeler_id} in the label store. Add the labeler first.")
    return labeler


def add_assignment(
    session: Session, task: TaskRow, labeler: LabelerRow, presented: list[str], now: datetime
) -> AssignmentRow:
    """Add an assignment whose lease has no time in it yet."""
    row = AssignmentRow(
        task=task,
        labeler=labeler,
        state="leased",
        token=secrets.token_urlsafe(24),
        lease_expires=now,
        presented=presented,
        created=now,
    )
    session.add(row)
    return row


def find_assignment(session: Session, task_id: str, labeler_id: int) -> AssignmentRow | None:
    """Return the labeler's one assignment to the task, if there is one."""
    return session.scalar(
        select(AssignmentRow).where(
            AssignmentRow.task_id == task_id, AssignmentRow.labeler_id == labeler_id
        )
    )


def places(task: TaskRow, group: str) -> int:
    """Return how many labelers of a group a task wants."""
    return task.held_out_overlap if group == "held_out" else task.overlap


def places_taken(session: Session, task_id: str, group: str, now: datetime) -> int:
    """Count the labelers of a group who have done the task or hold it now."""
    query = (
        select(func.count())
        .join_from(AssignmentRow, LabelerRow)
        .where(AssignmentRow.task_id == task_id, LabelerRow.group == group, takes_place(now))
    )
    return session.scalars(query).one()


def takes_place(now: datetime) -> ColumnElement[bool]:
    """Say of an assignment whether it takes a place on its task."""
    taken = or_(AssignmentRow.state == "done", _is_held(now))
    return and_(taken, counts(AssignmentRow.labeler_id))


def finish(session: Session, assignment: AssignmentRow, state: Literal["done", "skipped"]) -> None:
    """Set what became of an assignment, and note whether its task wants further labelers."""
    if assignment.state != state:
        assignment.state = state
        session.flush()
        mark_open(session, TaskRow.id == assignment.task_id)


def _is_held(now: datetime) -> ColumnElement[bool]:
    return and_(AssignmentRow.state == "leased", AssignmentRow.lease_expires > now)


def _find_task(
    session: Session, labeler: LabelerRow, rules: LeaseRules, now: datetime
) -> TaskRow | None:
    if not labeler.admitted:
        return _next_for_everyone(session, labeler, "screening")
    if rules.gold_rate or rules.repeat_rate:
        count = session.scalars(
            select(func.count()).where(AssignmentRow.labeler_id == labeler.id)
        ).one()
        draw = random.Random(hash_content("turn", rules.seed, labeler.name, count)).random()
        task = None
        if draw < rules.gold_rate:
            task = _next_for_everyone(session, labeler, "gold")
        elif draw < rules.gold_rate + rules.repeat_rate:
            task = _repeat(session, labeler, now)
        if task is not None:
            return task
    return _lock_open_task(session, labeler, now)


def _next_for_everyone(session: Session, labeler: LabelerRow, purpose: str) -> TaskRow | None:
    """Return the next task of a purpose that every labeler meets once."""
    return session.scalar(
        select(TaskRow)
        .where(*suits(labeler), TaskRow.purpose == purpose)
        .order_by(TaskRow.turn, TaskRow.id)
        .limit(1)
    )


def _repeat(session: Session, labeler: LabelerRow, now: datetime) -> TaskRow | None:
    """Make a task again out of the oldest that the labeler has judged, long enough ago."""
    repeated = select(TaskRow.repeats).where(
        TaskRow.purpose == "repeat", TaskRow.reserved_for == labeler.id
    )
    judged = session.scalars(
        select(TaskRow)
        .join(AssignmentRow, AssignmentRow.task_id == TaskRow.id)
        .where(
            AssignmentRow.labeler_id == labeler.id,
            AssignmentRow.state == "done",
            counts(AssignmentRow.labeler_id),
            TaskRow.purpose == "work",
            TaskRow.kind == "ranking",
        )
        .order_by(AssignmentRow.id)
    ).all()
    before = judged[: max(0, len(judged) - REPEAT_AFTER)]
    done = set(session.scalars(repeated))
    original = next((task for task in before if task.id not in done), None)
    if original is None:
        return None
    again = TaskRow(
        id=hash_content("repeat", original.id, labeler.name),
        prompt_id=original.prompt_id,
        kind=original.kind,
        purpose="repeat",
        overlap=1,
        repeats=original.id,
        reserved_for=labeler.id,
        created=now,
    )
    session.add(again)
    session.flush()
    link_completions(session, again.id, [row.id for row in original.completions])
    return again


def suits(labeler: LabelerRow) -> list[ColumnElement[bool]]:
    """Say of a task whether a labeler may be given it: not met before, of a kind that they do."""
    met = exists().where(
        AssignmentRow.task_id == TaskRow.id,
        AssignmentRow.labeler_id == labeler.id,
        AssignmentRow.state != "leased",
    )
    kinds: Sequence[str] = TASK_KINDS if labeler.kinds is None else labeler.kinds
    every_kind = set(kinds) >= set(TASK_KINDS)
    # One whose work does not count would fill no place, and too many once it counts again.
    always = [~met, counts(literal(labeler.id))]
    return always if every_kind else [*always, TaskRow.kind.in_(kinds)]


def _lock_open_task(session: Session, labeler: LabelerRow, now: datetime) -> TaskRow | None:
    group = labeler.group
    taken = (
        select(func.count())
        .join_from(AssignmentRow, LabelerRow)
        .where(AssignmentRow.task_id == TaskRow.id, LabelerRow.group == group, takes_place(now))
        .correlate(TaskRow)
        .scalar_subquery()
    )
    wanted = TaskRow.held_out_overlap if group == "held_out" else TaskRow.overlap
    # Ids are hashes: their order mixes the prompts' sources and is the same in every run.
    open_tasks = (
        select(TaskRow)
        .where(TaskRow.open, TaskRow.purpose == "work", taken < wanted, *suits(labeler))
        .order_by(TaskRow.turn, TaskRow.id)
        .limit(1)
        .options(joinedload(TaskRow.prompt, innerjoin=True))
    )
    # A writer of SQLite's is alone from BEGIN on, so that what the search saw still holds.
    single_writer = session.get_bind().dialect.name == "sqlite"
    full: list[str] = []
    while True:
        query = open_tasks.where(TaskRow.id.not_in(full))
        task = session.scalar(query.with_for_update(skip_locked=True, of=TaskRow))
        if task is None:
            # Every open task is in another session's hands; the last places are worth the wait.
            task = session.scalar(query.with_for_update(of=TaskRow))
        if task is None or single_writer:
            return task
        if places_taken(session, task.id, group, now) < places(task, group):
            return task
        full.append(task.id)


def _assign(session: Session, task: TaskRow, labeler: LabelerRow, now: datetime) -> AssignmentRow:
    presented = [row.id for row in task.completions]
    random.Random(hash_content("order", task.id, labeler.name)).shuffle(presented)
    return add_assignment(session, task, labeler, presented, now)
