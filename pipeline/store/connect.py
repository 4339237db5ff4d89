"""Open the label store's database and bring its tables to the current schema.

SQLite by default, set up so that an acknowledged judgment survives a power cut and concurrent
writers wait instead of failing: WAL, ``synchronous=FULL``, and ``BEGIN IMMEDIATE`` for every
transaction that writes (a deferred BEGIN reads first and then fails with *database is locked*
under contention). WAL needs a local disk. Other databases come by SQLAlchemy URL.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from pipeline.errors import StoreError

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_SECONDS = 30.0
RETRY_SECONDS = 0.02
SCHEMA = "0003"
"""The newest migration's revision. A store that has it needs none, and alembic is not imported."""
MIGRATIONS = Path(__file__).parent / "migrations"
# Named apart from alembic's default, so that the store can share a database with another
# application.
VERSION_TABLE = "label_store_version"
# Any constant: the key under which concurrent openers of a PostgreSQL store take turns to migrate.
MIGRATION_LOCK = 7_261_145
# A server that is out of reach is noticed within half a minute, where TCP alone takes hours; what
# the URL says stands. https://www.postgresql.org/docs/current/libpq-connect.html
PATIENCE: dict[str, Mapping[str, int]] = {
    driver: {
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,
    }
    for driver in ("psycopg", "psycopg2")
}


def connect(url_or_path: str | Path, *, create: bool) -> Engine:
    """Return an engine on a label store of the current schema.

    Args:
        url_or_path: a SQLAlchemy URL, or the path of a SQLite file.
        create: whether to make a store where there is none.

    Raises:
        StoreError: if there is no store and ``create`` is False, the database cannot be reached, is
            something else than a label store, or was written by a newer version.
    """
    url = _parse_url(url_or_path)
    shown = _show(url)
    if _is_sqlite_file(url):
        path = Path(str(url.database))
        if not create and not path.is_file():
            raise _no_store(shown)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"Label store {shown} cannot be made ({error.strerror}). Name another path."
            ) from error
    try:
        patience = PATIENCE.get(url.get_driver_name(), {})
        arguments = {name: value for name, value in patience.items() if name not in url.query}
        # Errors name no parameters: those are the labels, and errors are logged.
        engine = create_engine(url, hide_parameters=True, connect_args=arguments)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise StoreError(f"Label store {shown} needs a database driver: {error}.") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        _migrate(for_writing(engine), shown, create=create)
    except DBAPIError as error:
        engine.dispose()
        raise StoreError(
            f"Label store {shown} cannot be opened ({_reason(error)}). Check the path or URL."
        ) from error
    except StoreError:
        engine.dispose()
        raise
    return engine


def for_writing(engine: Engine) -> Engine:
    """Return the engine, on the same pool, whose transactions take SQLite's write lock at BEGIN."""
    return engine.execution_options(begin_immediate=True)


def explain_outage(engine: Engine, error: OperationalError) -> StoreError | None:
    """Return what to tell of a database that failed as it was used; None for a fault of ours."""
    if getattr(error.orig, "sqlite_errorname", None) == "SQLITE_ERROR":
        return None
    return StoreError(
        f"Label store {_show(engine.url)} could not be used ({_reason(error)}). What was being "
        "written is not in it: mend that, and run the same command again."
    )


def for_one_moment(engine: Engine) -> Engine:
    """Return the engine, on the same pool, whose transactions see the store as it is at one moment.

    SQLite's do by themselves; elsewhere each statement would see what others have just stored.
    """
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ")


def alembic_config(connection: Connection) -> Config:
    """Return alembic's configuration for migrations that run on this connection."""
    # Not at the top: a store that is up to date needs no migrations.
    from alembic.config import Config

    config = Config()
    # Alembic reads the option through configparser, where a percent sign starts an interpolation.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _parse_url(url_or_path: str | Path) -> URL:
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        return URL.create("sqlite", database=str(url_or_path))
    try:
        return make_url(url_or_path)
    except (ArgumentError, ValueError) as error:
        # The text itself may hold a password and is not repeated.
        raise StoreError(
            "The label store's URL must have the form 'dialect://user@host/database'. Mend it."
        ) from error


def _show(url: URL) -> str:
    """Return what a message calls a store."""
    return str(url.database) if _is_sqlite_file(url) else url.render_as_string(hide_password=True)


def _reason(error: DBAPIError) -> str:
    return (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]


def _is_sqlite_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")


def _no_store(shown: str) -> StoreError:
    return StoreError(f"No label store in {shown}. Run 'steerline sample' first.")


def _set_up_sqlite(connection: Any, record: object) -> None:
    del record
    # The driver must not begin transactions by itself: _begin_sqlite does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    """Switch to WAL, which SQLite refuses at once, whatever the timeout, while others open."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("begin_immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _migrate(engine: Engine, shown: str, *, create: bool) -> None:
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        tables = set(inspect(connection).get_table_names())
        if VERSION_TABLE not in tables:
            if not create:
                raise _no_store(shown)
            if connection.dialect.name == "sqlite" and tables:
                raise StoreError(
                    f"{shown} must be a label store, got a database with other tables. "
                    "Name another path."
                )
        else:
            revision = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
            if revision == SCHEMA:
                return
            if revision not in _revisions(connection):
                raise StoreError(
                    f"Label store {shown} has schema {revision!r} of a newer version. "
                    "Update Steerline."
                )
        _upgrade(connection)


def _revisions(connection: Connection) -> set[str]:
    """Return every schema that there has been."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(alembic_config(connection))
    return {known.revision for known in script.walk_revisions()}


def _upgrade(connection: Connection) -> None:
    from alembic import command

    command.upgrade(alembic_config(connection), "head")
