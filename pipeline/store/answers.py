"""Read the answers that labelers wrote, with what leads said of them.

An answer reaches training only when a lead accepted its newest revision: an edit after a review
waits for another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, selectinload

from pipeline.records import Demonstration, Prompt
from pipeline.store.catalog import read_prompt
from pipeline.store.decisions import excluded_labelers
from pipeline.store.schema import AssignmentRow, DemonstrationRow, TaskRow
from pipeline.store.schema_app import AccountRow, ReviewRow

VERDICTS = ("accepted", "rejected", "returned")


@dataclass(frozen=True)
class Review:
    """A lead's verdict on one revision of an answer; ``score`` goes from 1 to 7, or is None."""

    verdict: str
    score: int | None
    comment: str
    author: str
    created: datetime


@dataclass(frozen=True)
class Answer:
    """The newest revision of a written answer.

    Attributes:
        id: the revision, by which it is reviewed.
        task: the task.
        purpose: ``work`` or ``screening``.
        prompt: what it answers.
        split: the prompt's.
        labeler: pseudonym.
        group: the labeler's.
        simulated: whether a program wrote.
        excluded: whether a lead took the labeler's work out of training.
        text: the answer.
        comment: the labeler's note.
        prompt_flags: yes/no observations on the prompt.
        active_seconds: working time.
        instructions: version that the labeler worked by.
        revision: which one this is.
        created: when it came, UTC.
        review: the newest verdict on this revision, or None.
    """

    id: int
    task: str
    purpose: str
    prompt: Prompt
    split: str
    labeler: str
    group: str
    simulated: bool
    excluded: bool
    text: str
    comment: str
    prompt_flags: Mapping[str, bool]
    active_seconds: float | None
    instructions: int | None
    revision: int
    created: datetime
    review: Review | None

    @property
    def trainable(self) -> bool:
        """Tell whether the answer may be trained on: accepted ordinary work of the train group."""
        accepted = self.review is not None and self.review.verdict == "accepted"
        ours = self.group == "train" and not self.excluded
        return accepted and ours and self.purpose == "work"


def read_answers(session: Session, *where: ColumnElement[bool]) -> list[Answer]:
    """Return the newest revision of each written answer, in the order in which they came.

    Args:
        session: any session.
        where: conditions on the joined answer, assignment, task and labeler.
    """
    last = (
        select(DemonstrationRow.assignment_id, func.max(DemonstrationRow.revision).label("last"))
        .group_by(DemonstrationRow.assignment_id)
        .subquery()
    )
    to_assignment = selectinload(DemonstrationRow.assignment)
    query = (
        select(DemonstrationRow)
        .join(DemonstrationRow.assignment)
        .join(AssignmentRow.labeler)
        .join(AssignmentRow.task)
        .join(
            last,
            (DemonstrationRow.assignment_id == last.c.assignment_id)
            & (DemonstrationRow.revision == last.c.last),
        )
        .where(*where)
        .order_by(DemonstrationRow.id)
        .options(
            to_assignment.selectinload(AssignmentRow.labeler),
            to_assignment.selectinload(AssignmentRow.task).selectinload(TaskRow.prompt),
        )
    )
    excluded, reviews = excluded_labelers(session), _newest_reviews(session)
    return [_read(row, excluded, reviews.get(row.id)) for row in session.scalars(query)]


def answer_rows(answers: Iterable[Answer]) -> Iterator[dict[str, Any]]:
    """Yield the answers that may be trained on as ``messages`` rows, in a fixed order."""
    accepted = [answer for answer in answers if answer.trainable]
    for answer in sorted(accepted, key=lambda one: (one.prompt.id, one.labeler, one.task)):
        assert answer.review is not None, "what may be trained on was reviewed"
        yield {
            "messages": Demonstration(answer.prompt, answer.text).messages,
            "split": answer.split,
            "labeler": answer.labeler,
            "group": answer.group,
            "simulated": answer.simulated,
            "score": answer.review.score,
        }


def _newest_reviews(session: Session) -> dict[int, Review]:
    rows = session.execute(
        select(ReviewRow, AccountRow.name)
        .join(AccountRow, AccountRow.id == ReviewRow.account_id)
        .order_by(ReviewRow.id)
    )
    return {
        row.demonstration_id: Review(row.verdict, row.score, row.comment, author, row.created)
        for row, author in rows
    }


def _read(row: DemonstrationRow, excluded: frozenset[int], review: Review | None) -> Answer:
    assignment, task = row.assignment, row.assignment.task
    return Answer(
        id=row.id,
        task=task.id,
        purpose=task.purpose,
        prompt=read_prompt(task.prompt),
        split=task.prompt.split,
        labeler=assignment.labeler.name,
        group=assignment.labeler.group,
        simulated=row.simulated,
        excluded=assignment.labeler_id in excluded,
        text=row.text,
        comment=row.comment,
        prompt_flags=row.prompt_flags,
        active_seconds=row.active_seconds,
        instructions=row.instructions,
        revision=row.revision,
        created=row.created,
        review=review,
    )
