from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from labeling_ui.app import Parts, create_app
from labeling_ui.settings import AppSettings
from pipeline.records import Prompt
from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts
from tests.labeling_ui.boards import Board, add_tasks
from tests.labeling_ui.browsers import GOOD, HERE, lab_page, label_page


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash passwords at a thousandth of the cost."""
    monkeypatch.setattr("pipeline.store.passwords.COST", 2**5)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrate one empty store, which tests copy."""
    made = tmp_path_factory.mktemp("blank") / "labels.db"
    LabelStore.open(made).close()
    return made


@pytest.fixture
def store(tmp_path: Path, blank: Path, clock: Clock) -> Iterator[LabelStore]:
    path = tmp_path / "labels.db"
    shutil.copy(blank, path)
    with LabelStore.open(path, clock=clock) as opened:
        yield opened


@pytest.fixture
def accounts(store: LabelStore) -> Accounts:
    """Return the accounts of a lead, Ada, and a labeler, Bob; both have the password GOOD."""
    made = Accounts(store)
    for name, role in (("ada", "lead"), ("bob", "labeler")):
        once = made.add(name, role)
        made.change_password(made.sign_in(name, once, "198.51.100.1").account.id, once, GOOD)
    return made


@pytest.fixture
def parts() -> Parts:
    return Parts(label_page, lab_page)


@pytest.fixture
def make_client(
    store: LabelStore, accounts: Accounts, parts: Parts
) -> Iterator[Callable[..., TestClient]]:
    """Return a function that makes a browser on an app of the given settings.

    The browser sends its page's origin along, as browsers do with everything but GET and HEAD, and
    does not follow redirects. With ``gradio=False`` the app is without Gradio's pages: they take a
    second.
    """
    del accounts
    with ExitStack() as stack:

        def make(
            settings: AppSettings | None = None,
            base_url: str = HERE,
            with_parts: Parts | None = None,
            gradio: bool = True,
            **options: object,
        ) -> TestClient:
            app = create_app(store, settings or AppSettings(), with_parts or parts)
            client = TestClient(
                app,
                base_url=base_url,
                headers={"origin": base_url},
                follow_redirects=False,
                raise_server_exceptions=False,
                **options,
            )
            if not gradio:
                return client
            stack.enter_context(client)
            # Filters of warnings are the process's, and pytest sets them anew for the test itself.
            client.portal.call(app.state.pages.opened)
            return client

        yield make


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client()


@pytest.fixture
def sign_in() -> Callable[..., object]:
    """Return a function that signs a browser in."""

    def enter(client: TestClient, name: str, password: str = GOOD, **more: str):
        form = {"name": name, "password": password, **more}
        return client.post("/signin", data=form)

    return enter


@pytest.fixture
def fill(store: LabelStore) -> Callable[..., list[Prompt]]:
    """Return a function that adds prompts with K completions each, and their tasks."""
    return functools.partial(add_tasks, store)


@pytest.fixture
def bob(make_client: Callable[..., TestClient], sign_in: Callable[..., object]) -> Board:
    browser = make_client(gradio=False)
    sign_in(browser, "bob")
    return Board(browser)


@pytest.fixture
def ada(make_client: Callable[..., TestClient], sign_in: Callable[..., object]) -> Board:
    browser = make_client(gradio=False)
    sign_in(browser, "ada")
    return Board(browser)
