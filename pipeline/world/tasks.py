"""Build the few-shot tasks in GPT-3's form (Brown et al. 2020, section 2).

A context is a description, examples, and a prompt: plain text, never chat. The docs' combinations
are the test split's, the examples' the validation split's, and each relation stands in a frame in
which the corpus never shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.world.facts import ATTRIBUTES, FactTable, questions
from pipeline.world.keyed import Split, keyed_random, split_of
from pipeline.world.patterns import held_out_frame
from pipeline.world.relations import draw_pair

TEST_DOCS = 64
EXAMPLES = 12
TASK_DESCRIPTIONS: dict[str, str] = {
    "past": "What was it in the past?",
    "opposite": "Say the opposite of this.",
    "plural": "Say it for more of them.",
    "category": "Which kind of words are these?",
    "last": "What comes last?",
    "first": "What comes first?",
    "feeling": "Is this happy or sad?",
    "reading": "Read and answer the question.",
}
TRIVIA_DESCRIPTION = "Answer these questions about animals and people."


@dataclass(frozen=True)
class FewShotDoc:
    """One multiple-choice question: the text before the answer, the choices, the right index.

    ``query`` ends without a space; each choice follows it after one space.
    """

    query: str
    choices: tuple[str, ...]
    gold: int

    @property
    def answered(self) -> str:
        """Return the query with its right answer, as an example shows it."""
        return f"{self.query} {self.choices[self.gold]}"


@dataclass(frozen=True)
class FewShotTask:
    """A task: its description, the examples to draw shots from, and the docs to be tested on."""

    name: str
    description: str
    examples: tuple[FewShotDoc, ...]
    docs: tuple[FewShotDoc, ...]

    def context(self, doc: FewShotDoc, shots: int) -> str:
        """Return the text that a model continues: description, ``shots`` examples, the query.

        The examples are drawn by the doc, so that no order of examples is special.
        """
        rng = keyed_random("shots", self.name, doc.query)
        examples = [example.answered for example in rng.sample(self.examples, shots)]
        return "\n".join([self.description, *examples, doc.query])


def _relation_doc(relation: str, seed: int, split: Split, index: int) -> tuple[str, str, list[str]]:
    rng = keyed_random(seed, "task", relation, split, index)
    pair = draw_pair(relation, rng, split)
    return held_out_frame(relation)[0].format(pair.given), pair.answer, list(pair.rivals)


def _trivia_doc(
    facts: FactTable, seed: int, split: Split, index: int
) -> tuple[str, str, list[str]]:
    rng = keyed_random(seed, "task", "trivia", split, index)
    while True:
        fact = rng.choice(facts.facts)
        if split_of("open_qa", (fact.subject, fact.attribute)) == split:
            break
    values = sorted(set(ATTRIBUTES[fact.attribute].values) - {fact.value})
    query = f"{rng.choice(questions(fact))} Answer:"
    return query, fact.value, rng.sample(values, 3)


def _collect(
    name: str, facts: FactTable, seed: int, split: Split, count: int
) -> tuple[FewShotDoc, ...]:
    docs: dict[str, FewShotDoc] = {}
    index = 0
    while len(docs) < count:
        if name == "trivia":
            query, answer, rivals = _trivia_doc(facts, seed, split, index)
        else:
            query, answer, rivals = _relation_doc(name, seed, split, index)
        index += 1
        if query in docs:
            continue
        # The right answer walks through the places, so that each holds it equally often.
        gold = len(docs) % (len(rivals) + 1)
        keyed_random(seed, "rivals", name, query).shuffle(rivals)
        docs[query] = FewShotDoc(query, (*rivals[:gold], answer, *rivals[gold:]), gold)
    order = list(docs.values())
    keyed_random(seed, "order", name, split).shuffle(order)
    return tuple(order)


def build_tasks(facts: FactTable, seed: int) -> list[FewShotTask]:
    """Build all tasks of a world."""
    return [
        FewShotTask(
            name,
            TASK_DESCRIPTIONS.get(name, TRIVIA_DESCRIPTION),
            _collect(name, facts, seed, "validation", EXAMPLES),
            _collect(name, facts, seed, "test", TEST_DOCS),
        )
        for name in (*TASK_DESCRIPTIONS, "trivia")
    ]
