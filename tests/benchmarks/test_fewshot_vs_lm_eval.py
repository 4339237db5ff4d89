from __future__ import annotations

import json

import pytest

from benchmarks.fewshot_sides import Order, load_questions
from benchmarks.fewshot_vs_lm_eval import (
    QUICK,
    Benchmark,
    Subject,
    compare_answers,
    find_tasks,
    main,
    small_subject,
    summarize,
)
from pipeline.errors import ConfigError
from pipeline.evaluation.catalogue import quiet


def answers(*logliks, greedy=False):
    return {
        "logliks": [list(row) for row in logliks],
        "greedy": [[greedy] * len(row) for row in logliks],
    }


def test_another_choice_is_excused_by_a_tie_only():
    theirs = {"one": answers((-1.0, -2.0), (-1.00005, -1.0))}
    found = compare_answers({"one": answers((-1.0, -2.5), (-1.0, -1.00001))}, theirs)
    assert found == {
        "max_abs_diff": 0.5,
        "same_accuracy": True,
        "same_greedy": True,
        "ties": 1,
    }
    other = {"one": answers((-2.0, -1.0), (-1.00005, -1.0), greedy=True)}
    found = compare_answers(other, theirs)
    assert not found["same_accuracy"]
    assert not found["same_greedy"]


def figures(seconds, making, logliks):
    task = {"seconds": seconds, "acc": 0.5, "acc_norm": 0.25, **answers(logliks)}
    return {"making": making, "peak_bytes": 1, "tasks": {"one": task}}


def test_a_speedup_is_all_seconds_over_all_seconds():
    found = summarize(
        {
            "ours": [figures(1.0, 1.0, (-1, -2)), figures(3.0, 1.0, (-1, -2))],
            "hflm": [figures(20.0, 0.0, (-1, -2)), figures(10.0, 0.0, (-1, -2.25))],
        }
    )
    assert found["speedup"] == 30 / 6
    assert found["max_abs_diff"] == 0.25
    assert found["same_accuracy"]


def test_the_batch_size_is_the_fastest_one(monkeypatch):
    benchmark = Benchmark(Subject(QUICK, []), QUICK, 1)
    tried = {"seconds": {"1": 3.0, "4": 2.5, "16": 4.0}}
    monkeypatch.setattr(benchmark, "run", lambda *_: tried)
    assert benchmark.find_batch_size(0) == (4, tried["seconds"])


def test_data_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("STEERLINE_DATA", raising=False)
    with pytest.raises(ConfigError, match="set STEERLINE_DATA"):
        find_tasks(None)
    monkeypatch.setenv("STEERLINE_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"piqa\.jsonl"):
        find_tasks(None)


def test_quick_runs_both_sides(capsys):
    assert main(["--quick", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| shots")
    found = json.loads(lines[-1])
    assert found["speedup_2"] > 0
    assert found["max_abs_diff"] < 1e-4
    assert found["same_accuracy"]
    assert found["same_greedy"]
    assert set(found["shots"]) == {"2"}
    assert set(found["tried"]["2"]) == {"1", "2"}


@pytest.mark.parametrize("each", [True, False])
def test_examples_are_one_block_or_drawn_for_each_document(tmp_path, each):
    with small_subject() as subject:
        order = Order(
            **{"side": "ours", "model": "", "tasks": [str(subject.tasks[0])], "examples": 8},
            **{"documents": 4, "shots": 3, "per_document": each, "batch_sizes": [1], "threads": 1},
        )
        with quiet():
            (task,) = load_questions(order, tmp_path).values()
            task.build_all_requests(limit=4)
    questions = [request.args[0].split("\n\n")[-1] for request in task.instances]
    blocks = {request.args[0].rpartition("\n\n")[0] for request in task.instances}
    assert len(set(questions)) == 4
    assert len(blocks) == (4 if each else 1)
    assert all(block.count("\n\n") == 2 for block in blocks)
