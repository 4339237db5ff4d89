"""Open a source and yield its rows, each with the place that an error names.

A source is a ``.jsonl`` file, or anything that ``datasets.load_dataset`` opens: a folder, or the
name of a data set on the Hugging Face hub. The tiny world has no rows (``pipeline.data.tiny``), and
the label store is read by the stages, which alone know where it is.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config.source import Source
from pipeline.errors import DataError
from pipeline.records import Demonstration, Prompt, Ranking, read_jsonl
from pipeline.store.values import Answered

RecordT = TypeVar("RecordT")

TINY = "tiny:"
STORE = "store:"
FILE_SUFFIXES = (".jsonl", ".txt")
# Kinds of file that a user may well have, and that look like no data set's name.
OTHER_SUFFIXES = (".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zip", ".zst", ".md")


@dataclass(frozen=True)
class Row:
    """One row of a source, without its null fields, and where it stands."""

    path: str
    number: int
    values: Mapping[str, Any]

    def fault(self, what: str) -> DataError:
        """Make the error that names this row; rows are counted from 1."""
        return DataError.at(self.path, self.number, what)


def file_of(source: Source, config_dir: Path | str | None = None) -> Path | None:
    """Return the file that a source names, or None for a folder or a data set of the hub.

    Raises:
        DataError: if the path is a file's and there is none, or none that can be read.
    """
    path = Path(config_dir or "", source.path).expanduser()
    if path.is_dir():
        return None
    if path.suffix in FILE_SUFFIXES and path.is_file():
        return path
    if path.is_file() or path.suffix in OTHER_SUFFIXES:
        raise DataError(
            f"{source.path} must be a {' or '.join(FILE_SUFFIXES)} file, got {path.suffix!r}. "
            "Convert it, or name a folder or a data set."
        )
    if path.suffix in FILE_SUFFIXES or source.path.startswith((".", "/", "~")):
        raise DataError(f"No file {source.path}. Check the path in the configuration.")
    return None


def is_published(source: Source) -> bool:
    """Say whether the rows are others' work, which the user cannot mend.

    So are a data set's and those of the formats that stand for one data set as it was published.
    """
    return source.format in ("oasst", "pandalm") or file_of(source) is None


def read_rows(source: Source) -> Iterator[Row]:
    """Yield every row of a source, in order.

    Raises:
        DataError: if the source cannot be opened, or a line of it is no JSON object.
    """
    refuse_store(source)
    path = file_of(source)
    if path is None:
        rows: Iterator[tuple[int, Mapping[str, Any]]] = enumerate(load_dataset(source), start=1)
    elif path.suffix == ".txt":
        raise DataError(f"{source.path} holds plain text, where rows are asked for. Use .jsonl.")
    else:
        rows = read_jsonl(path)
    for number, values in rows:
        present = {key: value for key, value in values.items() if value is not None}
        yield Row(source.path, number, present)


def refuse_store(source: Source) -> None:
    """Refuse the label store, which a stage opens itself.

    Raises:
        DataError: if the source is the label store.
    """
    if source.path.startswith(STORE):
        raise DataError(
            f"{source.path} must be listed under reward.data or reward.validation, which alone "
            "read the label store. Name a file, a data set or tiny:NAME here."
        )


def load_dataset(source: Source) -> Any:
    """Load a folder or a data set of the hub with the ``datasets`` library.

    Raises:
        DataError: if it cannot be reached, or lacks the subset or the split.
    """
    import datasets

    try:
        return datasets.load_dataset(source.path, name=source.subset, split=source.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        asked = f"{source.path} (subset {source.subset or 'default'}, split {source.split})"
        raise DataError(
            f"Cannot load the data set {asked}: {reason}. "
            "Check its name, or without a network give the path of a .jsonl file instead."
        ) from error


def draw_subset(records: Sequence[RecordT], source: Source, seed: int) -> list[RecordT]:
    """Draw ``source.limit`` of the records that are short enough, in their order.

    The draw depends on the seed, the path and how many such records there are, and a larger limit
    only adds to a smaller one's.

    Raises:
        DataError: if all are longer than ``source.max_characters``.
    """
    kept = list(records)
    if source.max_characters is not None:
        kept = [record for record in records if count_characters(record) <= source.max_characters]
        if records and not kept:
            raise DataError(
                f"{source.path} must hold a record of at most max_characters "
                f"({source.max_characters}), got none among {len(records)}. Raise it."
            )
    if source.limit is None or source.limit >= len(kept):
        return kept
    order = list(range(len(kept)))
    random.Random(f"{seed}:{source.path}").shuffle(order)
    return [kept[index] for index in sorted(order[: source.limit])]


def count_characters(record: object) -> int:
    """Return the length of a text, or of a prompt's turns with its longest answer."""
    match record:
        case str():
            return len(record)
        case Prompt():
            return sum(len(message["content"]) for message in record.messages)
        case Demonstration():
            return count_characters(record.prompt) + len(record.completion)
        case Ranking():
            return count_characters(record.prompt) + max(map(len, record.completions))
        case Answered():
            longest = max((len(item.text) for item in record.completions), default=0)
            return count_characters(record.prompt) + longest
    raise TypeError(f"{type(record).__name__} is no record of a source")
