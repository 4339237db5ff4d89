"""Read documents: the plain text that pretraining and perplexity go through.

A ``.txt`` file may hold several documents. They are split by the first of these that the file has:
lines ``<|endoftext|>``; titles as WikiText writes them (`` = Title = ``); two or more blank lines.
A single blank line only ends a paragraph. A file with none of them is one document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.source import Source
from pipeline.data.conversations import read_answer
from pipeline.data.fields import read_instruction, read_question, read_text
from pipeline.data.layouts import Kind, Layout
from pipeline.data.rows import Row, draw_subset, file_of, refuse_store
from pipeline.data.tiny import draw_documents, is_tiny
from pipeline.errors import DataError

BOUNDARIES = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^[ \t]*<\|endoftext\|>[ \t]*$",
        r"^(?= = [^=\n]+ = ?$)",
        r"^(?:[ \t]*\n){2,}",
    )
)


def read_documents(source: Source, seed: int) -> Iterator[str]:
    """Yield the documents of one source, in its order.

    The tiny world's ``tiny:facts``, ``stories``, ``dialogues``, ``lists``, ``patterns`` and ``web``
    never end unless ``limit`` ends them. A ``.txt`` file is split as the module says. A row has
    ``text``; or ``passage``, ``question`` and ``answers``; or Alpaca's fields, written one below
    the other.

    Raises:
        DataError: naming the file, and the line of a row.
    """
    if is_tiny(source):
        return draw_documents(source, seed)
    refuse_store(source)
    path = file_of(source)
    if path is not None and path.suffix == ".txt":
        documents = _split_text(source, path)
    else:
        documents = DOCUMENTS.read(source, drop_empty=False, dropped=None)
    return iter(draw_subset(documents, source, seed))


def _split_text(source: Source, path: Path) -> list[str]:
    if source.format not in ("auto", "text"):
        raise DataError(
            f"{source.path} must be read as text, got format {source.format!r}. Leave 'format' out."
        )
    try:
        whole = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError.at(source.path, line, "not UTF-8. Convert the file to UTF-8.") from error
    if not whole.strip():
        raise DataError(f"{source.path} must hold text, got an empty file. Remove the source.")
    for boundary in BOUNDARIES:
        documents = [text.strip("\n") for text in boundary.split(whole) if text.strip()]
        if len(documents) > 1:
            return documents
    return documents


def _write_instruction(row: Row) -> list[str]:
    key = "output" if "output" in row.values else "reference"
    return [f"{read_instruction(row).messages[0]['content']}\n\n{read_text(row, key)}"]


def _write_question(row: Row) -> list[str]:
    return [f"{read_question(row).messages[0]['content']}\nAnswer: {read_answer(row)}"]


DOCUMENTS = Kind(
    "documents",
    (
        Layout(("text",), lambda row: [read_text(row, "text")], ("text",)),
        Layout(("passage", "question", "answers"), _write_question, ("qa",)),
        Layout(("instruction", "output|reference"), _write_instruction, ("alpaca",)),
    ),
)
