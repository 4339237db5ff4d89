"""Read a report's numbers off its page: each with its place in ``report.json``, or without one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pipeline.report.ledger import STYLES

NUMBER = re.compile(r"[+\N{MINUS SIGN}]?\d[\d\u202f]*(?:\.\d+)?(?:e[+\N{MINUS SIGN}]?\d+)?")
NO_FIGURES = {"caption", "svg", "figcaption", "summary", "th", "code", "h2", "h3", "dd"}
"""Elements whose numbers are words: headings, answers, and what a chart says of itself."""
ONE_WAY = {"above_half", "duration"}
"""Styles whose digits are not asked for."""
WRITTEN = {
    (style, places)
    for style in STYLES
    for places in (None, 0, 1, 2, 3)
    if not (style == "turned" and places is None) and not (style in ONE_WAY and places is not None)
}


class Numbers(HTMLParser):
    """Collect the texts of some sections.

    Attributes:
        placed: section, place and text of each number that has a place.
        bare: section and text of what has none.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.section = ""
        self.open: list[tuple[str, str | None]] = []
        self.placed: list[tuple[str, str, str]] = []
        self.bare: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "section":
            self.section = known["id"] or ""
        if tag not in ("br", "meta", "link"):
            self.open.append((tag, known.get("data-json")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        tags = {tag for tag, _ in self.open}
        if not data.strip() or not self.section:
            return
        place = self.open[-1][1]
        if place is not None:
            self.placed.append((self.section, place, data))
        elif not tags & NO_FIGURES:
            self.bare.append((self.section, data))


def read_numbers(folder: Path) -> Numbers:
    """Read a report's numbers, each of which must be what stands at its place."""
    page = Numbers((folder / "report.html").read_text(encoding="utf-8"))
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for _, place, text in page.placed:
        value = look_up(found, place)
        assert type(value) in (int, float), place
        assert text in set(ways_to_write(value)), (place, value, text)
    return page


def look_up(found: Any, place: str) -> Any:
    """Return what stands at a place of the JSON."""
    for key in place.removeprefix("/").split("/"):
        name = key.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def ways_to_write(value: float) -> Iterator[str]:
    """Yield a number in every way in which a page may write it."""
    for style, places in WRITTEN:
        yield STYLES[style](value, *([] if places is None else [places]))
