"""Every number that the page shows of what was gained and lost stands in ``report.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.ledger import STYLES, Ledger

SECTIONS = ("glance", "tax", "language")
NUMBER = re.compile(r"[+\N{MINUS SIGN}]?\d[\d\u202f]*(?:\.\d+)?(?:e[+\N{MINUS SIGN}]?\d+)?")
WRITTEN = {
    (style, places)
    for style in STYLES
    for places in (None, 0, 1, 2, 3)
    if not (style == "turned" and places is None)
}


class Numbers(HTMLParser):
    """Collect the texts of a page's sections: each with its place in the JSON, or none."""

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

    def handle_data(self, data: str) -> None:
        tags = {tag for tag, _ in self.open}
        if not data.strip() or self.section not in SECTIONS:
            return
        place = self.open[-1][1]
        if place is not None:
            self.placed.append((self.section, place, data))
        elif not tags & {"caption", "svg", "figcaption", "summary", "th", "code", "h2", "h3"}:
            self.bare.append((self.section, data))


@pytest.fixture(scope="module")
def page(drawn_report: Path) -> Numbers:
    return Numbers((drawn_report / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(drawn_report: Path) -> dict[str, Any]:
    return json.loads((drawn_report / "report.json").read_text(encoding="utf-8"))


def look_up(found: Any, place: str) -> Any:
    for key in place.removeprefix("/").split("/"):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def ways_to_write(value: float) -> Iterator[str]:
    for style, places in WRITTEN:
        yield STYLES[style](value, *([] if places is None else [places]))


def test_a_number_with_a_place_is_what_stands_there(page: Numbers, found: dict[str, Any]) -> None:
    assert {section for section, _, _ in page.placed} == set(SECTIONS)
    assert len(page.placed) > 1_000
    for _, place, text in page.placed:
        value = look_up(found, place)
        assert type(value) in (int, float), place
        assert text in set(ways_to_write(value)), (place, value, text)


def test_a_number_without_a_place_is_no_figure(page: Numbers) -> None:
    # Words of the page: "95 % intervals" under the charts, "100 shots" of no measurement.
    said = [text for _, text in page.bare if NUMBER.search(text)]
    assert [text for text in said if "95 % intervals by bootstrap" not in text] == []


def test_places_of_a_column_differ_by_row(page: Numbers) -> None:
    places = [place for _, place, _ in page.placed]
    assert len(places) == len(set(places))
    assert sum(place.startswith("/tax/") for place in places) > 400


def test_the_numbers_of_the_verdict_are_figures_of_the_file(found: dict[str, Any]) -> None:
    rows = [*found["tax"], *found["calibration"], *found["language"], *found["glance"]]
    rows += [*found["instruction_following"], *found["recovered_by_ptx"], *found["reward"]]
    rows += [{"gate": found["gate"], "headline": found["headline"]}]
    known = {text for value in numbers_in(rows) for text in ways_to_write(value)}
    # Beside figures: the level of the intervals, how many comparisons, and the win rate's half.
    known |= {"95", "72", "18"}
    known |= {text for value in numbers_in(rows) for text in ways_to_write(value + 0.5)}
    for sentence in found["verdict"]:
        counted = re.sub(r" on \d+", "", sentence)
        missing = [each for each in NUMBER.findall(counted) if each not in known]
        assert missing == [], sentence


def numbers_in(tree: Any) -> Iterator[float]:
    if isinstance(tree, bool):
        return
    if isinstance(tree, int | float):
        yield tree
    for inner in (
        tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    ):
        yield from numbers_in(inner)


def test_a_ledger_follows_a_pointer_and_escapes_what_it_shows() -> None:
    ledger = Ledger({"a/b": [{"x": 0.5}, {"x": None}], "n": float("nan"), "f": True})
    assert ledger.show("/a~1b/0/x", "percent") == '<span data-json="/a~1b/0/x">50.0</span>'
    assert ledger.show("/a~1b/1/x") == ledger.show("/n") == "\N{EN DASH}"
    assert ledger.at("/a~1b/1/x/deeper") is None
    assert ledger.numbers["n"] is None
    assert ledger.numbers["f"] is True
    assert '"><' not in ledger.show('/a~1b/0/x"><script>')
