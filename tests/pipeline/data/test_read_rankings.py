from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config.source import Source
from pipeline.data import read_rankings
from pipeline.errors import DataError
from pipeline.records import Prompt, Ranking
from pipeline.store import Judgment, LabelStore

ASK = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "good"}
BAD = {"role": "assistant", "content": "bad"}
SAME_PREFERENCE = [
    {"prompt": "Hi", "chosen": "good", "rejected": "bad"},
    {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": [ASK], "chosen": "good", "rejected": [BAD]},
    {"prompt": "Hi", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    {
        "chosen": "\n\nHuman: Hi\n\nAssistant: good",
        "rejected": "\n\nHuman: Hi\n\nAssistant: bad",
    },
    {"prompt": "Hi", "completions": ["good", "bad"], "ranks": [1, 2]},
    {"prompt": [ASK], "completions": [{"text": "good"}, {"text": "bad"}], "ranks": [0, 7]},
]


@pytest.mark.parametrize("row", SAME_PREFERENCE)
def test_every_layout_of_a_preference_reads_the_same(write_rows, row):
    expected = Ranking.from_pair(Prompt.from_text("Hi"), "good", "bad")
    assert read_rankings([write_rows(row)], 0) == [expected]


def test_ranks_are_made_dense_from_one_and_keep_ties_and_order(write_rows):
    row = {"prompt": "Hi", "completions": list("abcd"), "ranks": [5, 0, 2, 2]}
    for name in ("auto", "oasst"):
        (ranking,) = read_rankings([write_rows(row, format=name)], 0)
        assert ranking.completions == ("a", "b", "c", "d")
        assert ranking.ranks == (3, 1, 2, 2)


def test_ratings_labeler_and_group_are_read(write_rows):
    row = {"prompt": "Hi", "completions": ["a", "b"], "ranks": [2, 1], "ratings": [1, 7]}
    source = write_rows({**row, "labeler": "ann", "group": "held_out"})
    (ranking,) = read_rankings([source], 0)
    assert (ranking.ratings, ranking.labeler, ranking.group) == ((1, 7), "ann", "held_out")


def test_each_vote_on_a_pair_is_one_labelers_ranking(write_rows):
    row = {
        **{"id": 4, "prompt": "Sum.", "input": "1 + 1", "completion_a": "2", "completion_b": "3"},
        **{"model_a": "m", "model_b": "n", "votes": ["a", "b", "tie"]},
    }
    rankings = read_rankings([write_rows(row, format="pandalm")], 0)
    assert [ranking.ranks for ranking in rankings] == [(1, 2), (2, 1), (1, 1)]
    assert [ranking.labeler for ranking in rankings] == ["pandalm-1", "pandalm-2", "pandalm-3"]
    assert {ranking.completions for ranking in rankings} == {("2", "3")}
    assert rankings[0].prompt == Prompt.from_text("Sum.\n\n1 + 1", meta={"id": 4})
    assert rankings == read_rankings([write_rows(row)], 0)


def test_the_stores_export_reads_as_the_stores_own_rankings(tmp_path):
    path = tmp_path / "export.jsonl"
    prompt = Prompt.from_text("Hi", "chat", {"k": 1})
    given = [
        Ranking(prompt, ("a", "b", "c"), (1, 2, 2), (7, 3, 3), "ann"),
        Ranking(prompt, ("a", "b", "c"), (2, 1, 3), None, "ben", "held_out"),
        Ranking(Prompt.from_text("Ho"), ("a", "b"), (1, 1), None, "ann"),
    ]
    with LabelStore.open(f"sqlite:///{tmp_path / 'labels.db'}") as store:
        store.import_rankings(given, split="train", source="test")
        store.create_ranking_tasks(3)
        task = store.lease_task(store.add_labeler("cyd"))
        ranks = {choice.id: rank for rank, choice in enumerate(task.completions, start=1)}
        answers = {"prompt_flags": {"ambiguous": True}, "none_acceptable": True}
        made = Judgment(ranks, **answers, instructions=2, interface="1", active_seconds=3.5)
        store.submit(task.token, made, "key")
        store.export_jsonl(path)
        assert len(store.rankings()) == 4
        assert read_rankings([Source(str(path))], 0) == store.rankings()


def test_a_later_revision_replaces_the_earlier(write_rows):
    def row(labeler: str, revision: int, ranks: list[int]) -> dict[str, object]:
        return {
            **{"prompt": "Hi", "completions": ["a", "b"], "ranks": ranks},
            **{"labeler": labeler, "revision": revision},
        }

    source = write_rows(row("ann", 2, [2, 1]), row("ann", 1, [1, 2]), row("ben", 1, [1, 1]))
    found = [(item.labeler, item.ranks) for item in read_rankings([source], 0)]
    assert found == [("ann", (2, 1)), ("ben", (1, 1))]


@pytest.mark.parametrize(
    "aside",
    [
        {"kind": "comparison"},
        {"purpose": "gold"},
        {"purpose": "screening", "known": True},
        {"purpose": "repeat", "repeats": "abc"},
    ],
)
def test_rows_of_the_store_that_do_not_reach_training_are_left_out(write_rows, aside):
    row = {"prompt": "Hi", "completions": ["a", "b"], "ranks": [1, 2]}
    found = read_rankings([write_rows({**row, **aside, "ranks": [2, 1]}, row)], 0)
    assert [ranking.ranks for ranking in found] == [(1, 2)]


def test_keys_of_others_rows_mean_nothing_here(write_rows):
    row = {"prompt": "Hi", "completions": ["a", "b"], "ranks": [1, 2], "kind": "chat"}
    assert len(read_rankings([write_rows({**row, "purpose": "training"})], 0)) == 1


def test_unrevised_rows_of_equal_content_are_separate_judgments(write_rows):
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    assert len(read_rankings([write_rows(row, row)], 0)) == 2


PAIR = {"prompt": "Hi", "chosen": "good", "rejected": "bad"}
K_WISE = {"prompt": "Hi", "completions": ["a", "b", "c"], "ranks": [1, 2, 3]}
VOTED = {"prompt": "Hi", "completion_a": "a", "completion_b": "b", "votes": ["a"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**PAIR, "rejected": "good"}, "'chosen' equals 'rejected'. Remove the line or relabel it"),
        ({**PAIR, "chosen": ""}, "'chosen' is empty"),
        ({**PAIR, "rejected": [{**BAD, "content": " "}]}, "'rejected[1].content' is empty"),
        ({**PAIR, "prompt": ""}, "'prompt' is empty"),
        ({**PAIR, "chosen": [{**ASK, "content": "Ho"}, GOOD]}, "'chosen' must continue 'prompt'"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "must share all but the last turn"),
        ({"chosen": [ASK, ASK, GOOD], "rejected": [ASK, BAD]}, "must share all but the last turn"),
        ({"chosen": "good", "rejected": "bad"}, "'chosen' stands without 'prompt'"),
        ({**K_WISE, "ranks": [1, 2]}, "'ranks' must have one entry a completion (3), got [1, 2]"),
        ({**K_WISE, "ranks": 3}, "'ranks' must have one entry a completion (3), got 3"),
        ({**K_WISE, "ranks": [1, 2, "3"]}, "'ranks' must be whole numbers, got '3'"),
        ({**K_WISE, "ranks": [1, 2, True]}, "'ranks' must be whole numbers, got True"),
        ({**K_WISE, "ratings": [1]}, "'ratings' must have one entry a completion (3), got [1]"),
        ({**K_WISE, "ratings": [1, 2, 8]}, "'ratings' must lie in 1 to 7, got 8"),
        ({**K_WISE, "group": "test"}, "'group' must be train or held_out, got 'test'"),
        ({**K_WISE, "group": ["train"]}, "'group' must be train or held_out, got ['train']"),
        ({**K_WISE, "completions": ["a"]}, "'completions' must be a list of two or more"),
        ({**K_WISE, "completions": ["a", "b", ""]}, "'completions[3]' is empty"),
        ({**K_WISE, "completions": ["a", "b", 3]}, "'completions[3]' must be a string"),
        (
            {**K_WISE, "completions": ["a", "b", "a"]},
            "'completions[3]' equals 'completions[1]'. Remove one of them.",
        ),
        ({**VOTED, "votes": ["a", "c"]}, "'votes' must be a list of a, b or tie, got ['a', 'c']"),
        ({**VOTED, "votes": []}, "'votes' must be a list of a, b or tie, got []"),
        ({**VOTED, "votes": [["a"]]}, "'votes' must be a list of a, b or tie"),
        ({**VOTED, "completion_b": "a"}, "'completion_a' equals 'completion_b'"),
        ({**VOTED, "completion_b": ""}, "'completion_b' is empty"),
        ({"prompt": "Hi", "answer": "Ho"}, "keys of rankings must be prompt, completions, ranks;"),
    ],
)
def test_a_faulty_ranking_is_refused_with_file_and_line(write_rows, row, message):
    source = write_rows(PAIR, row)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_rankings([source], 0)
    assert str(error.value).startswith(f"{source.path}:2: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "row"), [("pandalm", VOTED), ("oasst", K_WISE)])
def test_published_formats_leave_out_empty_texts_and_count_them(write_rows, name, row):
    key = "completion_a" if name == "pandalm" else "prompt"
    source = write_rows(row, {**row, key: ""}, format=name)
    dropped: Counter[str] = Counter()
    assert len(read_rankings([source], 0, dropped=dropped)) == 1
    assert dropped == {f"{source.path}: rows with an empty text": 1}


def test_own_files_leave_out_empty_texts_only_where_the_caller_says_so(write_rows):
    source = write_rows(PAIR, {**PAIR, "chosen": ""})
    assert len(read_rankings([source], 0, drop_empty=True)) == 1
    with pytest.raises(DataError, match="'chosen' is empty"):
        read_rankings([source], 0)


def test_the_tiny_world_has_no_rankings_of_its_own():
    with pytest.raises(DataError, match=r"Set label.simulated, and read 'store:'"):
        read_rankings([Source("tiny:rankings")], 0)


def test_the_label_store_is_the_stages_to_read():
    with pytest.raises(DataError, match=r"store: must be listed under reward\.data"):
        read_rankings([Source("store:")], 0)


def test_malformed_lines_are_named(tmp_path: Path):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(PAIR) + "\n\n{'prompt': 1}\n")
    with pytest.raises(DataError, match=r"broken.jsonl:3: not a JSON object"):
        read_rankings([Source(str(path))], 0)
