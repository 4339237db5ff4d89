"""Be a labeler's desk: what their page asks of the store, and nothing more.

Whatever comes back is fit for the labeler's browser: opaque ids, texts and their own work, never a
model's name, a score, a purpose of the task, or another labeler's judgment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from pipeline.errors import StoreError
from pipeline.records import Message, Prompt
from pipeline.store import leasing, submitting, tasking
from pipeline.store.catalog import add_prompt
from pipeline.store.leasing import LeaseRules
from pipeline.store.questions import SKIP_REASONS
from pipeline.store.schema import (
    AssignmentRow,
    DemonstrationRow,
    JudgmentRow,
    LabelerRow,
    PromptRow,
    TaskRow,
)
from pipeline.store.schema_app import DraftRow, PromptReportRow, SkipRow
from pipeline.store.showing import read_draft, show_task
from pipeline.store.store import LabelStore
from pipeline.store.values import (
    Judgment,
    Receipt,
    SavedDraft,
    Task,
    TaskKind,
    Written,
    check_choice,
    check_written,
    reason_unstorable,
)

PROMPT_KINDS = ("plain", "few_shot", "user_based")
"""What labelers were asked to write (Ouyang et al. 2022, 3.2)."""
MAX_DRAFT = 256 * 1024
MAX_NOTE = 10_000
EXCERPT = 120
HISTORY = 50


class StaleDraftError(StoreError):
    """Report a draft that another page has saved over; ``draft`` is what the store has."""

    def __init__(self, draft: SavedDraft) -> None:
        super().__init__(
            f"draft.version must be the newest ({draft.version}). Another page has saved since: "
            "load its draft."
        )
        self.draft = draft


@dataclass(frozen=True)
class Screening:
    """How far a labeler is with the screening test.

    Attributes:
        done: screening tasks that they have done or skipped.
        of: screening tasks that there are.
    """

    done: int
    of: int


@dataclass(frozen=True)
class Overview:
    """What a labeler's page shows beside the task.

    Attributes:
        today: tasks done since the given time.
        waiting: tasks that wait for this labeler's group, at most.
        admitted: whether they have passed the screening, or need none.
        screening: how far they are with it, while they are not admitted.
    """

    today: int
    waiting: int
    admitted: bool
    screening: Screening | None


@dataclass(frozen=True)
class Done:
    """One piece of a labeler's own work.

    Attributes:
        id: the assignment, by which it can be opened again.
        kind: what was done.
        excerpt: how the prompt begins.
        submitted: when the newest revision came, UTC.
        revisions: how many there are.
    """

    id: int
    kind: TaskKind
    excerpt: str
    submitted: datetime
    revisions: int


class Desk:
    """Serve one labeler at a time out of the store; safe to share between threads.

    Args:
        store: the open store.
        rules: how tasks are handed out.
    """

    def __init__(self, store: LabelStore, rules: LeaseRules | None = None) -> None:
        self._store = store
        self._rules = rules or LeaseRules()

    def overview(self, labeler_id: int, since: datetime | None = None) -> Overview:
        """Count a labeler's work since a time (the last midnight in UTC), and what waits for them.

        Raises:
            StoreError: if there is no such labeler.
        """
        now = self._store.clock()
        since = since or now.replace(hour=0, minute=0, second=0, microsecond=0)
        with self._store.reading() as session:
            labeler = session.get(LabelerRow, labeler_id)
            if labeler is None:
                raise StoreError(f"No labeler {labeler_id} in the label store. Sign in again.")
            return Overview(
                today=_count_done(session, labeler_id, since),
                waiting=_count_waiting(session, labeler),
                admitted=labeler.admitted,
                screening=None if labeler.admitted else _screening(session, labeler_id),
            )

    def lease(self, labeler_id: int) -> Task | None:
        """Give a labeler the task they hold, or the next one, or None if there is none.

        Raises:
            StoreError: if there is no such labeler.
        """
        with self._store.writing() as session:
            now = self._store.clock()
            assignment = leasing.lease(session, labeler_id, self._rules, now)
            return None if assignment is None else show_task(session, assignment)

    def renew(self, labeler_id: int, token: str) -> datetime:
        """Hold a task for longer and return until when.

        Raises:
            StoreError: if the token is not this labeler's.
            LeaseLostError: if the lease ran out and others have filled the task.
        """
        with self._store.writing() as session:
            assignment = submitting.find_leased(session, token, labeler_id)
            return leasing.renew(session, assignment, self._rules.duration, self._store.clock())

    def save_draft(
        self, labeler_id: int, token: str, version: int, content: Mapping[str, Any]
    ) -> tuple[SavedDraft, datetime]:
        """Keep the page's work on a task, and return what is kept and how long the lease lasts.

        Args:
            labeler_id: whose task it is.
            token: of the task.
            version: the last version that this page has seen; 0 where it has seen none.
            content: JSON, the page's own; one that says ``discarded`` is kept no longer.

        Raises:
            StoreError: if the token is not this labeler's, or the content is too large.
            StaleDraftError: if another page has saved a newer version.
            LeaseLostError: if the lease ran out and others have filled the task.
        """
        size = len(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"))
        if size > MAX_DRAFT:
            raise StoreError(
                f"draft.content must have at most {MAX_DRAFT} bytes, got {size}. Shorten it."
            )
        with self._store.writing() as session:
            now = self._store.clock()
            assignment = submitting.find_leased(session, token, labeler_id)
            expires = leasing.renew(session, assignment, self._rules.duration, now)
            row = session.get(DraftRow, assignment.id)
            if row is not None and row.version != version:
                raise StaleDraftError(read_draft(row))
            if content.get("discarded") is True:
                # An edit that its labeler gave up.
                if row is not None:
                    session.delete(row)
                return SavedDraft(version + 1, content, now), expires
            if row is None:
                row = DraftRow(assignment_id=assignment.id, version=0)
                session.add(row)
            row.version, row.content, row.saved = row.version + 1, dict(content), now
            session.flush()
            return read_draft(row), expires

    def submit(self, labeler_id: int, token: str, work: Judgment | Written, key: str) -> Receipt:
        """Store a judgment or an answer durably; the same key again returns the same receipt.

        Raises:
            StoreError: as ``submitting.submit`` says.
        """
        with self._store.writing() as session:
            assignment = submitting.find_leased(session, token, labeler_id)
            receipt = submitting.submit(session, assignment, work, key, self._store.clock())
            draft = session.get(DraftRow, assignment.id)
            if draft is not None:
                session.delete(draft)
            return receipt

    def skip(self, labeler_id: int, token: str, reason: str, comment: str) -> None:
        """Pass over a task: its place goes to somebody else, and the reason is kept.

        Raises:
            StoreError: if the token is not this labeler's, the reason is none of
                ``questions.SKIP_REASONS``, or the task is done already.
        """
        check_choice("skip.reason", reason, tuple(item.name for item in SKIP_REASONS))
        _check_note("skip.comment", comment)
        with self._store.writing() as session:
            assignment = submitting.find_leased(session, token, labeler_id)
            if assignment.state == "done":
                raise StoreError(
                    f"Task {assignment.task_id} must not be done to be skipped. Edit it instead."
                )
            if assignment.state == "skipped":
                return
            now = self._store.clock()
            session.add(
                SkipRow(assignment_id=assignment.id, reason=reason, comment=comment, created=now)
            )
            leasing.finish(session, assignment, "skipped")

    def report(self, labeler_id: int, token: str, reason: str) -> None:
        """Tell the lead that a task's prompt should not be labeled as it is.

        Raises:
            StoreError: if the token is not this labeler's, or there is no reason.
        """
        _check_note("report.reason", reason)
        if not reason.strip():
            raise StoreError(
                "report.reason must say what is wrong, got nothing. Write a few words."
            )
        with self._store.writing() as session:
            assignment = submitting.find_leased(session, token, labeler_id)
            session.add(
                PromptReportRow(
                    prompt_id=assignment.task.prompt_id,
                    labeler_id=labeler_id,
                    reason=reason,
                    created=self._store.clock(),
                )
            )

    def history(self, labeler_id: int) -> list[Done]:
        """Return a labeler's newest work, the newest first."""
        query = (
            select(AssignmentRow)
            .where(AssignmentRow.labeler_id == labeler_id, AssignmentRow.state == "done")
            .order_by(AssignmentRow.id.desc())
            .limit(HISTORY)
        )
        with self._store.reading() as session:
            return [_read_done(row) for row in session.scalars(query)]

    def reopen(self, labeler_id: int, assignment_id: int) -> Task:
        """Return a labeler's own finished task with what they said, to be submitted as a revision.

        Raises:
            StoreError: if there is no such work of this labeler's.
        """
        with self._store.reading() as session:
            assignment = session.get(AssignmentRow, assignment_id)
            mine = assignment is not None and assignment.labeler_id == labeler_id
            if assignment is None or not mine or assignment.state != "done":
                raise StoreError(
                    f"No finished task {assignment_id} of yours. Choose one from the list."
                )
            return show_task(session, assignment)

    def write_prompt(
        self,
        labeler_id: int,
        messages: Sequence[Message],
        kind: str,
        written: Written,
        key: str,
    ) -> Receipt:
        """Take a prompt of the labeler's own with its answer, as a finished demonstration.

        Raises:
            StoreError: if the kind is none of ``PROMPT_KINDS``, the prompt is empty, does not end
                with the user's turn or is in the store already, or the answer breaks a rule.
        """
        check_choice("prompt.kind", kind, PROMPT_KINDS)
        check_written(written)
        if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
            raise StoreError("prompt.messages must end with the user's words. Write the prompt.")
        with self._store.writing() as session:
            now = self._store.clock()
            labeler = leasing.lock_labeler(session, labeler_id)
            prompt = Prompt(tuple(messages), meta={"written_by": labeler.name, "prompt_kind": kind})
            earlier = session.get(PromptRow, prompt.id)
            if earlier is not None and earlier.meta != prompt.meta:
                raise StoreError("This prompt is in the store already. Write another one.")
            add_prompt(session, prompt, "train", now)
            session.flush()
            wanted = tasking.Wanted(prompt.id)
            task = tasking.add_task(session, wanted, tasking.Overlap(1), now, "demonstration")
            assignment = leasing.find_assignment(session, task.id, labeler_id)
            if assignment is None:
                assignment = leasing.add_assignment(session, task, labeler, [], now)
                assignment.lease_expires = now + self._rules.duration
                session.flush()
            return submitting.submit(session, assignment, written, key, now)


def _read_done(row: AssignmentRow) -> Done:
    revisions: list[JudgmentRow | DemonstrationRow] = [*row.judgments, *row.demonstrations]
    return Done(
        id=row.id,
        kind=cast("TaskKind", row.task.kind),
        excerpt=row.task.prompt.messages[-1]["content"][:EXCERPT],
        submitted=revisions[-1].created,
        revisions=len(revisions),
    )


def _count_done(session: Session, labeler_id: int, since: datetime) -> int:
    """Count the assignments whose first revision came since a time."""
    mine = AssignmentRow.labeler_id == labeler_id
    judged = (
        select(func.count())
        .join_from(JudgmentRow, AssignmentRow)
        .where(mine, JudgmentRow.revision == 1, JudgmentRow.created >= since)
    )
    written = (
        select(func.count())
        .join_from(DemonstrationRow, AssignmentRow)
        .where(mine, DemonstrationRow.revision == 1, DemonstrationRow.created >= since)
    )
    return session.scalars(judged).one() + session.scalars(written).one()


def _count_waiting(session: Session, labeler: LabelerRow) -> int:
    held_out = labeler.group == "held_out"
    wanted: ColumnElement[bool] = TaskRow.held_out_overlap > 0 if held_out else TaskRow.overlap > 0
    query = (
        select(func.count())
        .select_from(TaskRow)
        .where(TaskRow.open, TaskRow.purpose == "work", wanted, *leasing.suits(labeler))
    )
    return session.scalars(query).one()


def _screening(session: Session, labeler_id: int) -> Screening:
    of = select(func.count()).where(TaskRow.purpose == "screening")
    done = (
        select(func.count())
        .join_from(AssignmentRow, TaskRow)
        .where(
            TaskRow.purpose == "screening",
            AssignmentRow.labeler_id == labeler_id,
            AssignmentRow.state != "leased",
        )
    )
    return Screening(session.scalars(done).one(), session.scalars(of).one())


def _check_note(where: str, text: str) -> None:
    reason = reason_unstorable(text)
    if reason is not None:
        raise StoreError(f"{where} must be plain text, but it {reason}. Remove that.")
    if len(text) > MAX_NOTE:
        raise StoreError(
            f"{where} must have at most {MAX_NOTE} characters, got {len(text)}. Shorten it."
        )
