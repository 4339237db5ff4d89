"""Define one instruction: what is asked, what it is about, and what a good answer must satisfy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.records import Message, Prompt
from pipeline.world.keyed import Split, split_of

USE_CASES = (
    "generation",
    "open_qa",
    "closed_qa",
    "brainstorming",
    "chat",
    "rewrite",
    "summarization",
    "classification",
    "extraction",
    "other",
)
# How lists are handed over; the gold judge takes them without it, too.
LEAD = "Here you are: "


@dataclass(frozen=True)
class Instruction:
    """A prompt with its combination, its good completion, and the spec that the gold judge reads.

    Attributes:
        use_case: one of InstructGPT's ten.
        kind: the namespace of the combination (a relation or a form).
        entities: what fills the template; with ``kind`` it decides the split.
        turns: the texts of the conversation, user first, alternating.
        spec: what the gold judge checks; JSON.
        completion: a clean answer.
    """

    use_case: str
    kind: str
    entities: tuple[str, ...]
    turns: tuple[str, ...]
    spec: dict[str, Any]
    completion: str

    @property
    def split(self) -> Split:
        """Name the split that owns the combination."""
        return split_of(self.kind, self.entities)

    @property
    def prompt(self) -> Prompt:
        """Return the prompt with all that the gold judge needs in its ``meta``."""
        messages: list[Message] = [
            {"role": ("user", "assistant")[index % 2], "content": text}
            for index, text in enumerate(self.turns)
        ]
        meta = {
            "world": {**self.spec, "reference": self.completion},
            "combination": [self.kind, *sorted(self.entities)],
        }
        return Prompt(tuple(messages), self.use_case, meta)


def exact(*forms: str) -> dict[str, Any]:
    """Ask for one of a few texts, whatever the case and the final stop."""
    return {"check": "exact", "forms": list(forms)}


def fact(subject: str, attribute: str) -> dict[str, Any]:
    """Ask for a true fact, in any of the world's wordings or as the bare value."""
    return {"check": "fact", "subject": subject, "attribute": attribute}


def items(words: Sequence[str]) -> dict[str, Any]:
    """Ask for exactly these words, as a list in any order."""
    return {"check": "items", "items": list(words)}


def ideas(category: str, count: int, excluded: Sequence[str]) -> dict[str, Any]:
    """Ask for ``count`` different members of a category, none of them excluded."""
    return {"check": "ideas", "category": category, "count": count, "excluded": list(excluded)}


def writing(
    mention: Sequence[str], sentences: int, allowed: Sequence[str] | None = None
) -> dict[str, Any]:
    """Ask for free sentences that name some entities, and no others where ``allowed`` is given."""
    return {
        "check": "writing",
        "mention": list(mention),
        "sentences": sentences,
        "allowed": None if allowed is None else list(allowed),
    }


def refusal(person: str) -> dict[str, Any]:
    """Ask for something rude, so that only a short refusal is right."""
    return {"check": "refusal", "person": person}
