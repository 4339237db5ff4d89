"""Check what the board sends, field by field, before anything else sees it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Header
from pydantic import AwareDatetime, BaseModel, ConfigDict, Discriminator, Field, Tag

from pipeline.errors import StoreError
from pipeline.records import Message
from pipeline.store.questions import OUTPUT_FLAGS, PROMPT_FLAGS, Question
from pipeline.store.values import Judgment, Written

# Not field names: what is told of an error leaves them out.
KINDS_OF_WORK = ("<ranked>", "<written>")

Token = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=100_000)]
Note = Annotated[str, Field(max_length=10_000)]
Flags = dict[str, bool]
Seconds = Annotated[float, Field(ge=0, le=7 * 24 * 3600, allow_inf_nan=False)]
# Within what every database and time zone can tell.
Instant = Annotated[
    AwareDatetime, Field(ge=datetime(1900, 1, 1, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC))
]
Day = Annotated[Instant | None, Header(alias="Steerline-Day")]
"""When the labeler's own day began, as their browser knows it; None where no page of ours asks."""


class Body(BaseModel):
    """Anything that the board sends: exact types, and no field that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(Body):
    """A request that says nothing."""


class Held(Body):
    """A sign of life from the page that has a task."""

    token: Token


class DraftBody(Body):
    """The page's work so far."""

    token: Token
    version: Annotated[int, Field(ge=0)]
    content: dict[str, Any]


class RankedBody(Body):
    """A ranking or a comparison."""

    ranks: dict[str, int]
    ratings: dict[str, int] | None = None
    flags: dict[str, Flags] = {}
    prompt_flags: Flags = {}
    none_acceptable: bool = False
    comment: Note = ""
    active_seconds: Seconds | None = None


class WrittenBody(Body):
    """A demonstration."""

    text: Text
    comment: Note = ""
    prompt_flags: Flags = {}
    active_seconds: Seconds | None = None


def _kind_of_work(value: object) -> str:
    return KINDS_OF_WORK[isinstance(value, Mapping) and "text" in value]


Work = Annotated[
    Annotated[RankedBody, Tag("<ranked>")] | Annotated[WrittenBody, Tag("<written>")],
    Discriminator(_kind_of_work),
]


class SubmitBody(Body):
    """Finished work; ``instructions`` is 0 where there are none."""

    token: Token
    key: Token
    judgment: Work
    instructions: Annotated[int, Field(ge=0)] | None = None
    interface: Annotated[str, Field(max_length=32)] | None = None


class SkipBody(Body):
    """A task passed over."""

    token: Token
    reason: Note
    comment: Note = ""


class ReportBody(Body):
    """A prompt that should not be labeled as it is."""

    token: Token
    reason: Note


class ReopenBody(Body):
    """Finished work to be edited, by its assignment."""

    id: int


class PracticeBody(Body):
    """A judgment of the practice task."""

    judgment: RankedBody


class Turn(Body):
    """One message of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: Text


class PromptBody(Body):
    """A prompt of the labeler's own with its answer."""

    kind: Note
    messages: Annotated[list[Turn], Field(min_length=1, max_length=50)]
    text: Text
    comment: Note = ""
    key: Token

    def read_messages(self) -> tuple[Message, ...]:
        """Return the prompt's messages."""
        return tuple(Message(role=turn.role, content=turn.content) for turn in self.messages)


def read_work(body: SubmitBody) -> Judgment | Written:
    """Return what was submitted.

    Raises:
        StoreError: if a flag is none of those that are asked.
    """
    work, version = body.judgment, body.instructions or None
    _check_flags("prompt_flags", work.prompt_flags, PROMPT_FLAGS)
    if isinstance(work, WrittenBody):
        return Written(**dict(work), instructions=version, interface=body.interface)
    for flags in work.flags.values():
        _check_flags("flags", flags, OUTPUT_FLAGS)
    return Judgment(**dict(work), instructions=version, interface=body.interface)


def _check_flags(where: str, flags: Mapping[str, bool], asked: tuple[Question, ...]) -> None:
    unknown = set(flags) - {question.name for question in asked}
    if unknown:
        raise StoreError(
            f"judgment.{where} must name what is asked, got {sorted(unknown)[0][:40]!r}. "
            "Reload the page."
        )
