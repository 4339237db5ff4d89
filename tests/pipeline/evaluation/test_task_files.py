from __future__ import annotations

import re

import pytest
import yaml

from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.catalogue import hash_tasks, load_tasks
from pipeline.evaluation.task_files import list_scripts
from pipeline.evaluation.tasks import read_task, settings_of, shots_of

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


def test_a_task_that_runs_what_the_model_writes_is_refused(change, tmp_path):
    path = change("unsafe_code", True)
    with pytest.raises(ConfigError, match="got questions, which runs what the model writes"):
        load(path, tmp_path)


def test_whole_texts_have_no_examples_before_them(folder, tmp_path):
    config = yaml.safe_load((folder / "questions.yaml").read_text())
    for key in ("doc_to_choice", "metric_list"):
        del config[key]
    config |= {
        **{"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "query"},
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    (folder / "questions.yaml").write_text(yaml.safe_dump(config))
    (task,) = load_tasks([str(folder)], [0, 1, 2], 0, tmp_path / "run").values()
    assert shots_of(task, [0, 1, 2]) == (0,)


def test_one_file_of_several_is_loaded_by_its_path(change, folder, tmp_path):
    path = change("task", "second", "second.yaml")
    assert list(load(path, tmp_path)) == ["second"]
    assert set(load(folder, tmp_path)) == {"questions", "second"}
    (folder / "questions.yaml").write_text("task: broken\n")
    assert list(load(path, tmp_path)) == ["second"]


def test_a_file_is_meant_by_its_path_and_not_by_its_tasks_name(change, tmp_path):
    change("description", "Another:", "another.yaml")
    path = change("description", "This:", "questions.yaml")
    (task,) = load(path, tmp_path).values()
    assert task.config.description == "This:"
    short = path.rename(path.with_suffix(".yml"))
    assert list(load(short, tmp_path)) == ["questions"]


def test_a_group_is_no_task(folder, tmp_path):
    (folder / "all.yaml").write_text("group: all\ntask: [questions]\n")
    with pytest.raises(ConfigError, match="must hold a task, got a group"):
        load(folder / "all.yaml", tmp_path)
    assert list(load(folder, tmp_path)) == ["questions"]


def test_a_function_that_cannot_be_imported(change, folder, tmp_path):
    path = change("process_docs", "FUNCTION")
    path.write_text(path.read_text().replace("FUNCTION", "!function own_words.pick"))
    with pytest.raises(DataError, match=r"cannot be loaded .*own_words"):
        load(path, tmp_path)
    (folder / "own_words.py").write_text("def pick(rows):\n    return roows\n\npick([1]\n")
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load(path, tmp_path)
    assert "\n" not in str(caught.value)


def test_loading_a_folder_with_functions_does_not_change_its_hash(change, folder, tmp_path):
    path = change("process_docs", "FUNCTION")
    path.write_text(path.read_text().replace("FUNCTION", "!function words.keep"))
    (folder / "words.py").write_text("def keep(rows):\n    return rows\n")
    before = hash_tasks([str(folder)], None, 0)
    assert list(load(folder, tmp_path)) == ["questions"]
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "words.cpython-311.pyc").touch()
    assert hash_tasks([str(folder)], None, 0) == before
    (folder / "words.py").write_text("def keep(rows):\n    return rows.select([0])\n")
    assert hash_tasks([str(folder)], None, 0) != before


def test_the_scripts_of_a_task_are_those_beside_its_yamls_and_functions(change, folder, tmp_path):
    (plain,) = load(folder, tmp_path).values()
    assert "scripts" not in settings_of(plain)
    path = change("process_docs", "FUNCTION")
    path.write_text(path.read_text().replace("FUNCTION", "!function sub.words.keep"))
    part = tmp_path / "shared" / "part.yaml"
    for script in (folder / "sub" / "words.py", folder / "sub" / "used.py", part, folder / "a.py"):
        script.parent.mkdir(exist_ok=True)
        script.write_text("")
    (folder / "other").mkdir()
    (folder / "other" / "words.py").write_text("")
    (part.parent / "b.py").write_text("")
    path.write_text(f"include: ../shared/part.yaml\n{path.read_text()}")
    names = [str(script.relative_to(tmp_path)) for script in list_scripts(path)]
    assert sorted(names) == ["own/a.py", "own/sub/used.py", "own/sub/words.py", "shared/b.py"]


def test_a_files_hash_follows_what_its_task_is_made_of(change, folder):
    path = change("description", "Say:")
    (folder / "part.yaml").write_text("fewshot_delimiter: ';'\n")
    path.write_text(f"include: part.yaml\n{path.read_text()}")

    def hashed():
        return hash_tasks([str(path)], None, 0)[str(path)]

    seen = [hashed()]
    for other in ("runs/x/metrics.jsonl", "second.yaml", "notes.txt"):
        (folder / other).parent.mkdir(parents=True, exist_ok=True)
        (folder / other).write_text("task: other\n")
        assert hashed() == seen[0]
    for own in ("questions.yaml", "part.yaml", "questions.jsonl", "questions.examples.jsonl"):
        with (folder / own).open("a") as file:
            file.write("\n")
        seen.append(hashed())
    (folder / "own_words.py").write_text("")
    seen.append(hashed())
    assert len(set(seen)) == 6
    assert hash_tasks([str(folder / "absent.yaml")], None, 0) == {}


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
