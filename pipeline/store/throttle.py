"""Slow down guessing: count failures by account name and by address, and refuse when they are many.

An attempt is written before the password is looked at, and taken back when it was right. Parallel
guesses therefore count from their start.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from pipeline.store.schema_app import SignInAttemptRow

# Any constant: the key under which concurrent attempts in PostgreSQL take turns.
LOCK = 7_261_146
IPV6_SITE = 64
"""One customer of a provider has at least that many bits of addresses: they count as one."""


@dataclass(frozen=True)
class Limits:
    """How many failures are borne.

    Attributes:
        by_name: of one account's name, within the window.
        by_address: of one address, within the window, whatever the names.
        window: how long a failure counts.
    """

    by_name: int = 5
    by_address: int = 20
    window: timedelta = timedelta(minutes=15)


def count_attempt(
    session: Session, limits: Limits, now: datetime, *, name: str | None, address: str | None
) -> int:
    """Count an attempt as a failure, and return how long to wait first, in seconds.

    0 is no wait. An attempt that has to wait is refused whatever it says, and not counted again.
    """
    if session.get_bind().dialect.name == "postgresql":
        # One at a time, as SQLite's only writer is: parallel guesses must see each other.
        session.execute(select(func.pg_advisory_xact_lock(LOCK)))
    oldest = now - limits.window
    session.execute(delete(SignInAttemptRow).where(SignInAttemptRow.at <= oldest))
    allowed = {}
    if address is not None:
        allowed[_address_key(address)] = limits.by_address
    if name is not None:
        allowed[_name_key(name)] = limits.by_name
    wait = max(
        _wait(session, key, allowance, now, limits.window) for key, allowance in allowed.items()
    )
    if wait == 0:
        session.add_all(SignInAttemptRow(key=key, at=now) for key in allowed)
    return wait


def forgive(session: Session, *, name: str | None, address: str | None) -> None:
    """Forget the failures of a name, and the newest of an address: the attempt was right.

    The other failures of the address stay, for it may try the names of others too.
    """
    if name is not None:
        session.execute(delete(SignInAttemptRow).where(SignInAttemptRow.key == _name_key(name)))
    if address is not None:
        newest = select(func.max(SignInAttemptRow.id)).where(
            SignInAttemptRow.key == _address_key(address)
        )
        session.execute(
            delete(SignInAttemptRow).where(SignInAttemptRow.id == newest.scalar_subquery())
        )


def _wait(session: Session, key: str, allowance: int, now: datetime, window: timedelta) -> int:
    last = session.scalars(
        select(SignInAttemptRow.at)
        .where(SignInAttemptRow.key == key)
        .order_by(SignInAttemptRow.at.desc())
        .limit(allowance)
    ).all()
    if len(last) < allowance:
        return 0
    return max(1, math.ceil((last[-1] + window - now).total_seconds()))


def _name_key(name: str) -> str:
    # Hashed: what is typed into the wrong field may be a password.
    return hashlib.sha256(f"name:{name}".encode("utf-8", "surrogatepass")).hexdigest()


def _address_key(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        site = address
    else:
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        bits = IPV6_SITE if parsed.version == 6 else 32
        site = str(ipaddress.ip_network((parsed, bits), strict=False))
    return hashlib.sha256(f"address:{site}".encode("utf-8", "surrogatepass")).hexdigest()
