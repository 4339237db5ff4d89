"""Find the words in which two texts differ."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

PIECES = re.compile(r"\s+|\w+|[^\w\s]")


class Part(NamedTuple):
    """A piece of two texts laid over each other: in both, or in one alone."""

    kind: Literal["same", "added", "removed"]
    text: str


def diff_words(base: str, text: str) -> list[Part]:
    """Return the parts that make one text of another, word by word.

    The parts that are not ``removed`` join to ``text``, those that are not ``added`` to ``base``.
    """
    ours, theirs = PIECES.findall(base), PIECES.findall(text)
    parts: list[Part] = []
    # Without autojunk: in a long text, difflib would take frequent words for noise.
    for kind, start, end, other_start, other_end in SequenceMatcher(
        None, ours, theirs, autojunk=False
    ).get_opcodes():
        if kind == "equal":
            parts.append(Part("same", "".join(ours[start:end])))
            continue
        if end > start:
            parts.append(Part("removed", "".join(ours[start:end])))
        if other_end > other_start:
            parts.append(Part("added", "".join(theirs[other_start:other_end])))
    return parts
