"""Give labelers one task to practise on, and say what they might see otherwise; nothing is kept."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from labeling_ui.desk_bodies import RankedBody
from pipeline.records import Prompt
from pipeline.store.values import Choice, Judgment, Task, check_judgment

LINES, SHORT, FALSE, ALSO_SHORT = "practice-1", "practice-2", "practice-3", "practice-4"
PRACTICE = Task(
    id="practice",
    token="practice",
    kind="ranking",
    prompt=Prompt.from_text("Name three animals that live in the sea. Answer in one line."),
    completions=(
        Choice(LINES, "Here are three animals that live in the sea:\n- dolphin\n- crab\n- squid"),
        Choice(SHORT, "Dolphin, octopus, seahorse."),
        Choice(FALSE, "Dolphin, camel, octopus."),
        Choice(ALSO_SHORT, "Crab, salmon and the blue whale."),
    ),
    lease_expires=datetime(9999, 1, 1, tzinfo=UTC),
)
NOTHING = "This is how we see it too. You are ready for the first task."


def comment_on(body: RankedBody) -> list[str]:
    """Return what to tell a labeler of their judgment of the practice task, one line each.

    Raises:
        StoreError: if the judgment is incomplete or breaks a rule.
    """
    judgment = Judgment(**dict(body))
    check_judgment(judgment, [choice.id for choice in PRACTICE.completions])
    remarks = [*_on_ranks(judgment), *_on_ratings(judgment), *_on_flags(judgment)]
    return remarks or [NOTHING]


def _on_ranks(judgment: Judgment) -> Iterator[str]:
    ranks = judgment.ranks
    if ranks[SHORT] != ranks[ALSO_SHORT]:
        yield (
            "The two short lists are equally good: give them the same rank. Ties are welcome "
            "where you see no difference."
        )
    if ranks[LINES] <= max(ranks[SHORT], ranks[ALSO_SHORT]):
        yield "The prompt asks for one line: the list of several comes after the short ones."
    if ranks[FALSE] <= max(ranks[LINES], ranks[SHORT], ranks[ALSO_SHORT]):
        yield "Camels do not live in the sea: an answer that is false comes last here."


def _on_ratings(judgment: Judgment) -> Iterator[str]:
    ratings, ranks = judgment.ratings, judgment.ranks
    if ratings is None:
        yield "Rate each answer from 1 to 7 before you rank them."
        return
    if any(
        ratings[one] < ratings[other] and ranks[one] < ranks[other]
        for one in ratings
        for other in ratings
    ):
        yield "You ranked an answer above another that you rated higher: one of the two is a slip."


def _on_flags(judgment: Judgment) -> Iterator[str]:
    flagged = {
        id_: {name for name, value in flags.items() if value}
        for id_, flags in judgment.flags.items()
    }
    if "hallucination" not in flagged.get(FALSE, set()):
        yield "The answer with the camel makes something up: mark it so."
    if any("satisfies_constraint" not in flagged.get(id_, set()) for id_ in (SHORT, ALSO_SHORT)):
        yield 'One line was asked for: answers that have one are marked "Keeps the constraint".'
    if "satisfies_constraint" in flagged.get(LINES, set()):
        yield 'The list over several lines does not keep the constraint "in one line".'
