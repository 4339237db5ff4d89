from __future__ import annotations

import functools

import pytest
from lm_eval.tasks import TaskManager

from pipeline.evaluation.cells import (
    TaskHash,
    hash_task,
    join,
    lacking,
    make_cells,
    recall,
    write_key,
)
from pipeline.evaluation.folder import EvaluationFolder, Part
from pipeline.evaluation.loading import build, build_task, in_memory
from pipeline.evaluation.tasks import LocalTask


@pytest.fixture
def make_task(tmp_path):
    def make(question="Where?", example="Who?", delimiter="\n\n"):
        rows = [
            {"query": text, "choices": ["a", "b"], "gold": 0}
            for text in (question, "When?", "Why?", example)
        ]
        form = ("query", "choices", "gold")
        local = LocalTask("asked", form, rows[:3], rows[3:], delimiter=delimiter)
        return build_task(local, tmp_path)

    return make


def test_a_tasks_hash_changes_with_what_it_asks_and_with_nothing_else(make_task):
    task = make_task()
    first = hash_task(task, None, 0)
    task.set_config("num_fewshot", 3)
    assert hash_task(task, None, 0) == hash_task(make_task(), None, 0) == first
    others = [
        hash_task(make_task("How?"), None, 0),
        hash_task(make_task(delimiter="\n"), None, 0),
        hash_task(make_task(), 2, 0),
    ]
    assert len({first.asked, *(other.asked for other in others)}) == 4
    # Rows beyond the limit are not asked.
    assert hash_task(make_task("How?"), 0, 0) == hash_task(make_task(), 0, 0)


def test_where_a_function_lies_in_memory_is_no_part_of_a_tasks_hash(tmp_path):
    rows = [{"query": text, "choices": ["a", "b"], "gold": 0} for text in ("When?", "Why?")]

    def make(count):
        def keep(rows, count):
            return rows.select(range(count))

        config = LocalTask("asked", ("query", "choices", "gold"), rows, []).lm_eval_config(tmp_path)
        config |= {
            "process_docs": functools.partial(keep, count=count),
            "custom_dataset": in_memory({"test": rows}),
        }
        (task,) = build(TaskManager(include_defaults=False), config, "asked")
        return task

    first, second = make(2), make(2)
    assert hash_task(first, None, 0) == hash_task(second, None, 0)
    assert hash_task(make(1), None, 0).asked != hash_task(first, None, 0).asked


def test_examples_count_where_they_are_shown(make_task):
    first = hash_task(make_task(), None, 0)
    for other in (hash_task(make_task(example="How?"), None, 0), hash_task(make_task(), None, 1)):
        assert other.at(0) == first.at(0)
        assert other.at(1) != first.at(1)


def part(**cells):
    figures = {
        name: {count: {"acc": value} for count, value in shots.items()}
        for name, shots in cells.items()
    }
    rows = [
        {"task": name, "shots": int(count), "doc": doc}
        for name, shots in cells.items()
        for count in shots
        for doc in (0, 1)
    ]
    return Part(figures, rows)


def test_what_stands_is_taken_over_in_order(tmp_path):
    tasks = {"one": TaskHash("1", ""), "two": TaskHash("2", "")}
    shots = {"one": [0, 5], "two": [5]}
    old = make_cells(tasks, shots, "model", "float32")
    here, aside = EvaluationFolder(tmp_path / "here"), EvaluationFolder(tmp_path / "aside")
    here.store("sft", "fewshot", write_key({"two": old["two"]}), part(two={"5": 0.2}))
    aside.store("sft", "fewshot", write_key(old), part(two={"5": 0.9}, one={"5": 0.5, "0": 0.1}))
    wanted = make_cells(tasks, {"one": [0, 1, 5], "two": [5]}, "model", "float32")
    known = recall([here, aside], "sft", wanted)
    assert known.figures == {
        "one": {"0": {"acc": 0.1}, "5": {"acc": 0.5}},
        "two": {"5": {"acc": 0.2}},
    }
    assert [(row["task"], row["shots"], row["doc"]) for row in known.rows] == [
        *(("one", 0, 0), ("one", 0, 1), ("one", 5, 0), ("one", 5, 1)),
        *(("two", 5, 0), ("two", 5, 1)),
    ]
    assert lacking(wanted, known) == {"one": [1]}
    whole = join(wanted, known, part(one={"1": 0.3}))
    assert list(whole.figures["one"]) == ["0", "1", "5"]
    assert [row["shots"] for row in whole.rows] == [0, 0, 1, 1, 5, 5, 5, 5]
    assert lacking(wanted, whole) == {}


@pytest.mark.parametrize(
    ("tasks", "model", "settings"),
    [
        ({"one": TaskHash("changed", "")}, "model", "float32"),
        ({"one": TaskHash("1", "")}, "other", "float32"),
        ({"one": TaskHash("1", "")}, "model", "bf16"),
    ],
)
def test_what_has_changed_is_measured_again(tmp_path, tasks, model, settings):
    store = EvaluationFolder(tmp_path)
    cells = make_cells({"one": TaskHash("1", "")}, {"one": [0]}, "model", "float32")
    store.store("sft", "fewshot", write_key(cells), part(one={"0": 0.1}))
    wanted = make_cells(tasks, {"one": [0]}, model, settings)
    known = recall([store], "sft", wanted)
    assert known == Part({}, [])
    assert lacking(wanted, known) == {"one": [0]}
    assert recall([store], "ppo", cells) == Part({}, [])


def test_a_key_of_an_earlier_version_says_nothing(tmp_path):
    store = EvaluationFolder(tmp_path)
    store.store("sft", "fewshot", "0" * 64, part(one={"0": 0.1}))
    cells = make_cells({"one": TaskHash("1", "")}, {"one": [0]}, "model", "float32")
    assert recall([store], "sft", cells) == Part({}, [])
