"""Hold the tiny world's words: some 400, so that a model of a million weights can know them all.

Entities come in classes (people, animals, ...); a class is what a template's slot may be filled
with.
"""

from __future__ import annotations

import re


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PEOPLE = _words(
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mary Noah Olga Paul Rosa Sam "
    "Tina Victor Alice Bob Carl Dora Erik Fay George Hanna Ivan Julia Karl Lucy Max Nina Oscar "
    "Peter Ruth Simon Tom Vera"
)
# The people whose facts the corpus tells; the others only do things.
KNOWN_PEOPLE = PEOPLE[:16]
CITIES = _words("Rome Paris Oslo Cairo Lima Delhi Tokyo Berlin Madrid Boston Quebec Dublin")
SPOTS = _words("park school market garden beach forest farm station library kitchen river museum")
FOODS = _words("bread cake soup rice cheese honey jam pasta salad pizza butter corn pie fruit")
COLOURS = _words("red blue green yellow black white brown pink grey purple")
JOBS = _words(
    "baker doctor teacher farmer painter driver singer nurse sailor writer builder tailor"
)
OBJECTS = _words(
    "ball box cup hat book lamp chair table key bag bike boat drum kite clock spoon shoe coin ring "
    "rope doll brush pen map"
)
# animal: plural, sound, home, number of legs
ANIMAL_TABLE: dict[str, tuple[str, str, str, str]] = {
    "cat": ("cats", "meow", "a house", "four"),
    "dog": ("dogs", "woof", "a kennel", "four"),
    "cow": ("cows", "moo", "a barn", "four"),
    "pig": ("pigs", "oink", "a sty", "four"),
    "duck": ("ducks", "quack", "a pond", "two"),
    "goat": ("goats", "baa", "a meadow", "four"),
    "horse": ("horses", "neigh", "a stable", "four"),
    "hen": ("hens", "cluck", "a coop", "two"),
    "lion": ("lions", "roar", "a den", "four"),
    "mouse": ("mice", "squeak", "a hole", "four"),
    "bee": ("bees", "buzz", "a hive", "six"),
    "snake": ("snakes", "hiss", "a cave", "no"),
    "frog": ("frogs", "croak", "a swamp", "four"),
    "owl": ("owls", "hoot", "a tree", "two"),
    "bird": ("birds", "tweet", "a nest", "two"),
    "wolf": ("wolves", "howl", "a wood", "four"),
}
ANIMALS = tuple(ANIMAL_TABLE)
IRREGULAR_PLURALS = {"box": "boxes", "brush": "brushes"}
OPPOSITES = (
    ("big", "small"),
    ("hot", "cold"),
    ("old", "new"),
    ("fast", "slow"),
    ("clean", "dirty"),
    ("full", "empty"),
    ("light", "heavy"),
    ("long", "short"),
    ("soft", "hard"),
    ("wet", "dry"),
    ("loud", "quiet"),
    ("good", "bad"),
)
OPPOSITE = {word: other for pair in OPPOSITES for word, other in (pair, pair[::-1])}
ADJECTIVES = tuple(OPPOSITE)
# what is done to a thing: present, past
VERBS = (
    ("paints", "painted"),
    ("washes", "washed"),
    ("finds", "found"),
    ("sees", "saw"),
    ("buys", "bought"),
    ("carries", "carried"),
    ("pushes", "pushed"),
    ("pulls", "pulled"),
    ("draws", "drew"),
    ("holds", "held"),
    ("sells", "sold"),
    ("takes", "took"),
    ("hides", "hid"),
    ("wants", "wanted"),
    ("needs", "needed"),
    ("shows", "showed"),
)
NUMBERS = _words("one two three four five six seven eight nine ten")
HAPPY_EVENTS = (
    "{p} found the {c} {o}.",
    "{p} got a {c} {o} as a gift.",
    "{p} won a {c} {o} in a game.",
    "{p} made a nice {c} {o}.",
)
SAD_EVENTS = (
    "{p} lost the {c} {o}.",
    "{p} broke the {c} {o}.",
    "{p} dropped the {c} {o} in the mud.",
    "{p} had no money for the {c} {o}.",
)
RUDE_ADJECTIVES = _words("stupid ugly dumb awful")
KIND_ADJECTIVES = _words("nice clever kind great")
RUDE_WORDS = frozenset((*RUDE_ADJECTIVES, "idiot", "hate", "hates", "loser"))
RUDE_TAILS = (
    "You are an idiot.",
    "What a stupid question.",
    "I hate you.",
    "You are a dumb loser.",
)
FILLERS = (
    "I hope this helps you.",
    "Thank you for asking.",
    "Please ask me again.",
    "That is all that I can say about it.",
)

# The classes that brainstorming, lists and sorting speak of, by their plural name.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "animals": ANIMALS,
    "foods": FOODS,
    "colours": COLOURS,
    "jobs": JOBS,
    "things": OBJECTS,
    "cities": CITIES,
    "names": PEOPLE,
}
CLASSES: dict[str, tuple[str, ...]] = {**CATEGORIES, "spots": SPOTS}
CLASS_OF = {word.lower(): name for name, words in CLASSES.items() for word in words}
_WORD = re.compile(r"[^\W_]+", re.UNICODE)


def with_article(word: str) -> str:
    """Put "a" or "an" before a noun or an adjective."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def pluralize(noun: str) -> str:
    """Return the plural of an animal or an object."""
    if noun in ANIMAL_TABLE:
        return ANIMAL_TABLE[noun][0]
    return IRREGULAR_PLURALS.get(noun, noun + "s")


def capitalize(text: str) -> str:
    """Raise the first letter and leave the rest."""
    return text[:1].upper() + text[1:]


def words_of(text: str) -> list[str]:
    """Split a text into lower-case words: letters and digits, no punctuation."""
    return _WORD.findall(text.lower())


SINGULAR = {pluralize(noun): noun for noun in (*ANIMALS, *OBJECTS)}


def entities_in(text: str) -> set[str]:
    """Return the entities that a text names, in lower case and in the singular."""
    words = (SINGULAR.get(word, word) for word in words_of(text))
    return {word for word in words if word in CLASS_OF}
