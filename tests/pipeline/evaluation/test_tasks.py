from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from lm_eval.tasks import TaskManager

from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.catalogue import load_tasks
from pipeline.evaluation.loading import SHIPPED, index_with, quiet
from pipeline.evaluation.tasks import adapt_world_task, read_task
from pipeline.world import World

GOOD = {"query": "Where?", "choices": ["here", "there"], "gold": 0}


def prompt_of(task, shots, index=0):
    task.set_config("num_fewshot", shots)
    return task.fewshot_context(task.eval_docs[index], shots)


def test_examples_come_from_the_end_and_are_never_asked(questions):
    task = read_task(questions, examples=5)
    lines = [json.loads(line)["query"] for line in questions.read_text().splitlines()]
    assert [row["query"].removesuffix("\nAnswer:") for row in task.docs] == lines[:7]
    assert [row["query"].removesuffix("\nAnswer:") for row in task.examples] == lines[7:]


def test_more_shots_add_to_the_same_examples_for_every_document(questions, tmp_path):
    (task,) = load_tasks([str(questions)], [0, 3], 0, tmp_path).values()
    for index in range(len(task.eval_docs)):
        zero, one, three = (prompt_of(task, shots, index) for shots in (0, 1, 3))
        assert one.endswith(zero)
        assert three.startswith(one.removesuffix(zero))
        assert three.count("Answer:") == 4
    asked = {doc["query"] for doc in task.eval_docs}
    assert not asked & {doc["query"] for doc in task.sampler.fewshot_docs()}


def test_the_tiny_worlds_prompt_has_gpt3s_form(tmp_path):
    world = World(0)
    tasks = load_tasks(["tiny"], [0, 2], 0, tmp_path)
    assert set(tasks) == {f"tiny_{task.name}" for task in world.tasks()}
    for made in world.tasks():
        first, second = made.examples[:2]
        expected = [made.description, first.answered, second.answered, made.docs[3].query]
        assert prompt_of(tasks[f"tiny_{made.name}"], 2, 3) == "\n".join(expected)
        assert not {doc.query for doc in made.docs} & {doc.query for doc in made.examples}


def test_a_query_that_says_question_is_asked_for_the_answer(write_rows):
    rows = [{**GOOD, "query": text} for text in ("Question: Who?\n", "He fell, therefore")]
    task = read_task(write_rows(rows), examples=0)
    assert [row["query"] for row in task.docs] == ["Question: Who?\nAnswer:", "He fell, therefore"]


def test_the_written_files_run_in_plain_lm_eval(questions, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    (ours,) = load_tasks([str(questions)], [2], 0, tmp_path).values()
    path = tmp_path / "tasks" / "questions.yaml"
    config = yaml.safe_load(path.read_text())
    config["dataset_kwargs"]["cache_dir"] = str(tmp_path / "cache")
    path.write_text(yaml.safe_dump(config))
    with quiet():
        index = TaskManager(include_path=tmp_path / "tasks", include_defaults=False)
        theirs = index.load(["questions"])["tasks"]["questions"]
    assert [prompt_of(theirs, 2, i) for i in range(10)] == [
        prompt_of(ours, 2, i) for i in range(10)
    ]


def test_a_folder_of_yamls_is_loaded_and_caches_inside_the_run(questions, tmp_path):
    folder = tmp_path / "own"
    read_task(questions, examples=2).write(folder)
    tasks = load_tasks([str(folder)], [0, 1], 0, tmp_path / "run")
    assert list(tasks) == ["questions"]
    assert (tmp_path / "run" / "cache").is_dir()
    assert len(tasks["questions"].eval_docs) == 10


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"query": "Where?", "choices": ["here", "there"]}, "must have query, choices, gold"),
        ({**GOOD, "gold": 2}, "'gold' must be an index from 0 to 1, got 2"),
        ({**GOOD, "gold": True}, "'gold' must be an index"),
        ({**GOOD, "choices": ["one"]}, "'choices' must be a list of two or more texts"),
        ({**GOOD, "choices": ["one", ""]}, "'choices' must be a list"),
        ({**GOOD, "query": 3}, "'query' must be a text"),
        ({"context": "He", "continuation": "fell"}, "must have query, choices, gold; got context"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(write_rows, row, said):
    path = write_rows([GOOD, GOOD, row] if "query" in row or "context" in row else [row])
    with pytest.raises(DataError) as caught:
        read_task(path, examples=0)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert said in str(caught.value)


def test_a_line_that_is_no_json_is_named(write_rows):
    path = write_rows([GOOD])
    path.write_text(path.read_text() + "{'query'\n")
    with pytest.raises(DataError, match=r"questions\.jsonl:2: not a JSON object"):
        read_task(path, examples=0)


def test_too_few_rows_for_the_shots(questions, tmp_path):
    with pytest.raises(DataError, match="more than 12 rows"):
        load_tasks([str(questions)], [0, 12], 0, tmp_path)
    with pytest.raises(ConfigError, match=r"evaluate\.shots must be at most 12"):
        load_tasks(["tiny"], [13], 0, tmp_path)


def test_two_tasks_of_one_name(questions, tmp_path):
    with pytest.raises(ConfigError, match="'questions' twice"):
        load_tasks([str(questions), str(questions)], [0], 0, tmp_path)


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(DataError, match="No file"):
        load_tasks([str(tmp_path / "none.jsonl")], [0], 0, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="must hold lm_eval task YAMLs"):
        load_tasks([str(empty)], [0], 0, tmp_path)


@pytest.mark.usefixtures("few_names")
def test_an_unknown_name_gives_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"got 'arc_esy'\. Did you mean 'arc_easy'\?"):
        load_tasks(["arc_esy"], [0], 0, tmp_path)
    with pytest.raises(ConfigError, match="lm_eval ls tasks"):
        load_tasks(["zzzz"], [0], 0, tmp_path)


def test_a_shipped_task_is_found_without_reading_all_of_them():
    for name, folder in (("copa", "super_glue/copa"), ("boolq-seq2seq", "super_glue/boolq")):
        index = index_with(name)
        assert Path(index.task_index[name].yaml_path).parent == SHIPPED / folder
        assert len(index.all_tasks) < 20


@pytest.mark.usefixtures("few_names")
def test_a_tag_and_a_part_of_a_name_need_the_whole_index():
    # ARC stands for the whole; a tag of ARC's is no task of any file.
    assert "ai2_arc" in index_with("ai2_arc").task_index
    assert "hellasw" not in index_with("hellasw").task_index


def test_adapting_keeps_every_row():
    made = World(1).tasks()[0]
    task = adapt_world_task(made)
    assert [row["query"] for row in task.docs] == [doc.query for doc in made.docs]
    assert [row["gold"] for row in task.examples] == [doc.gold for doc in made.examples]
    assert Path(
        task.lm_eval_config(Path("x"))["dataset_kwargs"]["data_files"]["test"]
    ).is_absolute()
