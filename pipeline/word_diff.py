"""Find the words in which two texts differ."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from math import isqrt
from typing import Literal, NamedTuple

PIECES = re.compile(r"\s+|\w+|[^\w\s]")

Kind = Literal["same", "added", "removed"]


class Part(NamedTuple):
    """A piece of two texts laid over each other: in both, or in one alone."""

    kind: Kind
    text: str


def diff_words(base: str, text: str) -> list[Part]:
    """Return the parts that make one text of another, word by word.

    The parts that are not ``removed`` join to ``text``, those that are not ``added`` to ``base``.
    As many words as possible are the same, in order; white space is the same beside such words
    only, so that a changed phrase is one part and not many.
    """
    ours, theirs = PIECES.findall(base), PIECES.findall(text)
    our_words, their_words = _word_places(ours), _word_places(theirs)
    found = _Parts()
    here = there = 0
    for our, their in match([ours[at] for at in our_words], [theirs[at] for at in their_words]):
        place, other = our_words[our], their_words[their]
        found.change(ours[here:place], theirs[there:other])
        found.add("same", ours[place : place + 1])
        here, there = place + 1, other + 1
    found.change(ours[here:], theirs[there:])
    return [Part(kind, "".join(words)) for kind, words in found.parts]


def match(one: Sequence[str], other: Sequence[str]) -> list[tuple[int, int]]:
    """Return as many pairs of equal items as there can be in order, by their places.

    The longest common subsequence. One row of the table of lengths is one number, whose bit ``i``
    is 0 where the length grows with item ``i`` of ``one``. A row is made of the one before:

        u = row & places of the item,    next = (row + u) | (row - u)

    Hyyrö 2004, "Bit-parallel LCS-length computation revisited". So 4,000 words against 4,000 take
    milliseconds. Only a row now and then is kept; those between are made again on the way back.
    """
    places: defaultdict[str, int] = defaultdict(int)
    for at, item in enumerate(one):
        places[item] |= 1 << at
    full = (1 << len(one)) - 1

    def below(row: int, item: str) -> int:
        grown = row & places.get(item, 0)
        return ((row + grown) | (row - grown)) & full

    stretch = isqrt(len(other)) + 1
    rows_below = enumerate(accumulate(other, below, initial=full))
    kept = [row for at, row in rows_below if at % stretch == 0]
    pairs = []
    column = len(one)
    for start in reversed(range(0, len(other), stretch)):
        section = other[start : start + stretch]
        rows = list(accumulate(section, below, initial=kept[start // stretch]))
        at = len(rows) - 1
        while at and column:
            if rows[at] >> (column - 1) & 1:
                column -= 1
                continue
            at -= 1
            # 0 in this row and not yet in the one before: here the two are a pair.
            if rows[at] >> (column - 1) & 1:
                column -= 1
                pairs.append((column, start + at))
    return pairs[::-1]


class _Parts:
    """Gather parts, those of one kind together."""

    def __init__(self) -> None:
        self.parts: list[tuple[Kind, list[str]]] = []

    def add(self, kind: Kind, pieces: Sequence[str]) -> None:
        """Add pieces of one kind; none add nothing."""
        if pieces and self.parts and self.parts[-1][0] == kind:
            self.parts[-1][1].extend(pieces)
        elif pieces:
            self.parts.append((kind, list(pieces)))

    def change(self, removed: Sequence[str], added: Sequence[str]) -> None:
        """Add what stands between two words that are the same.

        No word is in both, but white space at either end may be.
        """
        head = bool(removed and added and removed[0] == added[0])
        more = min(len(removed), len(added)) > head
        tail = more and removed[-1] == added[-1]
        self.add("same", removed[:head])
        self.add("removed", removed[head : len(removed) - tail])
        self.add("added", added[head : len(added) - tail])
        self.add("same", removed[len(removed) - tail :])


def _word_places(pieces: Sequence[str]) -> list[int]:
    return [at for at, piece in enumerate(pieces) if not piece.isspace()]
