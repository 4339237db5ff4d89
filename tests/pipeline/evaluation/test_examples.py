from __future__ import annotations

import json

import pytest
import yaml
from lm_eval.tasks import TaskManager

from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.catalogue import load_tasks
from pipeline.evaluation.examples import check_examples, normalize
from pipeline.evaluation.loading import build, build_task, in_memory
from pipeline.evaluation.tasks import LocalTask

FORM = ("query", "choices", "gold")
WIDE_4 = "\N{FULLWIDTH DIGIT FOUR}"


def question(number, **changes):
    return {"query": f"Who has {number} cats?", "choices": ["Mia", "Tom"], "gold": 0, **changes}


def local(docs, examples, tmp_path):
    return build_task(LocalTask("cats", FORM, docs, examples), tmp_path)


def test_a_question_among_its_own_examples_is_found(tmp_path):
    docs = [question(number) for number in range(6)]
    # Neither case, blanks, width nor the order of the choices hide it.
    copy = question(4, query=f"who has  {WIDE_4} CATS?", choices=["tom", "Mia"])
    task = local(docs, [question(8), copy, question(9)], tmp_path)
    check_examples(task, [0, 1], None, 0)
    check_examples(task, [2], 4, 0)
    with pytest.raises(DataError, match=r"task cats.*got question 4.*'who has 4 cats"):
        check_examples(task, [0, 2], None, 0)


def test_other_choices_make_another_question(tmp_path):
    task = local([question(1)], [question(1, choices=["Mia", "Ann"])], tmp_path)
    check_examples(task, [1], None, 0)


def test_contexts_of_one_continuation_are_compared_with_it(tmp_path):
    form = ("context_options", "continuation", "gold")
    rows = [
        {"context_options": ["Mia", "Tom"], "continuation": text, "gold": 0}
        for text in ("ran.", "sat.")
    ]
    task = build_task(LocalTask("names", form, rows[:1], rows[1:]), tmp_path)
    check_examples(task, [1], None, 0)
    task = build_task(LocalTask("names", form, rows[:1], rows[:1]), tmp_path)
    with pytest.raises(DataError, match="task names"):
        check_examples(task, [1], None, 0)


@pytest.fixture
def shared(tmp_path):
    """Return a function that writes a task whose examples are drawn from the questions."""

    def write(rows):
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = {
            "task": "cats",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
            "test_split": "test",
            "fewshot_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "query",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc"}],
        }
        (folder / "cats.yaml").write_text(yaml.safe_dump(config))
        return str(folder)

    return write


def test_lm_eval_keeps_a_question_from_itself_but_not_from_a_copy(shared, tmp_path):
    rows = [question(number) for number in range(5)]
    load_tasks([shared(rows)], [4], 0, tmp_path / "run")
    copy = question(3, query="Who has 3 cats? ")
    with pytest.raises(DataError, match="got question 3 among its own examples"):
        load_tasks([shared([*rows, copy])], [5], 0, tmp_path / "run2")


def test_what_is_refused_is_what_stands_in_the_prompts(tmp_path):
    """The examples that are looked at are those that lm_eval then draws, for every seed."""
    docs = [question(number) for number in range(8)]
    pool = [question(number) for number in range(100, 112)] + docs[2:4]
    config = LocalTask("cats", FORM, docs, pool).lm_eval_config(tmp_path)
    config |= {
        "fewshot_config": {"sampler": "default"},
        "custom_dataset": in_memory({"test": docs, "examples": pool}),
    }
    (task,) = build(TaskManager(include_defaults=False), config, "cats")
    refused = []
    for seed in range(24):
        task.set_fewshot_seed(seed)
        prompts = [task.fewshot_context(doc, 3) for doc in docs]
        leaks = any(
            prompt.count(doc["query"]) == 2 for prompt, doc in zip(prompts, docs, strict=True)
        )
        try:
            check_examples(task, [3], None, seed)
        except DataError:
            assert leaks, seed
            refused.append(seed)
        else:
            assert not leaks, seed
    assert 0 < len(refused) < 24


def test_examples_in_columns_of_their_own_are_no_questions(tmp_path):
    docs = [question(number) for number in range(3)]
    config = LocalTask("cats", FORM, docs, ()).lm_eval_config(tmp_path)
    shown = {
        "samples": [{"text": f"Mia has {number} cats.", "answer": "Yes"} for number in range(2)],
        **{"doc_to_text": "{{text}}", "doc_to_target": "{{answer}}", "doc_to_choice": None},
    }
    config |= {
        "fewshot_config": {"sampler": "first_n", **shown},
        "custom_dataset": in_memory({"test": docs}),
    }
    (task,) = build(TaskManager(include_defaults=False), config, "cats")
    check_examples(task, [2], None, 0)
    assert task.fewshot_context(docs[2], 2).startswith("Mia has 0 cats. Yes\n\nMia has 1 cats. Yes")
    with pytest.raises(ConfigError, match=r"examples of the task cats \(2\), got 3"):
        check_examples(task, [3], None, 0)


def test_more_shots_than_a_shared_split_can_give(shared, tmp_path):
    folder = shared([question(number) for number in range(5)])
    # The question itself is none of its five rows' examples.
    with pytest.raises(ConfigError, match=r"examples of the task cats \(4\), got 5\. Lower it"):
        load_tasks([folder], [0, 5], 0, tmp_path / "run")


def test_a_task_without_examples(tmp_path):
    task = local([question(1), question(2)], [], tmp_path)
    check_examples(task, [0], None, 0)
    with pytest.raises(ConfigError, match=r"examples of the task cats \(\d\), got 3"):
        check_examples(task, [3], None, 0)


def test_a_leak_in_a_file_is_found_when_it_is_loaded(write_rows, tmp_path):
    rows = [question(number) for number in (1, 2, 3, 2)]
    path = str(write_rows(rows))
    load_tasks([path], [0], 0, tmp_path)
    with pytest.raises(DataError, match="got question 1 among its own examples"):
        load_tasks([path], [0, 1], 0, tmp_path)


def test_signs_are_part_of_a_text():
    assert normalize("2 + 3 = ?") != normalize("2 - 3 = ?")
    assert normalize(f"{WIDE_4}A\n c") == "4a c"
