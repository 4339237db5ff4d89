"""Hand tasks to labelers and take their judgments, safely under concurrency.

A place on a task is taken by an assignment that is done, or leased with time left. Whoever gives
out or fills a place holds the task's row: SQLite's single writer sees to that, and on other
databases ``SELECT ... FOR UPDATE`` does. The tasks are counted again under the lock, because a row
that another session has just filled is still in the snapshot that the search saw.
"""

from __future__ import annotations

import random
import secrets
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session, joinedload

from pipeline.errors import StoreError
from pipeline.store.catalog import mark_open, read_prompt
from pipeline.store.schema import AssignmentRow, JudgmentRow, LabelerRow, TaskRow
from pipeline.store.values import (
    Choice,
    Judgment,
    Receipt,
    Task,
    check_judgment,
    hash_content,
)


def lease(session: Session, labeler_id: int, duration: timedelta, now: datetime) -> Task | None:
    """Give a labeler a task: the one they hold, else one with a free place, else None.

    A task that the labeler has done is never given again; one whose lease they let run out may be.

    Raises:
        StoreError: if there is no such labeler.
    """
    labeler = session.get(LabelerRow, labeler_id)
    if labeler is None:
        raise StoreError(f"No labeler {labeler_id} in the label store. Add the labeler first.")
    held = session.scalar(
        select(AssignmentRow)
        .where(
            AssignmentRow.labeler_id == labeler_id,
            AssignmentRow.state == "leased",
            AssignmentRow.lease_expires > now,
        )
        .order_by(AssignmentRow.id)
        .limit(1)
    )
    if held is None:
        task = _lock_open_task(session, labeler_id, now)
        if task is None:
            return None
        held = _assign(session, task, labeler, now)
        held.lease_expires = now + duration
        session.flush()
    texts = {row.id: row.text for row in held.task.completions}
    return Task(
        id=held.task_id,
        token=held.token,
        prompt=read_prompt(held.task.prompt),
        completions=tuple(Choice(id_, texts[id_]) for id_ in held.presented),
        lease_expires=held.lease_expires,
    )


def submit(
    session: Session, token: str, judgment: Judgment, idempotency_key: str, now: datetime
) -> Receipt:
    """Append a judgment to the assignment that holds the token.

    The first judgment fills the place; a later one with another key is a revision. After the lease
    has run out, a judgment is still taken while the task has a free place, so that slow work is
    not lost.

    Raises:
        StoreError: if the token is unknown, the lease ran out and its place is taken, the key was
            used for another judgment, or the judgment breaks a rule.
    """
    if not 1 <= len(idempotency_key) <= 200:
        raise StoreError(
            f"idempotency_key must have 1 to 200 characters, got {len(idempotency_key)}. Mend it."
        )
    holds_token = AssignmentRow.token == token
    task = session.scalar(
        select(TaskRow)
        .join(AssignmentRow, AssignmentRow.task_id == TaskRow.id)
        .where(holds_token)
        .with_for_update(of=TaskRow)
    )
    if task is None:
        raise StoreError("Token must be of a leased task, got an unknown one. Lease a task again.")
    # Read once the task's row is held: another session may just have changed it.
    assignment = session.scalars(
        select(AssignmentRow).where(holds_token).options(joinedload(AssignmentRow.labeler))
    ).one()

    earlier = session.scalar(
        select(JudgmentRow).where(JudgmentRow.idempotency_key == idempotency_key)
    )
    if earlier is not None:
        if earlier.assignment_id != assignment.id or not same_judgment(earlier, judgment):
            raise StoreError(
                f"idempotency_key must be new for a new judgment, got {idempotency_key!r} again. "
                "Submit with another key."
            )
        return _receipt(earlier)

    lapsed = assignment.state == "leased" and assignment.lease_expires <= now
    if lapsed and places_taken(session, task.id, now) >= task.overlap:
        raise StoreError(
            f"The lease of task {task.id} ran out and others have filled it, got a judgment after "
            f"{assignment.lease_expires:%Y-%m-%d %H:%M} UTC. Lease another task."
        )
    check_judgment(judgment, [row.id for row in task.completions])
    return _receipt(append_judgment(session, assignment, judgment, idempotency_key, now))


def append_judgment(
    session: Session,
    assignment: AssignmentRow,
    judgment: Judgment,
    key: str,
    now: datetime,
    revision: int | None = None,
) -> JudgmentRow:
    """Add a checked judgment as the given revision, else as the next, and mark the work done."""
    first = assignment.state != "done"
    if revision is None:
        revision = 1 if first else _last_revision(session, assignment) + 1
    row = JudgmentRow(
        assignment=assignment,
        revision=revision,
        idempotency_key=key,
        ranks=dict(judgment.ranks),
        ratings=None if judgment.ratings is None else dict(judgment.ratings),
        flags=_stored_flags(judgment),
        comment=judgment.comment,
        simulated=assignment.labeler.kind == "simulated",
        active_seconds=judgment.active_seconds,
        created=now,
    )
    assignment.state = "done"
    session.add(row)
    session.flush()
    if first:
        mark_open(session, TaskRow.id == assignment.task_id)
    return row


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


def places_taken(session: Session, task_id: str, now: datetime) -> int:
    """Count the labelers who have done the task or hold it now."""
    query = select(func.count()).where(AssignmentRow.task_id == task_id, _takes_place(now))
    return session.scalars(query).one()


def same_judgment(row: JudgmentRow, judgment: Judgment) -> bool:
    """Tell whether a stored judgment says the same; a retry may differ in the time it took."""
    ratings = None if judgment.ratings is None else dict(judgment.ratings)
    return (row.ranks, row.ratings, row.flags, row.comment) == (
        dict(judgment.ranks),
        ratings,
        _stored_flags(judgment),
        judgment.comment,
    )


def _last_revision(session: Session, assignment: AssignmentRow) -> int:
    query = select(func.max(JudgmentRow.revision)).where(JudgmentRow.assignment_id == assignment.id)
    return session.scalars(query).one()


def _stored_flags(judgment: Judgment) -> dict[str, dict[str, bool]]:
    return {id_: dict(flags) for id_, flags in judgment.flags.items() if flags}


def _receipt(row: JudgmentRow) -> Receipt:
    assignment = row.assignment
    return Receipt(assignment.task_id, assignment.labeler.name, row.revision, row.created)


def _takes_place(now: datetime) -> ColumnElement[bool]:
    return or_(AssignmentRow.state == "done", AssignmentRow.lease_expires > now)


def _lock_open_task(session: Session, labeler_id: int, now: datetime) -> TaskRow | None:
    taken = (
        select(func.count())
        .where(AssignmentRow.task_id == TaskRow.id, _takes_place(now))
        .correlate(TaskRow)
        .scalar_subquery()
    )
    done_by_labeler = exists().where(
        and_(
            AssignmentRow.task_id == TaskRow.id,
            AssignmentRow.labeler_id == labeler_id,
            AssignmentRow.state == "done",
        )
    )
    # Ids are hashes: their order mixes the prompts' sources and is the same in every run.
    open_tasks = (
        select(TaskRow)
        .where(TaskRow.open, taken < TaskRow.overlap, ~done_by_labeler)
        .order_by(TaskRow.id)
        .limit(1)
        .options(joinedload(TaskRow.prompt, innerjoin=True))
    )
    full: list[str] = []
    while True:
        query = open_tasks.where(TaskRow.id.not_in(full))
        task = session.scalar(query.with_for_update(skip_locked=True, of=TaskRow))
        if task is None:
            # Every open task is in another session's hands; the last places are worth the wait.
            task = session.scalar(query.with_for_update(of=TaskRow))
        if task is None or places_taken(session, task.id, now) < task.overlap:
            return task
        full.append(task.id)


def _assign(session: Session, task: TaskRow, labeler: LabelerRow, now: datetime) -> AssignmentRow:
    lapsed = find_assignment(session, task.id, labeler.id)
    if lapsed is not None:
        # The token stays, so that work in a page that is still open can be submitted.
        return lapsed
    presented = [row.id for row in task.completions]
    random.Random(hash_content("order", task.id, labeler.name)).shuffle(presented)
    return add_assignment(session, task, labeler, presented, now)
