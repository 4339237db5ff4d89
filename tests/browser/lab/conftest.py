"""The lead's page over labels of its own, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import BrowserContext

from tests.browser.lab.labels import write_labels
from tests.browser.lab.page import LabPage
from tests.browser.running import Person, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve labels of three days; tests add to them."""
    path = tmp_path_factory.mktemp("lab") / "labels.db"
    write_labels(path)
    running = Server(path)
    running.start()
    yield running
    running.kill()
    running.store.close()


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Leave the tasks as they are: leads look at all of them."""


@pytest.fixture(scope="session")
def lead_account(server: Server) -> Person:
    return server.add_person("lead")


@pytest.fixture
def lead(
    new_context: Callable[..., BrowserContext], server: Server, lead_account: Person
) -> LabPage:
    """Return the page of a lead who has signed in."""
    lab = LabPage(new_context().new_page(), server)
    lab.sign_in(lead_account)
    return lab
