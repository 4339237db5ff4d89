from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from pipeline.artifacts import hash_file
from pipeline.errors import StoreError
from pipeline.records import Prompt
from pipeline.store import LabelStore, Task
from pipeline.store.oversight import Oversight
from pipeline.store.schema import JudgmentRow, TaskRow
from pipeline.store.schema_app import PromptReportRow, SkipRow
from pipeline.store.values import Written
from tests.pipeline.store.people import add_account, judge_all, ranks_of, revise, write_all


@pytest.fixture
def oversight(store: LabelStore) -> Oversight:
    return Oversight(store)


@pytest.fixture
def lead(store: LabelStore) -> int:
    return add_account(store, "lena")


@pytest.fixture
def tasks(store: LabelStore, fill: Callable) -> list[Task]:
    """Let ada and bob judge two tasks, bob the other way round."""
    fill(store, prompts=2, overlap=2)
    judge_all(store, "ada", "0>1>2")
    return judge_all(store, "bob", "2>1>0")


def as_text(ranking: object) -> dict[str, int]:
    return dict(zip(ranking.completions, ranking.ranks, strict=True))


def test_instructions_are_versions_and_unchanged_text_makes_none(oversight: Oversight) -> None:
    assert oversight.instructions() is None
    first = oversight.publish_instructions("Be helpful.", "lena")
    assert oversight.publish_instructions("Be helpful.", "max") == first
    second = oversight.publish_instructions("Be truthful.", "max")
    again = oversight.publish_instructions("Be helpful.", "max")
    assert [item.version for item in oversight.instruction_versions()] == [1, 2, 3]
    assert (first.author, second.author, again.text) == ("lena", "max", "Be helpful.")
    assert oversight.instructions() == again


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "must say something"),
        ("a\x00b", "holds a NUL character"),
        ("\ud800", "holds a lone surrogate"),
        ("x" * 100_001, "must have at most 100000 characters"),
    ],
)
def test_instructions_that_cannot_be_are_refused(
    oversight: Oversight, text: str, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        oversight.publish_instructions(text, "lena")
    assert oversight.instruction_versions() == []


def test_a_task_with_a_known_answer_leaves_training_and_comes_back(
    store: LabelStore, oversight: Oversight, tasks: list[Task]
) -> None:
    before = store.snapshot_hash(), store.rankings()
    task = tasks[0]
    flags = {task.completions[0].id: {"hallucination": True}, task.completions[1].id: {}}
    oversight.set_gold(task.id, ranks_of(task, "0=1>2"), flags, "lena", "screening")
    assert {ranking.prompt.id for ranking in store.rankings()} == {tasks[1].prompt.id}
    assert store.snapshot_hash() != before[0]
    answer = oversight.gold()[task.id]
    assert (answer.purpose, answer.author) == ("screening", "lena")
    assert answer.ranks == ranks_of(task, "0=1>2")
    assert answer.flags == {task.completions[0].id: {"hallucination": True}}
    oversight.set_gold(task.id, ranks_of(task, "2>1>0"), {}, "max")
    assert oversight.gold()[task.id].purpose == "gold"
    assert oversight.gold()[task.id].ranks == ranks_of(task, "2>1>0")
    oversight.release_gold(task.id)
    assert oversight.gold() == {}
    assert (store.snapshot_hash(), store.rankings()) == before


def test_a_gold_task_reaches_every_labeler_and_does_not_fill_up(
    store: LabelStore, oversight: Oversight, tasks: list[Task]
) -> None:
    oversight.set_gold(tasks[0].id, ranks_of(tasks[0], "0>1>2"), {}, "lena", "screening")
    new = store.add_labeler("cyd")
    oversight.admit("cyd", admitted=False)
    assert store.lease_task(new).id == tasks[0].id


def test_only_rankings_have_known_answers(
    store: LabelStore, oversight: Oversight, tasks: list[Task]
) -> None:
    prompt = Prompt.from_text("Write.")
    store.add_prompts([prompt])
    store.create_demonstration_tasks(1)
    written = write_all(store, "ada", "Written.")
    task = tasks[0]
    ranks = ranks_of(task, "0>1>2")
    bad = {
        "must be a ranking to have a known answer, got a demonstration": (written[0].id, {}, {}),
        "No task 'nothing'": ("nothing", ranks, {}),
        "must name each of the task's 3": (task.id, dict([*ranks.items()][:2]), {}),
        "must be dense from 1": (task.id, {id_: 2 * rank for id_, rank in ranks.items()}, {}),
        "flags must name completions": (task.id, ranks, {"other": {"violent": True}}),
    }
    for message, (task_id, given, flags) in bad.items():
        with pytest.raises(StoreError, match=message):
            oversight.set_gold(task_id, given, flags, "lena")
    with pytest.raises(StoreError, match="purpose must be one of screening, gold"):
        oversight.set_gold(task.id, ranks, {}, "lena", "work")
    with pytest.raises(StoreError, match="must have a known answer"):
        oversight.release_gold(task.id)
    assert oversight.gold() == {}


def test_decisions_keep_replace_or_drop_and_the_newest_counts(
    store: LabelStore, oversight: Oversight, lead: int, tasks: list[Task], clock: Callable
) -> None:
    untouched = store.snapshot_hash(), store.rankings()
    task, other = tasks
    oversight.adjudicate(task.id, lead, "kept", comment="both are fine")
    assert (store.snapshot_hash(), store.rankings()) == untouched

    oversight.adjudicate(task.id, lead, "replaced", ranks_of(task, "1>0=2"))
    replaced = store.snapshot_hash()
    own = [ranking for ranking in store.rankings() if ranking.prompt == task.prompt]
    assert [(one.labeler, one.group, one.ratings, as_text(one)) for one in own] == [
        ("lena", "train", None, {"answer 0": 2, "answer 1": 1, "answer 2": 2})
    ]
    assert len(store.rankings()) == 1 + 2
    assert store.rankings(adjudicated=False) == untouched[1]
    assert store.rankings("validation") == []
    assert [one.labeler for one in store.rankings(group="held_out")] == []

    oversight.adjudicate(task.id, lead, "dropped")
    assert {ranking.prompt.id for ranking in store.rankings()} == {other.prompt.id}
    dropped = store.snapshot_hash()
    assert len({untouched[0], replaced, dropped}) == 3
    clock.advance(1)
    oversight.adjudicate(task.id, lead, "kept")
    assert (store.snapshot_hash(), store.rankings()) == untouched
    assert oversight.adjudications()[task.id].verdict == "kept"


def test_a_replacement_tells_its_author_and_ranks_in_the_hash(
    store: LabelStore, oversight: Oversight, lead: int, tasks: list[Task]
) -> None:
    hashes = set()
    for account in (lead, add_account(store, "max")):
        for order in ("0>1>2", "1>0>2"):
            oversight.adjudicate(tasks[0].id, account, "replaced", ranks_of(tasks[0], order))
            hashes.add(store.snapshot_hash())
    assert len(hashes) == 4


def test_decisions_that_cannot_be_are_refused(
    store: LabelStore, oversight: Oversight, lead: int, fill: Callable, tasks: list[Task]
) -> None:
    task = tasks[0]
    ranks = ranks_of(task, "0>1>2")
    fill(store, prompts=1, split="test")
    fresh = store.lease_task(store.add_labeler("cyd"))
    labeler = add_account(store, "ann", "labeler")
    bad = [
        ("must be one of kept, replaced, dropped", (task.id, lead, "lost", None)),
        ("'replaced' without ranks", (task.id, lead, "replaced", None)),
        ("'kept' with ranks", (task.id, lead, "kept", ranks)),
        ("No task 'nothing'", ("nothing", lead, "kept", None)),
        ("that somebody has judged", (fresh.id, lead, "kept", None)),
        ("must be an enabled lead's", (task.id, labeler, "kept", None)),
        ("must be an enabled lead's", (task.id, 999, "kept", None)),
        ("must name each", (task.id, lead, "replaced", {"x": 1})),
        (
            "must be dense",
            (task.id, lead, "replaced", {id_: 2 * rank for id_, rank in ranks.items()}),
        ),
    ]
    for message, given in bad:
        with pytest.raises(StoreError, match=message) as caught:
            oversight.adjudicate(*given)
        assert "\n" not in str(caught.value)
    oversight.set_gold(task.id, ranks, {}, "lena")
    with pytest.raises(StoreError, match="must be an ordinary ranking"):
        oversight.adjudicate(task.id, lead, "dropped")
    assert oversight.adjudications() == {}


@pytest.mark.usefixtures("tasks")
def test_an_excluded_labeler_leaves_all_training_and_comes_back(
    store: LabelStore, oversight: Oversight, fill: Callable, tmp_path: Path
) -> None:
    before = store.snapshot_hash(), store.rankings(), store.export_rows()
    with LabelStore.open(tmp_path / "without.db") as without:
        fill(without, prompts=2, overlap=2)
        judge_all(without, "ada", "0>1>2")
        expected = without.snapshot_hash(), without.rankings()
    oversight.exclude("bob", "clicks through", "lena")
    assert (store.snapshot_hash(), store.rankings()) == expected
    assert {row["labeler"] for row in store.export_rows()} == {"ada"}
    assert [(item.labeler, item.excluded) for item in oversight.judged()] == [
        *[("ada", False)] * 2,
        *[("bob", True)] * 2,
    ]
    with store.reading() as session:
        assert session.scalars(select(func.count()).select_from(JudgmentRow)).one() == 4
    oversight.exclude("bob", "another reason", "max")
    assert {one.name: one.excluded for one in oversight.people()} == {
        "ada": None,
        "bob": "clicks through",
    }
    oversight.restore("bob")
    assert (store.snapshot_hash(), store.rankings(), store.export_rows()) == before


def test_an_excluded_lead_decides_nothing(
    store: LabelStore, oversight: Oversight, lead: int, tasks: list[Task]
) -> None:
    before = store.snapshot_hash()
    other = add_account(store, "max")
    oversight.adjudicate(tasks[0].id, other, "dropped")
    dropped = store.snapshot_hash()
    oversight.adjudicate(tasks[0].id, lead, "replaced", ranks_of(tasks[0], "0>1>2"))
    oversight.exclude("lena", "left", "max")
    assert store.snapshot_hash() == dropped
    oversight.exclude("max", "left", "max")
    assert store.snapshot_hash() == before


@pytest.mark.usefixtures("tasks")
def test_exclusions_that_cannot_be_are_refused(oversight: Oversight) -> None:
    with pytest.raises(StoreError, match="No labeler 'zoe'"):
        oversight.exclude("zoe", "why", "lena")
    with pytest.raises(StoreError, match=r"exclusion\.reason must say something"):
        oversight.exclude("ada", " ", "lena")
    with pytest.raises(StoreError, match="must be removed to be restored"):
        oversight.restore("ada")
    assert not any(person.excluded for person in oversight.people())


def test_a_snapshot_names_whose_judgments_count(
    store: LabelStore, oversight: Oversight, lead: int, tasks: list[Task]
) -> None:
    first = oversight.record_snapshot()
    assert first == store.snapshot_hash()
    assert oversight.record_snapshot() == first
    oversight.adjudicate(tasks[0].id, lead, "replaced", ranks_of(tasks[0], "0>1>2"))
    oversight.exclude("bob", "left", "lena")
    second = oversight.record_snapshot()
    assert oversight.snapshots() == {first: {"ada", "bob"}, second: {"ada", "lena"}}


def test_new_answers_count_in_the_hash_only_where_they_say_something(
    store: LabelStore, fill: Callable
) -> None:
    fill(store, prompts=1)
    (task,) = judge_all(store, "ada", "0>1>2", interface=None)
    hashes = [store.snapshot_hash()]
    changes = ({"none_acceptable": True}, {"prompt_flags": {"ambiguous": True}})
    for number, fields in enumerate(changes):
        revise(store, task, "0>1>2", f"key {number}", **fields)
        hashes.append(store.snapshot_hash())
    assert len(set(hashes)) == 3


@pytest.fixture
def written(store: LabelStore) -> list[Task]:
    """Let ada answer two prompts."""
    store.add_prompts([Prompt.from_text("One?"), Prompt.from_text("Two?")])
    store.create_demonstration_tasks(1)
    return write_all(store, "ada", "An answer.")


def test_an_answer_is_trained_on_once_a_lead_accepts_its_newest_revision(
    store: LabelStore, oversight: Oversight, lead: int, written: list[Task]
) -> None:
    first, second = oversight.answers()
    assert not first.trainable
    oversight.review(first.id, lead, "accepted", 6, "good")
    oversight.review(second.id, lead, "returned", 3)
    first, second = oversight.answers()
    assert (first.trainable, second.trainable) == (True, False)
    assert (first.review.score, first.review.author) == (6, "lena")
    store.submit(written[0].token, Written("A better answer."), "again")
    edited = next(one for one in oversight.answers() if one.prompt == written[0].prompt)
    assert (edited.text, edited.revision, edited.review) == ("A better answer.", 2, None)
    with pytest.raises(StoreError, match=r"must be the newest revision \(2\), got revision 1"):
        oversight.review(first.id, lead, "accepted")
    oversight.review(edited.id, lead, "accepted")
    oversight.review(edited.id, lead, "rejected")
    assert not any(one.trainable for one in oversight.answers())


@pytest.mark.usefixtures("written")
def test_reviews_that_cannot_be_are_refused(
    store: LabelStore, oversight: Oversight, lead: int
) -> None:
    answer = oversight.answers()[0]
    labeler = add_account(store, "ann", "labeler")
    bad = [
        ("must be one of accepted, rejected, returned", (answer.id, lead, "fine", None)),
        ("must lie from 1 to 7, got 8", (answer.id, lead, "accepted", 8)),
        ("No demonstration 999", (999, lead, "accepted", 5)),
        ("must be an enabled lead's", (answer.id, labeler, "accepted", 5)),
    ]
    for message, given in bad:
        with pytest.raises(StoreError, match=message):
            oversight.review(*given)
    assert oversight.answers()[0].review is None


@pytest.mark.usefixtures("written")
def test_accepted_answers_are_exported_and_their_file_is_known_by_its_labelers(
    oversight: Oversight, lead: int, tmp_path: Path
) -> None:
    accepted, rejected = oversight.answers()
    oversight.review(accepted.id, lead, "accepted", 7)
    oversight.review(rejected.id, lead, "rejected", 1)
    path = tmp_path / "demonstrations.jsonl"
    assert oversight.export_demonstrations(path) == 1
    (row,) = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert row["messages"] == [
        *accepted.prompt.messages,
        {"role": "assistant", "content": "An answer."},
    ]
    assert (row["labeler"], row["score"], row["split"]) == ("ada", 7, "train")
    assert oversight.snapshots() == {hash_file(path): {"ada"}}
    oversight.exclude("ada", "left", "lena")
    assert oversight.export_demonstrations(path) == 0


def test_held_out_and_screening_answers_are_not_trained_on(
    store: LabelStore, oversight: Oversight, lead: int
) -> None:
    prompts = [Prompt.from_text("One?"), Prompt.from_text("Two?")]
    store.add_prompts(prompts)
    store.create_demonstration_tasks(1)
    with store.writing() as session:
        first, second = session.scalars(select(TaskRow).order_by(TaskRow.id))
        first.held_out_overlap, second.purpose = 1, "screening"
    store.add_labeler("new")
    oversight.admit("new", admitted=False)
    for name, group in (("new", "train"), ("hugo", "held_out")):
        assert len(write_all(store, name, "Mine.", group)) == 1
    for answer in oversight.answers():
        oversight.review(answer.id, lead, "accepted", 7)
    found = {one.labeler: (one.purpose, one.trainable) for one in oversight.answers()}
    assert found == {"new": ("screening", False), "hugo": ("work", False)}


@pytest.mark.usefixtures("tasks")
def test_labelers_are_admitted_and_given_kinds(oversight: Oversight) -> None:
    oversight.admit("ada", admitted=False)
    oversight.set_kinds("bob", ["demonstration", "ranking"])
    found = {one.name: (one.admitted, one.kinds) for one in oversight.people()}
    assert found == {"ada": (False, None), "bob": (True, ("ranking", "demonstration"))}
    oversight.admit("ada")
    oversight.set_kinds("bob", None)
    assert all(one.admitted and one.kinds is None for one in oversight.people())
    for message, kinds in (("must be one of ranking", ["poem"]), ("got none", [])):
        with pytest.raises(StoreError, match=message):
            oversight.set_kinds("bob", kinds)


def test_the_queue_counts_what_waits(
    store: LabelStore, oversight: Oversight, fill: Callable
) -> None:
    fill(store, prompts=3, overlap=2)
    judge_all(store, "ada")
    fill(store, prompts=1, split="test")
    assert store.lease_task(store.add_labeler("bob")) is not None
    found = {one.split: one for one in oversight.queue()}
    assert sum(one.held for one in found.values()) == 1
    train, test = found["train"], found["test"]
    assert (train.kind, train.purpose, train.tasks, train.open) == ("ranking", "work", 3, 3)
    assert (train.wanted, train.done, test.wanted, test.done) == (6, 3, 1, 0)
    judge_all(store, "bob")
    assert [(one.open, one.held) for one in oversight.queue()] == [(0, 0), (0, 0)]


def test_reports_wait_until_they_are_resolved_and_skips_are_counted(
    store: LabelStore, oversight: Oversight, tasks: list[Task]
) -> None:
    with store.writing() as session:
        for reason in ("rude", "empty"):
            session.add(
                PromptReportRow(
                    prompt_id=tasks[0].prompt.id,
                    labeler_id=1,
                    reason=reason,
                    created=store.clock(),
                )
            )
        session.add(SkipRow(assignment_id=1, reason="broken", comment="", created=store.clock()))
    newest, _ = oversight.reports()
    assert (newest.reason, newest.prompt, newest.labeler) == ("empty", tasks[0].prompt, "ada")
    oversight.resolve_report(newest.id)
    assert [(one.reason, one.resolved) for one in oversight.reports()] == [
        ("rude", False),
        ("empty", True),
    ]
    with pytest.raises(StoreError, match="No report 99"):
        oversight.resolve_report(99)
    assert oversight.skips() == {"broken": 1}
    assert {one.name: one.skips for one in oversight.people()}["ada"] == 1
