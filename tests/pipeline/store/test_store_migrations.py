from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from pipeline.errors import StoreError
from pipeline.records import Prompt
from pipeline.store import LabelStore, Written
from pipeline.store import connect as opening
from pipeline.store.connect import VERSION_TABLE, alembic_config, connect


def run_sql(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


def downgrade(path: Path, old: Path, revision: str) -> None:
    """Copy a store into one of an earlier schema, without what that schema had no place for."""
    with closing(sqlite3.connect(old)) as connection:
        connection.isolation_level = None
        engine = create_engine("sqlite://", creator=lambda: connection)
        with engine.connect() as migrated:
            command.upgrade(alembic_config(migrated), revision)
        connection.execute("ATTACH ? AS newer", (str(path),))
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            if table != VERSION_TABLE:
                rows = connection.execute(f"SELECT name FROM pragma_table_info('{table}')")
                names = ", ".join(f'"{name}"' for (name,) in rows)
                connection.execute(
                    f"INSERT INTO {table} ({names}) SELECT {names} FROM newer.{table}"
                )


def test_migrated_tables_equal_the_declared_ones(path: Path) -> None:
    engine = connect(path, create=True)
    with engine.connect() as connection:
        command.check(alembic_config(connection))  # raises where autogenerate finds a difference
        connection.exec_driver_sql("DROP INDEX ix_prompts_split")
        with pytest.raises(Exception, match="ix_prompts_split"):
            command.check(alembic_config(connection))
    engine.dispose()


def test_reopening_keeps_everything(path: Path, fill: Callable) -> None:
    with LabelStore.open(path) as store:
        fill(store)
        before = store.counts()
    with LabelStore.open(str(path), create=False) as store:
        assert store.counts() == before
    with LabelStore.open(f"sqlite:///{path}", create=False) as store:
        assert store.counts() == before


def test_connections_are_set_up_to_lose_nothing(path: Path) -> None:
    engine = connect(path, create=True)
    with engine.connect() as connection:
        settings = {
            name: connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    full = 2
    assert settings == {
        "journal_mode": "wal",
        "synchronous": full,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }


def test_several_may_create_a_store_at_once(path: Path) -> None:
    def open_and_count(_: int) -> int:
        with LabelStore.open(path) as store:
            return store.counts()["prompts"]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_and_count, range(4))) == [0, 0, 0, 0]


class LockedCursor:
    """Refuse some statements as SQLite does while others open the same new store."""

    def __init__(self, refusals: int, said: str = "database is locked") -> None:
        self.refusals, self.said, self.done = refusals, said, 0

    def execute(self, _: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise sqlite3.OperationalError(self.said)
        self.done += 1


def test_the_switch_to_write_ahead_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "RETRY_SECONDS", 0.001)
    cursor = LockedCursor(3)
    opening._write_ahead(cursor)
    assert (cursor.refusals, cursor.done) == (0, 1)
    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        opening._write_ahead(LockedCursor(1, "disk I/O error"))
    monkeypatch.setattr(opening, "BUSY_SECONDS", 0.01)
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        opening._write_ahead(LockedCursor(10**9))


def test_a_store_of_a_newer_version_is_left_alone(path: Path) -> None:
    LabelStore.open(path).close()
    run_sql(path, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"schema '9999' of a newer version\. Update") as caught:
        LabelStore.open(path)
    assert "\n" not in str(caught.value)
    assert run_sql(path, f"SELECT version_num FROM {VERSION_TABLE}") == [("9999",)]


def test_a_missing_store_is_named_and_not_made(path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"No label store in .*labels\.db\. Run 'steerline sample'"
    ):
        LabelStore.open(path, create=False)
    assert not path.exists()


def test_an_empty_database_is_no_store(path: Path) -> None:
    path.touch()
    with pytest.raises(StoreError, match="No label store"):
        LabelStore.open(path, create=False)


def test_a_database_of_something_else_is_left_alone(path: Path) -> None:
    run_sql(path, "CREATE TABLE prompts (id TEXT)")
    with pytest.raises(StoreError, match="must be a label store, got a database with other tables"):
        LabelStore.open(path)
    assert run_sql(path, "SELECT name FROM sqlite_master") == [("prompts",)]


def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    path.write_text("a poem, " * 100)
    with pytest.raises(StoreError, match=r"cannot be opened \(file is not a database\)"):
        LabelStore.open(path)
    assert path.read_text() == "a poem, " * 100


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuchdb://host/name", "needs a database driver"),
        ("postgresql://u:secret@host:port/x", "must have the form"),
        ("sqlite:////proc/none/labels.db", "cannot be made"),
    ],
)
def test_a_bad_url_is_one_line_without_its_password(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        LabelStore.open(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("table", ["judgments", "demonstrations"])
@pytest.mark.parametrize("change", ["UPDATE {} SET comment = 'x'", "DELETE FROM {}"])
def test_the_database_itself_keeps_labels_append_only(
    store: LabelStore, fill: Callable, by_text: Callable, table: str, change: str
) -> None:
    fill(store, prompts=1)
    store.add_prompts([Prompt.from_text("Write a haiku.")])
    store.create_demonstration_tasks(1)
    labeler = store.add_labeler("ada")
    for _ in range(2):
        task = store.lease_task(labeler)
        work = by_text(task) if task.completions else Written("Leaves fall.")
        store.submit(task.token, work, task.id)
    before = store.counts(), store.snapshot_hash()
    with pytest.raises(DBAPIError, match="append-only"), store.writing() as session:
        session.execute(text(change.format(table)))
    assert (store.counts(), store.snapshot_hash()) == before


def test_a_store_of_the_first_version_is_brought_up_to_date(
    path: Path, fill: Callable, by_text: Callable
) -> None:
    with LabelStore.open(path) as store:
        fill(store, prompts=2)
        task = store.lease_task(store.add_labeler("ada"))
        store.submit(task.token, by_text(task), "key")
        before, snapshot = store.counts(), store.snapshot_hash()
    old = path.with_name("old.db")
    downgrade(path, old, "0001")
    with LabelStore.open(old) as store:
        assert store.counts() == before
        assert store.snapshot_hash() == snapshot
        assert run_sql(old, f"SELECT open FROM tasks WHERE id = '{task.id}'") == [(0,)]
        other = store.lease_task(store.add_labeler("ben"))
        assert other.id != task.id
