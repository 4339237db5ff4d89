"""Declare the tables of the label store.

Prompts, completions, provenances and tasks are named by the hash of their content, so that adding
one twice adds it once, and the same content has the same id in every store. The tables are created
by the migrations, never by ``metadata.create_all``; a test holds the two equal. This module has
what is judged and the judgments; ``schema_app`` has what the labeling app adds around them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    true,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

# Batch migrations on SQLite can alter only constraints that have names.
NAMING = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """Store aware timestamps in UTC; SQLite itself keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC on the way in."""
        del dialect
        assert value is None or value.tzinfo is not None, f"timestamp without a zone: {value}"
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Name the zone on the way out."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Hold the metadata of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads a plain class attribute
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        dict[str, int]: JSON,
        dict[str, bool]: JSON,
        dict[str, dict[str, bool]]: JSON,
        list[str]: JSON,
        list[dict[str, str]]: JSON,
    }


class PromptRow(Base):
    """A conversation to answer; the split is the prompt's, so that no prompt crosses splits."""

    __tablename__ = "prompts"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    messages: Mapped[list[dict[str, str]]]
    use_case: Mapped[str | None] = mapped_column(Text)
    meta: Mapped[dict[str, Any]]
    split: Mapped[str] = mapped_column(String(16), index=True)
    created: Mapped[datetime]


class CompletionRow(Base):
    """A distinct answer to a prompt; equal answers are one row with several sources."""

    __tablename__ = "completions"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    prompt_id: Mapped[str] = mapped_column(ForeignKey("prompts.id"), index=True)
    text: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime]

    sources: Mapped[list[SourceRow]] = relationship(order_by="SourceRow.id")


class SourceRow(Base):
    """One way in which a completion came about."""

    __tablename__ = "completion_sources"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    completion_id: Mapped[str] = mapped_column(ForeignKey("completions.id"), index=True)
    stage: Mapped[str] = mapped_column(Text)
    checkpoint: Mapped[str | None] = mapped_column(Text)
    model: Mapped[str | None] = mapped_column(Text)
    sampling: Mapped[dict[str, Any]]
    seed: Mapped[int | None] = mapped_column(BigInteger)
    sample_index: Mapped[int | None]
    finish_reason: Mapped[str | None] = mapped_column(String(16))
    created: Mapped[datetime]


class LabelerRow(Base):
    """Who judges, by pseudonym.

    Until ``admitted``, a labeler gets screening tasks only. ``kinds`` are the kinds of task that
    they may be given, None for all.
    """

    __tablename__ = "labelers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    group: Mapped[str] = mapped_column("labeler_group", String(16))
    admitted: Mapped[bool] = mapped_column(server_default=true())
    kinds: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    created: Mapped[datetime]


class TaskRow(Base):
    """Work on one prompt, to be done by ``overlap`` different labelers of the train group.

    Held-out labelers come on top, ``held_out_overlap`` of them. ``kind`` is ``ranking`` (K
    completions), ``comparison`` (two, for win rates) or ``demonstration`` (none: an answer is
    written). ``purpose`` is ``work``, or one that never reaches training: ``screening`` and
    ``gold`` have a known answer and are given to every labeler in turn; ``repeat`` shows a labeler
    (``reserved_for``) once more what they have judged (``repeats``), to see whether they agree with
    themselves. Tasks of a lower ``turn`` go first. ``selection`` says how an active selection came
    to the task, with its propensity.

    ``open`` is True while fewer are done; only ``catalog.mark_open`` writes it.
    """

    __tablename__ = "tasks"
    __table_args__ = (Index(None, "open", "turn", "id"), Index(None, "purpose", "id"))

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    prompt_id: Mapped[str] = mapped_column(ForeignKey("prompts.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    purpose: Mapped[str] = mapped_column(String(16), server_default="work")
    overlap: Mapped[int]
    held_out_overlap: Mapped[int] = mapped_column(server_default="0")
    turn: Mapped[int] = mapped_column(server_default="0")
    selection: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    repeats: Mapped[str | None] = mapped_column(String(16))
    reserved_for: Mapped[int | None]
    open: Mapped[bool] = mapped_column(server_default=true())
    created: Mapped[datetime]

    prompt: Mapped[PromptRow] = relationship()
    completions: Mapped[list[CompletionRow]] = relationship(
        secondary="task_completions", order_by="CompletionRow.id"
    )


class TaskCompletionRow(Base):
    """Which completions a task compares."""

    __tablename__ = "task_completions"

    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    completion_id: Mapped[str] = mapped_column(ForeignKey("completions.id"), primary_key=True)


class AssignmentRow(Base):
    """A labeler's hold on a task.

    ``state`` is ``leased``, ``done`` or ``skipped``; a lease whose ``lease_expires`` has passed
    counts as returned, so that nothing has to run for it to expire. ``presented`` is the order the
    labeler sees.
    """

    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("task_id", "labeler_id"),
        Index(None, "labeler_id", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"))
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labelers.id"))
    state: Mapped[str] = mapped_column(String(16))
    token: Mapped[str] = mapped_column(String(64), unique=True)
    lease_expires: Mapped[datetime]
    presented: Mapped[list[str]]
    created: Mapped[datetime]

    task: Mapped[TaskRow] = relationship()
    labeler: Mapped[LabelerRow] = relationship()
    judgments: Mapped[list[JudgmentRow]] = relationship(
        order_by="JudgmentRow.revision", back_populates="assignment"
    )
    demonstrations: Mapped[list[DemonstrationRow]] = relationship(
        order_by="DemonstrationRow.revision", back_populates="assignment"
    )


class JudgmentRow(Base):
    """One submitted judgment. Rows are only ever added: an edit is a further revision.

    Database triggers of the migrations refuse UPDATE and DELETE. The mappings have completion ids
    as keys. ``simulated`` is copied from the labeler's kind, so that the row itself says it.
    ``instructions`` and ``interface`` are the versions that the labeler worked with.
    """

    __tablename__ = "judgments"
    __table_args__ = (UniqueConstraint("assignment_id", "revision"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignments.id"))
    revision: Mapped[int]
    idempotency_key: Mapped[str] = mapped_column(String(200), unique=True)
    ranks: Mapped[dict[str, int]]
    ratings: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    flags: Mapped[dict[str, dict[str, bool]]]
    comment: Mapped[str] = mapped_column(Text)
    prompt_flags: Mapped[dict[str, bool]] = mapped_column(server_default="{}")
    none_acceptable: Mapped[bool] = mapped_column(server_default=false())
    instructions: Mapped[int | None]
    interface: Mapped[str | None] = mapped_column(String(32))
    simulated: Mapped[bool]
    active_seconds: Mapped[float | None]
    created: Mapped[datetime]

    assignment: Mapped[AssignmentRow] = relationship(back_populates="judgments")


class DemonstrationRow(Base):
    """An answer that a labeler wrote. Append-only like judgments: an edit is a revision."""

    __tablename__ = "demonstrations"
    __table_args__ = (UniqueConstraint("assignment_id", "revision"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignments.id"))
    revision: Mapped[int]
    idempotency_key: Mapped[str] = mapped_column(String(200), unique=True)
    text: Mapped[str] = mapped_column(Text)
    comment: Mapped[str] = mapped_column(Text)
    prompt_flags: Mapped[dict[str, bool]] = mapped_column(server_default="{}")
    instructions: Mapped[int | None]
    interface: Mapped[str | None] = mapped_column(String(32))
    simulated: Mapped[bool]
    active_seconds: Mapped[float | None]
    created: Mapped[datetime]

    assignment: Mapped[AssignmentRow] = relationship(back_populates="demonstrations")
