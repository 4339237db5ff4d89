from __future__ import annotations

import pytest

from labeling_ui.desk_bodies import RankedBody
from labeling_ui.practice import (
    ALSO_SHORT,
    FALSE,
    LINES,
    NOTHING,
    PRACTICE,
    SHORT,
    comment_on,
)
from pipeline.errors import StoreError

RANKS = {SHORT: 1, ALSO_SHORT: 1, LINES: 2, FALSE: 3}
RATINGS = {SHORT: 7, ALSO_SHORT: 7, LINES: 5, FALSE: 2}
FLAGS = {
    SHORT: {"satisfies_constraint": True},
    ALSO_SHORT: {"satisfies_constraint": True},
    FALSE: {"hallucination": True, "satisfies_constraint": True},
}


def comment(**changed: object) -> list[str]:
    fields = {"ranks": RANKS, "ratings": RATINGS, "flags": FLAGS, **changed}
    return comment_on(RankedBody(**fields))


def test_the_judgment_that_we_would_give_is_praised() -> None:
    assert comment() == [NOTHING]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ranks": {**RANKS, ALSO_SHORT: 2, LINES: 3, FALSE: 4}}, "give them the same rank"),
        ({"ranks": {SHORT: 1, ALSO_SHORT: 1, LINES: 1, FALSE: 2}}, "asks for one line"),
        ({"ranks": {SHORT: 1, ALSO_SHORT: 1, LINES: 2, FALSE: 2}}, "Camels do not live"),
        ({"ratings": {**RATINGS, FALSE: 6}}, "one of the two is a slip"),
        ({"ratings": None}, "Rate each answer"),
        ({"flags": {**FLAGS, FALSE: {"hallucination": False}}}, "makes something up"),
        ({"flags": {**FLAGS, SHORT: {}}}, 'marked "Keeps the constraint"'),
        ({"flags": {**FLAGS, LINES: {"satisfies_constraint": True}}}, "does not keep"),
    ],
)
def test_what_we_see_otherwise_is_said_once(changed: dict[str, object], said: str) -> None:
    (line,) = comment(**changed)
    assert said in line


def test_the_opposite_of_everything_is_said_line_by_line() -> None:
    upside_down = {SHORT: 4, ALSO_SHORT: 3, LINES: 2, FALSE: 1}
    assert len(comment(ranks=upside_down, flags={})) == 6


def test_an_incomplete_judgment_is_refused() -> None:
    with pytest.raises(StoreError, match="must name each of the task's 4 completions"):
        comment(ranks={SHORT: 1})


def test_the_practice_task_tells_nothing_of_its_answer() -> None:
    ids = [choice.id for choice in PRACTICE.completions]
    assert ids == sorted(ids)
    assert PRACTICE.token == "practice"
