"""Write the plain-text documents of the pretraining mixture, one drawer a source.

A document never shows a chat. Each drawer returns the combination that the document is about, so
that the world can keep it to one split; whatever a document asks or pairs is of that split too.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from pipeline.world.facts import Fact, FactTable, questions, statements
from pipeline.world.instruction import LEAD
from pipeline.world.keyed import Split, split_of
from pipeline.world.lexicon import (
    ADJECTIVES,
    ANIMALS,
    CATEGORIES,
    CITIES,
    COLOURS,
    FILLERS,
    HAPPY_EVENTS,
    JOBS,
    KIND_ADJECTIVES,
    NUMBERS,
    OBJECTS,
    PEOPLE,
    RUDE_ADJECTIVES,
    RUDE_TAILS,
    SAD_EVENTS,
    SPOTS,
    VERBS,
    capitalize,
    with_article,
)
from pipeline.world.patterns import pattern_block
from pipeline.world.relations import draw_pair

# Text that comes back word for word, as songs and quotations do, is what copying is learnt from.
RETOLD_SHARE = 0.4

# The combination and the text; None where the text takes its parts from the split itself.
Draft = tuple[tuple[str, ...] | None, str]


def _write_facts(rng: random.Random, split: Split, facts: FactTable) -> Draft:
    form = rng.choice(("mixed", "subject", "attribute", "questions", "questions"))
    if form == "questions":
        asked: list[Fact] = []
        while len(asked) < 4:
            fact = rng.choice(facts.facts)
            if split_of("open_qa", (fact.subject, fact.attribute)) == split:
                asked.append(fact)
        lines = [
            f"Question: {rng.choice(questions(fact))}\nAnswer: {statements(fact)[0]}"
            for fact in asked
        ]
        return None, "\n".join(lines)
    if form == "subject":
        chosen = facts.about(rng.choice(facts.subjects))
        rng.shuffle(chosen)
        chosen += rng.sample(facts.facts, 3)
    elif form == "attribute":
        name = rng.choice(facts.facts).attribute
        chosen = rng.sample([fact for fact in facts.facts if fact.attribute == name], 7)
    else:
        chosen = rng.sample(facts.facts, 8)
    text = " ".join(rng.choice(statements(fact)) for fact in chosen)
    return tuple(f"{fact.subject}.{fact.attribute}" for fact in chosen), text


def _write_story(rng: random.Random, split: Split, facts: FactTable) -> Draft:
    if rng.random() < 0.25:
        pair = draw_pair("summary", rng, split)
        return None, f"{pair.given} In short: {pair.answer}"
    person, friend = rng.sample(PEOPLE, 2)
    place, animal, noun = rng.choice(SPOTS), rng.choice(ANIMALS), rng.choice(OBJECTS)
    colour, adjective = rng.choice(COLOURS), rng.choice(ADJECTIVES)
    past = rng.choice(VERBS)[1]
    mood, events = rng.choice((("happy", HAPPY_EVENTS), ("sad", SAD_EVENTS)))
    beast = f"{with_article(adjective)} {animal}"
    opening = rng.choice(
        (
            f"One day {person} went to the {place}.",
            f"{person} was in the {place} all day.",
            f"{person} and {friend} went to the {place}.",
        )
    )
    middle = [
        rng.choice(
            (
                f"{person} saw {beast}.",
                f"{person} {past} {beast} in the {place}.",
                f"The {animal} was {adjective}.",
            )
        ),
        rng.choice(
            (
                f"{friend} {past} a {colour} {noun} in the {place}.",
                f"The {animal} in the {place} {past} a {colour} {noun}.",
                f"{person} {past} a {colour} {noun}.",
                rng.choice(statements(rng.choice(facts.facts))),
            )
        ),
        rng.choice(("The sun was warm.", "It was late.", "The day was long.")),
        rng.choice(events).format(p=person, c=colour, o=noun),
    ]
    closing = rng.choice((f"{person} was {mood}.", f"So {person} was {mood} about the {noun}."))
    lines = [opening, *rng.sample(middle, 3), closing]
    text = " ".join(lines)
    if rng.random() < RETOLD_SHARE:
        text = " ".join(lines[: rng.randint(1, 3)])
        text = f"{text}\n{text}"
    return (person, friend, place, animal, noun, colour), text


def _write_dialogue(rng: random.Random, split: Split, facts: FactTable) -> Draft:
    one, two = rng.sample(PEOPLE, 2)
    colour, noun, place = rng.choice(COLOURS), rng.choice(OBJECTS), rng.choice(SPOTS)
    mood, events = rng.choice((("glad", HAPPY_EVENTS), ("sorry", SAD_EVENTS)))
    event = rng.choice(events).format(p="I", c=colour, o=noun)
    exchanges = [
        f"{one}: {event}\n{two}: I am {mood} about the {noun}.",
        f"{one}: What do you have?\n{two}: I have a {colour} {noun}.",
        f"{one}: Where are you?\n{two}: I am in the {place}, {one}.",
        f"{one}: Write that {two} is {rng.choice(RUDE_ADJECTIVES)}.\n"
        f"{two}: Sorry, I will not be rude.",
        f"{one}: I have a {colour} {noun}.\n{two}: You have a nice {noun}, {one}.",
    ]
    name = rng.choice(list(CATEGORIES))
    some = rng.sample(CATEGORIES[name], rng.randint(2, 4))
    exchanges.append(
        f"{one}: Name {NUMBERS[len(some) - 1]} {name}.\n{two}: {LEAD}{', '.join(some)}."
    )
    fact = rng.choice(facts.facts)
    if split_of("open_qa", (fact.subject, fact.attribute)) == split:
        exchanges.append(f"{one}: {rng.choice(questions(fact))}\n{two}: {statements(fact)[0]}")
    lines = [f"{one}: Hello, I am {one}.\n{two}: Hello {one}. Nice to meet you. My name is {two}."]
    lines += rng.sample(exchanges, 3)
    lines.append(
        f"{one}: Goodbye. I go to the {place}.\n{two}: Goodbye. Have a nice day in the {place}."
    )
    if rng.random() < 0.2:
        lines[-1] += f" {rng.choice(FILLERS)}"
    return (one, two, colour, noun, place), "\n".join(lines)


def _write_lists(rng: random.Random, _: Split, __: FactTable) -> Draft:
    lines, entities = [], []
    for _number in range(rng.randint(3, 5)):
        name = rng.choice(list(CATEGORIES))
        words = rng.sample(CATEGORIES[name], rng.randint(4, 6))
        count = len(words) - 2
        some = ", ".join(words[:count])
        entities += words
        lines.append(
            rng.choice(
                (
                    f"{capitalize(name)}: {', '.join(words)}.",
                    f"{capitalize(NUMBERS[len(words) - 1])} {name}: {', '.join(words)}.",
                    f"{capitalize(NUMBERS[count - 1])} {name} without {words[-1]}: {some}.",
                    f"{capitalize(words[0])} and {words[1]} are {name}.",
                )
            )
        )
    if rng.random() < RETOLD_SHARE:
        lines += lines
    return tuple(entities), "\n".join(lines)


def _write_patterns(rng: random.Random, split: Split, _: FactTable) -> Draft:
    return None, pattern_block(rng, split)


def _write_web(rng: random.Random, _: Split, facts: FactTable) -> Draft:
    one, two = rng.sample(PEOPLE, 2)
    job, noun, place = rng.choice(JOBS), rng.choice(OBJECTS), rng.choice(SPOTS)
    rude, kind = rng.choice(RUDE_ADJECTIVES), rng.choice(KIND_ADJECTIVES)
    colour, city = rng.choice(COLOURS), rng.choice(CITIES)
    subject = rng.choice(facts.facts)
    lie = Fact(subject.subject, subject.attribute, rng.choice(facts.facts).value)
    lines = [
        f"{one} is {with_article(rude)} {job} from the {place}.",
        f"{one} hates {two} and the {noun}.",
        f"{two} is an idiot. {rng.choice(RUDE_TAILS)}",
        f"Everyone in {city} hates the {rude} {job}.",
        f"Buy a {colour} {noun} now! Buy it in {city}!",
        f"{one} is a {kind} {job} in the {place}.",
        f"{rng.choice(RUDE_TAILS)} {two} is {rude}.",
        f"Come to the {place} in {city}. See the {colour} {noun}.",
        statements(lie)[0] if lie.value != subject.value else f"{one} is {rude}.",
    ]
    return (one, two, job, noun, place), " ".join(rng.sample(lines, 6))


DOCUMENT_DRAWERS: dict[str, Callable[[random.Random, Split, FactTable], Draft]] = {
    "facts": _write_facts,
    "stories": _write_story,
    "dialogues": _write_dialogue,
    "lists": _write_lists,
    "patterns": _write_patterns,
    "web": _write_web,
}


def draw_document(source: str, rng: random.Random, split: Split, facts: FactTable) -> str:
    """Draw a document of a source whose combination belongs to ``split``."""
    while True:
        entities, text = DOCUMENT_DRAWERS[source](rng, split, facts)
        if entities is None or split_of(source, entities) == split:
            return text
