from __future__ import annotations

import itertools
import random
import time

import pytest

from pipeline.word_diff import Part, diff_words, match


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
        (" a", "a "),
        ("Müller's 12 Kühe.", "Müllers 13 Kühe…"),
        ("the cat " * 300, "the dog " * 300),
    ],
)
def test_the_parts_join_to_both_texts(base, text):
    parts = diff_words(base, text)
    assert "".join(part.text for part in parts if part.kind != "removed") == text
    assert "".join(part.text for part in parts if part.kind != "added") == base
    assert all(part.text for part in parts)
    assert all(one.kind != other.kind for one, other in itertools.pairwise(parts))


def test_equal_texts_have_no_other_parts():
    assert {part.kind for part in diff_words("the cat " * 300, "the cat " * 300)} == {"same"}


def test_a_frequent_word_is_no_noise():
    text = "the cat " * 300
    added = [part for part in diff_words(text, f"{text}end") if part.kind != "same"]
    assert added == [Part("added", "end")]


def test_a_phrase_that_changed_is_one_part():
    parts = diff_words("He has one red dog.", "He saw two blue foxes.")
    assert [part.kind for part in parts] == ["same", "removed", "added", "same"]


def test_as_many_items_as_possible_are_matched():
    draw = random.Random(5)
    for _ in range(300):
        one, other = (draw.choices("abcd", k=draw.randrange(20)) for _ in range(2))
        pairs = match(one, other)
        assert [one[at] for at, _ in pairs] == [other[at] for _, at in pairs]
        assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(pairs))
        assert len(pairs) == most_in_common(one, other)


def most_in_common(one: list[str], other: list[str]) -> int:
    """Return the length of the longest common subsequence by its definition."""
    above = [0] * (len(other) + 1)
    for item in one:
        row = [0]
        for at, there in enumerate(other):
            row.append(above[at] + 1 if item == there else max(above[at + 1], row[at]))
        above = row
    return above[-1]


def test_long_texts_without_much_in_common_take_a_moment():
    draw = random.Random(5)
    words = [f"word{at}" for at in range(500)]
    base, text = (" ".join(draw.choices(words, k=4000)) for _ in range(2))
    begun = time.perf_counter()
    parts = diff_words(base, text)
    assert time.perf_counter() - begun < 5
    same = sum(len(part.text.split()) for part in parts if part.kind == "same")
    assert 200 < same < 2000
