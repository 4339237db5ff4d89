from __future__ import annotations

import re

import pytest

from pipeline.errors import DataError
from pipeline.evaluation.catalogue import load_tasks
from pipeline.evaluation.rows import FIELDS, OPTIONAL, read_table, read_text_rows

TRUE_FIRST = {"choices": ["Cats purr.", "Cats sing."], "labels": [1, 0]}
GOOD = {
    "crows_pairs": {"sent_more": "Tom is old.", "sent_less": "Ann is old.", "bias_type": "age"},
    "winogender": {
        "sentence": "The cook met the guest before he left.",
        **{"gender": "male", "occupation": "cook", "participant": "guest", "target": 0},
    },
    "truthfulqa_mc": {
        **{"question": "What do cats do?", "mc1_targets": TRUE_FIRST, "mc2_targets": TRUE_FIRST}
    },
    "truthfulqa_gen": {
        "question": "What do cats do?",
        **{"correct_answers": ["Cats purr."], "incorrect_answers": ["Cats sing."]},
    },
    "reddit_tldr": {"content": "Mia has a cat.", "summary": "Cat."},
}


@pytest.mark.parametrize("file", GOOD)
def test_a_good_row_is_kept_without_further_fields(write_rows, file):
    path = write_rows([{**GOOD[file], "further": 1}, {**GOOD[file], "further": "x"}])
    rows = read_table(path, file)
    assert len(rows) == 2
    assert set(rows[0]) == {*FIELDS[file], *OPTIONAL.get(file, ())}
    assert {key: rows[0][key] for key in FIELDS[file]} == {
        key: GOOD[file][key] for key in FIELDS[file]
    }


@pytest.mark.parametrize(
    ("file", "field"), [(file, field) for file in FIELDS for field in FIELDS[file]]
)
def test_a_row_without_a_field_is_named(write_rows, file, field):
    short = {key: value for key, value in GOOD[file].items() if key != field}
    path = write_rows([GOOD[file], short])
    expected = rf"^{re.escape(str(path))}:2: must have .*{field}.*; got {next(iter(short))}"
    with pytest.raises(DataError, match=expected):
        read_table(path, file)


@pytest.mark.parametrize(
    ("file", "field", "value", "rule"),
    [
        ("crows_pairs", "sent_more", 3, "a text, got 3"),
        ("crows_pairs", "sent_less", " ", "a text"),
        ("winogender", "gender", "Male", "male, female or neutral, got 'Male'"),
        ("winogender", "gender", ["male"], "male, female or neutral"),
        ("winogender", "participant", None, "a text, got None"),
        ("truthfulqa_mc", "mc1_targets", "x", "'choices' and as many 'labels', 1 for the first"),
        ("truthfulqa_mc", "mc1_targets", {**TRUE_FIRST, "labels": [0, 1]}, "1 for the first"),
        ("truthfulqa_mc", "mc2_targets", {**TRUE_FIRST, "labels": [0, 0]}, "1 for the true ones"),
        ("truthfulqa_mc", "mc2_targets", {**TRUE_FIRST, "labels": [1]}, "as many 'labels'"),
        ("truthfulqa_mc", "mc2_targets", {**TRUE_FIRST, "labels": [1, "0"]}, "as many 'labels'"),
        ("truthfulqa_mc", "mc2_targets", {**TRUE_FIRST, "choices": ["x", 3]}, "'choices' and"),
        ("truthfulqa_gen", "incorrect_answers", [], "a list of texts"),
        ("truthfulqa_gen", "correct_answers", "Cats purr.", "a list of texts"),
        ("reddit_tldr", "content", {}, "a text"),
    ],
)
def test_a_field_of_another_kind_is_named(write_rows, file, field, value, rule):
    path = write_rows([GOOD[file], {**GOOD[file], field: value}])
    with pytest.raises(DataError) as caught:
        read_table(path, file)
    assert str(caught.value).startswith(f"{path}:2: '{field}' must be ")
    assert rule in str(caught.value)
    assert "\n" not in str(caught.value)


def test_groups_are_text(write_rows):
    rows = [{**GOOD["winogender"], "target": target} for target in (0, "0", None)]
    assert [row["target"] for row in read_table(write_rows(rows), "winogender")] == ["0", "0", None]


def test_a_file_without_rows(write_rows):
    with pytest.raises(DataError, match="must have rows, got none"):
        read_table(write_rows([]), "crows_pairs")


QUESTION = {"query": "Where?", "choices": ["here", "there"], "gold": 0}
HALF = {
    "query": {**QUESTION, "query": "Where \ud800?"},
    "choices": {**QUESTION, "choices": ["here", "\udc00"]},
    "a name": {**QUESTION, "\ud800": 1},
}


@pytest.mark.parametrize("row", HALF.values(), ids=HALF)
def test_half_of_a_surrogate_pair_is_named(write_rows, row):
    path = write_rows([QUESTION, row])
    with pytest.raises(DataError, match=r":2: must hold text, got half of .* \(\\ud[8c]00\)"):
        list(read_text_rows(path))
    whole = {**QUESTION, "query": "Where \N{GRINNING FACE}?"}
    assert [row for _, row in read_text_rows(write_rows([whole], "whole.jsonl"))] == [whole]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("crows_pairs", [GOOD["crows_pairs"], {"sent_more": "x"}]),
        ("questions", [QUESTION, HALF["query"]]),
        ("blimp", [{"good": "a cat", "bad": "cat a"}, {"good": "\ud800", "bad": "x"}]),
    ],
)
def test_a_task_of_such_a_file_is_refused_when_it_is_loaded(write_rows, tmp_path, name, rows):
    path = write_rows(rows, f"{name}.jsonl")
    with pytest.raises(DataError, match=rf"{name}\.jsonl:2: "):
        load_tasks([str(path)], [0], 0, tmp_path / "run")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("file", ["crows_pairs", "winogender", "truthfulqa_mc", "truthfulqa_gen"])
def test_a_preset_refuses_its_file_instead_of_leaving_it_out(write_rows, tmp_path, file):
    field = list(FIELDS[file])[-1]
    write_rows([GOOD[file], {**GOOD[file], field: 3}], f"{file}.jsonl")
    with pytest.raises(DataError, match=rf"{file}\.jsonl:2: '{field}' must be "):
        load_tasks(["bias"], [0], 0, tmp_path / "run", data=str(tmp_path))
