"""Say who is a lead: the one rule of the lab's pages and routes."""

from __future__ import annotations

from fastapi import HTTPException, Request

from labeling_ui.gate import account_of
from pipeline.store.accounts import Account


def may_lead(account: Account | None) -> bool:
    """Tell whether an account is a lead's who may act: enabled, with a password of their own."""
    return (
        account is not None
        and account.role == "lead"
        and not account.disabled
        and not account.one_time
    )


def require_lead(request: Request) -> Account:
    """Return the lead who makes a request: what a route of the lab depends on.

    The gate lets nobody else in; a route that was put elsewhere by mistake is still closed.

    Raises:
        HTTPException: 401 if nobody is signed in, 403 if it is no lead.
    """
    account = account_of(request)
    if account is None:
        raise HTTPException(401)
    if not may_lead(account):
        raise HTTPException(403)
    return account
