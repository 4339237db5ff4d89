"""Define the records that stages exchange, and read and write them as JSONL.

Formats are TRL's conversational ones (``messages``; ``prompt``/``completion``;
``prompt``/``chosen``/``rejected``), plus one for rankings with ties. A record is plain data: no
torch, no tokenizer, no file handle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from pipeline.errors import DataError

ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    """One turn of a conversation, as TRL and chat templates write it."""

    role: str
    content: str


def prompt_id(messages: Iterable[Message]) -> str:
    """Return 16 hex digits of the SHA-256 of the conversation: equal prompts have equal ids."""
    turns = [[turn["role"], turn["content"]] for turn in messages]
    return hashlib.sha256(json.dumps(turns, ensure_ascii=False).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with a user's turn, waiting for the assistant.

    ``meta`` carries what the source knows beyond the text (the tiny world's task, a data set's
    row); it must be JSON and never reaches a model.
    """

    messages: tuple[Message, ...]
    use_case: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Identify the prompt by its content."""
        return prompt_id(self.messages)

    def to_log(self) -> dict[str, Any]:
        """Return what logs hold of it: the last turn for people to read, and all of them."""
        return {"prompt": self.messages[-1]["content"], "messages": list(self.messages)}

    @classmethod
    def from_text(
        cls, text: str, use_case: str | None = None, meta: Mapping[str, Any] | None = None
    ) -> Prompt:
        """Make a single-turn prompt of a user's text."""
        return cls(({"role": "user", "content": text},), use_case, meta or {})


@dataclass(frozen=True)
class Demonstration:
    """A prompt with the completion that a labeler wrote for it."""

    prompt: Prompt
    completion: str

    @property
    def messages(self) -> list[Message]:
        """Return the whole conversation, the completion as the last assistant turn."""
        return [*self.prompt.messages, {"role": "assistant", "content": self.completion}]


@dataclass(frozen=True)
class Ranking:
    """One labeler's order over the completions of one prompt, ties allowed.

    Attributes:
        prompt: what was answered.
        completions: the K texts.
        ranks: one rank a completion, 1 the best; equal ranks are ties.
        ratings: overall quality from 1 to 7 a completion, or None where none were given.
        labeler: the labeler's pseudonym, or None where the source has none.
        group: the labeler's group (``train`` or ``held_out``).
    """

    prompt: Prompt
    completions: tuple[str, ...]
    ranks: tuple[int, ...]
    ratings: tuple[int, ...] | None = None
    labeler: str | None = None
    group: Literal["train", "held_out"] = "train"

    @classmethod
    def from_pair(cls, prompt: Prompt, chosen: str, rejected: str) -> Ranking:
        """Make a ranking with K = 2 of a ``prompt``/``chosen``/``rejected`` row."""
        return cls(prompt, (chosen, rejected), (1, 2))


def read_jsonl(path: Path | str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)`` for each line of a JSONL file, empty lines left out.

    Raises:
        DataError: if the file is missing, or a line is not a JSON object in UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"No file {path}. Check the path in the configuration.")
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            try:
                # Given bytes, json would read UTF-16 as well; a mark at the start is no text.
                row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise DataError.at(
                    path, number, f"not a JSON object ({error}). Mend or remove the line."
                ) from error
            if not isinstance(row, dict):
                raise DataError.at(
                    path,
                    number,
                    f"must hold a JSON object, got {type(row).__name__}. Mend the line.",
                )
            yield number, row


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a stage's log, none where there is no file.

    The stage may still be writing: a cut last line is left out.

    Raises:
        DataError: if another line is not JSON.
    """
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not line.endswith(b"\n"):
                    return
                what = f"not a JSON object ({error}). Run the stage again with --force."
                raise DataError.at(path, number, what) from error
            if isinstance(row, dict):
                yield row


def write_jsonl(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line and return how many were written."""
    count = 0
    with Path(path).open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count
