"""Show numbers together with where they come from.

A number on the page is looked up in the tree that becomes ``report.json``, and carries its place
there: ``<span data-json="/tax/12/score">54.3</span>`` is ``report["tax"][12]["score"]`` (RFC 6901).
What the page says cannot differ from what the file holds, and a reader, or a test, can follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from pipeline.artifacts import as_json
from pipeline.report import words

STYLES: Mapping[str, Callable[..., str]] = {
    "digits": words.digits,
    "percent": words.percent,
    "plain": words.plain,
    "signed": words.signed,
    "turned": lambda value, places: words.plain(None if value is None else -value, places),
    "above_half": lambda value: words.percent(None if value is None else 0.5 + value),
    "duration": words.duration,
}
"""How a number is written, by name."""


class Ledger:
    """Hold the numbers of a report, and show them by their places.

    Args:
        numbers: mappings, sequences, dataclasses and named tuples; what JSON cannot hold (NaN,
            infinities) becomes null.
    """

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self.numbers: dict[str, Any] = as_json(numbers)

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


def step_to(name: str) -> str:
    """Return a name as one step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
