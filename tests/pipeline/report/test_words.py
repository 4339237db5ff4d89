from __future__ import annotations

import pytest

from pipeline.report.words import (
    LONGEST,
    digits,
    duration,
    percent,
    prompt_text,
    signed,
    visible,
)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "\N{EN DASH}"),
        (0.0, "0"),
        (-0.0, "0"),
        (5, "5"),
        (3_000_000, "3\u202f000\u202f000"),
        (0.7294, "0.729"),
        (9.841, "9.84"),
        (-123.46, "\N{MINUS SIGN}123.5"),
        (3e-6, "3.00e\N{MINUS SIGN}06"),
    ],
)
def test_digits(value: float | None, written: str) -> None:
    assert digits(value) == written


def test_differences_carry_their_sign_unless_they_round_to_nothing() -> None:
    assert signed(0.042) == "+4.2"
    assert signed(-0.042) == "\N{MINUS SIGN}4.2"
    assert signed(0.0001) == "0.0"
    assert signed(-0.0001) == "0.0"
    assert percent(0.5) == "50.0"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(3.21, "3.2 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (7512, "2 h 05 min")],
)
def test_duration(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_what_a_text_hides_is_shown() -> None:
    assert visible("a\u202eb\x00c\ud800") == "a⟨U+202E⟩b⟨U+0000⟩c⟨U+D800⟩"
    assert (
        visible("tab\tline\nGünayd\u0131n 你好 👩\u200d🔬")
        == "tab\tline\nGünayd\u0131n 你好 👩\u200d🔬"
    )


def test_a_long_text_is_cut_and_says_by_how_much() -> None:
    assert visible("x" * LONGEST) == "x" * LONGEST
    assert visible("x" * (LONGEST + 7)) == "x" * LONGEST + " … [7 more characters]"


def test_a_conversation_is_written_with_its_roles() -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    assert prompt_text("Hi") == prompt_text(turns[:1]) == "Hi"
    assert prompt_text(turns) == "user: Hi\nassistant: Hello\nuser: Bye"
