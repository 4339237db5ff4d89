"""Check what the page of comparisons sends, field by field, before anything else sees it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.records import Message

COLUMNS, SAMPLES, TOKENS, CURVES = 4, 8, 4096, 24
"""Most models side by side, answers a model, tokens an answer, and curves of one question."""

Name = Annotated[str, Field(min_length=1, max_length=500)]
Choice = Annotated[str, Field(max_length=500)]
"""A model's id, ``own`` for that of each model's run, or nothing."""
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Body(BaseModel):
    """Anything that the page sends: exact types, and no field that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Turn(Body):
    """One turn of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=100_000)]


class _Prompted(Body):
    turns: Annotated[list[Turn], Field(min_length=1, max_length=100, alias="messages")]

    @property
    def messages(self) -> list[Message]:
        """Return the prompt as records hold it."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]


class AskBody(_Prompted):
    """Ask models for answers."""

    models: Annotated[list[Name], Field(min_length=1, max_length=COLUMNS)]
    reference: Choice = ""
    reward: Choice = ""
    temperature: Annotated[Finite, Field(le=100)]
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    top_p: Finite = 1.0
    max_new_tokens: Annotated[int, Field(ge=1, le=TOKENS)]
    samples: Annotated[int, Field(ge=1, le=SAMPLES)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class LookBody(_Prompted):
    """Ask a model what it would say next."""

    model: Name
    prefix: Annotated[list[TokenId], Field(max_length=TOKENS)]
    chosen: TokenId | None = None
    reference: Choice = ""
    top: Annotated[int, Field(ge=1, le=100)] = 12


class SaveBody(_Prompted):
    """Save a prompt in the regression set."""


class Curve(Body):
    """A stage whose figures are drawn, and what the page has of them already."""

    run: Name
    stage: Name
    cursor: Annotated[str, Field(max_length=60)] = ""


class CurvesBody(Body):
    """Ask for what stages have logged since."""

    curves: Annotated[list[Curve], Field(max_length=CURVES)]
