"""Serve the pages of signing in and out, of passwords and of invitations; they work without script.

Forms are plain ``application/x-www-form-urlencoded``. Hashing a password keeps a processor busy for
a tenth of a second: two at a time, in threads of their own, so that the board's requests go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from labeling_ui.gate import account_of, cookie_name, session_token, signed_in
from labeling_ui.rendering import render
from labeling_ui.settings import AppSettings
from pipeline.errors import StoreError
from pipeline.store.accounts import Account, Accounts, SignedIn, SignInError
from pipeline.store.passwords import LENGTHS

Result = TypeVar("Result")

HASHING_AT_ONCE = 2
MAX_FIELDS = 10
PAGES = ("/label", "/lab")


def signing_routes(accounts: Accounts, settings: AppSettings) -> APIRouter:
    """Return the routes of signing in and out, changing a password and taking an invitation."""
    forms = _Forms(accounts, settings)
    router = APIRouter()
    router.get("/")(_start)
    router.get("/signin")(_show_sign_in)
    router.post("/signin")(forms.sign_in)
    router.post("/signout")(forms.sign_out)
    router.get("/password")(_show_password)
    router.post("/password")(forms.change_password)
    router.get("/invite/{token}")(forms.show_invitation)
    router.post("/invite/{token}")(forms.accept)
    return router


def own_path(wanted: str) -> str:
    """Return where to go after signing in: the wanted page if it is one of the app's, else ``/``.

    Anything that a browser could take for another site's address is no page of the app's.
    """
    if not wanted.isprintable() or "\\" in wanted:
        return "/"
    try:
        parts = urlsplit(wanted)
    except ValueError:
        return "/"
    own = any(parts.path == page or parts.path.startswith(f"{page}/") for page in PAGES)
    if parts.scheme or parts.netloc or not own:
        return "/"
    query = f"?{quote(parts.query, safe='=&%')}" if parts.query else ""
    return quote(unquote(parts.path)) + query


def _home(account: Account) -> str:
    return "/lab/" if account.role == "lead" else "/label/"


def _start(request: Request) -> Response:
    account = account_of(request)
    return _go("/signin" if account is None else _home(account))


def _show_sign_in(request: Request) -> Response:
    wanted = own_path(request.query_params.get("next", "/"))
    if account_of(request) is not None:
        return _go(wanted)
    return _sign_in_page(wanted)


def _show_password(request: Request) -> Response:
    return _password_page(signed_in(request))


class _Forms:
    """Do what the forms ask for."""

    def __init__(self, accounts: Accounts, settings: AppSettings) -> None:
        self._accounts = accounts
        self._lasting = int(settings.session.total_seconds())
        self._hashing = CapacityLimiter(HASHING_AT_ONCE)

    async def sign_in(self, request: Request) -> Response:
        form = await _read_form(request)
        name, wanted = form.get("name", ""), own_path(form.get("next", "/"))
        address = _address(request)
        try:
            signed = await self._hash(
                lambda: self._accounts.sign_in(name, form.get("password", ""), address)
            )
        except SignInError as error:
            return _refused(error, lambda line, status: _sign_in_page(wanted, name, line, status))
        before = session_token(request.scope)
        if before is not None:
            await to_thread.run_sync(self._accounts.sign_out, before)
        return self._enter(request, signed, "/password" if signed.must_change else wanted)

    async def sign_out(self, request: Request) -> Response:
        token = session_token(request.scope)
        if token is not None:
            await to_thread.run_sync(self._accounts.sign_out, token)
        response = _go("/signin")
        _set_cookie(request, response, "", 0)
        return response

    async def change_password(self, request: Request) -> Response:
        account, form = signed_in(request), await _read_form(request)
        old, new = form.get("old", ""), form.get("new", "")
        try:
            _check_repeated(new, form.get("again", ""))
            signed = await self._hash(lambda: self._accounts.change_password(account.id, old, new))
        except StoreError as error:
            return _refused(error, lambda line, status: _password_page(account, line, status))
        return self._enter(request, signed, "/")

    async def show_invitation(self, request: Request, token: str) -> Response:
        address = _address(request)
        try:
            await to_thread.run_sync(lambda: self._accounts.invitation(token, address))
        except SignInError as error:
            return _refused(error, _closed_page)
        return _invitation_page(token)

    async def accept(self, request: Request, token: str) -> Response:
        form, address = await _read_form(request), _address(request)
        name, new = form.get("name", ""), form.get("new", "")
        try:
            _check_repeated(new, form.get("again", ""))
            signed = await self._hash(lambda: self._accounts.accept(token, name, new, address))
        except SignInError as error:
            return _refused(error, _closed_page)
        except StoreError as error:
            return _invitation_page(token, name, str(error), 400)
        return self._enter(request, signed, "/")

    async def _hash(self, work: Callable[[], Result]) -> Result:
        return await to_thread.run_sync(work, limiter=self._hashing)

    def _enter(self, request: Request, signed: SignedIn, to: str) -> Response:
        response = _go(to)
        _set_cookie(request, response, signed.token, self._lasting)
        return response


async def _read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form, the last of each name; what is no form has none."""
    if request.headers.get("content-type", "").split(";")[0] != "application/x-www-form-urlencoded":
        return {}
    try:
        text = (await request.body()).decode("utf-8")
        fields = parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        return {}
    return {name: values[-1] for name, values in fields.items()}


def _check_repeated(new: str, again: str) -> None:
    if new != again:
        raise StoreError("The two new passwords must be the same, and differ. Type them again.")


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _refused(error: StoreError, page: Callable[[str, int], Response]) -> Response:
    wait = error.wait if isinstance(error, SignInError) else None
    if wait is None:
        return page(str(error), 400)
    response = page(str(error), 429)
    response.headers["Retry-After"] = str(wait)
    return response


def _go(to: str) -> Response:
    return RedirectResponse(to, 303)


def _set_cookie(request: Request, response: Response, token: str, seconds: int) -> None:
    response.set_cookie(
        cookie_name(request.scope),
        token,
        max_age=seconds,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )


def _sign_in_page(wanted: str, name: str = "", error: str = "", status: int = 200) -> Response:
    return render("signin.html", status=status, wanted=wanted, name=name, error=error)


def _password_page(account: Account, error: str = "", status: int = 200) -> Response:
    return render("password.html", status=status, account=account, error=error, shortest=LENGTHS[0])


def _invitation_page(token: str, name: str = "", error: str = "", status: int = 200) -> Response:
    return render(
        "invite.html", status=status, token=token, name=name, error=error, shortest=LENGTHS[0]
    )


def _closed_page(line: str, status: int) -> Response:
    return render("error.html", status=status, title="This invitation is closed", line=line)
