from __future__ import annotations

import re

import pytest
import yaml

from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.catalogue import load_tasks
from pipeline.evaluation.tasks import read_task, shots_of

NEEDED = ("task", "dataset_path", "test_split", "doc_to_text", "doc_to_target", "doc_to_choice")


@pytest.fixture
def folder(questions, tmp_path):
    """Return a folder with a whole task, questions.yaml."""
    made = tmp_path / "own"
    read_task(questions, examples=2).write(made)
    return made


@pytest.fixture
def change(folder):
    """Return a function that changes the task's YAML: a key to a value, or to nothing."""

    def write(key, value=None, name="questions.yaml"):
        config = yaml.safe_load((folder / "questions.yaml").read_text())
        if value is None:
            del config[key]
        else:
            config[key] = value
        (folder / name).write_text(yaml.safe_dump(config))
        return folder / name

    return write


def load(path, tmp_path):
    return load_tasks([str(path)], [0], 0, tmp_path / "run")


@pytest.mark.parametrize("key", NEEDED)
def test_a_file_without_a_key_is_named_with_the_key_and_what_to_add(change, folder, tmp_path, key):
    path = change(key)
    with pytest.raises(
        DataError, match=rf"^{re.escape(str(path))} must have the key '{key}', got .*\. Add '"
    ) as caught:
        load(folder, tmp_path)
    assert "\n" not in str(caught.value)


def test_one_file_of_several_is_loaded_by_its_path(change, folder, tmp_path):
    path = change("task", "second", "second.yaml")
    assert list(load(path, tmp_path)) == ["second"]
    assert set(load(folder, tmp_path)) == {"questions", "second"}
    (folder / "questions.yaml").write_text("task: broken\n")
    assert list(load(path, tmp_path)) == ["second"]


def test_a_key_that_no_task_has_gives_the_nearest(change, folder, tmp_path):
    change("doc_to_txt", "query")
    with pytest.raises(DataError, match=r"'doc_to_txt' is no key.*Did you mean 'doc_to_text'\?"):
        load(folder, tmp_path)


def test_a_metric_without_its_name(change, folder, tmp_path):
    change("metric_list", [{"aggregation": "mean"}])
    with pytest.raises(DataError, match=r"must have the key 'metric'.*Add 'metric: acc'"):
        load(folder, tmp_path)


def test_a_file_that_is_no_yaml(folder, tmp_path):
    (folder / "bad.yaml").write_text("task: [x\n")
    with pytest.raises(DataError, match=r"bad\.yaml cannot be read as a task .*line") as caught:
        load(folder, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_part_that_others_include_need_not_be_whole(change, folder, tmp_path):
    change("task", "whole")
    (folder / "questions.yaml").rename(folder / "part.yaml")
    config = yaml.safe_load((folder / "part.yaml").read_text())
    del config["task"]
    (folder / "part.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(DataError, match="must have the key 'task'"):
        load(folder, tmp_path)
    (folder / "task.yaml").write_text("include: part.yaml\ntask: whole\n")
    assert list(load(folder, tmp_path)) == ["whole"]


def test_a_column_that_the_rows_lack(change, folder, tmp_path):
    change("doc_to_text", "{{passage}}")
    with pytest.raises(DataError, match=r"questions cannot be loaded \('passage' is undefined\)"):
        load(folder, tmp_path)


def test_shots_of_its_own(change, folder, tmp_path):
    (plain,) = load(folder, tmp_path).values()
    assert shots_of(plain, [1, 2]) == (1, 2)
    change("num_fewshot", 0)
    (none,) = load(folder, tmp_path).values()
    assert shots_of(none, [1, 2]) == (0,)
    change("metadata", {"shots": [0, 2]})
    (own,) = load(folder, tmp_path).values()
    assert shots_of(own, [1]) == (0, 2)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"headline": "accuracy"}, "metadata.headline of the task questions must be one of acc, "),
        ({"shots": 3}, "metadata.shots of the task questions must be a list of numbers"),
        ({"shots": [-1]}, "metadata.shots"),
    ],
)
def test_settings_that_cannot_be(change, folder, tmp_path, metadata, said):
    change("metadata", metadata)
    with pytest.raises(ConfigError, match=said):
        load(folder, tmp_path)
