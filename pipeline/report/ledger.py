"""Show numbers together with where they come from.

A number on the page is looked up in the tree that becomes ``report.json``, and carries its place
there: ``<span data-json="/tax/12/score">54.3</span>`` is ``report["tax"][12]["score"]`` (RFC 6901).
What the page says cannot differ from what the file holds, and a reader, or a test, can follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from markupsafe import Markup

from pipeline.report import words
from pipeline.report.gather import number

STYLES: Mapping[str, Callable[..., str]] = {
    "digits": words.digits,
    "percent": words.percent,
    "plain": words.plain,
    "signed": words.signed,
    "turned": lambda value, places: words.plain(None if value is None else -value, places),
}
"""How a number is written, by name."""


class Ledger:
    """Hold the numbers of a report, and show them by their places.

    Args:
        numbers: mappings, sequences, dataclasses and named tuples; what JSON cannot hold (NaN,
            infinities) becomes null.
    """

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self.numbers: dict[str, Any] = finite(numbers)

    def at(self, place: str) -> Any:
        """Return what stands at a place, None where a part of the way is null or missing.

        Args:
            place: a JSON pointer.
        """
        found: Any = self.numbers
        for key in place.split("/")[1:]:
            name = key.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = found[int(name)]
            elif isinstance(found, Mapping):
                found = found.get(name)
            else:
                return None
        return found

    def show(self, place: str, style: str = "digits", places: int | None = None) -> Markup:
        """Write the number at a place, a dash where there is none.

        Args:
            place: a JSON pointer.
            style: a key of ``STYLES``.
            places: digits after the point; each style has its own by default.
        """
        value = self.at(place)
        extra = () if places is None else (places,)
        text = STYLES[style](value, *extra)
        if value is None:
            return Markup.escape(text)
        return Markup('<span data-json="{}">{}</span>').format(place, text)

    def holds(self, place: str) -> bool:
        """Tell whether something other than null stands at a place."""
        return self.at(place) is not None


def finite(value: Any) -> Any:
    """Return a tree of plain JSON values, with what JSON cannot hold as null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value
