"""A page of the lab that asks for answers, from within the loop that serves it."""

from __future__ import annotations

import json
from typing import Any

import anyio
from starlette.testclient import TestClient

from labeling_ui.compare_routes import PREFIX


class Page:
    """A page that asks for answers and stays until it is told to leave.

    Args:
        browser: who is signed in.
        body: what is asked.
        leave_at: leave as soon as this was sent; None for not by itself.
    """

    def __init__(self, browser: TestClient, body: dict[str, Any], leave_at: bytes | None = None):
        self.sent = bytearray()
        self._app, self._leave_at = browser.app, leave_at
        self._told = [{"type": "http.request", "body": json.dumps(body).encode()}]
        self._left = anyio.Event()
        cookie = f"steerline={browser.cookies['steerline']}".encode()
        headers = [(b"cookie", cookie), (b"content-type", b"application/json")]
        headers += [(b"host", b"localhost:7860"), (b"origin", b"http://localhost:7860")]
        self._scope = {
            **{"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}},
            **{"http_version": "1.1", "method": "POST", "scheme": "http"},
            **{"path": PREFIX + "/answers", "raw_path": b"", "query_string": b"", "root_path": ""},
            **{"headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 7860)},
        }

    def leave(self) -> None:
        self._left.set()

    async def stay(self) -> None:
        with anyio.fail_after(60):
            await self._app(self._scope, self._receive, self._send)

    async def until(self, text: bytes) -> None:
        with anyio.fail_after(60):
            while text not in self.sent:
                await anyio.sleep(0.02)

    async def _receive(self) -> dict[str, Any]:
        if self._told:
            return self._told.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.extend(message.get("body", b""))
        if self._leave_at is not None and self._leave_at in self.sent:
            self.leave()
