"""Show what models could have said at one place of their answers, beside each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.errors import ModelError, RunError
from pipeline.serving import ModelServer
from pipeline.serving_messages import (
    Candidate,
    Distribution,
    DistributionRequest,
    GenerationRequest,
)
from stages.answer_columns import Column, visible

TAKEN = "bold"
NOTHING = "-"


@dataclass(frozen=True)
class Look:
    """Say which next tokens to show.

    Attributes:
        top: how many, the likeliest first.
        place: which token of each answer they compete with, 1 the first.
    """

    top: int
    place: int = 1


def look_ahead(
    server: ModelServer,
    requests: Sequence[GenerationRequest],
    columns: Sequence[Column],
    look: Look,
) -> None:
    """Ask each model what could have come at a place of its answers; columns take it in.

    An answer that is shorter has no such place, and a model that failed is not asked.
    """
    for request, column in zip(requests, columns, strict=True):
        for sample, tokens in sorted(column.tokens.items()):
            if column.failure or len(tokens) < look.place:
                continue
            ids = [token.id for token in tokens[: look.place]]
            try:
                column.next[sample] = server.distribution(_ask(request, ids, look.top))
            except (ModelError, RunError) as error:
                column.failure = str(error)


def _ask(request: GenerationRequest, ids: Sequence[int], top: int) -> DistributionRequest:
    """Return the request for what could have come instead of the last of an answer's tokens."""
    return DistributionRequest(
        model=request.model,
        prompt=request.prompt,
        prefix=tuple(ids[:-1]),
        chosen=ids[-1],
        top=top,
        reference=request.reference,
        tokenizer=request.tokenizer,
        reference_tokenizer=request.reference_tokenizer,
    )


def tabulate_next(columns: Sequence[Column], samples: int, look: Look) -> Iterator[RenderableType]:
    """Yield a table an answer: a column a model, a row a token, the likeliest first."""
    yield Text(
        f"The likeliest at token {look.place} of each answer; the reference's probability in "
        "brackets, * was taken",
        style="dim",
    )
    for sample in range(samples):
        table = Table(box=box.SIMPLE_HEAD, expand=True)
        for column in columns:
            heading = Text(_name(column, sample, samples), style="bold")
            heading.append(f"\n{_entropy(column.next.get(sample))}", style="dim")
            table.add_column(heading, ratio=1, overflow="fold")
        listed = [_list(column.next.get(sample)) for column in columns]
        for place in range(max(map(len, listed))):
            table.add_row(*(_cell(tokens[place : place + 1]) for tokens in listed))
        yield table


def _cell(tokens: Sequence[tuple[str, bool]]) -> Text:
    return Text.assemble(*((line, TAKEN if taken else "") for line, taken in tokens))


def write_next(console: Console, columns: Sequence[Column], look: Look) -> None:
    """Write the likeliest tokens one after the other, for a pipe or a file."""
    for column in columns:
        for sample, found in sorted(column.next.items()):
            name = _name(column, sample, len(column.finished))
            lines = [f"--- {name}, token {look.place}: {_entropy(found)}"]
            lines += [line for line, _ in _list(found)]
            for line in (*lines, ""):
                console.out(visible(line), highlight=False)


def _name(column: Column, sample: int, samples: int) -> str:
    return f"{column.name}, answer {sample + 1}" if samples > 1 else column.name


def _entropy(found: Distribution | None) -> str:
    return NOTHING if found is None else f"entropy {found.entropy:.2f} nats"


def _list(found: Distribution | None) -> list[tuple[str, bool]]:
    """Return a line a token, and whether it was taken; last the one taken where it is not among."""
    if found is None:
        return [(NOTHING, False)]
    listed, taken = list(found.tokens), found.chosen
    if taken is not None and all(one.id != taken.id for one in listed):
        listed.append(taken)
    marked = [(one, taken is not None and one.id == taken.id) for one in listed]
    return [(_describe(one, is_taken=is_taken), is_taken) for one, is_taken in marked]


def _describe(candidate: Candidate, *, is_taken: bool) -> str:
    # In quotes, with ends of lines spelled out: a token may be a blank.
    text = visible(json.dumps(candidate.text, ensure_ascii=False))
    beside = "" if candidate.ref_probability is None else f" ({candidate.ref_probability:.2%})"
    mark = " *" if is_taken else ""
    return f"{candidate.rank}. {text} {candidate.probability:.2%}{beside}{mark}"
