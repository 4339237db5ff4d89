"""Declare the tables of the labeling app: accounts, drafts, and the lead's decisions.

Passwords are kept as salted scrypt hashes; the tokens of sessions and invitations as SHA-256, so
that a copy of the database lets nobody in.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, Text, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from pipeline.store.schema import Base, LabelerRow


class AccountRow(Base):
    """Who may sign in. A ``lead`` may label too, so every account has its labeler.

    ``one_time`` marks a password that was printed for somebody: it must be changed at the first
    sign-in.
    """

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    password: Mapped[str] = mapped_column(Text)
    one_time: Mapped[bool] = mapped_column(server_default=false())
    disabled: Mapped[bool] = mapped_column(server_default=false())
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labelers.id"), unique=True)
    created: Mapped[datetime]

    labeler: Mapped[LabelerRow] = relationship()


class SessionRow(Base):
    """One sign-in, until it expires, the account is disabled, or its password changes."""

    __tablename__ = "sessions"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)
    created: Mapped[datetime]
    expires: Mapped[datetime]

    account: Mapped[AccountRow] = relationship()


class InvitationRow(Base):
    """A link with which one person makes one account of the given role and group."""

    __tablename__ = "invitations"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    group: Mapped[str] = mapped_column("labeler_group", String(16))
    admitted: Mapped[bool]
    created: Mapped[datetime]
    expires: Mapped[datetime]
    account_id: Mapped[int | None] = mapped_column(ForeignKey("accounts.id"))


class SignInAttemptRow(Base):
    """A failed sign-in, by account name and by address, so that guessing slows down."""

    __tablename__ = "sign_in_attempts"
    __table_args__ = (Index(None, "key", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime]


class DraftRow(Base):
    """What a page has of an assignment that is not submitted, the newest version only."""

    __tablename__ = "drafts"

    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignments.id"), primary_key=True)
    version: Mapped[int]
    content: Mapped[dict[str, Any]]
    saved: Mapped[datetime]


class SkipRow(Base):
    """Why a labeler passed over a task. Rows are only ever added."""

    __tablename__ = "skips"

    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignments.id"), index=True)
    reason: Mapped[str] = mapped_column(String(32))
    comment: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime]


class PromptReportRow(Base):
    """A labeler's remark that a prompt should not be labeled as it is."""

    __tablename__ = "prompt_reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[str] = mapped_column(ForeignKey("prompts.id"), index=True)
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labelers.id"))
    reason: Mapped[str] = mapped_column(Text)
    resolved: Mapped[bool] = mapped_column(server_default=false())
    created: Mapped[datetime]


class InstructionsRow(Base):
    """One version of what labelers are told; judgments name the version they were made under."""

    __tablename__ = "instructions"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(String(200))
    created: Mapped[datetime]


class GoldRow(Base):
    """The known answer of a screening or gold task, by completion id."""

    __tablename__ = "gold_answers"

    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    ranks: Mapped[dict[str, int]]
    flags: Mapped[dict[str, dict[str, bool]]]
    author: Mapped[str] = mapped_column(String(200))
    created: Mapped[datetime]


class ReviewRow(Base):
    """A lead's verdict on a demonstration: ``accepted``, ``rejected`` or ``returned``."""

    __tablename__ = "reviews"

    id: Mapped[int] = mapped_column(primary_key=True)
    demonstration_id: Mapped[int] = mapped_column(ForeignKey("demonstrations.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    verdict: Mapped[str] = mapped_column(String(16))
    score: Mapped[int | None]
    comment: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime]


class AdjudicationRow(Base):
    """A lead's decision on a task whose judgments disagree; the newest of a task counts.

    ``verdict`` is ``kept`` (the judgments stand), ``replaced`` (``ranks`` stand in their place) or
    ``dropped`` (none reaches training).
    """

    __tablename__ = "adjudications"

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    verdict: Mapped[str] = mapped_column(String(16))
    ranks: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    comment: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime]


class ExclusionRow(Base):
    """A labeler whose judgments were taken out of everything that is read for training."""

    __tablename__ = "exclusions"

    labeler_id: Mapped[int] = mapped_column(ForeignKey("labelers.id"), primary_key=True)
    reason: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(String(200))
    created: Mapped[datetime]


class SnapshotRow(Base):
    """Which labelers stood behind a set of judgments that a model was trained on, by its hash."""

    __tablename__ = "snapshots"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    labelers: Mapped[list[str]]
    judgments: Mapped[int]
    created: Mapped[datetime]


class ScoreRow(Base):
    """A reward model's score of a completion, for selection and for the lead; never for labelers.

    Scores are the centred ones (the model's offset is subtracted).
    """

    __tablename__ = "scores"

    completion_id: Mapped[str] = mapped_column(ForeignKey("completions.id"), primary_key=True)
    checkpoint: Mapped[str] = mapped_column(String(64), primary_key=True)
    stage: Mapped[str] = mapped_column(Text)
    score: Mapped[float]
    created: Mapped[datetime]
