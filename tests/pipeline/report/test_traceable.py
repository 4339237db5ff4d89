"""Every number that the page shows stands in ``report.json``, and says where."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.ledger import Ledger, step_to
from tests.pipeline.report.placed import NUMBER, Numbers, read_numbers, ways_to_write

SECTIONS = {"glance", "stages", "tax", "language", "following", "reward", "samples"}
"""Those of the drawn run that have figures; others have tests of their own."""
WORDS = ("95 % intervals by bootstrap", "held-out prompts, evenly spaced", "Write one sentence")
"""Beginnings of what holds numbers that are no figures: explanations, and a prompt."""


@pytest.fixture(scope="module")
def page(drawn_report: Path) -> Numbers:
    return read_numbers(drawn_report)


@pytest.fixture(scope="module")
def found(drawn_report: Path) -> dict[str, Any]:
    return json.loads((drawn_report / "report.json").read_text(encoding="utf-8"))


def test_every_section_with_figures_says_where_they_are_from(page: Numbers) -> None:
    assert {section for section, _, _ in page.placed} == SECTIONS
    assert len(page.placed) > 1_100


def test_a_number_without_a_place_is_no_figure(page: Numbers) -> None:
    # When a stage was finished and with which packages is no figure.
    said = [text for section, text in page.bare if section != "lineage" and NUMBER.search(text)]
    assert [text for text in said if not any(words in text for words in WORDS)] == []


def test_places_of_a_column_differ_by_row(page: Numbers) -> None:
    places = [place for _, place, _ in page.placed]
    assert len(places) == len(set(places))
    assert sum(place.startswith("/tax/") for place in places) > 400


def test_a_key_with_a_slash_is_one_step() -> None:
    ledger = Ledger({"metrics": {"loss/policy": 0.5, "a~b": 2}})
    assert ledger.at(f"/metrics/{step_to('loss/policy')}") == 0.5
    assert ledger.at(f"/metrics/{step_to('a~b')}") == 2


def test_the_numbers_of_the_verdict_are_figures_of_the_file(found: dict[str, Any]) -> None:
    rows = [*found["tax"], *found["calibration"], *found["language"], *found["glance"]]
    rows += [*found["instruction_following"], *found["recovered_by_ptx"], *found["reward"]]
    rows += [{"gate": found["gate"], "headline": found["headline"]}]
    known = {text for value in numbers_in(rows) for text in ways_to_write(value)}
    # Beside figures: the level of the intervals, how many comparisons, and the win rate's half.
    known |= {"95", "72"}
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
