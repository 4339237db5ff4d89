"""Keep invitations: links with which one person each makes one account."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from pipeline.errors import StoreError
from pipeline.store.account_rows import ROLES, Role, add_account
from pipeline.store.catalog import add_labeler
from pipeline.store.schema import LabelerRow
from pipeline.store.schema_app import AccountRow, InvitationRow
from pipeline.store.values import GROUPS, Group, check_choice

MAX_HOURS = 30 * 24
CLOSED = "This invitation is unknown, used up or expired. Ask your lead for another one."


@dataclass(frozen=True)
class Offer:
    """What an invitation is good for.

    Attributes:
        role: the account's.
        group: the labeler's.
        admitted: whether the labeler needs no screening.
        hours: until it expires.
    """

    role: Role
    group: Group
    admitted: bool
    hours: float


@dataclass(frozen=True)
class Invitation:
    """What an open invitation offers, and until when (UTC)."""

    role: Role
    expires: datetime


def add(session: Session, token_hash: str, offer: Offer, now: datetime) -> None:
    """Add an invitation, and forget those that expired unused.

    Raises:
        StoreError: if role or group is none, or the time is out of range.
    """
    check_choice("invitation.role", offer.role, ROLES)
    check_choice("invitation.group", offer.group, GROUPS)
    if not (math.isfinite(offer.hours) and 0 < offer.hours <= MAX_HOURS):
        raise StoreError(
            f"invitation.hours must be more than 0 and at most {MAX_HOURS}, got {offer.hours!r}. "
            "Choose a time in between."
        )
    session.execute(
        delete(InvitationRow).where(
            InvitationRow.expires <= now, InvitationRow.account_id.is_(None)
        )
    )
    session.add(
        InvitationRow(
            token_hash=token_hash,
            role=offer.role,
            group=offer.group,
            admitted=offer.admitted,
            created=now,
            expires=now + timedelta(hours=offer.hours),
        )
    )


def find_open(
    session: Session, token_hash: str, now: datetime, *, lock: bool = False
) -> InvitationRow | None:
    """Return the invitation that a token opens, its row held if ``lock``, or None."""
    query = select(InvitationRow).where(InvitationRow.token_hash == token_hash)
    row = session.scalar(query.with_for_update() if lock else query)
    is_open = row is not None and row.account_id is None and row.expires > now
    return row if is_open else None


def read(row: InvitationRow) -> Invitation:
    """Return the record of a stored invitation."""
    return Invitation(cast("Role", row.role), row.expires)


def accept(
    session: Session, row: InvitationRow, name: str, hashed: str, now: datetime
) -> AccountRow:
    """Make the account of an open invitation, whose row is held, and use the invitation up.

    Args:
        session: a writing session.
        row: the invitation.
        name: as ``check_name`` returns it.
        hashed: the password.
        now: the time.

    Raises:
        StoreError: if the name is taken, by a labeler without an account too: an invited person
            must not come by another's judgments.
    """
    if session.scalar(select(LabelerRow.id).where(LabelerRow.name == name)) is not None:
        raise StoreError(f"The name {name!r} must be new, but it is taken. Choose another name.")
    labeler = add_labeler(session, name, "human", row.group, now)
    labeler.admitted = row.admitted
    account = add_account(session, labeler, row.role, hashed, now, one_time=False)
    row.account_id = account.id
    return account
