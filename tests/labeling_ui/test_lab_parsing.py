from __future__ import annotations

import pytest

from labeling_ui.lab_parsing import read_answers, read_order, show_answers, show_order
from pipeline.errors import StoreError
from tests.pipeline.judgments import outputs

THREE = outputs("p", 3)


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("B > A = C", (2, 1, 2)),
        ("b>a=c", (2, 1, 2)),
        ("C > B > A", (3, 2, 1)),
        ("A = B = C", (1, 1, 1)),
    ],
)
def test_an_order_is_read_and_shown(text: str, ranks: tuple[int, ...]) -> None:
    assert read_order(text, THREE) == {
        output.id: rank for output, rank in zip(THREE, ranks, strict=True)
    }
    assert read_order(show_order(ranks), THREE) == read_order(text, THREE)


@pytest.mark.parametrize("text", ["", "A > B", "A > A > C", "A > B > D", "A B C", "A > B > C > "])
def test_an_order_that_leaves_out_or_repeats_an_output_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="must name each of A, B, C once") as caught:
        read_order(text, THREE)
    assert "Write it as A > B > C" in str(caught.value)


def test_settled_questions_are_read_and_shown() -> None:
    found = read_answers("A: violent=yes, sexual = NO\n\n c: opinion=yes\n", THREE)
    assert found == {"p/0": {"violent": True, "sexual": False}, "p/2": {"opinion": True}}
    assert show_answers(found, THREE) == "A: sexual=no, violent=yes\nC: opinion=yes"
    assert read_answers(show_answers(found, THREE), THREE) == found
    assert read_answers(" \n", THREE) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("violent=yes", "must begin with an output"),
        ("D: violent=yes", "must begin with an output"),
        ("A: violet=yes", "'violet' is no question. Did you mean 'violent'"),
        ("A: violent", "violent must be yes or no, got ''"),
        ("A: violent=maybe", "violent must be yes or no, got 'maybe'"),
    ],
)
def test_settled_questions_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        read_answers(text, THREE)
    assert "\n" not in str(caught.value)
