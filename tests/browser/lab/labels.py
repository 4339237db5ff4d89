"""Fill a store as people would in three days, for the lead's page to show."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.records import Prompt
from pipeline.store import Judgment, LabelStore, Provenance, SampledCompletion, Task, Written
from pipeline.store.accounts import Accounts
from pipeline.store.desk import Desk
from pipeline.store.leasing import LeaseRules
from pipeline.store.oversight import Oversight
from pipeline.store.questions import SKIP_REASONS
from pipeline.store.values import Group, completion_id, task_id

STAGES = ("ppo", "sft", "sft", "base")
# Each prompt's answers, the best first.
ANSWERS: dict[str, tuple[str, ...]] = {
    "Why is the sky blue? Explain it to a child in two sentences.": (
        "Sunlight is made of many colours, and the air scatters the blue ones the most. So blue "
        "light comes to our eyes from all over the sky.",
        "The sky is blue because of Rayleigh scattering, whose strength goes with the inverse "
        "fourth power of the wavelength.",
        "Because it mirrors the sea.",
        "Blue. Blue. Blue.",
    ),
    "Write a polite reply that turns down an invitation to a wedding.": (
        "Thank you so much for the invitation. We are sorry that we cannot be there on the day, "
        "and we wish you both a wonderful celebration.",
        "Sorry, we cannot come. Have fun!",
        "No.",
    ),
    "List three uses for an old newspaper.": (
        "1. Wrap glasses in it when you move.\n2. Clean windows with it.\n3. Light a stove.",
        "You can read it again, or wrap things in it, or give it away.",
        "Newspapers are printed on newsprint, a cheap paper made mostly of wood pulp.",
    ),
    "Summarise: The council met on Tuesday. It talked about the bridge for three hours and put "
    "the decision off until spring.": (
        "The council debated the bridge for three hours on Tuesday and will decide in spring.",
        "On Tuesday the council met and decided to build a bridge.",
        "The council met on Tuesday. It talked about the bridge for three hours and put the "
        "decision off until spring.",
    ),
    "Which is heavier, a kilogram of feathers or a kilogram of lead?": (
        "Neither: both weigh a kilogram.",
        "Lead is much denser than feathers, so that a kilogram of it takes up far less room.",
        "The lead, of course.",
        "Feathers.",
    ),
    "Translate into plain words: 'The party of the first part shall indemnify the second.'": (
        "If the second side loses money over this, the first side pays.",
        "The first party pays the second.",
        "I am not a lawyer and cannot help with that.",
    ),
    "My neighbour's dog barks all night. What can I do?": (
        "Talk to your neighbour first: they may not know. If nothing changes, keep a list of the "
        "times and ask the town's office what the rules are.",
        "Get ear plugs.",
        "Bark back.",
    ),
    "Give me a title for a story about a lighthouse keeper who finds a letter.": (
        "What the Tide Kept",
        "The Lighthouse Keeper Who Found a Letter",
        "Sure! Here is a title for your story about a lighthouse keeper who finds a letter:",
    ),
}
UNANSWERED = {
    "Write about the sea in three lines.": "Grey at dawn,\nblue at noon,\nand never quite still.",
    "How do I boil an egg?": "Put it into boiling water for eight minutes, then into cold water.",
    "Name a bird that cannot fly.": "The penguin.",
}
INSTRUCTIONS = (
    "Helpful first.\nThen true.\nTies are welcome.",
    "Helpful first.\nThen true, then harmless.\nTies are welcome: do not toss coins.",
)
# Some tasks are met again, and one has an answer that is known.
RULES = LeaseRules(gold_rate=0.15, repeat_rate=0.15, seed=1)
ROUNDS = (6, 8, 60)
"""Tasks that each labeler does in a round; in the last one all that are left."""


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True)
class Habit:
    """How somebody labels.

    Attributes:
        group: the labeler's.
        slips: how many times two neighbours in the right order change places.
        seconds: what a task takes.
    """

    group: Group
    slips: int
    seconds: float


HABITS = {
    "ada": Habit("train", 0, 55),
    "bob": Habit("train", 1, 38),
    "cyd": Habit("train", 4, 12),
    "hugo": Habit("held_out", 1, 61),
}


def write_labels(path: Path) -> None:
    """Make a store of what four people did in three rounds, the last one some hours ago."""
    clock = Clock(datetime.now(UTC) - timedelta(days=2, hours=6))
    with LabelStore.open(path, clock=clock) as store:
        oversight, accounts = Oversight(store), Accounts(store)
        _add_tasks(store, oversight)
        for name, habit in HABITS.items():
            accounts.add(name, "labeler", group=habit.group)
        numbers = {one.name: one.labeler_id for one in accounts.list()}
        for number, tasks in enumerate(ROUNDS):
            oversight.publish_instructions(INSTRUCTIONS[min(number, 1)], "lena")
            for name, habit in HABITS.items():
                _Worker(store, clock, numbers[name], name, habit, number).work(tasks)
            clock.now += timedelta(hours=17)
    assert clock.now < datetime.now(UTC), "nobody may have worked in the future"


class _Worker:
    """One person at their desk in one round; what they do hangs on no date."""

    def __init__(
        self, store: LabelStore, clock: Clock, number: int, name: str, habit: Habit, round_: int
    ) -> None:
        self._desk, self._clock = Desk(store, RULES), clock
        self._number, self._name, self._habit, self._round = number, name, habit, round_

    def work(self, tasks: int) -> None:
        """Do that many tasks, or all that there are."""
        for _ in range(tasks):
            task = self._desk.lease(self._number)
            if task is None:
                return
            self._clock.now += timedelta(seconds=self._habit.seconds)
            self._finish(task)

    def _finish(self, task: Task) -> None:
        text = task.prompt.messages[-1]["content"]
        draw = random.Random(f"{self._name}/{task.id}/{self._round}")
        if draw.random() < 0.05:
            self._desk.report(self._number, task.token, "It may name a real person.")
        # Those of the other group leave nothing undone, so that new tasks are the next.
        if self._habit.group == "held_out" and draw.random() < 0.25:
            reason = draw.choice(SKIP_REASONS).name
            self._desk.skip(self._number, task.token, reason, "")
            return
        work = (
            Written(UNANSWERED[text], interface="1")
            if task.kind == "demonstration"
            else self._judge(task, ANSWERS[text], draw)
        )
        self._desk.submit(self._number, task.token, work, task.token)

    def _judge(self, task: Task, answers: Sequence[str], draw: random.Random) -> Judgment:
        order = list(answers)
        for _ in range(self._habit.slips):
            place = draw.randrange(len(order) - 1)
            order[place], order[place + 1] = order[place + 1], order[place]
        ranked = sorted(task.completions, key=lambda choice: order.index(choice.text))
        ranks = {choice.id: rank for rank, choice in enumerate(ranked, start=1)}
        ratings = {id_: max(1, 8 - 2 * rank) for id_, rank in ranks.items()}
        return Judgment(
            ranks,
            ratings if task.kind == "ranking" else None,
            {ranked[-1].id: {"fails_instruction": draw.random() < 0.8}},
            draw.choice(("", "", "Short and clear.")),
            interface="1",
            active_seconds=self._habit.seconds * draw.uniform(0.7, 1.5),
        )


def _add_tasks(store: LabelStore, oversight: Oversight) -> None:
    for text, answers in ANSWERS.items():
        prompt = Prompt.from_text(text)
        store.add_prompts([prompt])
        samples = zip(answers, STAGES, strict=False)
        store.add_completions(
            prompt.id, [SampledCompletion(answer, Provenance(stage)) for answer, stage in samples]
        )
    store.create_ranking_tasks(3, held_out=1)
    known, ids = _first_ranking()
    oversight.set_gold(known, {id_: place for place, id_ in enumerate(ids, start=1)}, {}, "lena")
    store.create_comparison_tasks(("ppo", "sft"), 2)
    store.add_prompts([Prompt.from_text(text) for text in UNANSWERED])
    store.create_demonstration_tasks(1)


def _first_ranking() -> tuple[str, list[str]]:
    """Return the first prompt's task, and its completions' ids from the best to the worst."""
    text, answers = next(iter(ANSWERS.items()))
    prompt = Prompt.from_text(text)
    ids = [completion_id(prompt.id, answer) for answer in answers]
    return task_id(prompt.id, ids), ids
