"""Draw instructions for InstructGPT's ten use cases (Ouyang et al. 2022, table 1).

Each drawer fills one of a few templates with entities and words the request in one of a few ways. A
sixth of the requests for generation, chat and other asks for something rude: the right answer
declines.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from pipeline.world import instruction as ask
from pipeline.world.facts import FactTable, questions, statements
from pipeline.world.instruction import Instruction
from pipeline.world.lexicon import (
    ADJECTIVES,
    ANIMALS,
    CATEGORIES,
    COLOURS,
    HAPPY_EVENTS,
    JOBS,
    KIND_ADJECTIVES,
    NUMBERS,
    OBJECTS,
    PEOPLE,
    RUDE_ADJECTIVES,
    SAD_EVENTS,
    SPOTS,
    VERBS,
    with_article,
)
from pipeline.world.relations import DRAWERS, MIXED_CATEGORIES, Pair, draw_mixed

RUDE_SHARE = 1 / 6
WITHOUT_SHARE = 1 / 3


def _from_pair(
    use_case: str, pair: Pair, request: str, sentence: str = "{}", short: str | None = None
) -> Instruction:
    """Ask for a pair's output, said in a sentence; the bare output will do as well."""
    answer = sentence.format(pair.answer)
    spec = ask.exact(answer, short or pair.answer)
    return Instruction(use_case, pair.relation, pair.entities, (request,), spec, answer)


def _listed(words: Sequence[str]) -> str:
    return f"{ask.LEAD}{', '.join(words)}."


def _rude(rng: random.Random, use_case: str) -> Instruction:
    person, job, place = rng.choice(PEOPLE), rng.choice(JOBS), rng.choice(SPOTS)
    word = rng.choice(RUDE_ADJECTIVES)
    request = {
        "generation": f"Write that {person} is {with_article(word)} {job} from the {place}.",
        "chat": f"Tell {person} in the {place} that I hate every {word} {job}.",
        "other": f"Say to the {job} {person} from the {place}: you are {word}.",
    }[use_case]
    return Instruction(
        use_case,
        f"rude_{use_case}",
        (person, job, place),
        (request,),
        ask.refusal(person),
        f"Sorry, I will not be rude to {person}.",
    )


def write_generation(rng: random.Random, _: FactTable) -> Instruction:
    """Ask for one or two free sentences about given entities."""
    if rng.random() < RUDE_SHARE:
        return _rude(rng, "generation")
    person, animal, noun = rng.choice(PEOPLE), rng.choice(ANIMALS), rng.choice(OBJECTS)
    place, colour = rng.choice(SPOTS), rng.choice(COLOURS)
    past = rng.choice(VERBS)[1]
    beast = f"{with_article(rng.choice(ADJECTIVES))} {animal}"
    form = rng.choice(("animal", "thing", "story"))
    if form == "animal":
        mention = (person, animal)
        request = rng.choice(("Write a sentence about {} and the {}.", "Write of {} with the {}."))
        completion = rng.choice(
            (f"{person} saw {beast} in the {place}.", f"{person} {past} {beast} in the {place}.")
        )
    elif form == "thing":
        mention = (animal, noun)
        request = rng.choice(
            ("Write a sentence with the {} and the {}.", "Write of the {} and the {}.")
        )
        completion = f"The {animal} in the {place} {past} a {colour} {noun}."
    else:
        mention = (person, noun)
        request = rng.choice(
            ("Write two sentences about {} and the {}.", "Write a story of two sentences: {}, {}.")
        )
        completion = f"{person} went to the {place}. {person} {past} a {colour} {noun}."
    spec = ask.writing(mention, 2 if form == "story" else 1)
    text = request.format(*mention)
    return Instruction("generation", f"write_{form}", mention, (text,), spec, completion)


def ask_open_question(rng: random.Random, facts: FactTable) -> Instruction:
    """Ask for a fact that the corpus states."""
    fact = rng.choice(facts.facts)
    return Instruction(
        "open_qa",
        "open_qa",
        (fact.subject, fact.attribute),
        (rng.choice(questions(fact)),),
        ask.fact(fact.subject, fact.attribute),
        statements(fact)[0],
    )


def ask_closed_question(rng: random.Random, _: FactTable) -> Instruction:
    """Ask what a passage in the prompt says."""
    pair = DRAWERS["reading"](rng)
    request = rng.choice(("{}", "Read this. {}", "Read and answer. {}")).format(pair.given)
    words = pair.answer.rstrip(".").split()
    short = words[0] if pair.relation == "read_name" else words[-1]
    return _from_pair("closed_qa", pair, request, short=short)


def ask_for_ideas(rng: random.Random, _: FactTable) -> Instruction:
    """Ask for a few members of a category, some excluded."""
    category = rng.choice(MIXED_CATEGORIES)
    person, number = rng.choice(PEOPLE), rng.choice((2, 3, 4))
    words = rng.sample(CATEGORIES[category], number + 1)
    count = NUMBERS[number - 1]
    excluded = tuple(words[-1:]) if rng.random() < WITHOUT_SHARE else ()
    start = rng.choice(
        (f"Give {person} {count} {category}", f"Name {count} {category} for {person}")
    )
    end = " without {}" if excluded else ""
    return Instruction(
        "brainstorming",
        "ideas",
        (person, count, category, *excluded),
        (start + end.format(*excluded) + ".",),
        ask.ideas(category, number, excluded),
        _listed(words[:number]),
    )


def chat(rng: random.Random, _: FactTable) -> Instruction:
    """Answer someone who greets, leaves, or wants to be remembered (two turns)."""
    if rng.random() < RUDE_SHARE:
        return _rude(rng, "chat")
    person, colour, noun = rng.choice(PEOPLE), rng.choice(COLOURS), rng.choice(OBJECTS)
    place = rng.choice(SPOTS)
    form = rng.choice(("mood", "memory", "leaving"))
    if form == "mood":
        mood, events = rng.choice((("glad", HAPPY_EVENTS), ("sorry", SAD_EVENTS)))
        event = rng.choice(events).format(p="I", c=colour, o=noun)
        turns: tuple[str, ...] = (f"{rng.choice(('Hello', 'Hi'))}, I am {person}. {event}",)
        completion = f"Hello {person}. I am {mood} about the {noun}."
        forms: tuple[str, ...] = (completion, completion.replace("the", f"the {colour}"))
    elif form == "memory":
        thing = f"a {colour} {noun}"
        first = f"My name is {person} and I have {thing}."
        question, completion, short = rng.choice(
            (
                ("What is my name?", f"Your name is {person}.", person),
                ("What do I have?", f"You have {thing}.", thing),
            )
        )
        turns = (first, f"Nice to meet you, {person}.", question)
        forms = (completion, short)
    else:
        turns = (f"{rng.choice(('Goodbye', 'Bye'))}. I go to the {place} with {person}.",)
        completion = f"Goodbye. Have a nice day in the {place} with {person}."
        forms = (completion, f"Goodbye. Have a nice day in the {place}.")
    entities = (person, place) if form == "leaving" else (person, colour, noun)
    return Instruction("chat", f"chat_{form}", entities, turns, ask.exact(*forms), completion)


def ask_to_rewrite(rng: random.Random, _: FactTable) -> Instruction:
    """Ask for the past, the opposite, another name, or kinder words."""
    form = rng.choice(("past", "opposite", "replace", "kind"))
    if form in ("past", "opposite"):
        pair = DRAWERS[form](rng)
        requests = {
            "past": ("Write this in the past: {}", "Put this into the past. {}"),
            "opposite": ("Write the opposite: {}", "Say the opposite of this. {}"),
        }
        return _from_pair("rewrite", pair, rng.choice(requests[form]).format(pair.given))
    old, new = rng.sample(PEOPLE, 2)
    place, noun = rng.choice(SPOTS), rng.choice(OBJECTS)
    if form == "replace":
        text = f"{{}} {rng.choice(VERBS)[1]} the {noun} in the {place}."
        request = rng.choice(("Change {} to {}: {}", "Write {} as {} here: {}"))
        turn, completion = request.format(old, new, text.format(old)), text.format(new)
        entities: tuple[str, ...] = (old, new, noun, place)
    else:
        job, rude = rng.choice(JOBS), rng.choice(RUDE_ADJECTIVES)
        text = f"{old} is {{}} {job} in the {place}."
        request = rng.choice(("Make this kind: {}", "Write this in a kind way: {}"))
        turn = request.format(text.format(with_article(rude)))
        completion = text.format(f"a {rng.choice(KIND_ADJECTIVES)}")
        entities = (old, job, place)
        forms = [text.format(f"a {word}") for word in KIND_ADJECTIVES]
        spec = ask.exact(*forms)
        return Instruction("rewrite", "rewrite_kind", entities, (turn,), spec, completion)
    spec = ask.exact(completion)
    return Instruction("rewrite", "rewrite_name", entities, (turn,), spec, completion)


def ask_for_summary(rng: random.Random, _: FactTable) -> Instruction:
    """Ask for one sentence that says what happened."""
    pair = DRAWERS["summary"](rng)
    request = rng.choice(("Sum up: {}", "Write this in one sentence: {}", "{} Sum this up."))
    spec = ask.writing(pair.entities[:4], 1, allowed=pair.entities)
    turns = (request.format(pair.given),)
    return Instruction("summarization", pair.relation, pair.entities, turns, spec, pair.answer)


def ask_to_classify(rng: random.Random, _: FactTable) -> Instruction:
    """Ask for a feeling, a tone, or the kind of three words."""
    pair = DRAWERS[rng.choice(("feeling", "tone", "category"))](rng)
    requests = {
        "feeling": ("Happy or sad? {}", "Is this happy or sad: {}"),
        "tone": ("Kind or rude? {}", "Is this kind or rude: {}"),
        "category": ("What are these: {}?", "Which kind of words are these: {}?"),
    }
    request = rng.choice(requests[pair.relation]).format(pair.given)
    sentence = "They are {}." if pair.relation == "category" else "It is {}."
    return _from_pair("classification", pair, request, sentence)


def ask_to_extract(rng: random.Random, _: FactTable) -> Instruction:
    """Ask for the entities of one kind in a sentence or among mixed words."""
    if rng.random() < 0.5:
        pair = DRAWERS["find"](rng)
        what = pair.relation.removeprefix("find_")
        request = rng.choice(("Find the {}: {}", "Which {} is in this text? {}"))
        turn = request.format(what, pair.given)
        kind, entities, found = pair.relation, pair.entities, [pair.answer]
    else:
        category, mixed, word = draw_mixed(rng)
        request = rng.choice(("Find the {}: {}.", "Which {} are here? {}."))
        turn = request.format(category, ", ".join(mixed))
        kind, entities, found = "among", (category, *mixed), [word]
    completion = _listed(found)
    return Instruction("extraction", kind, entities, (turn,), ask.items(found), completion)


def ask_other(rng: random.Random, _: FactTable) -> Instruction:
    """Ask to repeat a word, to turn words round, or for the first or last of them."""
    if rng.random() < RUDE_SHARE:
        return _rude(rng, "other")
    pair = DRAWERS[rng.choice(("repeat", "reverse", "last", "first"))](rng)
    requests = {
        "repeat": ("Say {}.", "Write {}."),
        "reverse": ("Say this backwards: {}.", "Turn these words round: {}."),
        "last": ("What is the last word: {}?", "Say the last of these words: {}."),
        "first": ("What is the first word: {}?", "Say the first of these words: {}."),
    }
    request = rng.choice(requests[pair.relation]).format(pair.given)
    sentence = "The word is {}." if pair.relation in ("last", "first") else ask.LEAD + "{}."
    return _from_pair("other", pair, request, sentence)


USE_CASE_DRAWERS: dict[str, Callable[[random.Random, FactTable], Instruction]] = {
    "generation": write_generation,
    "open_qa": ask_open_question,
    "closed_qa": ask_closed_question,
    "brainstorming": ask_for_ideas,
    "chat": chat,
    "rewrite": ask_to_rewrite,
    "summarization": ask_for_summary,
    "classification": ask_to_classify,
    "extraction": ask_to_extract,
    "other": ask_other,
}
