"""Create the label store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIMESTAMP = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create all tables, and triggers that keep judgments append-only."""
    _create_content()
    _create_work()
    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER judgments_no_{action.lower()} BEFORE {action} ON judgments "
                "BEGIN SELECT RAISE(ABORT, 'judgments are append-only'); END"
            )
    elif op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION judgments_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'judgments are append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER judgments_append_only BEFORE UPDATE OR DELETE ON judgments "
            "FOR EACH ROW EXECUTE FUNCTION judgments_refuse_change()"
        )


def _create_content() -> None:
    op.create_table(
        "prompts",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("use_case", sa.Text(), nullable=True),
        sa.Column("meta", sa.JSON(), nullable=False),
        sa.Column("split", sa.String(16), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompts")),
    )
    op.create_index(op.f("ix_prompts_split"), "prompts", ["split"])
    op.create_table(
        "completions",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("prompt_id", sa.String(16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name=op.f("fk_completions_prompt_id_prompts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completions")),
    )
    op.create_index(op.f("ix_completions_prompt_id"), "completions", ["prompt_id"])
    op.create_table(
        "completion_sources",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("completion_id", sa.String(16), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("sampling", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("sample_index", sa.Integer(), nullable=True),
        sa.Column("finish_reason", sa.String(16), nullable=True),
        sa.Column("created", TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(
            ["completion_id"],
            ["completions.id"],
            name=op.f("fk_completion_sources_completion_id_completions"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completion_sources")),
    )
    op.create_index(
        op.f("ix_completion_sources_completion_id"), "completion_sources", ["completion_id"]
    )


def _create_work() -> None:
    op.create_table(
        "labelers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("labeler_group", sa.String(16), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_labelers")),
        sa.UniqueConstraint("name", name=op.f("uq_labelers_name")),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("prompt_id", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name=op.f("fk_tasks_prompt_id_prompts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    op.create_index(op.f("ix_tasks_prompt_id"), "tasks", ["prompt_id"])
    op.create_table(
        "task_completions",
        sa.Column("task_id", sa.String(16), nullable=False),
        sa.Column("completion_id", sa.String(16), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_task_completions_task_id_tasks")
        ),
        sa.ForeignKeyConstraint(
            ["completion_id"],
            ["completions.id"],
            name=op.f("fk_task_completions_completion_id_completions"),
        ),
        sa.PrimaryKeyConstraint("task_id", "completion_id", name=op.f("pk_task_completions")),
    )
    op.create_table(
        "assignments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.String(16), nullable=False),
        sa.Column("labeler_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("lease_expires", TIMESTAMP, nullable=False),
        sa.Column("presented", sa.JSON(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_assignments_task_id_tasks")
        ),
        sa.ForeignKeyConstraint(
            ["labeler_id"], ["labelers.id"], name=op.f("fk_assignments_labeler_id_labelers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignments")),
        sa.UniqueConstraint(
            "task_id", "labeler_id", name=op.f("uq_assignments_task_id_labeler_id")
        ),
        sa.UniqueConstraint("token", name=op.f("uq_assignments_token")),
    )
    op.create_index(
        op.f("ix_assignments_labeler_id_assignments_state"), "assignments", ["labeler_id", "state"]
    )
    op.create_table(
        "judgments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("assignment_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.String(200), nullable=False),
        sa.Column("ranks", sa.JSON(), nullable=False),
        sa.Column("ratings", sa.JSON(), nullable=True),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("active_seconds", sa.Double(), nullable=True),
        sa.Column("created", TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(
            ["assignment_id"],
            ["assignments.id"],
            name=op.f("fk_judgments_assignment_id_assignments"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judgments")),
        sa.UniqueConstraint(
            "assignment_id", "revision", name=op.f("uq_judgments_assignment_id_revision")
        ),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_judgments_idempotency_key")),
    )
