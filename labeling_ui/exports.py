"""Write labels in the forms that others read: TRL's preferences, and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from pipeline.records import Message, Ranking
from pipeline.store.judged import Judged
from pipeline.store.questions import OUTPUT_FLAGS, PROMPT_FLAGS

MARGINS = (0.0, 1 / 3, 2 / 3, 1.0)
"""Margin by how much higher the chosen was rated: Llama 2's small margins (its table 27)."""
# What a spreadsheet takes for a formula, plain or full width, or skips to find one.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def preference_rows(rankings: Iterable[Ranking]) -> Iterator[dict[str, Any]]:
    """Yield the pairs that labelers decided, as TRL's conversational preferences."""
    for ranking in rankings:
        for i, j in combinations(range(len(ranking.ranks)), 2):
            if ranking.ranks[i] == ranking.ranks[j]:
                continue
            better, worse = (i, j) if ranking.ranks[i] < ranking.ranks[j] else (j, i)
            yield {
                "prompt": [dict(turn) for turn in ranking.prompt.messages],
                "chosen": _answer(ranking.completions[better]),
                "rejected": _answer(ranking.completions[worse]),
                "margin": _margin(ranking.ratings, better, worse),
                "labeler": ranking.labeler,
            }


def csv_lines(judged: Iterable[Judged]) -> Iterator[str]:
    """Yield a table of one row a judgment and output, a line at a time, safe in a spreadsheet."""
    flags = [question.name for question in OUTPUT_FLAGS]
    prompt_flags = [question.name for question in PROMPT_FLAGS]
    header = [
        *("task", "kind", "purpose", "split", "prompt", "output", "text", "stages"),
        *("labeler", "group", "simulated", "rank", "rating", "place"),
        *flags,
        *(f"prompt_{name}" for name in prompt_flags),
        *("none_acceptable", "comment", "active_seconds", "instructions", "interface"),
        *("revision", "created"),
    ]
    # Without the mark, spreadsheets read UTF-8 as the system's own encoding.
    yield "\ufeff" + _csv_line(header)
    for item in judged:
        prompt = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in item.prompt.messages)
        for index, output in enumerate(item.outputs):
            cells = [
                *(item.task, item.kind, item.purpose, item.split, prompt),
                *(output.id, output.text, ", ".join(output.stages)),
                *(item.labeler, item.group, item.simulated, item.ranks[index]),
                None if item.ratings is None else item.ratings[index],
                None if item.presented is None else item.presented.index(index) + 1,
                *(item.answer(index, name) for name in flags),
                *(item.prompt_flags.get(name) for name in prompt_flags),
                *(item.none_acceptable, item.comment, item.active_seconds),
                *(item.instructions, item.interface, item.revision),
                item.created.isoformat(),
            ]
            yield _csv_line(cells)


def json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield rows as JSON lines."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"


def safe_cell(value: object) -> str:
    """Return a cell that no spreadsheet takes for a formula: such a text begins with ``'``."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    formula = isinstance(value, str) and text.lstrip(" ").startswith(FORMULA)
    return f"'{text}" if formula else text


def _csv_line(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerow(map(safe_cell, cells))
    return line.getvalue()


def _answer(text: str) -> list[Message]:
    return [Message(role="assistant", content=text)]


def _margin(ratings: Sequence[int] | None, better: int, worse: int) -> float:
    if ratings is None:
        return 0.0
    gap = ratings[better] - ratings[worse]
    return MARGINS[min(max(gap, 0), len(MARGINS) - 1)]
