"""State the Content-Security-Policies: a strict one for our pages, the tightest Gradio runs under.

Gradio's page has inline scripts that differ with every answer, and its template has no place for a
nonce. The policy names their hashes instead of allowing ``'unsafe-inline'``: the page is held until
it is complete, which it is at once, and whatever is written into it later in the browser stays
inert.
"""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

LABEL, LAB, COMPARE = "/label", "/lab", "/lab/compare"
MOUNTS = (LABEL, LAB, COMPARE)
"""Where Gradio's pages are, in the order in which they are made."""
OWN_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
# 'unsafe-eval': gr.HTML's js_on_load and every js= argument are functions made of text. Inline
# styles: Gradio's theme, and Svelte's style attributes. data: and blob: images: Gradio's icons and
# plots. base-uri: Gradio's page has a <base>.
GRADIO_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'{hashes}; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-src 'none'; frame-ancestors 'none'"
)
HEAD = b"<head>"
INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc\s*=)[^>]*>(.*?)</script>", re.DOTALL)


def is_gradio(path: str) -> bool:
    """Tell whether a path is of one of the pages that Gradio serves."""
    return any(path == mount or path.startswith(f"{mount}/") for mount in MOUNTS)


def gradio_policy(page: bytes = b"") -> str:
    """Return the policy of an answer of Gradio's: for a page, with its inline scripts' hashes."""
    scripts = (match.group(1) for match in INLINE_SCRIPT.finditer(page))
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    return GRADIO_POLICY.format(hashes="".join(f" 'sha256-{value}'" for value in hashes))


class GradioPolicy:
    """Send an answer of Gradio's on with its policy; a page is held until all of it is there.

    Args:
        send: where to.
        first: what a page's head begins with: a script that must run before Gradio's own, which
            add their ``head`` when they run already.
    """

    def __init__(self, send: Send, first: bytes = b"") -> None:
        self._send, self._first = send, first
        self._start: Message | None = None
        self._page = b""

    async def __call__(self, message: Message) -> None:
        """Take one message of the answer."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if headers.get("content-type", "").startswith("text/html"):
                self._start = message
                return
            headers["Content-Security-Policy"] = gradio_policy()
        elif self._start is not None and message["type"] == "http.response.body":
            self._page += message.get("body", b"")
            if message.get("more_body"):
                return
            headers = MutableHeaders(scope=self._start)
            if HEAD in self._page:
                self._page = self._page.replace(HEAD, HEAD + self._first, 1)
                headers["Content-Length"] = str(len(self._page))
            headers["Content-Security-Policy"] = gradio_policy(self._page)
            await self._send(self._start)
            message = {"type": "http.response.body", "body": self._page}
            self._start = None
        await self._send(message)
