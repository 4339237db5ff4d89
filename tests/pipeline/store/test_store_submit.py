from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.errors import StoreError
from pipeline.store import Judgment, LabelStore, Task


@pytest.fixture
def task(store: LabelStore, fill: Callable) -> Task:
    fill(store, prompts=1, k=3, held_out=1)
    leased = store.lease_task(store.add_labeler("ada", group="held_out"))
    assert leased is not None
    return leased


def test_a_judgment_comes_back_as_a_ranking(
    store: LabelStore, task: Task, by_text: Callable
) -> None:
    receipt = store.submit(task.token, by_text(task), "key")
    assert (receipt.task_id, receipt.labeler, receipt.revision) == (task.id, "ada", 1)
    (ranking,) = store.rankings()
    assert ranking.prompt == task.prompt
    assert dict(zip(ranking.completions, ranking.ranks, strict=True)) == {
        "answer 0": 1,
        "answer 1": 2,
        "answer 2": 3,
    }
    assert dict(zip(ranking.completions, ranking.ratings, strict=True)) == {
        "answer 0": 7,
        "answer 1": 6,
        "answer 2": 5,
    }
    assert (ranking.labeler, ranking.group) == ("ada", "held_out")
    assert store.rankings(group="train") == store.rankings(split="test") == []
    assert store.rankings("train", "held_out") == [ranking]


def test_a_replay_changes_nothing_and_returns_the_same(
    store: LabelStore, task: Task, by_text: Callable, clock: Callable
) -> None:
    first = store.submit(task.token, by_text(task, active_seconds=10.0), "key")
    before = store.snapshot_hash(), store.counts()
    clock.advance(minutes=60)
    assert store.submit(task.token, by_text(task, active_seconds=11.0), "key") == first
    assert (store.snapshot_hash(), store.counts()) == before


def test_a_key_cannot_swallow_another_judgment(
    store: LabelStore, task: Task, by_text: Callable
) -> None:
    store.submit(task.token, by_text(task), "key")
    with pytest.raises(StoreError, match="idempotency_key must be new for a new judgment"):
        store.submit(task.token, by_text(task, comment="second thoughts"), "key")


def test_a_key_of_one_task_does_not_serve_another(
    store: LabelStore, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=2)
    labeler = store.add_labeler("ada")
    first = store.lease_task(labeler)
    store.submit(first.token, by_text(first), "key")
    second = store.lease_task(labeler)
    with pytest.raises(StoreError, match="idempotency_key must be new"):
        store.submit(second.token, by_text(second), "key")


def test_a_key_of_one_labeler_does_not_swallow_anothers_equal_judgment(
    store: LabelStore, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=1, overlap=2)
    ada, bob = (store.lease_task(store.add_labeler(name)) for name in ("ada", "bob"))
    store.submit(ada.token, by_text(ada), "key")
    with pytest.raises(StoreError, match="idempotency_key must be new"):
        store.submit(bob.token, by_text(bob), "key")
    assert store.submit(bob.token, by_text(bob), "another key").labeler == "bob"


def test_an_edit_is_a_revision_and_the_last_one_counts(
    store: LabelStore, task: Task, by_text: Callable
) -> None:
    store.submit(task.token, by_text(task), "first")
    edited = replace(by_text(task), ranks={choice.id: 1 for choice in task.completions})
    assert store.submit(task.token, edited, "second").revision == 2
    (ranking,) = store.rankings()
    assert ranking.ranks == (1, 1, 1)
    counts = store.counts()
    assert (counts["judgments_human"], counts["places_done"]) == (2, 1)


def test_judgments_of_simulated_labelers_are_marked(
    store: LabelStore, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=1, overlap=2)
    for name, kind in (("ada", "human"), ("simulated-1", "simulated")):
        task = store.lease_task(store.add_labeler(name, kind=kind))
        store.submit(task.token, by_text(task), name)
    counts = store.counts()
    assert (counts["judgments_human"], counts["judgments_simulated"]) == (1, 1)
    assert [ranking.labeler for ranking in store.rankings()] == ["ada", "simulated-1"]


def test_an_unknown_token_is_refused_without_repeating_it(
    store: LabelStore, task: Task, by_text: Callable
) -> None:
    with pytest.raises(StoreError, match="Token must be of a leased task") as caught:
        store.submit("wrong-token", by_text(task), "key")
    assert "wrong-token" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_a_key_has_a_length(store: LabelStore, task: Task, by_text: Callable, key: str) -> None:
    with pytest.raises(StoreError, match="idempotency_key must have 1 to 200 characters"):
        store.submit(task.token, by_text(task), key)


def change(judgment: Judgment, fault: str) -> Judgment:
    first, second, third = sorted(judgment.ranks)
    ranks, ratings = dict(judgment.ranks), dict(judgment.ratings or {})
    faults = {
        "missing rank": {"ranks": {first: 1, second: 2}},
        "foreign rank": {"ranks": {**ranks, "f" * 16: 4}},
        "gap": {"ranks": {first: 1, second: 1, third: 3}},
        "zero": {"ranks": {first: 0, second: 1, third: 2}},
        "fraction": {"ranks": {first: 1, second: 2, third: 3.0}},
        "boolean rank": {"ranks": {first: True, second: 2, third: 3}},
        "missing rating": {"ratings": {first: 4}},
        "rating 0": {"ratings": {**ratings, first: 0}},
        "rating 8": {"ratings": {**ratings, first: 8}},
        "foreign flag": {"flags": {"f" * 16: {"harmful": True}}},
        "flag 1": {"flags": {first: {"harmful": 1}}},
        "negative time": {"active_seconds": -1.0},
        "no time": {"active_seconds": float("nan")},
        "NUL": {"comment": "a\x00"},
    }
    return replace(judgment, **faults[fault])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing rank", "ranks must name each of the task's 3 completions once"),
        ("foreign rank", "ranks must name each of the task's 3 completions once"),
        ("gap", r"ranks must be dense from 1 .* got \[1, 1, 3\]"),
        ("zero", "ranks must be dense from 1"),
        ("fraction", "ranks must be whole numbers, got 3.0"),
        ("boolean rank", "ranks must be whole numbers, got True"),
        ("missing rating", "ratings must name each of the task's 3 completions once"),
        ("rating 0", "ratings must lie from 1 to 7, got 0"),
        ("rating 8", "ratings must lie from 1 to 7, got 8"),
        ("foreign flag", "flags must name completions of the task"),
        ("flag 1", "flags.harmful must be true or false, got 1"),
        ("negative time", "active_seconds must be a time of 0 or more, got -1.0"),
        ("no time", "active_seconds must be a time of 0 or more, got nan"),
        ("NUL", "comment must be plain text, but it holds a NUL character"),
    ],
)
def test_a_judgment_that_breaks_a_rule_is_refused_whole(
    store: LabelStore, task: Task, by_text: Callable, fault: str, message: str
) -> None:
    before = store.snapshot_hash(), store.counts()
    with pytest.raises(StoreError, match=message):
        store.submit(task.token, change(by_text(task), fault), "key")
    assert (store.snapshot_hash(), store.counts()) == before
    assert store.submit(task.token, by_text(task), "key").revision == 1


def test_ratings_may_be_left_out_as_a_whole(
    store: LabelStore, task: Task, by_text: Callable
) -> None:
    store.submit(task.token, by_text(task, ratings=None), "key")
    assert store.rankings()[0].ratings is None
