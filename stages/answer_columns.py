"""Show the answers of several models beside each other in a terminal, as they grow."""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from pipeline.artifacts import as_json
from pipeline.records import Prompt
from pipeline.serving_messages import (
    Distribution,
    Event,
    Failed,
    Finished,
    Loading,
    Notice,
    Queued,
    Token,
)
from pipeline.word_diff import diff_words

SHADES = (
    (0.05, "black on #ff8787"),
    (0.2, "black on #ffd43b"),
    (0.5, "black on #fff3bf"),
)
"""Up to which probability a token is shaded, and how: legible in dark and in light terminals."""
DIFFERENT = "bold underline"
FAILED = "bold red"
CONTROL_PICTURES = 0x2400
"""Unicode's pictures of the 32 control characters begin here."""


@dataclass
class Column:
    """What one model has said so far.

    Attributes:
        name: heading of the column.
        tokens: of each answer.
        finished: the answers that are whole.
        note: what it waits for.
        notices: what the user should know.
        failure: why it has no answer, or not all of them, in one line; empty where it has.
        next: what could have come at one place of each answer, where that was asked.
    """

    name: str
    tokens: dict[int, list[Token]] = field(default_factory=dict)
    finished: dict[int, Finished] = field(default_factory=dict)
    note: str = ""
    notices: list[str] = field(default_factory=list)
    failure: str = ""
    next: dict[int, Distribution] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Take in what comes of the request."""
        match event:
            case Queued(position):
                self.note = f"number {position} in line"
            case Loading(path, size):
                self.note = f"loading {path}, {size / 1e9:.2g} GB"
            case Notice(text):
                self.notices.append(text)
            case Token(sample):
                self.note = ""
                self.tokens.setdefault(sample, []).append(event)
            case Finished(sample):
                self.finished[sample] = event
            case Failed(reason):
                self.failure = reason


def tabulate(prompt: Prompt, columns: Sequence[Column], samples: int) -> Group:
    """Return a prompt with its answers so far: a column a model, a row a sample."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, show_lines=samples > 1)
    for column in columns:
        heading = Text(column.name, style="bold")
        if column.failure:
            heading.append(" failed", style=FAILED)
        elif column.note:
            heading.append(f"\n{visible(column.note)}", style="dim")
        table.add_column(heading, ratio=1, overflow="fold")
    for sample in range(samples):
        table.add_row(*(_cell(columns, place, sample) for place in range(len(columns))))
    notices = [Text(visible(text), style="yellow") for text in _notices(columns)]
    notices += [
        Text(visible(f"{column.name}: {column.failure}"), style=FAILED)
        for column in columns
        if column.failure
    ]
    return Group(_asked(prompt), table, *notices, _legend(len(columns)))


def _asked(prompt: Prompt) -> Text:
    """Return a prompt, with the turns before its last."""
    *before, last = prompt.messages
    text = Text()
    for turn in before:
        text.append(f"{turn['role']}: {visible(turn['content'])}\n", style="dim")
    return text.append(visible(last["content"]), style="italic")


def _cell(columns: Sequence[Column], place: int, sample: int) -> Text:
    """Return an answer with its shades; once it is whole, what differs too, and its figures."""
    own, first = columns[place], columns[0]
    text = Text()
    for token in own.tokens.get(sample, ()):
        text.append(visible(token.text), style=shade(exp(token.logprob)))
    done = own.finished.get(sample)
    if done is None:
        return text.append("\nunfinished", style=FAILED) if own.failure and text else text
    # The text ends before a stop string, which the tokens still hold.
    text = text[: len(done.text)]
    other = first.finished.get(sample)
    if place and other is not None:
        for start, end in added_places(other.text, done.text):
            text.stylize(DIFFERENT, start, end)
    return text.append(f"\n{describe(done)}", style="dim")


@functools.lru_cache(maxsize=64)
def added_places(base: str, text: str) -> tuple[tuple[int, int], ...]:
    """Return where the words of a text stand that another does not have there.

    A picture of growing answers asks ten times a second, and long texts take a while to compare.
    """
    places: list[tuple[int, int]] = []
    at = 0
    for part in diff_words(base, text):
        if part.kind == "removed":
            continue
        if part.kind == "added":
            places.append((at, at + len(part.text)))
        at += len(part.text)
    return tuple(places)


def shade(probability: float) -> str:
    """Return the style of a token of this probability: the less likely, the more it stands out."""
    return next((style for limit, style in SHADES if probability < limit), "")


def describe(done: Finished) -> str:
    """Return an answer's figures in a few words."""
    figures = [f"score {done.score:.2f}"] if done.score is not None else []
    figures.append(f"{done.tokens} tokens")
    figures += [f"KL {done.kl:.2f}"] if done.kl is not None else []
    figures += ["cut"] if done.finish_reason == "length" else []
    return ", ".join(figures)


def _legend(columns: int) -> Text:
    legend = Text()
    legend.append("probability ", style="dim")
    for limit, style in reversed(SHADES):
        legend.append(f" below {limit:g} ", style=style).append(" ")
    if columns > 1:
        legend.append("not in the first column", style=DIFFERENT)
    return legend


def _notices(columns: Sequence[Column]) -> list[str]:
    return list(dict.fromkeys(text for column in columns for text in column.notices))


def visible(text: str) -> str:
    """Show control characters as pictures: what a model says must not steer the terminal."""
    return "".join(letter if letter in "\n\t" else _picture(letter) for letter in text)


def _picture(letter: str) -> str:
    if unicodedata.category(letter) != "Cc":
        return letter
    return chr(CONTROL_PICTURES + ord(letter)) if ord(letter) < 32 else "\N{REPLACEMENT CHARACTER}"


def write_plain(console: Console, prompt: Prompt, columns: Sequence[Column]) -> None:
    """Write a prompt and its finished answers one after the other, for a pipe or a file."""
    *before, last = prompt.messages
    lines = [f"{turn['role']}: {turn['content']}" for turn in before]
    lines += [f"prompt: {last['content']}", ""]
    for column in columns:
        for sample, done in sorted(column.finished.items()):
            number = f", answer {sample + 1}" if len(column.finished) > 1 else ""
            lines += [f"--- {column.name}{number}: {describe(done)}", done.text, ""]
        if column.failure:
            lines += [f"--- {column.name} failed: {column.failure}", ""]
    for line in lines:
        console.out(visible(line), highlight=False)


def rows_of(
    prompt: Prompt, columns: Sequence[Column], places: Sequence[str], *, with_next: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield an object for JSON for each answer, in the order of the columns.

    A column that failed has one more, whose ``error`` says why and whose figures are null. JSON
    knows no infinity: a figure that is no finite number is null too.

    Args:
        prompt: what was asked.
        columns: what the models said.
        places: where each model is.
        with_next: whether the next tokens were asked: ``next`` holds them, or null.
    """
    nothing: dict[str, Any] = dict.fromkeys(each.name for each in dataclasses.fields(Finished))
    for column, place in zip(columns, places, strict=True):
        said: list[tuple[dict[str, Any], str | None, Distribution | None]] = [
            (dataclasses.asdict(done), None, column.next.get(sample))
            for sample, done in sorted(column.finished.items())
        ]
        if column.failure:
            said.append((nothing, column.failure, None))
        for figures, error, found in said:
            row = {
                "prompt_id": prompt.id,
                "prompt": list(prompt.messages),
                "model": column.name,
                "path": place,
                **figures,
                "error": error,
            }
            if with_next:
                row["next"] = found
            yield as_json(row)
