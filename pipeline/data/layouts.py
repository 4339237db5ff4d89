"""Choose how to read a row by its source's format or by its keys, and read whole sources so.

A layout is one way to write a record. ``auto`` takes the first whose keys the row has; a format
takes only its own. Keys beyond a layout's are allowed: published data carry ids and notes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.config.source import Source
from pipeline.data.fields import EmptyTextError
from pipeline.data.rows import Row, is_published, read_rows
from pipeline.errors import DataError

RecordT = TypeVar("RecordT")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout(Generic[RecordT]):
    """One way to write records in a row.

    Attributes:
        keys: what the row must have; ``a|b`` asks for either.
        read: turns a row into its records.
        formats: the formats that stand for it, beside ``auto``.
    """

    keys: tuple[str, ...]
    read: Callable[[Row], Sequence[RecordT]]
    formats: tuple[str, ...] = ()

    def fits(self, row: Row) -> bool:
        """Say whether the row has all the keys."""
        return all(any(one in row.values for one in key.split("|")) for key in self.keys)


@dataclass(frozen=True)
class Kind(Generic[RecordT]):
    """What to read a source as: the records' name in the plural, and the ways to write them."""

    name: str
    layouts: tuple[Layout[RecordT], ...]

    def read(
        self, source: Source, *, drop_empty: bool, dropped: Counter[str] | None
    ) -> list[RecordT]:
        """Read every record of a source.

        Rows with an empty text are refused, or left out and counted where ``drop_empty`` is set or
        the rows were published by others.

        Raises:
            DataError: for the first row that is none of the layouts, or is wrong in one of them;
                or if there is no row to keep.
        """
        layouts = self._of_format(source)
        drop = drop_empty or source.empty == "drop" or is_published(source)
        records: list[RecordT] = []
        empty = 0
        for row in read_rows(source):
            try:
                records.extend(self._choose(row, layouts).read(row))
            except EmptyTextError:
                if not drop:
                    raise
                empty += 1
        if empty:
            logger.warning("%s: left out rows with an empty text: %d", source.path, empty)
        count_dropped(source, "rows with an empty text", empty, dropped)
        if not records:
            raise DataError(f"{source.path} must hold {self.name}, got none. Remove the source.")
        return records

    def _of_format(self, source: Source) -> tuple[Layout[RecordT], ...]:
        if source.format == "auto":
            return self.layouts
        layouts = tuple(one for one in self.layouts if source.format in one.formats)
        if not layouts:
            known = {name for layout in self.layouts for name in layout.formats}
            raise DataError(
                f"{source.path} must have a format that holds {self.name}, got {source.format!r}. "
                f"Use {', '.join(['auto', *sorted(known)])}."
            )
        return layouts

    def _choose(self, row: Row, layouts: tuple[Layout[RecordT], ...]) -> Layout[RecordT]:
        for layout in layouts:
            if layout.fits(row):
                return layout
        accepted = "; or ".join(", ".join(layout.keys) for layout in layouts)
        found = ", ".join(row.values) or "none"
        raise row.fault(
            f"keys of {self.name} must be {accepted}; got {found}. "
            "Rename the keys, or set 'format'."
        )


def count_dropped(source: Source, reason: str, count: int, dropped: Counter[str] | None) -> None:
    """Add to the caller's count of what was left out, by source and reason."""
    if count and dropped is not None:
        dropped[f"{source.path}: {reason}"] += count


def without_duplicates(
    records: Sequence[RecordT],
    name: Callable[[RecordT], str],
    seen: set[str],
    again: list[RecordT],
) -> Iterator[RecordT]:
    """Yield the first record of each name that is not in ``seen``; fill ``again`` with the rest."""
    for record in records:
        if name(record) in seen:
            again.append(record)
        else:
            seen.add(name(record))
            yield record
