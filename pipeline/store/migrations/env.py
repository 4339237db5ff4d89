"""Run migrations on the connection that ``pipeline.store.connect`` hands over."""

from __future__ import annotations

from alembic import context

from pipeline.store.connect import VERSION_TABLE
from pipeline.store.schema_app import AccountRow


def run() -> None:
    """Configure alembic with the open connection and run what it was asked to."""
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        # One metadata for all tables; the app's module imports the other.
        target_metadata=AccountRow.metadata,
        version_table=VERSION_TABLE,
        # SQLite alters a table only by copying it.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


# The name under which alembic executes this file; an ordinary import has no effect.
if __name__ == "env_py":
    run()
