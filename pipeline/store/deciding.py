"""Take what leads decide: known answers, reviews, decisions on disputed tasks, whose work counts.

Decisions are rows beside the judgments, which stay as they were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pipeline.errors import StoreError
from pipeline.store.answers import VERDICTS
from pipeline.store.schema import (
    AssignmentRow,
    DemonstrationRow,
    JudgmentRow,
    LabelerRow,
    TaskRow,
)
from pipeline.store.schema_app import (
    AccountRow,
    AdjudicationRow,
    ExclusionRow,
    GoldRow,
    InstructionsRow,
    PromptReportRow,
    ReviewRow,
)
from pipeline.store.tasking import mark_open
from pipeline.store.values import (
    RATINGS,
    TASK_KINDS,
    Judgment,
    check_choice,
    check_judgment,
    reason_unstorable,
)

MAX_TEXT = 100_000


def publish(session: Session, text: str, author: str, now: datetime) -> InstructionsRow:
    """Make a text the newest version of the instructions; text that is unchanged makes none.

    Raises:
        StoreError: if there is no text, or it cannot be stored.
    """
    _check_text("instructions", text)
    newest = session.scalar(
        select(InstructionsRow).order_by(InstructionsRow.version.desc()).limit(1)
    )
    if newest is not None and newest.text == text:
        return newest
    version = 1 if newest is None else newest.version + 1
    row = InstructionsRow(version=version, text=text, author=author, created=now)
    session.add(row)
    session.flush()
    return row


def set_known(
    session: Session,
    task_id: str,
    answer: Judgment,
    author: str,
    purpose: str,
    now: datetime,
) -> None:
    """Say what is right about a ranking task; from then on it is no ordinary work.

    Raises:
        StoreError: if there is no such task, it is no ranking or repeats another, or the answer
            breaks a rule of judgments.
    """
    check_choice("purpose", purpose, ("screening", "gold"))
    task = get_task(session, task_id, lock=True)
    if task.kind != "ranking" or task.purpose == "repeat":
        raise StoreError(
            f"Task {task_id} must be a ranking to have a known answer, got a "
            f"{'repeat' if task.purpose == 'repeat' else task.kind}. Choose another task."
        )
    check_judgment(answer, _completion_ids(task))
    row = session.get(GoldRow, task_id)
    if row is None:
        row = GoldRow(task_id=task_id)
        session.add(row)
    row.ranks, row.author, row.created = dict(answer.ranks), author, now
    row.flags = {id_: dict(said) for id_, said in answer.flags.items() if said}
    _set_purpose(session, task, purpose)


def release_known(session: Session, task_id: str) -> None:
    """Forget a known answer and make its task ordinary work again.

    Raises:
        StoreError: if the task has no known answer.
    """
    row = session.get(GoldRow, task_id)
    if row is None:
        raise StoreError(f"Task {task_id!r} must have a known answer. Choose one from the list.")
    session.delete(row)
    _set_purpose(session, get_task(session, task_id, lock=True), "work")


def review(
    session: Session,
    demonstration_id: int,
    account_id: int,
    verdict: str,
    score: int | None,
    comment: str,
    now: datetime,
) -> None:
    """Accept, reject or return the newest revision of a written answer.

    Raises:
        StoreError: if there is no such answer or a newer revision of it, the account is no lead's,
            or a word or number lies outside what it may be.
    """
    check_choice("review.verdict", verdict, VERDICTS)
    if score is not None and score not in RATINGS:
        raise StoreError(f"review.score must lie from 1 to 7, got {score!r}. Score again.")
    _check_note("review.comment", comment)
    _check_lead(session, account_id)
    row = session.get(DemonstrationRow, demonstration_id)
    if row is None:
        raise StoreError(f"No demonstration {demonstration_id}. Choose one from the list.")
    newest = session.scalars(
        select(func.max(DemonstrationRow.revision)).where(
            DemonstrationRow.assignment_id == row.assignment_id
        )
    ).one()
    if row.revision != newest:
        raise StoreError(
            f"Demonstration {demonstration_id} must be the newest revision ({newest}), got "
            f"revision {row.revision}. Load the list again."
        )
    session.add(
        ReviewRow(
            demonstration_id=demonstration_id,
            account_id=account_id,
            verdict=verdict,
            score=score,
            comment=comment,
            created=now,
        )
    )


def adjudicate(
    session: Session,
    task_id: str,
    account_id: int,
    verdict: str,
    ranks: Mapping[str, int] | None,
    comment: str,
    now: datetime,
) -> None:
    """Decide a disputed ranking: keep the judgments, replace them, or drop them.

    Raises:
        StoreError: if there is no such task, it is no ordinary ranking or nobody has judged it, the
            account is no lead's, or the ranks break a rule.
    """
    check_choice("adjudication.verdict", verdict, ("kept", "replaced", "dropped"))
    if (ranks is not None) != (verdict == "replaced"):
        raise StoreError(
            "adjudication.ranks must be given to replace judgments and else not, got "
            f"{verdict!r} {'without' if ranks is None else 'with'} ranks. Mend one of the two."
        )
    _check_note("adjudication.comment", comment)
    _check_lead(session, account_id)
    task = get_task(session, task_id, lock=True)
    judged = select(JudgmentRow.id).join(JudgmentRow.assignment)
    nobody = session.scalar(judged.where(AssignmentRow.task_id == task_id).limit(1)) is None
    if nobody or (task.kind, task.purpose) != ("ranking", "work"):
        raise StoreError(
            f"Task {task_id} must be an ordinary ranking that somebody has judged, got a "
            f"{task.kind} for {task.purpose}. Choose one from the inbox."
        )
    if ranks is not None:
        check_judgment(Judgment(ranks=ranks), _completion_ids(task))
    session.add(
        AdjudicationRow(
            task_id=task_id,
            account_id=account_id,
            verdict=verdict,
            ranks=None if ranks is None else dict(ranks),
            comment=comment,
            created=now,
        )
    )


def admit(session: Session, labeler: str, *, admitted: bool) -> None:
    """Let a labeler do ordinary work, or send them back to the screening test.

    Raises:
        StoreError: if there is no such labeler.
    """
    _get_labeler(session, labeler).admitted = admitted


def set_kinds(session: Session, labeler: str, kinds: Sequence[str] | None) -> None:
    """Say which kinds of task a labeler may be given, None for all.

    Raises:
        StoreError: if there is no such labeler or kind, or none is left.
    """
    for kind in kinds or ():
        check_choice("labeler.kinds", kind, TASK_KINDS)
    if kinds is not None and not kinds:
        raise StoreError("labeler.kinds must name a kind of task, got none. Choose one.")
    row = _get_labeler(session, labeler)
    row.kinds = None if kinds is None else [kind for kind in TASK_KINDS if kind in kinds]


def exclude(session: Session, labeler: str, reason: str, author: str, now: datetime) -> None:
    """Take a labeler's work out of all that is read for training; a second time changes nothing.

    Their places on tasks are free for others.

    Raises:
        StoreError: if there is no such labeler, or no reason.
    """
    _check_text("exclusion.reason", reason)
    row = _get_labeler(session, labeler)
    if session.get(ExclusionRow, row.id) is None:
        session.add(ExclusionRow(labeler_id=row.id, reason=reason, author=author, created=now))
        _settle_places(session, row.id)


def restore(session: Session, labeler: str) -> None:
    """Let a labeler's work count again, and fill their places on tasks.

    Raises:
        StoreError: if there is no such labeler, or they are not excluded.
    """
    row = session.get(ExclusionRow, _get_labeler(session, labeler).id)
    if row is None:
        raise StoreError(
            f"Labeler {labeler!r} must be removed to be restored. Choose another labeler."
        )
    session.delete(row)
    _settle_places(session, row.labeler_id)


def resolve(session: Session, report_id: int) -> None:
    """Mark a report of a prompt as dealt with.

    Raises:
        StoreError: if there is no such report.
    """
    row = session.get(PromptReportRow, report_id)
    if row is None:
        raise StoreError(f"No report {report_id}. Choose one from the list.")
    row.resolved = True


def _settle_places(session: Session, labeler_id: int) -> None:
    """Note of each task that a labeler has met whether it wants further labelers."""
    session.flush()
    met = select(AssignmentRow.task_id).where(AssignmentRow.labeler_id == labeler_id)
    # Held first: work that is just being submitted is stored before the places are counted.
    held = select(TaskRow.id).where(TaskRow.id.in_(met)).order_by(TaskRow.id).with_for_update()
    session.execute(held).all()
    mark_open(session, TaskRow.id.in_(met))


def _set_purpose(session: Session, task: TaskRow, purpose: str) -> None:
    task.purpose = purpose
    session.flush()
    mark_open(session, TaskRow.id == task.id)


def get_task(session: Session, task_id: str, *, lock: bool = False) -> TaskRow:
    """Return a task, its row held if ``lock``.

    Raises:
        StoreError: if there is no such task.
    """
    task = session.get(TaskRow, task_id, with_for_update=lock)
    if task is None:
        raise StoreError(f"No task {task_id!r} in the label store. Choose one from the list.")
    return task


def _completion_ids(task: TaskRow) -> list[str]:
    return [row.id for row in task.completions]


def _get_labeler(session: Session, name: str) -> LabelerRow:
    row = session.scalar(select(LabelerRow).where(LabelerRow.name == name).with_for_update())
    if row is None:
        raise StoreError(f"No labeler {name!r} in the label store. Choose one from the list.")
    return row


def _check_lead(session: Session, account_id: int) -> None:
    account = session.get(AccountRow, account_id)
    if account is None or account.role != "lead" or account.disabled:
        raise StoreError(f"Account {account_id} must be an enabled lead's. Sign in as a lead.")


def _check_text(where: str, text: str) -> None:
    if not text.strip():
        raise StoreError(f"{where} must say something, got nothing. Write a few words.")
    _check_note(where, text)


def _check_note(where: str, text: str) -> None:
    reason = reason_unstorable(text)
    if reason is not None:
        raise StoreError(f"{where} must be plain text, but it {reason}. Remove that.")
    if len(text) > MAX_TEXT:
        raise StoreError(
            f"{where} must have at most {MAX_TEXT} characters, got {len(text)}. Shorten it."
        )
