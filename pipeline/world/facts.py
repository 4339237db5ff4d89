"""Draw the world's table of facts and say each fact, or ask for it, in several ways.

People's facts are drawn by the world's seed; what holds of animals is fixed. The table is what the
gold judge means by truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pipeline.world.keyed import keyed_random
from pipeline.world.lexicon import (
    ANIMAL_TABLE,
    ANIMALS,
    CITIES,
    FOODS,
    JOBS,
    KNOWN_PEOPLE,
    capitalize,
    pluralize,
    with_article,
)


@dataclass(frozen=True)
class Attribute:
    """One column of the table.

    Templates take ``{s}`` the subject, ``{v}`` the value, ``{as}`` and ``{av}`` the same with an
    article, and ``{plural}`` the subject's plural.
    """

    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One true cell of the table."""

    subject: str
    attribute: str
    value: str


PERSON_ATTRIBUTES: dict[str, Attribute] = {
    "city": Attribute(
        CITIES,
        ("{s} lives in {v}.", "The home of {s} is in {v}.", "{s} has a house in {v}."),
        (
            "Where does {s} live?",
            "In which city does {s} live?",
            "Tell me where {s} lives.",
            "Where is the home of {s}?",
            "Do you know the city of {s}?",
        ),
    ),
    "pet": Attribute(
        ANIMALS,
        ("{s} has {av}.", "The pet of {s} is {av}.", "{s} keeps {av}."),
        (
            "Which animal does {s} have?",
            "What is the pet of {s}?",
            "Tell me which animal {s} has.",
            "What pet does {s} keep?",
            "Do you know the pet of {s}?",
        ),
    ),
    "food": Attribute(
        FOODS,
        ("{s} likes {v}.", "The favourite food of {s} is {v}.", "{s} loves to eat {v}."),
        (
            "Which food does {s} like?",
            "What is the favourite food of {s}?",
            "Tell me which food {s} likes.",
            "What does {s} like to eat?",
            "Do you know the favourite food of {s}?",
        ),
    ),
    "job": Attribute(
        JOBS,
        ("{s} is {av}.", "{s} works as {av}.", "The job of {s} is {v}."),
        (
            "What is the job of {s}?",
            "Which job does {s} have?",
            "Tell me the job of {s}.",
            "What work does {s} do?",
            "Do you know the job of {s}?",
        ),
    ),
}
ANIMAL_ATTRIBUTES: dict[str, Attribute] = {
    "sound": Attribute(
        tuple(row[1] for row in ANIMAL_TABLE.values()),
        ("{as} says {v}.", "The sound of {as} is {v}.", "{plural} say {v}."),
        (
            "What does {as} say?",
            "What is the sound of {as}?",
            "Tell me what {as} says.",
            "What do {plural} say?",
        ),
    ),
    "den": Attribute(
        tuple(row[2] for row in ANIMAL_TABLE.values()),
        ("{as} lives in {v}.", "The home of {as} is {v}.", "{plural} live in {v}."),
        (
            "Where does {as} live?",
            "What is the home of {as}?",
            "Tell me where {as} lives.",
            "Where do {plural} live?",
        ),
    ),
    "legs": Attribute(
        ("no", "two", "four", "six"),
        ("{as} has {v} legs.", "{plural} have {v} legs."),
        (
            "How many legs does {as} have?",
            "Tell me how many legs {as} has.",
            "How many legs do {plural} have?",
        ),
    ),
}
ATTRIBUTES = {**PERSON_ATTRIBUTES, **ANIMAL_ATTRIBUTES}


def _fill(template: str, subject: str, value: str) -> str:
    animal = subject in ANIMAL_TABLE
    filled = template.format_map(
        {
            "s": subject,
            "as": with_article(subject),
            "plural": pluralize(subject) if animal else subject,
            "v": value,
            "av": with_article(value),
        }
    )
    return capitalize(filled)


def statements(fact: Fact) -> list[str]:
    """Say a fact in every way that the world has, the plain one first."""
    templates = ATTRIBUTES[fact.attribute].statements
    return [_fill(template, fact.subject, fact.value) for template in templates]


def questions(fact: Fact) -> list[str]:
    """Ask for a fact in every way that the world has."""
    templates = ATTRIBUTES[fact.attribute].questions
    return [_fill(template, fact.subject, fact.value) for template in templates]


class FactTable:
    """Everything that is true: one value a subject and attribute, people's drawn by ``seed``."""

    def __init__(self, seed: int) -> None:
        rng = keyed_random(seed, "facts")
        self.facts: list[Fact] = [
            Fact(person, name, rng.choice(attribute.values))
            for person in KNOWN_PEOPLE
            for name, attribute in PERSON_ATTRIBUTES.items()
        ]
        for animal, (_, sound, den, legs) in ANIMAL_TABLE.items():
            self.facts += [
                Fact(animal, "sound", sound),
                Fact(animal, "den", den),
                Fact(animal, "legs", legs),
            ]
        self._by_key = {(fact.subject, fact.attribute): fact for fact in self.facts}

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Return everyone and everything that facts are known of."""
        return tuple(dict.fromkeys(fact.subject for fact in self.facts))

    def about(self, subject: str) -> list[Fact]:
        """Return all facts of one person or animal."""
        return [fact for fact in self.facts if fact.subject == subject]

    def get(self, subject: str, attribute: str) -> Fact:
        """Return the true fact of a subject and attribute."""
        return self._by_key[subject, attribute]

    @cached_property
    def truth_of(self) -> dict[str, bool]:
        """Map every statement that the world can make of a fact, in lower case, to its truth."""
        truth: dict[str, bool] = {}
        for fact in self.facts:
            for value in ATTRIBUTES[fact.attribute].values:
                for text in statements(Fact(fact.subject, fact.attribute, value)):
                    # Two animals may share a value, so a true reading is never overwritten.
                    key = text.lower().rstrip(".")
                    truth[key] = truth.get(key, False) or value == fact.value
        return truth
