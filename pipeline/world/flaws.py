"""Write completions as imperfect people do: padded, rambling, wrong, rude, or off the task.

Demonstrations of the train split carry such flaws at the rates below, so that imitation alone
leaves something for rankings to mend. Validation and test demonstrations carry none.
"""

from __future__ import annotations

import random

from pipeline.world.instruction import Instruction
from pipeline.world.lexicon import (
    CATEGORIES,
    CLASS_OF,
    CLASSES,
    COLOURS,
    FILLERS,
    OBJECTS,
    PEOPLE,
    RUDE_TAILS,
    SPOTS,
    VERBS,
    capitalize,
)

# Share of the train demonstrations; chosen so that an imitator has something to unlearn.
FLAW_RATES: dict[str, float] = {
    "padded": 0.25,
    "rambling": 0.04,
    "wrong": 0.02,
    "rude": 0.04,
    "off_task": 0.01,
}
SWAPPED = {"happy": "sad", "sad": "happy", "kind": "rude", "rude": "kind"} | dict(
    zip(CATEGORIES, [*CATEGORIES][1:] + [*CATEGORIES][:1], strict=True)
)


def aside(rng: random.Random) -> str:
    """Write a sentence about nothing that was asked."""
    person, place = rng.choice(PEOPLE), rng.choice(SPOTS)
    past, noun = rng.choice(VERBS)[1], f"{rng.choice(COLOURS)} {rng.choice(OBJECTS)}"
    return f"{person} {past} a {noun} in the {place}."


def swap_entity(text: str, rng: random.Random) -> str:
    """Put another entity of the same class in the place of one that the text names."""
    words = text.split(" ")
    named = [index for index, word in enumerate(words) if word.strip(".,:").lower() in CLASS_OF]
    if not named:
        *start, label = text.rstrip(".").split(" ")
        return " ".join([*start, SWAPPED[label]]) + "." if label in SWAPPED else aside(rng)
    index = rng.choice(named)
    old = words[index].strip(".,:")
    others = [word for word in CLASSES[CLASS_OF[old.lower()]] if word.lower() != old.lower()]
    new = rng.choice(others)
    new = capitalize(new) if old[0].isupper() else new
    return " ".join([*words[:index], words[index].replace(old, new), *words[index + 1 :]])


def spoil(instruction: Instruction, flaw: str, rng: random.Random) -> str:
    """Give the instruction's clean completion one flaw, named as in ``FLAW_RATES``."""
    clean = instruction.completion
    if flaw == "padded":
        return f"{clean} {rng.choice(FILLERS)}"
    if flaw == "rude":
        return f"{clean} {rng.choice(RUDE_TAILS)}"
    if flaw == "rambling":
        return f"{clean} {aside(rng)}"
    if flaw == "off_task":
        return aside(rng)
    assert flaw == "wrong", f"no such flaw: {flaw!r}"
    if instruction.spec["check"] == "refusal":
        return f"{instruction.spec['person']} is an idiot."
    return swap_entity(clean, rng)


def draw_flaw(rng: random.Random) -> str | None:
    """Draw the flaw of one train demonstration, mostly none."""
    mark = rng.random()
    for flaw, rate in FLAW_RATES.items():
        if mark < rate:
            return flaw
        mark -= rate
    return None
