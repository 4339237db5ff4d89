"""Make the Gradio pages in a thread, while the app answers everything else already.

Importing Gradio and making its pages takes most of a start. Sign-in, the board's files and its
routes need none of it: after a restart, pages that are open save and submit at once. Whoever asks
for a page that is not there yet waits for it. A page that cannot be made is told to whoever serves
the app, who ends it: an app without its pages is of no use.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from labeling_ui.failing import Failure

if TYPE_CHECKING:
    import gradio as gr

logger = logging.getLogger(__name__)

Broken = Callable[[Exception], None]
MISSING = Failure(500, "This page could not be opened. Nothing is lost: tell your lead.")
# Gradio notes the page that is being made in one place for the whole process.
_MAKING = threading.Lock()


def log_broken(error: Exception) -> None:
    """Write down why the pages could not be made."""
    logger.error("The pages could not be made.", exc_info=error)


@dataclass(frozen=True)
class Page:
    """A page that Gradio serves.

    Attributes:
        path: where it is.
        build: makes it; Gradio may be imported here, and not before.
        auth_dependency: returns whom a request comes from, or None if they may not see the page.
        max_file_size: of an upload, in bytes.
        head: what its head has in addition, as HTML.
        theme: makes its theme; None for Gradio's own.
    """

    path: str
    build: Callable[[], gr.Blocks]
    auth_dependency: Callable[[Request], str | None]
    max_file_size: int
    head: str = ""
    theme: Callable[[], gr.themes.Base] | None = None


class Pages:
    """Open the pages one after the other once the app runs; use ``lifespan`` as the app's own.

    Args:
        pages: what to open, first things first.
        broken: is told, once, of the error if one of them cannot be made.
    """

    def __init__(self, pages: Sequence[Page], broken: Broken = log_broken) -> None:
        self._doors = [_Door(page) for page in pages]
        self._broken = broken

    def mount(self, app: FastAPI) -> None:
        """Give each page its place among an app's routes."""
        # Whichever is asked first answers: a page below another comes before it.
        for door in sorted(self._doors, key=lambda one: len(one.page.path), reverse=True):
            app.mount(door.page.path, door)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Open the pages in the background, and close them in the end."""
        for door in self._doors:
            door.shut()
        _complete(app)
        closing = asyncio.Event()
        # One task enters and leaves what Gradio runs beside its pages.
        opening = asyncio.create_task(self._open(closing))
        try:
            yield
        finally:
            closing.set()
            await opening

    async def opened(self) -> None:
        """Return when every page is open, or given up."""
        for door in self._doors:
            await door.decided()

    async def _open(self, closing: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            try:
                for door in self._doors:
                    if closing.is_set():
                        return
                    made = await run_sync(_make, door.page)
                    await stack.enter_async_context(made.running())
                    door.open(made.app)
            except Exception as error:
                for door in self._doors:
                    door.give_up()
                self._broken(error)
            await closing.wait()


class _Door:
    """Stand where a page will be, and let people in when it is there."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._app: ASGIApp | None = None
        self._decided: asyncio.Event | None = None

    def shut(self) -> None:
        self._decided, self._app = asyncio.Event(), None

    def open(self, app: ASGIApp) -> None:
        self._app = app
        self._decide()

    def give_up(self) -> None:
        self._app = None
        self._decide()

    def _decide(self) -> None:
        assert self._decided is not None, "a door is shut before it opens"
        self._decided.set()

    async def decided(self) -> None:
        assert self._decided is not None, "whoever serves the app must run its lifespan"
        await self._decided.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.decided()
        answer = self._app or MISSING.response(scope)
        await answer(scope, receive, send)


def _complete(app: FastAPI) -> None:
    """Have FastAPI finish the app's routes, which it does when it first looks for one.

    It silences warnings meanwhile, and so it does for Gradio's routes: two threads must not do that
    at once, for the filters are the whole process's.
    """
    scope = {"type": "http", "method": "GET", "path": "", "root_path": "", "headers": []}
    for route in app.routes:
        route.matches(scope)


@dataclass(frozen=True)
class _Made:
    """A page that is there: what answers, and what must run meanwhile."""

    app: ASGIApp
    running: Callable[[], AbstractAsyncContextManager[object]]


def _make(page: Page) -> _Made:
    with _MAKING:
        # In a loop: outside of one, Gradio makes one for each of its locks and closes none.
        return asyncio.run(_make_in_loop(page))


async def _make_in_loop(page: Page) -> _Made:
    from gradio import mount_gradio_app

    # Allows nothing. Where the app that it is mounted in has none, Gradio allows every origin.
    parent = FastAPI(middleware=[Middleware(CORSMiddleware, allow_origins=[])])
    mount_gradio_app(
        parent,
        page.build(),
        page.path,
        auth_dependency=page.auth_dependency,
        head=page.head or None,
        theme=page.theme() if page.theme else None,
        max_file_size=page.max_file_size,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )
    mounted = parent.routes[-1]
    assert isinstance(mounted, Mount), f"Gradio mounted {mounted!r}"
    return _Made(mounted.app, functools.partial(parent.router.lifespan_context, parent))
