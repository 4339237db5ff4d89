from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import OperationalError

from pipeline.errors import StoreError
from pipeline.records import Prompt
from pipeline.store import LabelStore
from pipeline.store.connect import SCHEMA, alembic_config, connect


def test_the_schema_is_the_newest_migrations(path: Path) -> None:
    engine = connect(path, create=True)
    with engine.connect() as connection:
        script = ScriptDirectory.from_config(alembic_config(connection))
    engine.dispose()
    assert script.get_current_head() == SCHEMA


def test_a_store_that_is_up_to_date_is_opened_without_alembic(path: Path, blank: Path) -> None:
    path.write_bytes(blank.read_bytes())
    code = (
        "import json, sys\n"
        "from pipeline.store import LabelStore\n"
        "LabelStore.open(sys.argv[1], create=False).close()\n"
        "print(json.dumps('alembic' in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) is False


def add_prompt(store: LabelStore) -> None:
    """Add more than fits on the pages that the file has."""
    store.add_prompts([Prompt.from_text("x" * 100_000)])


@pytest.mark.parametrize(
    ("pragma", "reason"),
    [
        ("query_only = 1", "attempt to write a readonly database"),
        ("max_page_count = 1", "database or disk is full"),
    ],
)
def test_a_store_that_fails_as_it_is_used_is_one_line(
    pragma: str, reason: str, path: Path, blank: Path
) -> None:
    path.write_bytes(blank.read_bytes())
    opened = LabelStore.open(path)
    event.listen(
        opened._engine, "checkout", lambda dbapi, *_: dbapi.execute(f"PRAGMA {pragma}").close()
    )
    with pytest.raises(StoreError, match=reason) as caught, opened as store:
        add_prompt(store)
    assert str(caught.value).startswith(f"Label store {path} could not be used (")
    assert "\n" not in str(caught.value)
    with LabelStore.open(path) as store:
        assert store.prompts() == []
        add_prompt(store)


def query(store: LabelStore, statement: str) -> None:
    with store.reading() as session:
        session.execute(text(statement))


def test_a_wrong_statement_is_a_fault_of_ours(path: Path) -> None:
    with pytest.raises(OperationalError, match="no such table"), LabelStore.open(path) as store:
        query(store, "SELECT 1 FROM missing")


def test_patience_with_postgresql_is_what_its_url_says_else_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    psycopg = pytest.importorskip("psycopg")
    asked: list[dict[str, object]] = []

    def note(*_: object, **arguments: object) -> None:
        asked.append(arguments)
        raise psycopg.OperationalError("noted")

    monkeypatch.setattr(psycopg, "connect", note)
    url = make_url("postgresql+psycopg://ada@db.example/labels")
    for address in (url, url.update_query_dict({"connect_timeout": "3"})):
        with pytest.raises(StoreError, match="noted"):
            connect(address.render_as_string(hide_password=False), create=False)
    assert [int(str(item["connect_timeout"])) for item in asked] == [10, 3]
    assert [item["tcp_user_timeout"] for item in asked] == [25_000] * 2
