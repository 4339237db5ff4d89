from __future__ import annotations

import pytest

from pipeline.word_diff import Part, diff_words


def test_words_are_compared_and_not_letters():
    assert diff_words("The cat sat.", "The car sat!") == [
        Part("same", "The "),
        Part("removed", "cat"),
        Part("added", "car"),
        Part("same", " sat"),
        Part("removed", "."),
        Part("added", "!"),
    ]


@pytest.mark.parametrize(
    ("base", "text"),
    [
        ("", ""),
        ("", "one two"),
        ("one two", ""),
        ("a b c d e", "c d x a"),
        ("a\n\n b", "a b"),
        ("Müller's 12 Kühe.", "Müllers 13 Kühe…"),
        ("the cat " * 300, "the dog " * 300),
    ],
)
def test_the_parts_join_to_both_texts(base, text):
    parts = diff_words(base, text)
    assert "".join(part.text for part in parts if part.kind != "removed") == text
    assert "".join(part.text for part in parts if part.kind != "added") == base
    assert all(part.text for part in parts)


def test_equal_texts_have_no_other_parts():
    assert {part.kind for part in diff_words("the cat " * 300, "the cat " * 300)} == {"same"}


def test_a_frequent_word_is_no_noise():
    text = "the cat " * 300
    added = [part for part in diff_words(text, f"{text}end") if part.kind != "same"]
    assert added == [Part("added", "end")]
