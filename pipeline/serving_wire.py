"""Write the messages of ``pipeline.serving_messages`` as JSON lines, and read them back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.sampling import DecodingSection
from pipeline.serving_messages import (
    Candidate,
    Distribution,
    DistributionRequest,
    Failed,
    Finished,
    GenerationRequest,
    LoadedModel,
    Loading,
    Notice,
    Queued,
    ServingSettings,
    Token,
)


@dataclass(frozen=True)
class ListModels:
    """Ask which models are held."""


@dataclass(frozen=True)
class Models:
    """Say which models are held, the most recently used first."""

    models: tuple[LoadedModel, ...]


@dataclass(frozen=True)
class Cancel:
    """Ask to leave a request; nothing is said of it any more."""


@dataclass(frozen=True)
class Done:
    """Say that a request is answered in full."""


KINDS: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        *(ServingSettings, GenerationRequest, DistributionRequest, ListModels, Cancel),
        *(Queued, Loading, Notice, Token, Finished, Failed, Distribution, Models, Done),
    )
}


def write_line(number: int, message: Any) -> bytes:
    """Return a message about request ``number`` as one line."""
    tree = {"request": number, "type": type(message).__name__, **dataclasses.asdict(message)}
    return json.dumps(tree, default=str).encode() + b"\n"


def read_line(line: bytes) -> tuple[int, Any]:
    """Return the number of the request and the message of a line."""
    tree = json.loads(line)
    number: int = tree.pop("request")
    kind = KINDS[tree.pop("type")]
    return number, kind(**{name: _revive(name, value) for name, value in tree.items()})


def _revive(name: str, value: Any) -> Any:
    """Return what a field held before it was written; names mean the same in all messages."""
    match name, value:
        case "decoding", dict():
            return DecodingSection(**value)
        case "models", list():
            return tuple(LoadedModel(**model) for model in value)
        case "chosen", dict():
            return Candidate(**value)
        case "tokens", list():
            return tuple(Candidate(**token) for token in value)
        case _, list():
            return tuple(value)
        case _:
            return value
