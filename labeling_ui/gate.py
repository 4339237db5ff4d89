"""Let each person through to what is theirs, and nobody else: the one place that decides.

Gradio asks ``auth_dependency`` at some of its routes only, and its pages are no boundary (their
handlers can be called by number). The gate stands before every path of all mounts.
"""

from __future__ import annotations

from typing import cast
from urllib.parse import quote, urlencode

from anyio.to_thread import run_sync
from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from labeling_ui.failing import Failure, wants_page
from labeling_ui.lab_theme import LAB_SCRIPT
from labeling_ui.policy import LAB, MOUNTS, GradioPolicy, is_gradio
from pipeline.store.accounts import Account, Accounts

ACCOUNT = "steerline.account"
ANYBODY = ("/signin", "/invite", "/static", "/favicon.ico")
LEADS = ("/lab", "/api/lab")
# The rest of Gradio's routes (uploads to the labelers' page, proxies, streams, its own sign-in,
# editing the app) are not served at all.
GRADIO_FILES = ("", "config", "assets", "static", "theme.css", "favicon.ico", "manifest.json")
GRADIO_CALLS = (
    *("info", "app_id", "startup-events", "theme.css", "heartbeat"),
    *("queue", "run", "call", "api", "cancel", "reset", "component_server", "login_check"),
)
GRADIO_TRANSFERS = ("upload", "upload_progress", "file=")


def cookie_name(scope: Scope) -> str:
    """Return the name of the session's cookie; under HTTPS one that only this host can set."""
    return "__Host-steerline" if scope["scheme"] == "https" else "steerline"


def session_token(scope: Scope) -> str | None:
    """Return the session's token that a request brings, or None."""
    cookies = cookie_parser(Headers(scope=scope).get("cookie", ""))
    return cookies.get(cookie_name(scope)) or None


def account_of(request: Request) -> Account | None:
    """Return who makes a request, as the gate has found out."""
    return cast("Account | None", request.scope.get(ACCOUNT))


def signed_in(request: Request) -> Account:
    """Return who makes a request to a path that the gate guards."""
    account = account_of(request)
    assert account is not None, f"{request.url.path} lies outside the gate"
    return account


def labeler_name(request: Request) -> str | None:
    """Return the account's name if it may label: Gradio's ``auth_dependency`` of ``/label``."""
    account = account_of(request)
    return None if account is None or account.one_time else account.name


def lead_name(request: Request) -> str | None:
    """Return the account's name if it is a lead's: Gradio's ``auth_dependency`` of the lab."""
    account = account_of(request)
    return labeler_name(request) if account is not None and account.role == "lead" else None


class Gate:
    """Find out who makes each request, and let it pass, send it to sign in, or refuse it.

    Args:
        app: what is guarded.
        accounts: who may do what.
    """

    def __init__(self, app: ASGIApp, accounts: Accounts) -> None:
        self.app, self._accounts = app, accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, token = scope["path"], session_token(scope)
        account = None
        if token is not None and not _is_in(path, ("/static",)):
            account = await run_sync(self._accounts.account, token)
        refusal = _refuse(scope, path, account)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        passed = {**scope, ACCOUNT: account}
        if is_gradio(path):
            send = GradioPolicy(send, LAB_SCRIPT if path == f"{LAB}/" else b"")
        await self.app(passed, receive, send)


def _refuse(scope: Scope, path: str, account: Account | None) -> Response | None:
    """Return the answer to who may not pass, or None."""
    if path == "/" or _is_in(path, ANYBODY):
        return None
    if account is None:
        return _redirect_or(scope, _sign_in_path(scope), Failure(401))
    if account.one_time and not _is_in(path, ("/password", "/signout")):
        failure = Failure(403, "Choose a password of your own first.")
        return _redirect_or(scope, "/password", failure)
    if account.role != "lead" and _is_in(path, LEADS):
        return Failure(403).response(scope)
    if is_gradio(path) and not _is_served(path):
        return Failure(404).response(scope)
    return None


def _redirect_or(scope: Scope, to: str, failure: Failure) -> Response:
    if scope["method"] in ("GET", "HEAD") and wants_page(scope):
        return RedirectResponse(to, 303)
    return failure.response(scope)


def _sign_in_path(scope: Scope) -> str:
    query = scope.get("query_string", b"").decode("latin-1")
    here = quote(scope["path"]) + (f"?{query}" if query else "")
    return "/signin" if here == "/" else f"/signin?{urlencode({'next': here})}"


def _is_in(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _is_served(path: str) -> bool:
    # One page lies below another.
    mount = max((one for one in MOUNTS if _is_in(path, (one,))), key=len)
    first, _, call = path.removeprefix(mount).removeprefix("/").partition("/")
    if first != "gradio_api":
        return first in GRADIO_FILES
    word = call.partition("/")[0]
    transfers = mount == LAB and word.startswith(GRADIO_TRANSFERS)
    return transfers or word in GRADIO_CALLS
