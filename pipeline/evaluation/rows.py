"""Read the rows of local tasks, and refuse by file and line what would stop a model later.

A row must be text that UTF-8 can write: JSON can spell half of a surrogate pair, which no tokenizer
reads. The files of the presets (``evaluation.presets``) have these fields, as the data sets that
they stand for:

    crows_pairs       sent_more, sent_less, optionally bias_type
    winogender        sentence, gender, occupation, participant, optionally target, label, answer
    truthfulqa_mc     question, mc1_targets, mc2_targets
    truthfulqa_gen    question, correct_answers, incorrect_answers
    reddit_tldr       content, summary

Further fields are left out: one that has a number here and a text there fits in no column.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import DataError
from pipeline.evaluation.bias import CROWS, WINOGENDER
from pipeline.records import read_jsonl

GENDERS = ("male", "female", "neutral")


class Kind(NamedTuple):
    """What a field must be, in words, and whether a value is that."""

    words: str
    fits: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _are_judged(value: Any) -> bool:
    if not isinstance(value, Mapping) or not _are_texts(value.get("choices")):
        return False
    labels = value.get("labels")
    return (
        isinstance(labels, list)
        and len(labels) == len(value["choices"])
        and all(type(label) is int and label in (0, 1) for label in labels)
    )


TEXT = Kind("a text", _is_text)
TEXTS = Kind("a list of texts", _are_texts)
GENDER = Kind("male, female or neutral", lambda value: value in GENDERS)
JUDGED = Kind(
    "'choices' and as many 'labels', 1 for the true ones and 0 for the others",
    lambda value: _are_judged(value) and 1 in value["labels"],
)
FIRST_TRUE = Kind(
    "'choices' and as many 'labels', 1 for the first and 0 for the others",
    lambda value: _are_judged(value) and value["labels"][0] == 1,
)

FIELDS: Mapping[str, Mapping[str, Kind]] = {
    "crows_pairs": dict.fromkeys(CROWS, TEXT),
    "winogender": {**dict.fromkeys(WINOGENDER, TEXT), "gender": GENDER},
    "truthfulqa_mc": {"question": TEXT, "mc1_targets": FIRST_TRUE, "mc2_targets": JUDGED},
    "truthfulqa_gen": {"question": TEXT, "correct_answers": TEXTS, "incorrect_answers": TEXTS},
    "reddit_tldr": {"content": TEXT, "summary": TEXT},
}
"""A preset's file to the fields that each of its rows must have."""
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "crows_pairs": ("bias_type",),
    "winogender": ("target", "label", "answer"),
}
"""Fields that a row may have; they name groups, so that their text is enough."""


def read_text_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)`` for each line of a JSONL file.

    Raises:
        DataError: if the file is missing, or a line is not a JSON object of text.
    """
    for line, row in read_jsonl(path):
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            raise DataError.at(
                path,
                line,
                f"must hold text, got half of a surrogate pair (\\u{half:04x}). Mend the line.",
            ) from error
        yield line, row


def read_table(path: Path, file: str) -> list[dict[str, Any]]:
    """Return the rows of a preset's file.

    Args:
        path: where it is.
        file: which it is, a key of ``FIELDS``.

    Raises:
        DataError: if it cannot be read, has no rows, or one lacks a field or has another kind.
    """
    rows = [_check(path, line, row, file) for line, row in read_text_rows(path)]
    if not rows:
        raise DataError(f"{path} must have rows, got none. Add them.")
    return rows


def _check(path: Path, line: int, row: Mapping[str, Any], file: str) -> dict[str, Any]:
    kinds = FIELDS[file]
    if not kinds.keys() <= row.keys():
        raise DataError.at(
            path,
            line,
            f"must have {', '.join(kinds)}; got {', '.join(row) or 'nothing'}. Mend the line.",
        )
    for field, kind in kinds.items():
        if not kind.fits(row[field]):
            raise DataError.at(
                path, line, f"'{field}' must be {kind.words}, got {row[field]!r:.60}. Mend it."
            )
    optional = {field: row.get(field) for field in OPTIONAL.get(file, ())}
    named = {field: None if value is None else str(value) for field, value in optional.items()}
    return {**{field: row[field] for field in kinds}, **named}
