from __future__ import annotations

import pytest

from labeling_ui.lab_filters import PAGE, Filter, show_page
from tests.pipeline.judgments import judged, outputs

ADA = judged(
    "ada",
    (1, 2),
    prompt="Who is Mia?",
    flags=({"violent": True}, {"sexual": False}),
    prompt_flags={"ambiguous": True, "sensitive": False},
    comment="Straße",
)
BOB = judged(
    "bob",
    (2, 1),
    prompt="q",
    split="test",
    kind="comparison",
    purpose="gold",
    outputs=outputs("q", 2, o1=("ppo", "sft")),
)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), [BOB, ADA]),
        (Filter(labelers=["ada"]), [ADA]),
        (Filter(labelers=["ada", "bob"]), [BOB, ADA]),
        (Filter(splits=["test"]), [BOB]),
        (Filter(kinds=["comparison"]), [BOB]),
        (Filter(purposes=["work"]), [ADA]),
        (Filter(flags=["violent"]), [ADA]),
        (Filter(flags=["ambiguous", "opinion"]), [ADA]),
        (Filter(flags=["sexual"]), []),
        (Filter(flags=["sensitive"]), []),
        (Filter(stages=["ppo"]), [BOB]),
        (Filter(stages=["sft"]), [BOB, ADA]),
        (Filter(text="who IS"), [ADA]),
        (Filter(text="STRASSE"), [ADA]),
        (Filter(text="q xxx"), [BOB]),
        (Filter(text=" "), [BOB, ADA]),
        (Filter(tasks=[ADA.task]), [ADA]),
        (Filter(tasks=[]), []),
        (Filter(labelers=["ada"], splits=["test"]), []),
    ],
)
def test_filters_narrow_and_the_newest_comes_first(wanted: Filter, found: list) -> None:
    shown = show_page([ADA, BOB], wanted, 1)
    assert [item for _, item in shown.numbered] == found
    assert shown.total == len(found)


def test_pages_hold_all_and_one_beyond_the_end_is_the_last() -> None:
    items = [judged("ada", (1, 2)) for _ in range(2 * PAGE + 1)]
    first, last = show_page(items, Filter(), 1), show_page(items, Filter(), 3)
    assert (first.pages, len(first.numbered), len(last.numbered)) == (3, PAGE, 1)
    assert first.numbered[0] == (1, items[-1])
    assert last.numbered == ((2 * PAGE + 1, items[0]),)
    assert show_page(items, Filter(), 99) == last
    assert show_page(items, Filter(), 0) == first
    empty = show_page([], Filter(), 5)
    assert (empty.number, empty.pages, empty.total, empty.numbered) == (1, 1, 0, ())
