"""Take what labelers submit: judgments, written answers, and reasons for passing over a task.

Rows are only ever added. A key that was used before changes nothing and returns what it returned
then; the same key for something else is refused.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, joinedload

from pipeline.errors import StoreError
from pipeline.store.leasing import finish, keep_place
from pipeline.store.schema import AssignmentRow, DemonstrationRow, JudgmentRow, TaskRow
from pipeline.store.values import (
    Judgment,
    Receipt,
    Written,
    check_judgment,
    check_written,
)

Row = TypeVar("Row", JudgmentRow, DemonstrationRow)


def find_leased(session: Session, token: str, labeler_id: int | None = None) -> AssignmentRow:
    """Return the assignment that holds the token, with its task's row held.

    Args:
        session: a writing session.
        token: what ``lease`` gave out.
        labeler_id: whose token it must be, or None for anybody's.

    Raises:
        StoreError: if the token is unknown, or another labeler's.
    """
    holds_token = AssignmentRow.token == token
    task = session.scalar(
        select(TaskRow)
        .join(AssignmentRow, AssignmentRow.task_id == TaskRow.id)
        .where(holds_token)
        .with_for_update(of=TaskRow)
    )
    # Read once the task's row is held: another session may just have changed it.
    assignment = None
    if task is not None:
        assignment = session.scalars(
            select(AssignmentRow).where(holds_token).options(joinedload(AssignmentRow.labeler))
        ).one()
    if assignment is None or labeler_id not in (None, assignment.labeler_id):
        raise StoreError("Token must be of a leased task, got an unknown one. Lease a task again.")
    return assignment


def submit(
    session: Session,
    assignment: AssignmentRow,
    work: Judgment | Written,
    idempotency_key: str,
    now: datetime,
) -> Receipt:
    """Append a judgment or a written answer to an assignment.

    The first fills the place; a later one with another key is a revision. After the lease has run
    out, work is still taken while the task has a free place, so that slow work is not lost.

    Raises:
        StoreError: if the task was skipped, the key was used for something else, or the work breaks
            a rule.
        LeaseLostError: if the lease ran out and its place is taken.
    """
    if not 1 <= len(idempotency_key) <= 200:
        raise StoreError(
            f"idempotency_key must have 1 to 200 characters, got {len(idempotency_key)}. Mend it."
        )
    earlier = _find_earlier(session, assignment, work, idempotency_key)
    if earlier is not None:
        return _receipt(earlier)
    keep_place(session, assignment, now)
    _check_work(assignment, work)
    if isinstance(work, Judgment):
        return _receipt(append_judgment(session, assignment, work, idempotency_key, now))
    return _receipt(append_demonstration(session, assignment, work, idempotency_key, now))


def append_judgment(
    session: Session,
    assignment: AssignmentRow,
    judgment: Judgment,
    key: str,
    now: datetime,
    revision: int | None = None,
) -> JudgmentRow:
    """Add a checked judgment as the given revision, else as the next, and mark the work done."""
    row = JudgmentRow(
        assignment=assignment,
        revision=revision or _next_revision(session, JudgmentRow, assignment),
        idempotency_key=key,
        ranks=dict(judgment.ranks),
        ratings=None if judgment.ratings is None else dict(judgment.ratings),
        flags=_stored_flags(judgment),
        none_acceptable=judgment.none_acceptable,
        simulated=assignment.labeler.kind == "simulated",
        created=now,
        **_circumstances(judgment),
    )
    session.add(row)
    finish(session, assignment, "done")
    session.flush()
    return row


def append_demonstration(
    session: Session,
    assignment: AssignmentRow,
    written: Written,
    key: str,
    now: datetime,
    revision: int | None = None,
) -> DemonstrationRow:
    """Add a checked answer as the given revision, else as the next, and mark the work done."""
    row = DemonstrationRow(
        assignment=assignment,
        revision=revision or _next_revision(session, DemonstrationRow, assignment),
        idempotency_key=key,
        text=written.text,
        simulated=assignment.labeler.kind == "simulated",
        created=now,
        **_circumstances(written),
    )
    session.add(row)
    finish(session, assignment, "done")
    session.flush()
    return row


def same_judgment(row: JudgmentRow, judgment: Judgment) -> bool:
    """Tell whether a stored judgment says the same; a retry may differ in the time it took."""
    said = (row.ranks, row.ratings, row.flags, row.comment, row.prompt_flags, row.none_acceptable)
    return said == (
        dict(judgment.ranks),
        None if judgment.ratings is None else dict(judgment.ratings),
        _stored_flags(judgment),
        judgment.comment,
        dict(judgment.prompt_flags),
        judgment.none_acceptable,
    )


def read_judgment(row: JudgmentRow) -> Judgment:
    """Return the judgment of a stored row."""
    return Judgment(
        ranks=row.ranks,
        ratings=row.ratings,
        flags=row.flags,
        none_acceptable=row.none_acceptable,
        **_circumstances(row),
    )


def read_written(row: DemonstrationRow) -> Written:
    """Return the written answer of a stored row."""
    return Written(
        text=row.text,
        **_circumstances(row),
    )


def _circumstances(work: Judgment | Written | JudgmentRow | DemonstrationRow) -> dict[str, Any]:
    """Return what judgments and written answers have in common, stored or not."""
    return {
        "comment": work.comment,
        "prompt_flags": dict(work.prompt_flags),
        "instructions": work.instructions,
        "interface": work.interface,
        "active_seconds": work.active_seconds,
    }


def _check_work(assignment: AssignmentRow, work: Judgment | Written) -> None:
    task = assignment.task
    if assignment.state == "skipped":
        raise StoreError(
            f"Task {task.id} must not have been skipped, got work on it. Lease another task."
        )
    writes = task.kind == "demonstration"
    if writes != isinstance(work, Written):
        wanted = "a written answer" if writes else "a judgment"
        raise StoreError(f"Task {task.id} must get {wanted}, got the other. Load the page again.")
    if isinstance(work, Judgment):
        check_judgment(work, assignment.presented)
    else:
        check_written(work)


def _find_earlier(
    session: Session, assignment: AssignmentRow, work: Judgment | Written, key: str
) -> JudgmentRow | DemonstrationRow | None:
    """Return what was stored under the key before.

    Raises:
        StoreError: if that was something else.
    """
    of_key = [rows.idempotency_key == key for rows in (JudgmentRow, DemonstrationRow)]
    if not any(session.execute(select(*(exists().where(one) for one in of_key))).one()):
        return None
    judgment = session.scalar(select(JudgmentRow).where(of_key[0]))
    earlier = judgment or session.scalars(select(DemonstrationRow).where(of_key[1])).one()
    same = earlier.assignment_id == assignment.id
    if isinstance(earlier, JudgmentRow):
        same = same and isinstance(work, Judgment) and same_judgment(earlier, work)
    else:
        same = same and isinstance(work, Written) and _same_answer(earlier, work)
    if not same:
        raise StoreError(
            f"idempotency_key must be new for a new judgment, got {key!r} again. "
            "Submit with another key."
        )
    return earlier


def _same_answer(row: DemonstrationRow, written: Written) -> bool:
    return (row.text, row.comment, row.prompt_flags) == (
        written.text,
        written.comment,
        dict(written.prompt_flags),
    )


def _next_revision(session: Session, rows: type[Row], assignment: AssignmentRow) -> int:
    if assignment.state != "done":
        return 1
    query = select(func.max(rows.revision)).where(rows.assignment_id == assignment.id)
    return (session.scalars(query).one() or 0) + 1


def _stored_flags(judgment: Judgment) -> dict[str, dict[str, bool]]:
    return {id_: dict(flags) for id_, flags in judgment.flags.items() if flags}


def _receipt(row: JudgmentRow | DemonstrationRow) -> Receipt:
    assignment = row.assignment
    return Receipt(assignment.task_id, assignment.labeler.name, row.revision, row.created)
