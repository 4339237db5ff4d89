from __future__ import annotations

import json

import pytest
import yaml
from lm_eval.tasks import TaskManager

from pipeline.errors import DataError
from pipeline.evaluation.catalogue import load_tasks
from pipeline.evaluation.loading import build, in_memory
from pipeline.evaluation.questions import check_questions

CHOICE = {
    "output_type": "multiple_choice",
    **{"doc_to_text": "query", "doc_to_choice": "choices", "doc_to_target": "gold"},
    "metric_list": [{"metric": "acc"}],
}


@pytest.fixture
def load(tmp_path):
    """Return a function that loads a YAML task over rows of one's own."""

    def make(rows, examples=(), shots=(0,), limit=None, **changes):
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        files = {"test": rows, "examples": examples or rows[:1]}
        for name, lines in files.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{name}.jsonl").write_text(text)
        config = {
            **{"task": "cats", "dataset_path": "json"},
            "dataset_kwargs": {
                "data_files": {name: str(folder / f"{name}.jsonl") for name in files}
            },
            **{"test_split": "test", "fewshot_split": "examples"},
            "fewshot_config": {"sampler": "first_n"},
            **CHOICE,
            **changes,
        }
        (folder / "cats.yaml").write_text(yaml.safe_dump(config))
        return load_tasks(
            [str(folder / "cats.yaml")], list(shots), 0, tmp_path / "run", limit=limit
        )

    return make


def question(number, **changes):
    return {"query": f"Who has {number} cats?", "choices": ["Mia", "Tom"], "gold": 0, **changes}


def without(field, number=56):
    row = question(number)
    del row[field]
    return row


ROWS = [question(number) for number in range(60)]


@pytest.mark.parametrize("field", ["query", "choices", "gold"])
def test_a_later_question_without_a_column_is_named_by_its_number(load, field):
    rows = [*ROWS[:56], without(field), *ROWS[57:]]
    with pytest.raises(DataError) as caught:
        load(rows)
    said = str(caught.value)
    assert said.startswith("evaluate.tasks: each question of the task cats must be one that can be")
    assert f"got question 56 without {field} (" in said
    assert "\n" not in said
    # What is not asked does not matter.
    assert list(load(rows, limit=56)) == ["cats"]


def test_a_template_that_fails_later_is_refused(load):
    rows = [question(0, choices=["Mia", "Tom", "Ann"]), question(1)]
    with pytest.raises(DataError, match=r"got question 1 \(.*no element 2\)\. Mend its row"):
        load(rows, doc_to_text="{{choices[2]}}")


def test_a_group_that_is_no_column_is_refused(load):
    with pytest.raises(DataError, match=r"got question 0 \('kind'\)"):
        load(ROWS[:3], metadata={"groups": "kind"})


def build_cats(**changes):
    config = {"task": "cats", "test_split": "test", **CHOICE, **changes}
    config["custom_dataset"] = in_memory({"test": ROWS[:2]})
    (task,) = build(TaskManager(include_defaults=False), config, "cats")
    return task


def test_questions_whose_answer_is_none_of_the_choices_are_counted_and_said(load, caplog):
    rows = [*ROWS[:3], question(3, gold=2), question(4), question(5, gold=-1)]
    assert list(load(rows)) == ["cats"]
    assert caplog.messages == [
        "evaluate.tasks: cats: questions whose answer is none of their choices count as wrong: "
        "2, the first is question 3. Mend or remove their rows."
    ]
    caplog.clear()
    load(rows, limit=3)
    load([*ROWS[:2], question(2)], doc_to_target="{{choices[1]}}")
    assert caplog.messages == []
    load([*ROWS[:2], question(2)], doc_to_target="Ann")
    assert "count as wrong: 3, the first is question 0." in caplog.text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("\ud800", "'utf-8' codec can't encode"), (7, "7 is no text"), (None, "None is no text")],
)
def test_what_no_tokenizer_reads_is_refused(wrong, said):
    task = build_cats(doc_to_choice=lambda doc: ["Mia", wrong if "1" in doc["query"] else "Tom"])
    check_questions(task, 1)
    with pytest.raises(DataError) as caught:
        check_questions(task, None)
    assert f"got question 1 ({said}" in str(caught.value)


def test_results_of_a_function_of_ones_own_need_no_answer():
    def answer(doc):
        return None if "1" in doc["query"] else 0

    with pytest.raises(DataError, match=r"got question 1 \(it has no answer\)"):
        check_questions(build_cats(doc_to_target=answer), None)
    check_questions(build_cats(doc_to_target=answer, process_results=len), None)


@pytest.mark.parametrize("field", ["query", "choices", "gold"])
def test_an_example_that_cannot_be_shown_is_named_where_it_is_shown(load, field):
    examples = [question(100), without(field, 101), question(102)]
    assert list(load(ROWS[:3], examples, shots=(0, 1))) == ["cats"]
    with pytest.raises(DataError) as caught:
        load(ROWS[:3], examples, shots=(0, 2))
    said = str(caught.value)
    assert "each example of the task cats must be one that can be shown" in said
    assert f"got example 1 without {field} (" in said
