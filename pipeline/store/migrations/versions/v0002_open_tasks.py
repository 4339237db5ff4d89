"""Mark the tasks that still want labelers, so that a lease need not count through the full ones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add ``tasks.open``, true while fewer labelers are done than the task wants."""
    op.add_column(
        "tasks", sa.Column("open", sa.Boolean(), nullable=False, server_default=sa.true())
    )
    op.execute(
        "UPDATE tasks SET open = (SELECT count(*) FROM assignments WHERE task_id = tasks.id "
        "AND state = 'done') < tasks.overlap"
    )
    op.create_index(op.f("ix_tasks_open_tasks_id"), "tasks", ["open", "id"])
