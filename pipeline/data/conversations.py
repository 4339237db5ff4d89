"""Read demonstrations and prompts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from pipeline.config.source import Source
from pipeline.data.fields import (
    check_messages,
    check_text,
    make_prompt,
    read_completion,
    read_instruction,
    read_messages,
    read_prompt,
    read_question,
    read_text,
)
from pipeline.data.layouts import Kind, Layout, count_dropped, without_duplicates
from pipeline.data.rows import Row, draw_subset
from pipeline.data.tiny import draw_demonstrations, draw_prompts, is_tiny
from pipeline.records import Demonstration, Prompt

logger = logging.getLogger(__name__)


def read_demonstrations(
    sources: Sequence[Source],
    seed: int,
    *,
    drop_empty: bool = False,
    dropped: Counter[str] | None = None,
) -> list[Demonstration]:
    """Read demonstrations, source after source.

    A row has ``messages`` (the last turn the assistant's), ``prompt`` and ``completion`` (strings
    or messages), Alpaca's ``instruction``, ``input`` and ``output`` (or ``reference``), or
    ``passage``, ``question`` and ``answers``, of which the first is the completion.

    Args:
        sources: what to read; ``limit`` draws from each.
        seed: the run's seed.
        drop_empty: leave out and count rows with an empty text, rather than refuse them.
        dropped: filled with how many rows were left out, by source and reason.

    Raises:
        DataError: naming the file and the line.
    """
    found: list[Demonstration] = []
    for source in sources:
        if is_tiny(source):
            found += draw_demonstrations(source, seed)
            continue
        records = DEMONSTRATIONS.read(source, drop_empty=drop_empty, dropped=dropped)
        found += draw_subset(records, source, seed)
    return found


def read_prompts(
    sources: Sequence[Source],
    seed: int,
    *,
    drop_empty: bool = False,
    dropped: Counter[str] | None = None,
) -> list[Prompt]:
    """Read prompts, each content once, source after source.

    Rows are those of ``read_demonstrations`` and of ``read_rankings``; answers in them are not
    read. Duplicates go before ``limit`` draws, and those of an earlier source after it; a warning
    counts them.

    Args, Raises: as ``read_demonstrations``.
    """
    found: list[Prompt] = []
    seen: set[str] = set()
    for source in sources:
        if is_tiny(source):
            records = draw_prompts(source, seed)
        else:
            records = PROMPTS.read(source, drop_empty=drop_empty, dropped=dropped)
        again: list[Prompt] = []
        distinct = list(without_duplicates(records, _id, set(), again))
        found += without_duplicates(draw_subset(distinct, source, seed), _id, seen, again)
        count_dropped(source, "duplicate prompts", len(again), dropped)
        if again:
            start = again[0].messages[-1]["content"][:40]
            logger.warning(
                "%s: left out duplicate prompts: %d, the first %s (%r...)",
                *(source.path, len(again), again[0].id, start),
            )
    return found


def _id(prompt: Prompt) -> str:
    return prompt.id


def _demonstrate_messages(row: Row) -> list[Demonstration]:
    if "completion" in row.values and _last_role(row) == "user":
        # As stages log what a model answered.
        (prompt,) = _ask_messages(row)
        return [Demonstration(prompt, read_text(row, "completion"))]
    *before, last = read_messages(row, "messages", "assistant")
    if not before or before[-1]["role"] != "user":
        raise row.fault("'messages' must have a user's turn before the last. Mend the line.")
    return [Demonstration(make_prompt(row, before), last["content"])]


def _demonstrate_completion(row: Row) -> list[Demonstration]:
    before, completion = read_completion(row, "completion")
    prompt = read_prompt(row)
    if before and before != prompt.messages:
        raise row.fault("'completion' must be one assistant turn. Put the others in 'prompt'.")
    return [Demonstration(prompt, completion)]


def _demonstrate_instruction(row: Row) -> list[Demonstration]:
    key = "output" if "output" in row.values else "reference"
    return [Demonstration(read_instruction(row), read_text(row, key))]


def _demonstrate_answer(row: Row) -> list[Demonstration]:
    return [Demonstration(read_question(row), read_answer(row))]


def read_answer(row: Row) -> str:
    """Return the first of a row's ``answers``."""
    answers = row.values["answers"]
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise row.fault(f"'answers' must be a list of strings, got {answers!r:.40}. Mend the line.")
    return check_text(row, "answers[1]", answers[0])


def _ask_messages(row: Row) -> list[Prompt]:
    turns = row.values["messages"]
    if _last_role(row) == "assistant":
        turns = turns[:-1]
    return [make_prompt(row, check_messages(row, "messages", turns, "user"))]


def _last_role(row: Row) -> object:
    """Return whose turn is the last of 'messages', None where it has none."""
    turns = row.values["messages"]
    last = turns[-1] if isinstance(turns, list) and turns else None
    return last.get("role") if isinstance(last, dict) else None


DEMONSTRATIONS = Kind(
    "demonstrations",
    (
        Layout(("messages",), _demonstrate_messages),
        Layout(("prompt", "completion"), _demonstrate_completion),
        Layout(("instruction", "output|reference"), _demonstrate_instruction, ("alpaca",)),
        Layout(("passage", "question", "answers"), _demonstrate_answer, ("qa",)),
    ),
)
PROMPTS = Kind(
    "prompts",
    (
        Layout(("messages",), _ask_messages),
        Layout(("prompt",), lambda row: [read_prompt(row)], ("oasst", "pandalm")),
        Layout(("instruction",), lambda row: [read_instruction(row)], ("alpaca",)),
        Layout(("passage", "question"), lambda row: [read_question(row)], ("qa",)),
    ),
)
