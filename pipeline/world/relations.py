"""Draw input-output pairs of the relations that corpus, prompts and few-shot tasks share.

A pair is one filled template: "Anna paints a red box." and "Anna painted a red box." The corpus
shows pairs in blocks, prompts ask for the output in words, few-shot tasks offer it among rivals.
Its entities are its combination, which belongs to one split.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.world.keyed import Split, split_of
from pipeline.world.lexicon import (
    ADJECTIVES,
    ANIMALS,
    CATEGORIES,
    COLOURS,
    FOODS,
    HAPPY_EVENTS,
    JOBS,
    KIND_ADJECTIVES,
    NUMBERS,
    OBJECTS,
    OPPOSITE,
    PEOPLE,
    RUDE_ADJECTIVES,
    SAD_EVENTS,
    SPOTS,
    VERBS,
    pluralize,
    with_article,
)

# The categories that brainstorming and sorting ask for.
MIXED_CATEGORIES = ("animals", "foods", "colours", "jobs", "things", "cities")
ANYTHING = ANIMALS + OBJECTS + COLOURS + JOBS + FOODS + SPOTS + PEOPLE


@dataclass(frozen=True)
class Pair:
    """An input, its right output, and three wrong outputs that look like it."""

    relation: str
    entities: tuple[str, ...]
    given: str
    answer: str
    rivals: tuple[str, str, str]

    @property
    def split(self) -> Split:
        """Name the split that owns the combination."""
        return split_of(self.relation, self.entities)


def _past(rng: random.Random) -> Pair:
    person, rival = rng.sample(PEOPLE, 2)
    present, past = rng.choice(VERBS)
    other_past = rng.choice([verb for _, verb in VERBS if verb != past])
    noun = f"{rng.choice(('a', 'the'))} {rng.choice(COLOURS)} {rng.choice(OBJECTS)}"
    return Pair(
        "past",
        (person, past, noun.split(" ", 1)[1]),
        f"{person} {present} {noun}.",
        f"{person} {past} {noun}.",
        (
            f"{person} {present} {noun}.",
            f"{rival} {past} {noun}.",
            f"{person} {other_past} {noun}.",
        ),
    )


def _opposite(rng: random.Random) -> Pair:
    word = rng.choice(ADJECTIVES)
    wrong = rng.choice([other for other in ADJECTIVES if other not in (word, OPPOSITE[word])])
    noun, other_noun = rng.sample(ANIMALS + OBJECTS, 2)
    place = rng.choice(SPOTS)
    text = "The {n} in the {p} is {a}."
    return Pair(
        "opposite",
        (word, noun, place),
        text.format(n=noun, p=place, a=word),
        text.format(n=noun, p=place, a=OPPOSITE[word]),
        (
            text.format(n=noun, p=place, a=word),
            text.format(n=noun, p=place, a=wrong),
            text.format(n=other_noun, p=place, a=OPPOSITE[word]),
        ),
    )


def _plural(rng: random.Random) -> Pair:
    noun, wrong = rng.sample(ANIMALS + OBJECTS, 2)
    colour, other = rng.sample(COLOURS, 2)
    return Pair(
        "plural",
        (noun, colour),
        f"{colour} {noun}",
        f"{colour} {pluralize(noun)}",
        (f"{colour} {noun}", f"{colour} {pluralize(wrong)}", f"{other} {pluralize(noun)}"),
    )


def _category(rng: random.Random) -> Pair:
    name = rng.choice(list(CATEGORIES))
    items = rng.sample(CATEGORIES[name], 3)
    others = rng.sample([other for other in CATEGORIES if other != name], 2)
    return Pair("category", tuple(items), ", ".join(items), name, (items[-1], others[0], others[1]))


def _three_words(rng: random.Random) -> tuple[list[str], str]:
    words = rng.sample(ANIMALS + OBJECTS + COLOURS, 4)
    return words[:3], words[3]


def _last(rng: random.Random) -> Pair:
    words, other = _three_words(rng)
    return Pair("last", tuple(words), ", ".join(words), words[2], (words[0], words[1], other))


def _first(rng: random.Random) -> Pair:
    words, other = _three_words(rng)
    return Pair("first", tuple(words), ", ".join(words), words[0], (words[1], words[2], other))


def _reverse(rng: random.Random) -> Pair:
    words, other = _three_words(rng)
    return Pair(
        "reverse",
        tuple(words),
        " ".join(words),
        " ".join(reversed(words)),
        (
            " ".join(words),
            " ".join([words[2], words[0], words[1]]),
            f"{words[2]} {words[1]} {other}",
        ),
    )


def _repeat(rng: random.Random) -> Pair:
    word, other = rng.sample(ANIMALS + OBJECTS + COLOURS + JOBS, 2)
    count = rng.choice((2, 3, 4))
    return Pair(
        "repeat",
        (word, NUMBERS[count - 1]),
        f"{word} {NUMBERS[count - 1]} times",
        " ".join([word] * count),
        (" ".join([word] * (count + 1)), " ".join([other] * count), word),
    )


def _feeling(rng: random.Random) -> Pair:
    mood, events = rng.choice((("happy", HAPPY_EVENTS), ("sad", SAD_EVENTS)))
    person, colour, noun = rng.choice(PEOPLE), rng.choice(COLOURS), rng.choice(OBJECTS)
    text = rng.choice(events).format(p=person, c=colour, o=noun)
    return Pair(
        "feeling",
        (person, colour, noun),
        text,
        mood,
        ("sad" if mood == "happy" else "happy", noun, colour),
    )


def _tone(rng: random.Random) -> Pair:
    mood, words = rng.choice((("kind", KIND_ADJECTIVES), ("rude", RUDE_ADJECTIVES)))
    person, job, place = rng.choice(PEOPLE), rng.choice(JOBS), rng.choice(SPOTS)
    word = rng.choice(words)
    return Pair(
        "tone",
        (person, job, place),
        f"{person} is {with_article(word)} {job} in the {place}.",
        mood,
        ("rude" if mood == "kind" else "kind", job, place),
    )


def _two_seen(rng: random.Random) -> tuple[str, dict[str, str]]:
    """Write a sentence that names one entity of each of five kinds."""
    named = {
        "name": rng.choice(PEOPLE),
        "animal": rng.choice(ANIMALS),
        "thing": rng.choice(OBJECTS),
        "place": rng.choice(SPOTS),
        "colour": rng.choice(COLOURS),
    }
    first, second = (
        f"{with_article(named['colour'])} {named['thing']}",
        with_article(named["animal"]),
    )
    if rng.random() < 0.5:
        first, second = second, first
    past = rng.choice(("saw", "found", "drew", "painted"))
    return f"{named['name']} {past} {first} and {second} in the {named['place']}.", named


def _any_sentence(rng: random.Random) -> tuple[str, dict[str, str]]:
    """Write a sentence that other relations take too, so that only examples tell what is asked."""
    form = rng.choice(("seen", "past", "feeling", "tone", "opposite"))
    if form == "seen":
        return _two_seen(rng)
    pair = DRAWERS[form](rng)
    if form == "past":
        colour, noun = pair.entities[2].split(" ")
        return pair.given, {"name": pair.entities[0], "colour": colour, "thing": noun}
    if form == "feeling":
        kinds: tuple[str, ...] = ("name", "colour", "thing")
    elif form == "tone":
        kinds = ("name", "job", "place")
    else:
        noun = pair.entities[1]
        kinds = ("word", "animal" if noun in ANIMALS else "thing", "place")
    return pair.given, dict(zip(kinds, pair.entities, strict=True))


def _find(rng: random.Random) -> Pair:
    text, named = _any_sentence(rng)
    kind = rng.choice([kind for kind in named if kind != "word"])
    others = [word for word in (*named.values(), *rng.sample(FOODS, 2)) if word != named[kind]]
    one, two, three = others[:3]
    return Pair(f"find_{kind}", tuple(named.values()), text, named[kind], (one, two, three))


def draw_mixed(rng: random.Random) -> tuple[str, list[str], str]:
    """Mix a word of one category with three of another; return name, mixture and the word."""
    category, other = rng.sample(MIXED_CATEGORIES, 2)
    found = rng.choice(CATEGORIES[category])
    return category, rng.sample([found, *rng.sample(CATEGORIES[other], 3)], 4), found


def _among(rng: random.Random) -> Pair:
    category, mixed, found = draw_mixed(rng)
    one, two, three = (word for word in mixed if word != found)
    given = f"{category}: {', '.join(mixed)}"
    return Pair("among", (category, *mixed), given, found, (one, two, three))


def _copy(rng: random.Random) -> Pair:
    form = rng.choice(("sentence", "words", "words"))
    if form == "sentence":
        text, named = _any_sentence(rng)
        entities = tuple(named.values())
    else:
        entities = tuple(rng.sample(ANYTHING, rng.randint(2, 6)))
        text = rng.choice((" ", ", ")).join(entities)
    words = text.split(" ")
    return Pair(
        "copy", entities, text, text, (words[0], words[-1], " ".join([*words[:-1], words[0]]))
    )


def _summary(rng: random.Random) -> Pair:
    person, animal, noun = rng.choice(PEOPLE), rng.choice(ANIMALS), rng.choice(OBJECTS)
    place, colour = rng.choice(SPOTS), rng.choice(COLOURS)
    deed = rng.choice(("found", "bought", "lost"))
    lines = [
        rng.choice(
            (f"One day {person} went to the {place}.", f"{person} was in the {place} all day.")
        ),
        f"{person} saw {with_article(animal)}.",
        rng.choice(("The sun was warm.", "It was late.", "The day was long.")),
        f"{person} {deed} a {colour} {noun}.",
    ]
    answer = f"{person} saw {with_article(animal)} and {deed} a {colour} {noun} in the {place}."
    wrong = rng.choice([other for other in PEOPLE if other != person])
    return Pair(
        "summary",
        (person, animal, noun, place, colour),
        " ".join(lines),
        answer,
        (lines[1], lines[2], answer.replace(person, wrong)),
    )


def _reading(rng: random.Random) -> Pair:
    text, named = _two_seen(rng)
    name, thing, place = named["name"], named["thing"], named["place"]
    # What the question is after, the question, and the answer around it.
    kind, question, answer = rng.choice(
        (
            ("name", f"Who was in the {place}?", f"{{}} was in the {place}."),
            ("place", f"Where was {name}?", f"{name} was in the {{}}."),
            ("colour", f"Which colour was the {thing}?", f"The {thing} was {{}}."),
            ("animal", "Which animal was there?", "The animal was the {}."),
            ("thing", "Which thing was there?", "The thing was the {}."),
        )
    )
    one, two, three = rng.sample([word for other, word in named.items() if other != kind], 3)
    return Pair(
        f"read_{kind}",
        tuple(named.values()),
        f"{text} {question}",
        answer.format(named[kind]),
        (answer.format(one), answer.format(two), answer.format(three)),
    )


DRAWERS: dict[str, Callable[[random.Random], Pair]] = {
    "past": _past,
    "opposite": _opposite,
    "plural": _plural,
    "category": _category,
    "last": _last,
    "first": _first,
    "reverse": _reverse,
    "repeat": _repeat,
    "feeling": _feeling,
    "tone": _tone,
    "find": _find,
    "among": _among,
    "copy": _copy,
    "summary": _summary,
    "reading": _reading,
}


def draw_pair(relation: str, rng: random.Random, split: Split) -> Pair:
    """Draw a pair of a relation whose combination belongs to ``split``."""
    while True:
        pair = DRAWERS[relation](rng)
        if pair.split == split:
            return pair
