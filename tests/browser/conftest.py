"""Chromium on the running app: real pages, a real store, and no network but this machine's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

from tests.browser.desk import Desk
from tests.browser.pictures import Window
from tests.browser.running import Person, Server

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 860}
AXE = Path(__file__).parents[2] / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
RUN_AXE = """async (excused) => {
  const isExcused = (rule, node) => excused.some(([name, where]) =>
    name === rule && document.querySelector(node.target[0]).matches(where));
  // What fades in is looked at once it is there.
  const moving = document.getAnimations().filter((one) =>
    one.playState === "running" && one.effect.getComputedTiming().endTime < Infinity);
  await Promise.allSettled(moving.map((one) => one.finished));
  const found = await axe.run(document, { preload: false });
  return found.violations
    .map(({ id, nodes }) => [id, nodes.filter((node) => !isExcused(id, node))])
    .filter(([, nodes]) => nodes.length > 0)
    .map(([id, nodes]) => [id, nodes.map((node) => node.html).slice(0, 3)]);
}"""
Violations = Callable[..., list[Any]]
PATIENCE = 10_000
expect.set_options(timeout=PATIENCE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve one store to all tests; each has its own people and tasks."""
    running = Server(tmp_path_factory.mktemp("app") / "labels.db")
    running.start()
    yield running
    running.kill()
    running.store.close()


@pytest.fixture(autouse=True)
def fresh(server: Server) -> None:
    server.clear()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium is not None, "chromium is not installed: run make test-browser"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        launched.close()


@contextmanager
def opening(
    browser: Browser, note: Callable[[Request], None], watch: Callable[[Page], None]
) -> Iterator[Callable[..., BrowserContext]]:
    """Yield a function that opens a browser of its own, and close those that it has opened.

    Args:
        browser: whose they are.
        note: is told of every request.
        watch: is given every page.
    """
    contexts: list[BrowserContext] = []

    def open_context(**options: object) -> BrowserContext:
        context = browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", **options})
        context.set_default_timeout(PATIENCE)
        context.on("request", note)
        context.on("page", watch)
        contexts.append(context)
        return context

    yield open_context
    for context in contexts:
        context.close()


@pytest.fixture
def new_context(browser: Browser, server: Server) -> Iterator[Callable[..., BrowserContext]]:
    """Return a function that opens a browser of its own; no page may fail or leave this machine."""
    elsewhere: list[str] = []
    failures: list[str] = []

    def note(request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme in ("http", "https", "ws", "wss") and url.port != server.port:
            elsewhere.append(request.url)

    def watch(page: Page) -> None:
        page.on("pageerror", lambda error: failures.append(str(error)))

    with opening(browser, note, watch) as open_context:
        yield open_context
    assert elsewhere == []
    assert failures == []


@pytest.fixture
def desk(new_context: Callable[..., BrowserContext], server: Server) -> Desk:
    """Return the labeler's page in a window of a desk's size."""
    return Desk(new_context().new_page(), server)


@pytest.fixture
def phone(new_context: Callable[..., BrowserContext], server: Server) -> Desk:
    """Return the labeler's page on a phone."""
    context = new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    return Desk(context.new_page(), server)


@pytest.fixture
def person(server: Server) -> Person:
    return server.add_person()


@pytest.fixture
def labeler_page(desk: Desk, server: Server, person: Person) -> Page:
    """Return the page of a labeler who has signed in and ranks four outputs."""
    server.add_ranking(4)
    desk.sign_in(person)
    return desk.page


@pytest.fixture(scope="session")
def axe() -> str:
    assert AXE.is_file(), "axe-core is not installed: run make test-browser"
    return AXE.read_text(encoding="utf-8")


@pytest.fixture
def violations(axe: str) -> Violations:
    """Return a function that lists what axe-core finds wrong with a page as it is.

    Rules may be excused, each for what a selector matches alone.
    """

    def check(page: Page, excused: Collection[tuple[str, str]] = ()) -> list[Any]:
        page.evaluate(axe)
        found: list[Any] = page.evaluate(RUN_AXE, [list(one) for one in excused])
        return found

    return check


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["desk", "phone"])
def window(
    new_context: Callable[..., BrowserContext], scheme: str, request: pytest.FixtureRequest
) -> Window:
    """Return a page on a desk and on a phone, light and dark, nothing moving."""
    phone = {"viewport": PHONE, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    size = phone if request.param == "phone" else {"viewport": DESKTOP}
    context = new_context(color_scheme=scheme, reduced_motion="reduce", **size)
    return Window(context.new_page(), f"{request.param}-{scheme}")
