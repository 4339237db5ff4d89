from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.records import Prompt, Ranking
from pipeline.store import ImportCount, LabelStore, Task
from pipeline.store.oversight import Oversight
from tests.pipeline.store.people import judge_all, ranks_of, revise

PAIR = {"prompt": "Which?", "completions": ["a", "b"], "ranks": [1, 2]}
NEW_FIELDS = {
    "kind",
    "purpose",
    "repeats",
    "known",
    "prompt_flags",
    "none_acceptable",
    "instructions",
    "interface",
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rank(labeler: str | None, ranks: tuple[int, ...], prompt: str = "Which?") -> Ranking:
    return Ranking(Prompt.from_text(prompt), ("a", "b"), ranks, labeler=labeler)


@pytest.fixture
def worked(store: LabelStore, fill: Callable) -> tuple[LabelStore, list[Task]]:
    """Return a store with every kind of judgment: work, revisions, gold, screening, repeats."""
    fill(store, prompts=3, overlap=2)
    tasks = judge_all(
        store,
        "ada",
        "0>1>2",
        prompt_flags={"ambiguous": True},
        none_acceptable=True,
        instructions=2,
        flags={},
    )
    revise(store, tasks[0], "1>0>2", "later", interface="2")
    oversight = Oversight(store)
    flags = {tasks[1].completions[0].id: {"violent": False}}
    oversight.set_gold(tasks[1].id, ranks_of(tasks[1], "0=1>2"), flags, "lena")
    oversight.set_gold(tasks[2].id, ranks_of(tasks[2], "2>1>0"), {}, "lena", "screening")
    again = [
        Ranking(tasks[0].prompt, ("answer 0", "answer 1", "answer 2"), ranks, labeler="bob")
        for ranks in ((1, 2, 3), (1, 3, 2), (3, 2, 1))
    ]
    store.import_rankings(again, split="train", source="people")
    return store, tasks


def test_every_kind_of_judgment_survives_export_and_import(
    worked: tuple[LabelStore, list[Task]], tmp_path: Path
) -> None:
    store, _ = worked
    rows = store.export_jsonl(tmp_path / "a.jsonl")
    assert rows == 3 + 1 + 3 + 2
    with LabelStore.open(tmp_path / "copy.db") as copy:
        assert copy.import_jsonl(tmp_path / "a.jsonl") == ImportCount(rows, 0)
        assert copy.import_jsonl(tmp_path / "a.jsonl") == ImportCount(0, rows)
        assert copy.snapshot_hash() == store.snapshot_hash()
        assert copy.rankings() == store.rankings()
        assert Oversight(copy).gold() == Oversight(store).gold()
        kept = ("task", "purpose", "kind", "repeats", "labeler", "ranks", "prompt_flags")
        found = [
            sorted(str([getattr(one, name) for name in kept]) for one in Oversight(of).judged())
            for of in (copy, store)
        ]
        assert found[0] == found[1]
        copy.export_jsonl(tmp_path / "b.jsonl")
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()


def test_rows_name_only_what_differs_from_before(worked: tuple[LabelStore, list[Task]]) -> None:
    rows = worked[0].export_rows()
    bob = next(row for row in rows if row["labeler"] == "bob" and "purpose" not in row)
    assert NEW_FIELDS & bob.keys() == set()
    ada = next(row for row in rows if row["labeler"] == "ada" and row["revision"] == 1)
    assert ada["prompt_flags"] == {"ambiguous": True}
    assert (ada["none_acceptable"], ada["instructions"], ada["interface"]) == (True, 2, "1")
    assert {row.get("purpose", "work") for row in rows} == {"work", "gold", "screening", "repeat"}
    known = [row for row in rows if row.get("known")]
    assert {row["labeler"] for row in known} == {"lena"}
    assert {row["purpose"] for row in known} == {"gold", "screening"}


def test_one_name_at_two_rankings_of_a_pair_is_a_repeat_and_not_a_revision(
    store: LabelStore,
) -> None:
    rankings = [
        rank("ada", (1, 2)),
        rank("bob", (1, 2)),
        rank("ada", (2, 1)),
        rank("bob", (1, 2)),
        rank("ada", (1, 2)),
        rank("ada", (1, 2), "Why?"),
    ]
    assert store.import_rankings(rankings, split="train", source="votes") == ImportCount(6, 0)
    assert store.import_rankings(rankings, split="train", source="votes") == ImportCount(0, 6)
    trained = sorted((one.labeler, one.prompt.messages[0]["content"]) for one in store.rankings())
    assert trained == [("ada", "Which?"), ("ada", "Why?"), ("bob", "Which?")]
    judged = Oversight(store).judged()
    assert all(one.revision == 1 for one in judged)
    work = next(one.task for one in judged if one.prompt.messages[0]["content"] == "Which?")
    repeats = [one for one in judged if one.purpose == "repeat"]
    assert [(one.labeler, one.repeats) for one in repeats] == [
        ("ada", work),
        ("bob", work),
        ("ada", repeats[0].task),
    ]
    assert len({one.task for one in repeats}) == 3


def test_a_comparison_survives_export_and_import(store: LabelStore, tmp_path: Path) -> None:
    row = {**PAIR, "labeler": "ada", "kind": "comparison"}
    store.import_jsonl(write(tmp_path / "a.jsonl", row, {**PAIR, "labeler": "ada"}))
    assert {one.kind for one in Oversight(store).judged()} == {"ranking", "comparison"}
    assert len(store.rankings()) == 1
    store.export_jsonl(tmp_path / "b.jsonl")
    with LabelStore.open(tmp_path / "copy.db") as copy:
        copy.import_jsonl(tmp_path / "b.jsonl")
        assert copy.export_rows() == store.export_rows()


def test_unnamed_votes_are_different_people_however_often_a_pair_stands(
    store: LabelStore,
) -> None:
    rankings = [rank(None, (1, 2)), rank(None, (1, 2)), rank(None, (2, 1))]
    store.import_rankings(rankings, split="train", source="votes")
    assert [one.labeler for one in store.rankings()] == ["votes#1", "votes#2", "votes#3"]


def test_a_repeat_task_of_an_import_is_the_one_that_the_desk_would_make(
    store: LabelStore, tmp_path: Path
) -> None:
    store.import_jsonl(write(tmp_path / "a.jsonl", {**PAIR, "labeler": "ada"}))
    original = Oversight(store).judged()[0].task
    row = {**PAIR, "labeler": "ada", "purpose": "repeat", "repeats": original}
    assert store.import_jsonl(write(tmp_path / "b.jsonl", row)) == ImportCount(1, 0)
    assert store.import_jsonl(tmp_path / "b.jsonl") == ImportCount(0, 1)
    (again,) = [one for one in Oversight(store).judged() if one.purpose == "repeat"]
    assert (again.repeats, again.labeler) == (original, "ada")
    assert len(store.rankings()) == 1


def test_a_plain_row_joins_a_task_that_a_lead_made_gold(store: LabelStore, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", {**PAIR, "purpose": "gold", "known": True, "labeler": "lena"}
    )
    assert store.import_jsonl(path) == ImportCount(1, 0)
    store.import_jsonl(write(tmp_path / "b.jsonl", {**PAIR, "labeler": "ada"}))
    (found,) = Oversight(store).judged()
    assert found.purpose == "gold"
    assert store.rankings() == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**PAIR, "kind": "poem"}, "'kind' must be one of ranking, comparison"),
        ({**PAIR, "purpose": "fun"}, "'purpose' must be one of work, screening, gold, repeat"),
        ({**PAIR, "purpose": "gold"}, "must stay 'work', got 'purpose' 'gold'"),
        ({**PAIR, "purpose": "repeat", "labeler": "ada"}, "'repeats' is missing"),
        ({**PAIR, "purpose": "repeat", "repeats": "x"}, "'labeler' is missing"),
        ({**PAIR, "known": True}, "known answer must be gold or screening, got 'work'"),
        ({**PAIR, "known": 1}, "'known' must hold bool"),
        ({**PAIR, "prompt_flags": {"ambiguous": "yes"}}, "ambiguous must be true or false"),
        ({**PAIR, "prompt_flags": []}, "'prompt_flags' must hold dict"),
        ({**PAIR, "none_acceptable": 1}, "'none_acceptable' must hold bool"),
        ({**PAIR, "instructions": 0}, "'instructions' must be 1 or more"),
        (
            {**PAIR, "completions": ["a", "b", "c"], "ranks": [1, 2, 3], "kind": "comparison"},
            "'completions' of a comparison must be 2, got 3",
        ),
        (
            {**PAIR, "completions": ["g", "h"], "ranks": [2, 1], "purpose": "gold", "known": True},
            "must have one known answer, got another",
        ),
    ],
)
def test_a_row_that_cannot_be_names_its_line_and_changes_nothing(
    store: LabelStore, tmp_path: Path, row: dict[str, object], message: str
) -> None:
    gold = {**PAIR, "completions": ["g", "h"], "purpose": "gold", "known": True}
    store.import_jsonl(write(tmp_path / "first.jsonl", {**PAIR, "labeler": "ada"}, gold))
    before = store.export_rows()
    path = write(tmp_path / "half.jsonl", {**PAIR, "prompt": "Another?"}, row)
    with pytest.raises(DataError) as caught:
        store.import_jsonl(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert store.export_rows() == before


def test_the_key_of_a_row_without_one_tells_new_answers_apart(
    store: LabelStore, tmp_path: Path
) -> None:
    rows = [
        {**PAIR, "labeler": "ada"},
        {**PAIR, "labeler": "ada", "none_acceptable": True},
        {**PAIR, "labeler": "ada", "prompt_flags": {"ambiguous": True}},
    ]
    path = write(tmp_path / "a.jsonl", *rows)
    assert store.import_jsonl(path) == ImportCount(3, 0)
    assert store.import_jsonl(path) == ImportCount(0, 3)
