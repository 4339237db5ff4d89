from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta

import pytest

from pipeline.store import LabelStore
from pipeline.store.decisions import Adjudication
from pipeline.store.inbox import InboxRules, Scores, find_disputes, letter, score_spread
from pipeline.store.oversight import Oversight
from pipeline.store.schema_app import ScoreRow
from tests.pipeline.judgments import START, judged
from tests.pipeline.store.people import add_account, judge_all, ranks_of, revise

RULES = InboxRules()


def scores(values: dict[str, float], checkpoint: str = "abc", minutes: int = 0) -> Scores:
    return Scores(f"reward {checkpoint}", checkpoint, START + timedelta(minutes=minutes), values)


def reasons(*items: object, models: tuple[Scores, ...] = (), rules: InboxRules = RULES):
    return [one.reasons for one in find_disputes(items, models, {}, rules)]


def test_labelers_who_agree_stay_out_of_the_inbox() -> None:
    assert reasons(judged("ada", (1, 2, 3)), judged("bob", (1, 2, 2))) == []
    assert reasons(judged("ada", (1, 2, 3))) == []


def test_labelers_who_differ_come_with_their_agreement() -> None:
    items = [judged("ada", (1, 2, 3)), judged("bob", (3, 1, 2)), judged("cyd", (3, 2, 1))]
    # Pairs alike: 1 of 3 (ada, bob), 0 of 3 (ada, cyd), 2 of 3 (bob, cyd).
    assert reasons(*items) == [("3 labelers agree on 33% of the pairs",)]
    assert reasons(*items, rules=InboxRules(agreement=1 / 3)) == []
    # A tie against a preference is half an agreement: not below a half.
    assert reasons(judged("ada", (1, 1)), judged("bob", (1, 2))) == []


def test_ranks_against_ones_own_ratings_come_with_the_worst_pair() -> None:
    item = judged("ada", (1, 2, 3), ratings=(3, 4, 7))
    assert reasons(item) == [("ada ranks A ahead of C and rates it 3 against 7",)]
    assert reasons(judged("ada", (1, 2, 2), ratings=(5, 5, 4))) == []
    # Tied ranks contradict no rating.
    assert reasons(judged("ada", (1, 1), ratings=(1, 7))) == []
    assert reasons(item, rules=InboxRules(contradiction=5)) == []


def test_most_labelers_against_a_sure_model_come_with_both_sides() -> None:
    items = [judged(name, (1, 2)) for name in ("ada", "bob")] + [judged("cyd", (2, 1))]
    calm = [judged("ada", (1, 2), prompt=f"q{i}") for i in range(20)]
    values = {f"q{i}/{j}": 0.1 * j for i in range(20) for j in range(2)}
    sure = scores({**values, "p/0": 0.0, "p/1": 5.0})
    spread = score_spread(sure, [[item] for item in [*calm, items[0]]])
    assert spread == pytest.approx(math.sqrt((20 * 0.005 + 12.5) / 21), abs=1e-12)
    (found,) = reasons(*items, *calm, models=(sure,), rules=InboxRules(agreement=0.0))
    assert found == (
        f"reward abc scores B {5 / spread:.1f} spreads above A, and 2 of 3 labelers say the "
        "contrary",
    )
    # Half of the labelers is no majority, and an unsure model says nothing.
    assert reasons(items[0], items[2], *calm, models=(sure,), rules=InboxRules(agreement=0)) == []
    unsure = scores({**values, "p/0": 0.0, "p/1": 0.1})
    assert reasons(*items, *calm, models=(unsure,), rules=InboxRules(agreement=0)) == []


def test_labelers_with_a_sure_model_stay_out() -> None:
    model = scores({"p/0": 5.0, "p/1": 0.0, "q/0": 0.1, "q/1": 0.0, "r/0": 0.1, "r/1": 0.0})
    items = [judged("ada", (1, 2), prompt=prompt) for prompt in ("p", "q", "r")]
    rules = InboxRules(sureness=1.0)
    assert reasons(*items, models=(model,), rules=rules) == []
    against = [judged("ada", (2, 1), prompt=prompt) for prompt in ("p", "q", "r")]
    assert len(reasons(*against, models=(model,), rules=rules)) == 1


def test_the_newest_model_that_scored_the_outputs_is_asked() -> None:
    item = judged("ada", (2, 1))
    calm = [judged("ada", (1, 2), prompt=f"q{i}") for i in range(20)]
    values = {f"q{i}/{j}": 0.1 * -j for i in range(20) for j in range(2)}
    old = scores({**values, "p/0": 5.0, "p/1": 0.0}, "old", minutes=1)
    new = scores({**values, "p/0": 0.0, "p/1": 5.0}, "new", minutes=2)
    partial = scores({**values, "p/0": 1.0}, "partial", minutes=3)
    assert len(reasons(item, *calm, models=(old,))) == 1
    assert reasons(item, *calm, models=(new, old)) == []
    assert reasons(item, *calm, models=(old, new)) == []
    (found,) = find_disputes([item, *calm], [old, partial], {}, RULES)
    assert found.scores.checkpoint == "old"


def test_only_counting_rankings_are_looked_at() -> None:
    for fields in (
        {"purpose": "gold"},
        {"purpose": "repeat"},
        {"kind": "comparison"},
        {"excluded": True},
    ):
        assert reasons(judged("ada", (1, 2)), judged("bob", (2, 1), **fields)) == []


def test_a_decision_settles_a_task_until_somebody_judges_it_again() -> None:
    first, second = judged("ada", (1, 2)), judged("bob", (2, 1))

    def find(minutes: int) -> list[str]:
        time = second.created + timedelta(minutes=minutes)
        decided = {first.task: Adjudication(first.task, "lena", "kept", None, "", time)}
        return [one.task for one in find_disputes([first, second], [], decided, RULES)]

    assert find(0) == find(5) == []
    assert find(-1) == [first.task]


def test_more_reasons_come_first_and_then_the_newest() -> None:
    old = [judged("ada", (1, 2), prompt="old"), judged("bob", (2, 1), prompt="old")]
    both = [
        judged("ada", (1, 2), prompt="both", ratings=(1, 7)),
        judged("bob", (2, 1), prompt="both"),
    ]
    new = [judged("ada", (1, 2), prompt="new"), judged("bob", (2, 1), prompt="new")]
    found = find_disputes([*old, *both, *new], [], {}, RULES)
    assert [one.task for one in found] == ["task both", "task new", "task old"]
    assert [output.id for output in found[1].outputs] == ["new/0", "new/1"]


def test_outputs_beyond_the_alphabet_have_numbers() -> None:
    assert [letter(0), letter(25), letter(26)] == ["A", "Z", "#27"]


def test_the_inbox_of_a_store(store: LabelStore, fill: Callable, clock: Callable) -> None:
    fill(store, prompts=2, overlap=2)
    judge_all(store, "ada", "0>1>2")
    tasks = judge_all(store, "bob", "2>1>0")
    oversight, lead = Oversight(store), add_account(store, "lena")
    assert {one.task for one in oversight.inbox()} == {task.id for task in tasks}
    clock.advance(1)
    oversight.adjudicate(tasks[0].id, lead, "replaced", ranks_of(tasks[0], "0>1>2"))
    oversight.adjudicate(tasks[1].id, lead, "kept")
    assert oversight.inbox() == []
    clock.advance(1)
    revise(store, tasks[1], "2>0>1", "again")
    assert [one.task for one in oversight.inbox()] == [tasks[1].id]
    with store.writing() as session:
        for task in tasks:
            for choice, score in zip(task.completions, (9.0, 0.0, 0.0), strict=True):
                session.add(
                    ScoreRow(
                        completion_id=choice.id,
                        checkpoint="abc",
                        stage="reward",
                        score=score,
                        created=store.clock(),
                    )
                )
    (found,) = oversight.inbox(InboxRules(sureness=0.1))
    assert found.scores.scores[tasks[1].completions[0].id] == 9.0
    oversight.exclude("bob", "left", "lena")
    assert oversight.inbox() == []
