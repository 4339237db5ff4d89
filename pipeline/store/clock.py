"""Tell the store's time, which never goes back.

Leases, sessions and the order of what was written hang on it, and a system's clock may be stepped
back under a running app, or be wrong after a restart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from pipeline.store.schema import AssignmentRow, DemonstrationRow, JudgmentRow, UtcDateTime
from pipeline.store.schema_app import AccountRow

logger = logging.getLogger(__name__)

TOLERANCE = timedelta(seconds=2)
"""How far the system's clock may go back without a warning: daemons correct it by less."""

DEADLINES = ("expires", "lease_expires")


def utc_now() -> datetime:
    """Return the time of day, in UTC."""
    return datetime.now(UTC)


class SteadyClock:
    """Tell the time of day, but never an earlier one than before; safe to share between threads.

    While the system's clock is behind, time goes on from the last one told at the pace of the
    monotonic clock, so that leases and sessions still end. A step back is said once, as a warning.

    Args:
        newest: the newest time in the store, to start from at the earliest; None for an empty one.
        wall: the system's clock, aware.
        monotonic: seconds since any moment, which nothing sets back.
    """

    def __init__(
        self,
        newest: datetime | None = None,
        *,
        wall: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._lock = threading.Lock()
        self._warned = False
        self._told, self._told_at = wall(), monotonic()
        self._seen = self._told
        if newest is not None and newest > self._told:
            self._notice(self._told, newest, "the newest time in the label store")
            self._told = newest

    def __call__(self) -> datetime:
        """Return the time, aware."""
        with self._lock:
            seen, at = self._wall(), self._monotonic()
            self._notice(seen, self._seen, "the time it told before")
            # The pace of the monotonic clock is not the wall's to the last digit: that is no step.
            steady = self._told + timedelta(seconds=at - self._told_at)
            self._told, self._told_at, self._seen = max(seen, steady), at, seen
            return self._told

    def _notice(self, seen: datetime, before: datetime, what: str) -> None:
        if self._warned or before - seen <= TOLERANCE:
            return
        self._warned = True
        logger.warning(
            "The system's clock is %s behind %s. Time goes on from there: set the clock.",
            before - seen,
            what,
        )


def newest_time(session: Session) -> datetime | None:
    """Return the newest time that a store's clock has written, or None where there is none.

    Judgments that were imported carry times of elsewhere: one that lies after the end of its own
    lease does not count.
    """
    # By way of an app's table, so that those are among the metadata's.
    told: list[ColumnElement[datetime]] = [
        column
        for table in AccountRow.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, UtcDateTime)
        and column.name not in DEADLINES
        and table.name not in (JudgmentRow.__tablename__, DemonstrationRow.__tablename__)
    ]
    queries = [select(func.max(column)) for column in told]
    queries += [
        select(func.max(rows.created))
        .join(AssignmentRow, AssignmentRow.id == rows.assignment_id)
        .where(rows.created <= AssignmentRow.lease_expires)
        for rows in (JudgmentRow, DemonstrationRow)
    ]
    times = (session.scalar(query) for query in queries)
    return max((time for time in times if time is not None), default=None)
