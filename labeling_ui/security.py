"""Guard every response and every request, whoever answers: pure ASGI, so that streams stay streams.

The order, from the outside: ``Shield`` (headers, failures), ``Forwarded`` (proxies, host),
``BodyLimit``, ``SameOrigin``; then the gate (``gate``), which asks who it is.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling_ui.failing import Failure, failure_of
from labeling_ui.policy import MOUNTS, OWN_POLICY
from labeling_ui.settings import spell_origin

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # With "no-referrer", browsers send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
# Gradio's files are named by the hash of their content; only the signed-in get them.
HASHED_FILES = tuple(f"{mount}/assets/" for mount in MOUNTS)


class Shield:
    """Put the security headers on every response, and turn what nobody caught into a failure."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; there are no web sockets here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _dress(message, scope)
            await send(message)

        try:
            await self.app(scope, receive, guarded)
        except Exception as error:
            failure = failure_of(error)
            if started:
                # Half an answer is out: the server must cut the connection.
                raise
            await failure.response(scope)(scope, receive, guarded)


def _dress(message: Message, scope: Scope) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers[name] = value
    headers.setdefault("Content-Security-Policy", OWN_POLICY)
    path = scope["path"]
    if path.startswith(HASHED_FILES) and message["status"] == 200:
        headers["Cache-Control"] = "private, max-age=604800"
    elif path.startswith("/static/"):
        headers["Cache-Control"] = "no-cache"
    else:
        headers["Cache-Control"] = "no-store"


class BodyLimit:
    """Refuse bodies that are larger than their path takes.

    Args:
        app: what is guarded.
        limit: the largest body of a path, in bytes.
    """

    def __init__(self, app: ASGIApp, limit: Callable[[str], int]) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit(scope["path"])
        stated = Headers(scope=scope).get("content-length", "0")
        if not stated.isdecimal() or int(stated) > limit:
            await Failure(413).response(scope)(scope, receive, send)
            return
        counted = _CountedBody(receive, send, limit)
        try:
            await self.app(scope, counted.receive, counted.send)
        except Exception:
            if not counted.over:
                raise
        if counted.over and not counted.started:
            await Failure(413).response(scope)(scope, receive, send)


class _CountedBody:
    """Count what comes in, and break off where it is too much."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive, self._send, self._left = receive, send, limit
        self.over = self.started = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.over = True
            raise _TooLargeError
        return message

    async def send(self, message: Message) -> None:
        # Whatever the app makes of the body that broke off is not the answer.
        if not self.over or self.started:
            self.started = True
            await self._send(message)


class _TooLargeError(Exception):
    pass


class SameOrigin:
    """Refuse what another site's page makes a browser send: every method that may change something.

    ``Origin`` decides, else ``Sec-Fetch-Site``. A client that sends neither is no browser of today;
    without a cookie there is nothing that it could misuse.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            headers = Headers(scope=scope)
            if not _is_own(headers, spell_origin(scope["scheme"], headers.get("host", ""))):
                line = "The request came from another site. Open the app's own page."
                await Failure(403, line).response(scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_own(headers: Headers, own: str) -> bool:
    origin = headers.get("origin")
    if origin is not None:
        scheme, _, host = origin.partition("://")
        return bool(host) and spell_origin(scheme, host) == own
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return "cookie" not in headers
