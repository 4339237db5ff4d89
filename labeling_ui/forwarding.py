"""Find out by what address a request came, and refuse names that are not the app's.

Behind a proxy the connection tells nothing: scheme, host and client are in ``X-Forwarded-*``, which
anybody can write. They are believed from the configured addresses only, and taken out of every
request, for Gradio believes them from anyone.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from labeling_ui.failing import Failure
from labeling_ui.settings import AppSettings, split_host

TOLD_BY_PROXIES = (b"forwarded", b"x-forwarded-", b"x-real-ip", b"x-gradio-server")


class Forwarded:
    """Set scheme, host and client of each request to what they are for the person.

    Args:
        app: what comes next.
        settings: which proxies are believed, and which names are the app's.
    """

    def __init__(self, app: ASGIApp, settings: AppSettings) -> None:
        self.app = app
        self._networks = settings.networks
        self._names = settings.names
        self._public = None if settings.origin is None else urlsplit(settings.origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = dict(scope)
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._is_trusted((scope.get("client") or ("", 0))[0]):
            host = _first(headers, "x-forwarded-host") or host
            scheme = _first(headers, "x-forwarded-proto")
            scope["scheme"] = scheme if scheme in ("http", "https") else scope["scheme"]
            scope["client"] = (self._find_client(headers, scope["client"][0]), 0)
        if self._names is not None and split_host(host)[0] not in self._names:
            line = "The app is not known by this address. Use the one that you were given."
            await Failure(400, line).response(scope)(scope, receive, send)
            return
        if self._public is not None:
            scope["scheme"], host = self._public.scheme, self._public.netloc
        scope["headers"] = [
            (name, value)
            for name, value in scope["headers"]
            if name != b"host" and not name.startswith(TOLD_BY_PROXIES)
        ]
        scope["headers"].append((b"host", host.encode("latin-1")))
        await self.app(scope, receive, send)

    def _is_trusted(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def _find_client(self, headers: Headers, proxy: str) -> str:
        """Return the last address that no proxy of ours wrote: what is before it may be made up."""
        told = ",".join(headers.getlist("x-forwarded-for")).split(",")
        for address in (entry.strip() for entry in reversed(told)):
            if address and not self._is_trusted(address):
                return address
        return proxy


def _first(headers: Headers, name: str) -> str:
    return headers.get(name, "").split(",")[0].strip().lower()
