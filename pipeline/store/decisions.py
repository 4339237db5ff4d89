"""Read what leads decided about labels: whose count, and what stands on a disputed task.

The newest decision on a task counts. One by a lead whose own work was taken out of training does
not: neither would their judgments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from pipeline.store.schema import TaskRow
from pipeline.store.schema_app import AccountRow, AdjudicationRow, ExclusionRow, GoldRow

Verdict = Literal["kept", "replaced", "dropped"]


@dataclass(frozen=True)
class Adjudication:
    """A lead's decision on a task whose judgments disagree.

    Attributes:
        task: the task.
        author: the lead's account.
        verdict: ``kept`` (the judgments stand), ``replaced`` (``ranks`` stand in their place) or
            ``dropped`` (none reaches training).
        ranks: dense ranks by completion id, for ``replaced``.
        comment: the reason.
        created: when, UTC.
    """

    task: str
    author: str
    verdict: Verdict
    ranks: Mapping[str, int] | None
    comment: str
    created: datetime


def counts(labeler: ColumnElement[int] | InstrumentedAttribute[int]) -> ColumnElement[bool]:
    """Say of a labeler's id whether their work counts: no lead has taken it out of training."""
    return labeler.not_in(select(ExclusionRow.labeler_id))


def excluded_labelers(session: Session) -> frozenset[int]:
    """Return the ids of the labelers whose work was taken out of training."""
    return frozenset(session.scalars(select(ExclusionRow.labeler_id)))


def newest_adjudications(session: Session) -> dict[str, Adjudication]:
    """Return the decision that counts on each task that has one, by task."""
    rows = session.execute(
        select(AdjudicationRow, AccountRow.name)
        .join(AccountRow, AccountRow.id == AdjudicationRow.account_id)
        .where(AccountRow.labeler_id.not_in(select(ExclusionRow.labeler_id)))
        .order_by(AdjudicationRow.id)
    )
    return {
        row.task_id: Adjudication(
            task=row.task_id,
            author=author,
            verdict=cast("Verdict", row.verdict),
            ranks=row.ranks,
            comment=row.comment,
            created=row.created,
        )
        for row, author in rows
    }


@dataclass(frozen=True)
class KnownAnswer:
    """What a lead says is right about a screening or gold task.

    Attributes:
        task: the task.
        purpose: ``screening`` or ``gold``.
        ranks: dense ranks by completion id.
        flags: by completion id, the yes/no questions that are settled, with their answers.
        author: who said so.
        created: when, UTC.
    """

    task: str
    purpose: str
    ranks: Mapping[str, int]
    flags: Mapping[str, Mapping[str, bool]]
    author: str
    created: datetime


def read_known(session: Session) -> dict[str, KnownAnswer]:
    """Return the known answers, by task."""
    rows = session.execute(
        select(GoldRow, TaskRow.purpose).join(TaskRow, TaskRow.id == GoldRow.task_id)
    )
    return {
        row.task_id: KnownAnswer(
            row.task_id, purpose, row.ranks, row.flags, row.author, row.created
        )
        for row, purpose in rows
    }
