from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.config.run import resolve
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.catalogue import hash_tasks, load_tasks
from pipeline.evaluation.harness import run_tasks
from pipeline.evaluation.offline import FILES
from pipeline.evaluation.tasks import shots_of
from pipeline.runs import config_hash

OPTIONS = {"limit": None, "batch_size": 16, "bins": 4, "seed": 0}
DATA = os.environ.get("STEERLINE_DATA")


def rows_of(name, count=5):
    if name == "winogrande":
        return [
            {"context_options": [f"Mia {i}", f"Tom {i}"], "continuation": "ran.", "gold": i % 2}
            for i in range(count)
        ]
    if name == "lambada_openai":
        return [{"context": f"Mia has {i} red", "continuation": "cats"} for i in range(count)]
    return [
        {"query": f"{name} {i}?", "choices": ["the cat", "a dog"], "gold": i % 2}
        for i in range(count)
    ]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path):
    """Return a folder as the preset reads it, two paradigms of BLiMP of different length."""
    folder = tmp_path / "eval"
    for name in FILES:
        write(folder / f"{name}.jsonl", rows_of(name))
    for paradigm, phenomenon, count in (("verbs", "agreement", 2), ("islands", "movement", 3)):
        rows = [
            {"good": f"Mia runs {i}.", "bad": f"Mia run {i}.", "phenomenon": phenomenon}
            for i in range(count)
        ]
        write(folder / "blimp" / f"{paradigm}.jsonl", rows)
    return folder


@pytest.fixture
def tasks(data, tmp_path):
    return load_tasks(["offline"], [0, 2], 0, tmp_path / "run", data=str(data))


def test_every_file_is_a_task(tasks):
    assert list(tasks) == [*FILES, "blimp"]
    assert {len(tasks[name].eval_docs) for name in FILES} == {3}


def test_blimp_has_no_examples_and_its_paradigms_take_turns(tasks):
    assert shots_of(tasks["blimp"], [0, 2]) == (0,)
    assert [row["group"] for row in tasks["blimp"].eval_docs] == [
        *("movement", "agreement") * 2,
        "movement",
    ]


def test_all_are_measured_at_their_own_shots(tasks, make_policy, tiny_tokenizer):
    outcome = run_tasks(make_policy(context=256), tiny_tokenizer, tasks, shots=[0, 2], **OPTIONS)
    assert {name: list(figures) for name, figures in outcome.figures.items()} == {
        **{name: ["0", "2"] for name in FILES},
        "blimp": ["0"],
    }
    blimp = outcome.figures["blimp"]["0"]
    rows = [row for row in outcome.documents if row["task"] == "blimp"]
    for group in ("agreement", "movement"):
        own = [row["correct"] for row in rows if row["group"] == group]
        assert blimp[f"acc_{group}"] == pytest.approx(sum(own) / len(own))
    assert blimp["acc"] == pytest.approx(sum(row["correct"] for row in rows) / 5)
    # The whole sentence is scored: the right one is as much more likely as its words are.
    assert all(len(row["logliks"]) == 2 and row["gold"] == 0 for row in rows)


def test_a_paradigm_by_its_path(data, tmp_path):
    path = data / "blimp" / "verbs.jsonl"
    (task,) = load_tasks([str(path)], [0, 5], 0, tmp_path / "run").values()
    assert task.eval_docs[0]["choices"] == ["Mia runs 0.", "Mia run 0."]
    assert shots_of(task, [0, 5]) == (0,)


def test_what_is_missing_is_named(data, tmp_path):
    with pytest.raises(ConfigError, match=r"evaluate\.data must name the folder.*got nothing"):
        load_tasks(["offline"], [0], 0, tmp_path)
    with pytest.raises(ConfigError, match="which is no folder"):
        load_tasks(["offline"], [0], 0, tmp_path, data=str(tmp_path / "none"))
    (data / "piqa.jsonl").unlink()
    (data / "copa.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"without piqa\.jsonl, copa\.jsonl"):
        load_tasks(["offline"], [0], 0, tmp_path, data=str(data))


def test_a_pair_without_its_bad_sentence(data, tmp_path):
    write(data / "blimp" / "verbs.jsonl", [{"good": "Mia runs."}])
    with pytest.raises(DataError, match=r"verbs\.jsonl:1: 'bad' must be a sentence, got good"):
        load_tasks(["offline"], [0], 0, tmp_path, data=str(data))


def test_a_variable_in_the_path_and_a_hash_that_moves_with_the_data(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    before = hash_tasks(["offline"], "$MY_DATA/eval", 0)
    assert list(before) == ["tasks of offline"]
    moved = tmp_path / "elsewhere"
    data.rename(moved)
    assert hash_tasks(["offline"], str(moved), 0) == before
    write(moved / "blimp" / "verbs.jsonl", [{"good": "Mia sits.", "bad": "Mia sit."}])
    assert hash_tasks(["offline"], str(moved), 0) != before


def test_where_the_data_lies_changes_nothing_that_was_measured():
    def hash_with(**evaluate):
        tree = {"run_dir": "x", "base": "b", "evaluate": {"tasks": ["offline"], **evaluate}}
        return config_hash(resolve(tree), "evaluate")

    assert hash_with(data="here") == hash_with(data="there") == hash_with()
    assert hash_with(data="here", limit=3) != hash_with(data="here")


@pytest.mark.skipif(DATA is None, reason="STEERLINE_DATA names no folder")
def test_real_data_loads_without_a_leak(tmp_path):
    tasks = load_tasks(
        ["offline"], [0, 5], 0, tmp_path, data=str(Path(str(DATA)) / "eval"), limit=200
    )
    assert list(tasks) == [*FILES, "blimp"]
    first = [row["group"] for row in list(tasks["blimp"].eval_docs)[:34]]
    assert len(set(first)) > 10
