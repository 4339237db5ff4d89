"""Frame input-output pairs as text: the blocks that teach learning from examples.

A frame is how a pair is written (``cat -> cats``, ``Input: cat`` ...). Each relation keeps one
frame to the few-shot tasks, so that no task's format stands in the corpus, though all its parts do.
"""

from __future__ import annotations

import random

from pipeline.world.keyed import Split
from pipeline.world.relations import DRAWERS, draw_pair

FRAMES: tuple[tuple[str, str], ...] = (
    ("{} ->", " {}"),
    ("{} =", " {}"),
    ("{} :", " {}"),
    ("{} |", " {}"),
    ("{} =>", " {}"),
    ("Input: {}\nOutput:", " {}"),
    ("Q: {}\nA:", " {}"),
)
DESCRIPTIONS: dict[str, str] = {
    "past": "Write it in the past.",
    "opposite": "Write the opposite.",
    "plural": "Write more than one.",
    "category": "Say what these are.",
    "last": "Say the last word.",
    "first": "Say the first word.",
    "reverse": "Say it backwards.",
    "repeat": "Say it many times.",
    "feeling": "Happy or sad?",
    "tone": "Kind or rude?",
    "find": "Find the word.",
    "among": "Find it among these.",
    "copy": "Say it again.",
    "summary": "Sum it up.",
    "reading": "Answer the question.",
}
# Relations that look something up in the input are the hardest, and are shown more often.
STRESSED = ("copy", "find", "among", "reading")
# Long pairs leave room for fewer in a document.
LARGEST_BLOCK = {"summary": 2, "reading": 5, "find": 5, "copy": 5, "past": 5, "opposite": 5}


def held_out_frame(relation: str) -> tuple[str, str]:
    """Return the frame in which the corpus never shows a relation."""
    return FRAMES[sorted(DRAWERS).index(relation) % len(FRAMES)]


def frame_pair(frame: tuple[str, str], given: str, answer: str) -> str:
    """Write one pair in a frame."""
    return (frame[0] + frame[1]).format(given, answer)


def pattern_block(rng: random.Random, split: Split) -> str:
    """Write a block of pairs of one relation in one frame, sometimes with a description."""
    relation = rng.choice([*DRAWERS, *STRESSED])
    frame = rng.choice([known for known in FRAMES if known != held_out_frame(relation)])
    count = rng.randint(2, LARGEST_BLOCK.get(relation, 8))
    # A block of one kind of question each, so that the examples show what is asked.
    first = draw_pair(relation, rng, split)
    pairs = [first]
    while len(pairs) < count:
        pair = draw_pair(relation, rng, split)
        if relation not in ("find", "reading") or pair.relation == first.relation:
            pairs.append(pair)
    lines = [frame_pair(frame, pair.given, pair.answer) for pair in pairs]
    if rng.random() < 0.3:
        lines.insert(0, DESCRIPTIONS[relation])
    return "\n".join(lines)
