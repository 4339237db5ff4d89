"""Read what a lead types of outputs, which the pages name by letters: ``B > A = C``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.errors import StoreError, nearest
from pipeline.store.inbox import letter
from pipeline.store.judged import Output
from pipeline.store.questions import OUTPUT_FLAGS

FLAGS = tuple(question.name for question in OUTPUT_FLAGS)
ANSWERS = {"yes": True, "no": False}


def show_order(ranks: Sequence[int]) -> str:
    """Return ranks as letters, the best first: ``B > A = C``."""
    tiers = [
        " = ".join(letter(index) for index, own in enumerate(ranks) if own == rank)
        for rank in sorted(set(ranks))
    ]
    return " > ".join(tiers)


def read_order(text: str, outputs: Sequence[Output]) -> dict[str, int]:
    """Return the ranks that a text gives to outputs, by id.

    Raises:
        StoreError: if it does not name each output's letter once.
    """
    letters = [letter(index) for index in range(len(outputs))]
    tiers = [[name.strip().upper() for name in tier.split("=")] for tier in text.split(">")]
    if sorted(name for tier in tiers for name in tier) != sorted(letters):
        raise StoreError(
            f"The order must name each of {', '.join(letters)} once, got {text.strip()!r}. "
            f"Write it as {show_order(range(1, len(letters) + 1))}, with = for ties."
        )
    place = {name: rank for rank, tier in enumerate(tiers, start=1) for name in tier}
    return {output.id: place[name] for output, name in zip(outputs, letters, strict=True)}


def show_answers(flags: Mapping[str, Mapping[str, bool]], outputs: Sequence[Output]) -> str:
    """Return settled questions as lines: ``A: violent=yes, sexual=no``."""
    lines = []
    for index, output in enumerate(outputs):
        settled = flags.get(output.id, {})
        if settled:
            answers = (f"{name}={'yes' if yes else 'no'}" for name, yes in sorted(settled.items()))
            lines.append(f"{letter(index)}: {', '.join(answers)}")
    return "\n".join(lines)


def read_answers(text: str, outputs: Sequence[Output]) -> dict[str, dict[str, bool]]:
    """Return the settled questions that lines name, by completion id.

    Raises:
        StoreError: naming the line that is none, or its output, question or answer.
    """
    ids = {letter(index): output.id for index, output in enumerate(outputs)}
    found: dict[str, dict[str, bool]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, rest = line.partition(":")
        output = ids.get(name.strip().upper())
        if not colon or output is None:
            raise StoreError(
                f"A line must begin with an output ({', '.join(ids)}) and a colon, got {line!r}. "
                "Write A: violent=yes, sexual=no."
            )
        for item in filter(None, map(str.strip, rest.split(","))):
            flag, _, answer = (part.strip().lower() for part in item.partition("="))
            if flag not in FLAGS:
                raise StoreError(f"{flag!r} is no question.{nearest(flag, FLAGS)}")
            if answer not in ANSWERS:
                raise StoreError(f"{flag} must be yes or no, got {answer!r}. Write {flag}=yes.")
            found.setdefault(output, {})[flag] = ANSWERS[answer]
    return found
