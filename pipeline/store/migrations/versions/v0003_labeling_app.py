"""Make room for the labeling app: accounts, drafts, demonstrations, and the lead's decisions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TIMESTAMP = sa.DateTime(timezone=True)
APPEND_ONLY = "demonstrations"


def upgrade() -> None:
    """Add columns to the tables of work, and the app's own tables."""
    _widen_work()
    _create_demonstrations()
    _create_accounts()
    _create_desk()
    _create_oversight()
    _keep_append_only(APPEND_ONLY)


def _widen_work() -> None:
    op.add_column(
        "labelers", sa.Column("admitted", sa.Boolean(), server_default=sa.true(), nullable=False)
    )
    op.add_column("labelers", sa.Column("kinds", sa.JSON(), nullable=True))
    op.add_column(
        "tasks", sa.Column("purpose", sa.String(16), server_default="work", nullable=False)
    )
    op.add_column(
        "tasks", sa.Column("held_out_overlap", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column("tasks", sa.Column("turn", sa.Integer(), server_default="0", nullable=False))
    op.add_column("tasks", sa.Column("selection", sa.JSON(), nullable=True))
    op.drop_index(op.f("ix_tasks_open_tasks_id"), "tasks")
    op.create_index(op.f("ix_tasks_open_tasks_turn_tasks_id"), "tasks", ["open", "turn", "id"])
    op.create_index(op.f("ix_tasks_purpose_tasks_id"), "tasks", ["purpose", "id"])
    op.add_column("tasks", sa.Column("repeats", sa.String(16), nullable=True))
    op.add_column("tasks", sa.Column("reserved_for", sa.Integer(), nullable=True))
    op.add_column(
        "judgments", sa.Column("prompt_flags", sa.JSON(), server_default="{}", nullable=False)
    )
    op.add_column(
        "judgments",
        sa.Column("none_acceptable", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.add_column("judgments", sa.Column("instructions", sa.Integer(), nullable=True))
    op.add_column("judgments", sa.Column("interface", sa.String(32), nullable=True))


def _create_demonstrations() -> None:
    op.create_table(
        "demonstrations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("assignment_id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.String(200), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("prompt_flags", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("instructions", sa.Integer(), nullable=True),
        sa.Column("interface", sa.String(32), nullable=True),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("active_seconds", sa.Double(), nullable=True),
        sa.Column("created", TIMESTAMP, nullable=False),
        _refer("demonstrations", "assignment_id", "assignments"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_demonstrations")),
        sa.UniqueConstraint(
            "assignment_id", "revision", name=op.f("uq_demonstrations_assignment_id_revision")
        ),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_demonstrations_idempotency_key")),
    )


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("one_time", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("disabled", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("labeler_id", sa.Integer(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        _refer("accounts", "labeler_id", "labelers"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("name", name=op.f("uq_accounts_name")),
        sa.UniqueConstraint("labeler_id", name=op.f("uq_accounts_labeler_id")),
    )
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        sa.Column("expires", TIMESTAMP, nullable=False),
        _refer("sessions", "account_id", "accounts"),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_account_id"), "sessions", ["account_id"])
    op.create_table(
        "invitations",
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("labeler_group", sa.String(16), nullable=False),
        sa.Column("admitted", sa.Boolean(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        sa.Column("expires", TIMESTAMP, nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=True),
        _refer("invitations", "account_id", "accounts"),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_invitations")),
    )
    op.create_table(
        "sign_in_attempts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("at", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sign_in_attempts")),
    )
    op.create_index(
        op.f("ix_sign_in_attempts_key_sign_in_attempts_at"), "sign_in_attempts", ["key", "at"]
    )


def _create_desk() -> None:
    op.create_table(
        "drafts",
        sa.Column("assignment_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("saved", TIMESTAMP, nullable=False),
        _refer("drafts", "assignment_id", "assignments"),
        sa.PrimaryKeyConstraint("assignment_id", name=op.f("pk_drafts")),
    )
    op.create_table(
        "skips",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("assignment_id", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        _refer("skips", "assignment_id", "assignments"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_skips")),
    )
    op.create_index(op.f("ix_skips_assignment_id"), "skips", ["assignment_id"])
    op.create_table(
        "prompt_reports",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.String(16), nullable=False),
        sa.Column("labeler_id", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("resolved", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        _refer("prompt_reports", "prompt_id", "prompts"),
        _refer("prompt_reports", "labeler_id", "labelers"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompt_reports")),
    )
    op.create_index(op.f("ix_prompt_reports_prompt_id"), "prompt_reports", ["prompt_id"])
    op.create_table(
        "instructions",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("author", sa.String(200), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_instructions")),
    )


def _create_oversight() -> None:
    op.create_table(
        "gold_answers",
        sa.Column("task_id", sa.String(16), nullable=False),
        sa.Column("ranks", sa.JSON(), nullable=False),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(200), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        _refer("gold_answers", "task_id", "tasks"),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_gold_answers")),
    )
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("demonstration_id", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("score", sa.Integer(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        _refer("reviews", "demonstration_id", "demonstrations"),
        _refer("reviews", "account_id", "accounts"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
    )
    op.create_index(op.f("ix_reviews_demonstration_id"), "reviews", ["demonstration_id"])
    op.create_table(
        "adjudications",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.String(16), nullable=False),
        sa.Column("account_id", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("ranks", sa.JSON(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        _refer("adjudications", "task_id", "tasks"),
        _refer("adjudications", "account_id", "accounts"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_adjudications")),
    )
    op.create_index(op.f("ix_adjudications_task_id"), "adjudications", ["task_id"])
    op.create_table(
        "exclusions",
        sa.Column("labeler_id", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("author", sa.String(200), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        _refer("exclusions", "labeler_id", "labelers"),
        sa.PrimaryKeyConstraint("labeler_id", name=op.f("pk_exclusions")),
    )
    op.create_table(
        "snapshots",
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("labelers", sa.JSON(), nullable=False),
        sa.Column("judgments", sa.Integer(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_snapshots")),
    )
    op.create_table(
        "scores",
        sa.Column("completion_id", sa.String(16), nullable=False),
        sa.Column("checkpoint", sa.String(64), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("created", TIMESTAMP, nullable=False),
        _refer("scores", "completion_id", "completions"),
        sa.PrimaryKeyConstraint("completion_id", "checkpoint", name=op.f("pk_scores")),
    )


def _refer(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}_{to}")
    return sa.ForeignKeyConstraint([column], [f"{to}.id"], name=name)


def _keep_append_only(table: str) -> None:
    """Refuse changes of rows, as the first revision does for judgments."""
    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END"
            )
    elif op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"CREATE FUNCTION {table}_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{table} are append-only'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {table}_refuse_change()"
        )
