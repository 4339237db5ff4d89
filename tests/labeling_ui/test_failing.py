from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from starlette.testclient import TestClient

from benchmarks.postgres import PostgresMissingError, cluster, find_binaries, start, stop, url_of
from labeling_ui.app import Parts
from pipeline.store import LabelStore
from pipeline.store.connect import connect
from tests.labeling_ui.boards import Board, add_tasks, desk_parts, judgment, submission
from tests.labeling_ui.browsers import PAGE

LONG = "x" * 10_000
"""More than fits on the pages that the database's file has."""


class Disk:
    """A disk under SQLite that can be full or read-only."""

    def __init__(self, engine: Engine) -> None:
        self.state = "writable"
        # SQLite does not make the file smaller than it is.
        event.listen(engine, "checkout", self._tell)

    def _tell(self, connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA query_only = {int(self.state == 'read-only')}")
        connection.execute(f"PRAGMA max_page_count = {1 if self.state == 'full' else 2**30}")


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path, blank: Path) -> Iterator[Engine]:
    """Open an empty store: a file, or a database of a PostgreSQL that may be stopped."""
    if getattr(request, "param", "sqlite") == "postgresql":
        opened = connect(url_of(request.getfixturevalue("postgres"), "labels"), create=True)
    else:
        path = tmp_path / "labels.db"
        path.write_bytes(blank.read_bytes())
        opened = connect(path, create=False)
    yield opened
    opened.dispose()


@pytest.fixture
def disk(engine: Engine) -> Disk:
    return Disk(engine)


@pytest.fixture
def store(engine: Engine, clock: Callable) -> LabelStore:
    return LabelStore(engine, clock)


@pytest.fixture
def parts(store: LabelStore) -> Parts:
    return desk_parts(store)


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_work_that_cannot_be_written_is_not_saved_and_is_once_it_can(
    state: str,
    bob: Board,
    fill: Callable,
    store: LabelStore,
    disk: Disk,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fill()
    task = bob.lease()
    content = {"words": f"my own words {LONG}"}
    draft = {"token": task["token"], "version": 0, "content": content}
    work = submission(task, comment=LONG)
    disk.state = state
    for path, body in (("/draft", draft), ("/submit", work)):
        told = bob.refused(path, body, 503)
        assert told["code"] == "not_saved"
        assert "Nothing was changed" in told["error"]
    assert "could not be used (OperationalError)" in caplog.text
    assert "my own words" not in caplog.text
    assert bob.get()["today"] == 0, "what is there can be read"
    assert bob.get("/history")["done"] == []

    disk.state = "writable"
    assert bob.post("/draft", draft)["version"] == 1
    assert bob.lease()["draft"]["content"] == content
    first = bob.post("/submit", work)
    assert (first["receipt"]["revision"], first["today"]) == (1, 1)
    assert bob.post("/submit", work) == first
    assert store.counts()["judgments_human"] == 1


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_what_was_acknowledged_before_the_disk_was_full_is_acknowledged_again(
    state: str, bob: Board, fill: Callable, disk: Disk
) -> None:
    fill()
    task = bob.lease()
    first = bob.submit(task)
    disk.state = state
    answer = bob.send("/submit", submission(task))
    # Without a place to write, not even the lock for writing is to be had.
    assert answer.status_code == (503 if state == "read-only" else 200)
    disk.state = "writable"
    assert bob.submit(task) == first


def test_a_browser_is_told_on_a_page(
    make_client: Callable[..., TestClient], sign_in: Callable, disk: Disk
) -> None:
    client = make_client(gradio=False)
    disk.state = "read-only"
    answer = client.post("/signin", data={"name": "bob", "password": "x"}, headers=PAGE)
    assert answer.status_code == 503
    assert "<h1>Not saved</h1>" in answer.text
    assert "The label store could not be written." in answer.text
    assert "set-cookie" not in answer.headers
    disk.state = "writable"
    assert sign_in(client, "bob").status_code == 303


@pytest.fixture
def postgres() -> Iterator[Path]:
    """Run a PostgreSQL of the test's own, which it may stop: what it acknowledged must be there."""
    try:
        find_binaries()
    except PostgresMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with cluster(durable=True) as folder:
        admin = create_engine(url_of(folder, "postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE labels")
        admin.dispose()
        yield folder


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_lost_postgresql_is_not_saved_and_comes_back_by_itself(
    bob: Board, store: LabelStore, postgres: Path
) -> None:
    add_tasks(store)
    task = bob.lease()
    draft = {"token": task["token"], "version": 0, "content": {"note": "kept"}}
    work = submission(task)
    stop(postgres)
    try:
        for path, body in (("/draft", draft), ("/submit", work), ("/lease", {})):
            assert bob.refused(path, body, 503)["code"] == "not_saved"
        page = bob.client.get("/label/", headers=PAGE)
        assert (page.status_code, "<h1>Not saved</h1>" in page.text) == (503, True)
    finally:
        start(postgres)
    assert bob.post("/draft", draft)["version"] == 1
    first = bob.post("/submit", work)
    assert bob.post("/submit", work) == first
    assert store.counts()["judgments_human"] == 1
    (done,) = bob.get("/history")["done"]
    assert bob.post("/reopen", {"id": done["id"]})["task"]["submitted"] == judgment(task)
