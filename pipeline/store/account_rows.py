"""Read and write the rows of accounts, and hold their rules."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast, get_args

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from pipeline.errors import StoreError
from pipeline.store.schema import LabelerRow
from pipeline.store.schema_app import AccountRow
from pipeline.store.values import Group, check_choice, check_labeler

Role = Literal["labeler", "lead"]
ROLES: tuple[str, ...] = get_args(Role)

IS_ENABLED_LEAD: tuple[ColumnElement[bool], ...] = (
    AccountRow.role == "lead",
    AccountRow.disabled.is_(False),
)


class SignInError(StoreError):
    """Report a sign-in that is refused: wrong in any way, or too many before it.

    ``wait`` is the time to let pass, in seconds, where there were too many; else None.
    """

    def __init__(self, message: str, wait: int | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Account:
    """Who may sign in.

    Attributes:
        id: the account.
        name: pseudonym, the labeler's as well.
        role: ``labeler`` or ``lead``.
        labeler_id: whose judgments are this account's.
        disabled: whether signing in is refused.
        one_time: whether the password was printed for somebody and must be changed first.
        group: the labeler's group.
        admitted: whether the labeler has passed the screening, or needs none.
        created: since when, UTC.
    """

    id: int
    name: str
    role: Role
    labeler_id: int
    disabled: bool
    one_time: bool
    group: Group
    admitted: bool
    created: datetime


@dataclass(frozen=True)
class SignedIn:
    """A new session: its token, for one browser alone, and whether the password must be changed."""

    token: str
    account: Account
    must_change: bool


def spell(name: str) -> str:
    """Return a name as it is stored: the same letters typed on another keyboard are the same."""
    return unicodedata.normalize("NFC", name).strip()


def check_name(name: str) -> str:
    """Return the name of a new account as it is stored, or refuse it.

    Raises:
        StoreError: naming the rule that it breaks.
    """
    name = spell(name)
    check_labeler(name, "human", "train")
    if not name.isprintable():
        raise StoreError(
            f"account.name must have visible characters only, got {name!r}. Give another pseudonym."
        )
    return name


def add_account(
    session: Session,
    labeler: LabelerRow,
    role: str,
    hashed: str,
    now: datetime,
    *,
    one_time: bool,
) -> AccountRow:
    """Add the account of a labeler.

    Raises:
        StoreError: if they have one, or the role is none.
    """
    check_choice("account.role", role, ROLES)
    if find(session, labeler.name) is not None:
        raise _taken(labeler.name)
    row = AccountRow(
        name=labeler.name,
        role=role,
        password=hashed,
        one_time=one_time,
        disabled=False,
        labeler=labeler,
        created=now,
    )
    session.add(row)
    session.flush()
    return row


def find(session: Session, name: str, *, lock: bool = False) -> AccountRow | None:
    """Return the account of a name, its row held if ``lock``, or None."""
    query = (
        select(AccountRow)
        .where(AccountRow.name == name)
        .options(joinedload(AccountRow.labeler, innerjoin=True))
    )
    return session.scalar(query.with_for_update(of=AccountRow) if lock else query)


def get(session: Session, name: str) -> AccountRow:
    """Return the account of a name, its row held.

    Raises:
        StoreError: if there is none.
    """
    row = find(session, spell(name), lock=True)
    if row is None:
        raise StoreError(f"No account {name!r} in the label store. See 'steerline user list'.")
    return row


def hold_leads(session: Session) -> list[int]:
    """Return the ids of the leads who can sign in; their rows are held."""
    query = select(AccountRow).where(*IS_ENABLED_LEAD).order_by(AccountRow.id).with_for_update()
    return [row.id for row in session.scalars(query)]


def read_account(row: AccountRow) -> Account:
    """Return the record of a stored account."""
    return Account(
        id=row.id,
        name=row.name,
        role=cast("Role", row.role),
        labeler_id=row.labeler_id,
        disabled=row.disabled,
        one_time=row.one_time,
        group=cast("Group", row.labeler.group),
        admitted=row.labeler.admitted,
        created=row.created,
    )


def too_many(wait: int) -> SignInError:
    """Return the error that asks for patience; ``wait`` in seconds."""
    minutes = -(-wait // 60)
    unit = "minute" if minutes == 1 else "minutes"
    return SignInError(f"Too many attempts. Wait {minutes} {unit} and try again.", wait)


@contextmanager
def refuse_taken(name: str) -> Iterator[None]:
    """Say that a name is taken where another session took it in the meantime."""
    try:
        yield
    except IntegrityError as error:
        raise _taken(name) from error


def _taken(name: str) -> StoreError:
    return StoreError(f"Account {name!r} must be new, but the name is taken. Choose another name.")
