"""Keep who may sign in: accounts and their sessions.

Passwords are hashed outside every transaction: a hash takes as long as a hundred writes, and the
store has one writer. Of tokens only the SHA-256 is stored.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, joinedload

from pipeline.errors import StoreError
from pipeline.store import account_rows as rows
from pipeline.store import invitations
from pipeline.store.account_rows import ROLES, Account, Role, SignedIn, SignInError
from pipeline.store.catalog import add_labeler
from pipeline.store.invitations import Invitation
from pipeline.store.passwords import check_password, hash_password, matches, one_time_password
from pipeline.store.schema_app import AccountRow, SessionRow
from pipeline.store.store import LabelStore
from pipeline.store.throttle import Limits, count_attempt, forgive
from pipeline.store.values import Group, check_choice

__all__ = ["ROLES", "Account", "Accounts", "Invitation", "Role", "SignInError", "SignedIn"]

SESSION = timedelta(hours=12)
WRONG = "Name or password is wrong, or the account is disabled. Try again, or ask your lead."


class Accounts:
    """Keep the accounts of a label store; safe to share between threads.

    Args:
        store: the open store.
        session: how long a sign-in lasts, whatever is done meanwhile.
        limits: how many wrong guesses are borne.
    """

    def __init__(
        self,
        store: LabelStore,
        *,
        session: timedelta = SESSION,
        limits: Limits | None = None,
    ) -> None:
        self._store = store
        self._session = session
        self._limits = limits or Limits()

    def add(self, name: str, role: Role, *, group: Group = "train", admitted: bool = True) -> str:
        """Add an account and return its one-time password, which is stored nowhere.

        A labeler who has that name already is taken over, with their judgments.

        Raises:
            StoreError: if the name is taken or breaks a rule, or the labeler is of another group.
        """
        name = rows.check_name(name)
        password = one_time_password()
        hashed = hash_password(password)
        with rows.refuse_taken(name), self._store.writing() as session:
            now = self._store.clock()
            labeler = add_labeler(session, name, "human", group, now)
            labeler.admitted = admitted
            rows.add_account(session, labeler, role, hashed, now, one_time=True)
        return password

    def list(self) -> tuple[Account, ...]:
        """Return every account, by name."""
        query = select(AccountRow).options(joinedload(AccountRow.labeler))
        with self._store.reading() as session:
            found = [rows.read_account(row) for row in session.scalars(query)]
        return tuple(sorted(found, key=lambda account: account.name))

    def sign_in(self, name: str, password: str, address: str) -> SignedIn:
        """Start a session.

        Args:
            name: of the account.
            password: as typed.
            address: where the attempt comes from.

        Raises:
            SignInError: if the name or the password is wrong, the account is disabled (one message
                for all three), or there were too many failures; ``wait`` is set only then.
        """
        name = rows.spell(name)
        with self._store.writing() as session:
            now = self._store.clock()
            wait = count_attempt(session, self._limits, now, name=name, address=address)
            row = None if wait else rows.find(session, name)
            stored = None if row is None else row.password
        if wait:
            raise rows.too_many(wait)
        if not matches(password, stored):
            raise SignInError(WRONG)
        with self._store.writing() as session:
            row = rows.find(session, name, lock=True)
            # Between the two it may have been disabled, or the password changed.
            if row is None or row.disabled or row.password != stored:
                raise SignInError(WRONG)
            forgive(session, name=name, address=address)
            return self._start(session, row)

    def account(self, token: str) -> Account | None:
        """Return whose session a token is, or None if it is nobody's any more."""
        query = (
            select(SessionRow)
            .where(SessionRow.token_hash == hash_token(token))
            .options(joinedload(SessionRow.account).joinedload(AccountRow.labeler))
        )
        with self._store.reading() as session:
            row = session.scalar(query)
            if row is None or row.expires <= self._store.clock() or row.account.disabled:
                return None
            return rows.read_account(row.account)

    def sign_out(self, token: str) -> None:
        """End a session; an unknown one is no error."""
        with self._store.writing() as session:
            session.execute(delete(SessionRow).where(SessionRow.token_hash == hash_token(token)))

    def change_password(self, account_id: int, old: str, new: str) -> SignedIn:
        """Change a password, end every session of the account, and start a new one.

        Raises:
            SignInError: if the old password is wrong, or there were too many failures.
            StoreError: if there is no such account, or the new password breaks a rule.
        """
        with self._store.writing() as session:
            row = session.get(AccountRow, account_id)
            if row is None:
                raise StoreError(f"No account {account_id} in the label store. Sign in again.")
            name, stored = row.name, row.password
            check_password(new, name)
            if new == old:
                raise StoreError("The new password must differ from the old. Choose another one.")
            now = self._store.clock()
            wait = count_attempt(session, self._limits, now, name=name, address=None)
        if wait:
            raise rows.too_many(wait)
        if not matches(old, stored):
            raise SignInError("The old password is wrong. Try again.")
        hashed = hash_password(new)
        with self._store.writing() as session:
            row = rows.find(session, name, lock=True)
            if row is None or row.disabled or row.password != stored:
                raise SignInError(WRONG)
            row.password, row.one_time = hashed, False
            forgive(session, name=name, address=None)
            _end_sessions(session, row)
            return self._start(session, row)

    def reset(self, name: str) -> str:
        """Give an account a new one-time password, end its sessions, and return the password.

        Failed sign-ins are forgotten: who has locked themselves out may try at once.

        Raises:
            StoreError: if there is no such account.
        """
        password = one_time_password()
        hashed = hash_password(password)
        with self._store.writing() as session:
            row = rows.get(session, name)
            row.password, row.one_time = hashed, True
            forgive(session, name=row.name, address=None)
            _end_sessions(session, row)
        return password

    def disable(self, name: str) -> None:
        """Shut an account out and end its sessions at once; its judgments stay.

        Raises:
            StoreError: if there is no such account, or it is the last lead who can sign in.
        """
        with self._store.writing() as session:
            leads, row = rows.hold_leads(session), rows.get(session, name)
            _keep_a_lead(leads, row, "enabled")
            row.disabled = True
            _end_sessions(session, row)

    def enable(self, name: str) -> None:
        """Let a disabled account sign in again.

        Raises:
            StoreError: if there is no such account.
        """
        with self._store.writing() as session:
            rows.get(session, name).disabled = False

    def set_role(self, name: str, role: Role) -> None:
        """Make an account a lead's or a labeler's; it counts from the next request on.

        Raises:
            StoreError: if there is no such account, or it is the last lead who can sign in.
        """
        check_choice("account.role", role, ROLES)
        with self._store.writing() as session:
            leads, row = rows.hold_leads(session), rows.get(session, name)
            if role != "lead":
                _keep_a_lead(leads, row, "lead")
            row.role = role

    def has_lead(self) -> bool:
        """Tell whether a lead can sign in."""
        with self._store.reading() as session:
            return session.scalars(select(func.count()).where(*rows.IS_ENABLED_LEAD)).one() > 0

    def invite(self, role: Role, group: Group, admitted: bool, hours: float) -> str:
        """Make an invitation and return its token: whoever has it may make one account.

        Args:
            role: the account's.
            group: the labeler's.
            admitted: whether the labeler needs no screening.
            hours: until it expires.

        Raises:
            StoreError: if an argument is out of range.
        """
        token = new_token()
        with self._store.writing() as session:
            offer = invitations.Offer(role, group, admitted, hours)
            invitations.add(session, hash_token(token), offer, self._store.clock())
        return token

    def invitation(self, token: str, address: str) -> Invitation:
        """Return what an open invitation offers.

        Raises:
            SignInError: if it is unknown, used or expired, or there were too many such before.
        """
        with self._store.writing() as session:
            now = self._store.clock()
            wait = count_attempt(session, self._limits, now, name=None, address=address)
            row = None if wait else invitations.find_open(session, hash_token(token), now)
            if row is not None:
                forgive(session, name=None, address=address)
                return invitations.read(row)
        raise rows.too_many(wait) if wait else SignInError(invitations.CLOSED)

    def accept(self, token: str, name: str, password: str, address: str) -> SignedIn:
        """Use an invitation up: make its account and start a session.

        Raises:
            SignInError: as ``invitation`` says.
            StoreError: if the name is taken or breaks a rule, or the password does; the invitation
                is open still.
        """
        self.invitation(token, address)
        name = rows.check_name(name)
        check_password(password, name)
        hashed = hash_password(password)
        with rows.refuse_taken(name), self._store.writing() as session:
            now = self._store.clock()
            invitation = invitations.find_open(session, hash_token(token), now, lock=True)
            if invitation is None:
                raise SignInError(invitations.CLOSED)
            row = invitations.accept(session, invitation, name, hashed, now)
            return self._start(session, row)

    def _start(self, session: Session, row: AccountRow) -> SignedIn:
        now, token = self._store.clock(), new_token()
        session.execute(delete(SessionRow).where(SessionRow.expires <= now))
        session.add(
            SessionRow(
                token_hash=hash_token(token),
                account_id=row.id,
                created=now,
                expires=now + self._session,
            )
        )
        return SignedIn(token, rows.read_account(row), must_change=row.one_time)


def new_token() -> str:
    """Make a token that nobody can guess: 256 bits."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _end_sessions(session: Session, row: AccountRow) -> None:
    session.execute(delete(SessionRow).where(SessionRow.account_id == row.id))


def _keep_a_lead(leads: list[int], row: AccountRow, what: str) -> None:
    if leads == [row.id]:
        raise StoreError(
            f"The last lead must stay {what}, got {row.name!r}. Make another account a lead first."
        )
