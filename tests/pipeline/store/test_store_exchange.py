from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event

from pipeline.errors import DataError
from pipeline.records import Prompt, Ranking
from pipeline.store import ImportCount, LabelStore, Task
from pipeline.store.oversight import Oversight
from pipeline.store.values import GROUPS, SPLITS
from tests.pipeline.store.people import judge_all

PROMPT = Prompt.from_text("Which?")
PLAIN = {"prompt": "Which?", "completions": ["a", "b", "c"], "ranks": [2, 1, 2]}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def label(by_text: Callable) -> Callable[[LabelStore], None]:
    """Return a function that labels everything: people and programs, flags, a revision."""

    def judge(task: Task, name: str) -> dict[str, object]:
        best = min(task.completions, key=lambda choice: choice.text).id
        return {"flags": {best: {"harmful": True}}, "comment": f"by {name}: ünïcode\n"}

    def run(store: LabelStore, order: tuple[str, ...] = ("ada", "simulated-1", "bob")) -> None:
        for name in order:
            kind = "simulated" if name.startswith("simulated") else "human"
            group = "held_out" if name == "bob" else "train"
            labeler = store.add_labeler(name, kind=kind, group=group)
            for _ in range(store.counts()["tasks"]):
                task = store.lease_task(labeler)
                verdict = by_text(task, **judge(task, name))
                store.submit(task.token, verdict, f"{name}/{task.id}/1")
                if name == "ada":
                    again = replace(verdict, ratings=None)
                    store.submit(task.token, again, f"{name}/{task.id}/2")

    return run


@pytest.fixture
def labeled(store: LabelStore, fill: Callable, label: Callable) -> LabelStore:
    fill(store, prompts=3, overlap=2, held_out=1)
    fill(store, prompts=2, overlap=2, held_out=1, split="test")
    label(store)
    return store


def test_export_and_import_into_an_empty_store_lose_nothing(
    labeled: LabelStore, tmp_path: Path
) -> None:
    rows = labeled.export_jsonl(tmp_path / "a.jsonl")
    assert rows == 5 * (2 + 1 + 1)
    with LabelStore.open(tmp_path / "copy.db") as copy:
        assert copy.import_jsonl(tmp_path / "a.jsonl") == ImportCount(rows, 0)
        assert copy.snapshot_hash() == labeled.snapshot_hash()
        assert copy.rankings() == labeled.rankings()
        assert copy.counts() == labeled.counts()
        copy.export_jsonl(tmp_path / "b.jsonl")
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()


def test_the_same_import_twice_adds_nothing(labeled: LabelStore, tmp_path: Path) -> None:
    rows = labeled.export_jsonl(tmp_path / "a.jsonl")
    before = labeled.snapshot_hash(), labeled.counts()
    assert labeled.import_jsonl(tmp_path / "a.jsonl") == ImportCount(0, rows)
    assert (labeled.snapshot_hash(), labeled.counts()) == before


def test_exported_labels_say_whether_they_are_simulated(
    labeled: LabelStore, tmp_path: Path
) -> None:
    labeled.export_jsonl(tmp_path / "a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    marks = {(row["labeler"], row["simulated"]) for row in rows}
    assert marks == {("ada", False), ("bob", False), ("simulated-1", True)}
    source = rows[0]["completions"][0]["sources"][0]
    assert (source["stage"], source["checkpoint"], source["sampling"]) == (
        "sft",
        "abc",
        {"top_p": 1.0},
    )


def test_the_hash_does_not_depend_on_the_order_of_arrival(
    labeled: LabelStore, fill: Callable, label: Callable, tmp_path: Path
) -> None:
    labeled.export_jsonl(tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    random.Random(0).shuffle(lines)
    (tmp_path / "shuffled.jsonl").write_text("".join(lines))
    with LabelStore.open(tmp_path / "shuffled.db") as other:
        other.import_jsonl(tmp_path / "shuffled.jsonl")
        assert other.snapshot_hash() == labeled.snapshot_hash()
        assert other.rankings() == labeled.rankings()
    with LabelStore.open(tmp_path / "again.db") as other:
        fill(other, prompts=2, overlap=2, held_out=1, split="test")
        fill(other, prompts=3, overlap=2, held_out=1)
        label(other, ("bob", "ada", "simulated-1"))
        assert other.snapshot_hash() == labeled.snapshot_hash()


def test_the_hash_changes_with_judgments_and_with_nothing_else(
    store: LabelStore, fill: Callable, by_text: Callable
) -> None:
    hashes = [store.snapshot_hash()]
    fill(store, prompts=2, overlap=2)
    labeler = store.add_labeler("ada")
    task = store.lease_task(labeler)
    assert store.snapshot_hash() == hashes[0]
    for number, fields in enumerate(
        [
            {},
            {"ratings": None},
            {"comment": "x"},
            {"ranks": {choice.id: 1 for choice in task.completions}},
            {"flags": {task.completions[0].id: {"harmful": True}}},
            {"flags": {task.completions[0].id: {"harmful": False}}},
        ]
    ):
        store.submit(task.token, by_text(task, **fields), f"key {number}")
        hashes.append(store.snapshot_hash())
    assert len(set(hashes)) == len(hashes)
    store.lease_task(labeler)
    store.create_ranking_tasks(9)
    fill(store, prompts=4, split="test")
    assert store.snapshot_hash() == hashes[-1]


def test_the_hash_tells_who_judged_what_and_in_which_split(tmp_path: Path) -> None:
    variants = [
        {},
        {"labeler": "bob"},
        {"group": "held_out"},
        {"split": "test"},
        {"simulated": True, "labeler": "simulated-ada"},
        {"ranks": [1, 2, 3]},
        {"ratings": [4, 5, 4]},
        {"flags": [{"harmful": True}, {}, {}]},
        {"comment": "a note"},
    ]
    hashes = set()
    for number, changes in enumerate(variants):
        row = {**PLAIN, "labeler": "ada", **changes}
        with LabelStore.open(tmp_path / f"{number}.db") as store:
            store.import_jsonl(write(tmp_path / "rows.jsonl", row))
            hashes.add(store.snapshot_hash())
    assert len(hashes) == len(variants)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**PLAIN, "ranks": [1, 2]}, "'ranks' must have one entry a completion"),
        ({**PLAIN, "ranks": [1, 2, "3"]}, "'ranks' must hold int, got '3'"),
        ({**PLAIN, "ranks": [1, 2, True]}, "'ranks' must hold int, got True"),
        ({**PLAIN, "ratings": [1, 2, 9]}, "ratings must lie from 1 to 7, got 9"),
        ({**PLAIN, "ratings": []}, "'ratings' must have one entry a completion"),
        ({**PLAIN, "completions": ["a", "a", "c"]}, "'completions' must be two or more different"),
        ({**PLAIN, "completions": ["a"], "ranks": [1]}, "'completions' must be two or more"),
        ({**PLAIN, "completions": ["a", " ", "c"]}, f"prompt {PROMPT.id} is empty"),
        ({**PLAIN, "completions": ["a", {"sources": []}, "c"]}, "'completions.text' is missing"),
        ({**PLAIN, "prompt": [{"role": "robot", "content": "x"}]}, "'prompt' must be a text or"),
        ({**PLAIN, "prompt": None}, "'prompt' is missing"),
        ({**PLAIN, "split": "dev"}, "'split' must be one of train, validation, test, got 'dev'"),
        (
            {**PLAIN, "labler": "ada"},
            "'labler' is not a field of a ranking. Did you mean 'labeler'",
        ),
        ({**PLAIN, "simulated": 1}, "'simulated' must hold bool, got 1"),
        ({**PLAIN, "labeler": "ada", "simulated": True}, "must begin with 'simulated-'"),
        ({**PLAIN, "presented": [0, 0, 1]}, "'presented' must hold each index below 3 once"),
        ({**PLAIN, "revision": 0}, "'revision' must be 1 or more, got 0"),
        ({**PLAIN, "created": "yesterday"}, "'created' must be an ISO 8601 time"),
        ({**PLAIN, "created": "2030-01-01T00:00:00"}, "'created' must name its time zone"),
        ([1, 2], "must hold a JSON object, got list"),
    ],
)
def test_a_half_valid_import_names_the_line_and_changes_nothing(
    store: LabelStore, tmp_path: Path, row: object, message: str
) -> None:
    store.import_jsonl(write(tmp_path / "first.jsonl", {**PLAIN, "labeler": "ada"}))
    before = store.snapshot_hash(), store.counts()
    good = {**PLAIN, "prompt": "Another?"}
    path = write(tmp_path / "half.jsonl", good, row)
    with pytest.raises(DataError) as caught:
        store.import_jsonl(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert (store.snapshot_hash(), store.counts()) == before


def test_an_import_that_contradicts_the_store_changes_nothing(
    labeled: LabelStore, tmp_path: Path
) -> None:
    labeled.export_jsonl(tmp_path / "a.jsonl")
    row = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    contradictions = {
        "must stay in one split": {"split": "validation"},
        "must stay human in group": {"group": "held_out"},
        "'key' must name one judgment": {"comment": "other"},
        "must have one revision 1 of a task": {"key": "another"},
    }
    before = labeled.snapshot_hash(), labeled.counts()
    for message, change in contradictions.items():
        assert {**row, **change} != row
        with pytest.raises(DataError, match=message):
            labeled.import_jsonl(write(tmp_path / "b.jsonl", {**row, **change}))
    assert (labeled.snapshot_hash(), labeled.counts()) == before


def test_plain_rows_need_only_prompt_completions_and_ranks(
    store: LabelStore, tmp_path: Path
) -> None:
    path = write(tmp_path / "votes.jsonl", PLAIN, {**PLAIN, "ranks": [0, 7, 7]})
    assert store.import_jsonl(path, split="test") == ImportCount(2, 0)
    found = [
        (item.labeler, dict(zip(item.completions, item.ranks, strict=True)))
        for item in store.rankings("test")
    ]
    assert found == [
        ("votes#1", {"a": 2, "b": 1, "c": 2}),
        ("votes#2", {"a": 1, "b": 2, "c": 2}),
    ]
    assert {item.sources[0].stage for item in store.completions(PROMPT.id)} == {"votes"}
    assert store.import_jsonl(path, split="test") == ImportCount(0, 2)


def test_equal_votes_of_unnamed_people_all_count(store: LabelStore, tmp_path: Path) -> None:
    path = write(tmp_path / "votes.jsonl", PLAIN, PLAIN, PLAIN)
    assert store.import_jsonl(path) == ImportCount(3, 0)
    assert len(store.rankings()) == 3


def test_a_named_labeler_who_says_it_twice_counts_once(store: LabelStore, tmp_path: Path) -> None:
    named = {**PLAIN, "labeler": "ada"}
    changed = {**named, "ranks": [1, 2, 3]}
    path = write(tmp_path / "votes.jsonl", named, named, changed)
    assert store.import_jsonl(path) == ImportCount(2, 1)
    (ranking,) = store.rankings()
    assert dict(zip(ranking.completions, ranking.ranks, strict=True)) == {"a": 1, "b": 2, "c": 3}


def test_plain_rankings_are_taken_over_all_or_none(store: LabelStore) -> None:
    rankings = [
        Ranking(PROMPT, ("x", "y", "z"), (1, 1, 3), (7, 7, 2), "ada", "held_out"),
        Ranking.from_pair(Prompt.from_text("Why?"), "good", "bad"),
    ]
    count = store.import_rankings(rankings, split="train", source="forum")
    assert count == ImportCount(2, 0)
    assert store.import_rankings(rankings, split="train", source="forum") == ImportCount(0, 2)
    by_prompt = {ranking.prompt.id: ranking for ranking in store.rankings()}
    first = by_prompt[PROMPT.id]
    assert set(zip(first.completions, first.ranks, first.ratings, strict=True)) == {
        ("x", 1, 7),
        ("y", 1, 7),
        ("z", 2, 2),
    }
    assert (first.labeler, first.group) == ("ada", "held_out")
    assert by_prompt[Prompt.from_text("Why?").id].labeler == "forum#1"
    bad = Ranking.from_pair(Prompt.from_text("How?"), "same", "same")
    fine = Ranking.from_pair(Prompt.from_text("When?"), "one", "two")
    with pytest.raises(DataError, match="forum:2: 'completions' must be two or more different"):
        store.import_rankings([fine, bad], split="train", source="forum")
    assert len(store.rankings()) == 2


def test_imported_simulated_votes_are_marked(store: LabelStore) -> None:
    pair = Ranking.from_pair(PROMPT, "good", "bad")
    store.import_rankings([pair], split="train", source="gold", simulated=True)
    assert store.rankings()[0].labeler == "simulated-gold#1"
    assert store.counts()["judgments_simulated"] == 1


def test_an_import_fills_the_place_that_its_labeler_held(
    store: LabelStore, fill: Callable, by_text: Callable, tmp_path: Path
) -> None:
    fill(store, prompts=1)
    task = store.lease_task(store.add_labeler("ada"))
    texts = sorted(choice.text for choice in task.completions)
    row = {"prompt": list(task.prompt.messages), "completions": texts, "ranks": [1, 2, 3]}
    store.import_jsonl(write(tmp_path / "a.jsonl", {**row, "labeler": "ada"}))
    counts = store.counts()
    assert (counts["tasks"], counts["places_done"], counts["places_leased"]) == (1, 1, 0)
    assert store.submit(task.token, by_text(task), "later").revision == 2


def test_rankings_and_their_name_are_of_one_moment(
    store: LabelStore, location: Path | str, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=2, overlap=2)
    fill(store, prompts=1, overlap=2, held_out=1, split="validation")
    judge_all(store, "ada")
    judge_all(store, "hugo", group="held_out")
    before = store.snapshot_hash(), store.rankings("train")
    late: list[str] = []
    with LabelStore.open(location) as elsewhere:
        task = elsewhere.lease_task(elsewhere.add_labeler("bob"))

        def judge(_: object, __: object, statement: str, *___: object) -> None:
            if statement.startswith("SELECT") and not late:
                late.append(task.prompt.id)
                elsewhere.submit(task.token, by_text(task), "late")

        # As soon as something was read.
        event.listen(store._engine, "after_cursor_execute", judge)
        labels = Oversight(store).take_labels()
    assert late
    assert (labels.snapshot.hash, labels.rankings("train")) == before
    assert store.snapshot_hash() != before[0]
    assert len(store.rankings()) == 4 + 1

    event.remove(store._engine, "after_cursor_execute", judge)
    labels = Oversight(store).take_labels()
    assert labels.snapshot.hash == store.snapshot_hash()
    for split in SPLITS:
        for group in (None, *GROUPS):
            assert labels.rankings(split, group) == store.rankings(split, group)
    assert Oversight(store).snapshots()[labels.snapshot.hash] == {"ada", "bob", "hugo"}
