"""Put the labeling app together: a FastAPI shell with Gradio pages mounted.

Gradio is imported once the app runs (see ``mounting``), not before: importing it takes seconds, and
switching its analytics off has to come first.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from labeling_ui.compare_bench import Bench
from labeling_ui.compare_routes import COMPARE_FAILURES, compare_routes
from labeling_ui.desk_routes import FAILURES, desk_routes
from labeling_ui.failing import ANSWERED, failed
from labeling_ui.forwarding import Forwarded
from labeling_ui.gate import Gate, labeler_name, lead_name
from labeling_ui.lab_routes import lab_routes
from labeling_ui.lab_theme import LAB_HEAD, lab_theme
from labeling_ui.mounting import Broken, Page, Pages, log_broken
from labeling_ui.policy import COMPARE, LAB, LABEL
from labeling_ui.rendering import FOLDER
from labeling_ui.security import BodyLimit, SameOrigin, Shield
from labeling_ui.settings import AppSettings
from labeling_ui.shell import BOARD, COMPARISON
from labeling_ui.signing import signing_routes
from pipeline.store.accounts import Accounts
from pipeline.store.store import LabelStore

if TYPE_CHECKING:
    import gradio as gr

    from pipeline.serving import ModelServer
    from pipeline.store.leasing import LeaseRules

Handler = Callable[[Request, Exception], Response]
STATIC = FOLDER / "static"


@dataclass(frozen=True)
class Parts:
    """What is put into the shell.

    Attributes:
        label_page: makes the Gradio page of ``/label``.
        lab_page: makes the Gradio page of ``/lab``.
        routers: the JSON routes, all under ``/api``.
        failures: what is told of errors that the routes raise, beside those of ``failing``.
        label_head: what the page of ``/label`` has in its head: our own scripts and styles.
        lab_head: the same for ``/lab``.
        lab_theme: makes the theme of ``/lab``; None for Gradio's own.
        compare_page: makes the Gradio page of ``/lab/compare``; None for no such page.
        compare_head: what that page has in its head.
    """

    label_page: Callable[[], gr.Blocks]
    lab_page: Callable[[], gr.Blocks]
    routers: Sequence[APIRouter] = ()
    failures: Mapping[type[Exception], Handler] = field(default_factory=dict)
    label_head: str = ""
    lab_head: str = ""
    lab_theme: Callable[[], gr.themes.Base] | None = None
    compare_page: Callable[[], gr.Blocks] | None = None
    compare_head: str = ""


def create_app(
    store: LabelStore,
    settings: AppSettings,
    parts: Parts | None = None,
    *,
    rules: LeaseRules | None = None,
    run_dir: Path | None = None,
    models: ModelServer | None = None,
    broken: Broken = log_broken,
) -> FastAPI:
    """Return the labeling app over an open store; its pages open once it runs.

    Args:
        store: what is labeled and by whom.
        settings: how the app meets the network.
        parts: what is put into the shell; the app's own by default.
        rules: how the app's own desk hands out work; None for the defaults.
        run_dir: the run's folder, in which and beside which the app's own lab looks for models;
            None for none, and no page of comparisons.
        models: what runs the models that are compared; whoever gives it closes it.
        broken: is told of the error if a page cannot be made; whoever serves the app should end it.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    accounts = Accounts(store, session=settings.session)
    if parts is None:
        parts = _own_parts(store, accounts, settings.goal, rules, run_dir)
        parts = _with_comparisons(parts, run_dir, models)
    opened = _gradio_pages(parts, settings)
    pages = Pages(opened, broken)
    # FastAPI's type knows handlers of all exceptions only.
    handlers: dict[Any, Any] = {**dict.fromkeys(ANSWERED, failed), **parts.failures}
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        exception_handlers=handlers,
        lifespan=pages.lifespan,
        middleware=[
            Middleware(Shield),
            Middleware(Forwarded, settings=settings),
            Middleware(BodyLimit, limit=functools.partial(largest_body, settings)),
            Middleware(SameOrigin),
            Middleware(Gate, accounts=accounts),
            Middleware(CORSMiddleware, allow_origins=[]),
        ],
    )
    app.include_router(signing_routes(accounts, settings))
    for router in parts.routers:
        app.include_router(router)
    for page in opened:
        app.get(page.path)(_add_slash)
    app.get("/favicon.ico")(_show_icon)
    app.mount("/static", StaticFiles(directory=STATIC))
    pages.mount(app)
    app.state.pages = pages
    return app


def _gradio_pages(parts: Parts, settings: AppSettings) -> list[Page]:
    """Return the pages, what labelers wait for first."""
    size = settings.page_bytes
    pages = [
        Page(LABEL, parts.label_page, labeler_name, size, parts.label_head),
        Page(LAB, parts.lab_page, lead_name, settings.lab_bytes, parts.lab_head, parts.lab_theme),
    ]
    if parts.compare_page is not None:
        pages.append(Page(COMPARE, parts.compare_page, lead_name, size, parts.compare_head))
    return pages


def _own_parts(
    store: LabelStore,
    accounts: Accounts,
    goal: int | None,
    rules: LeaseRules | None,
    run_dir: Path | None,
) -> Parts:
    """Return the app's own pages and routes."""
    desk = desk_routes(store, rules=rules, goal=goal, interface=interface_version())
    return Parts(
        label_page=BOARD.build,
        lab_page=functools.partial(_build_lab_page, store, accounts, run_dir),
        routers=(desk, lab_routes(store)),
        failures=FAILURES,
        label_head=BOARD.head,
        lab_head=LAB_HEAD,
        lab_theme=lab_theme,
    )


def _with_comparisons(parts: Parts, run_dir: Path | None, models: ModelServer | None) -> Parts:
    """Return the parts with the page of comparisons, where there is a run to look at."""
    if run_dir is None:
        return parts
    return dataclasses.replace(
        parts,
        routers=(*parts.routers, compare_routes(Bench.over(run_dir, models))),
        failures={**parts.failures, **COMPARE_FAILURES},
        compare_page=COMPARISON.build,
        compare_head=COMPARISON.head,
    )


def _build_lab_page(store: LabelStore, accounts: Accounts, run_dir: Path | None) -> gr.Blocks:
    # Not at the top: it imports Gradio.
    from labeling_ui.lab_page import build_lab_page

    return build_lab_page(store, accounts, run_dir)


def interface_version() -> str:
    """Return the version of the labelers' page: a hash of its files, which each judgment names."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.glob("*.*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def largest_body(settings: AppSettings, path: str) -> int:
    """Return how large the body of a request to a path may be, in bytes."""
    if path.startswith(("/api/desk/", "/label/")):
        return settings.desk_bytes
    return settings.lab_bytes if path.startswith(("/api/lab/", "/lab/")) else settings.page_bytes


def _show_icon() -> Response:
    # Gradio's pages name no icon, so that browsers look for this one.
    return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")


def _add_slash(request: Request) -> Response:
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"{request.url.path}/{query}", 307)
