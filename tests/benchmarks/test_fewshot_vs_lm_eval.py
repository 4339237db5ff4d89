from __future__ import annotations

import json

import pytest

from benchmarks import fewshot_vs_lm_eval
from benchmarks.fewshot_figures import compare_answers, summarize
from benchmarks.fewshot_sides import Order, load_questions
from benchmarks.fewshot_vs_lm_eval import (
    FULL,
    QUICK,
    Benchmark,
    Subject,
    find_tasks,
    main,
    small_subject,
)
from benchmarks.side_by_side import SideError
from pipeline.errors import ConfigError
from pipeline.evaluation.loading import quiet


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
    task = {"seconds": seconds, "documents": 1, "acc": 0.5, "acc_norm": 0.25}
    task |= answers(logliks)
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


def test_the_batch_size_is_the_fastest_one(monkeypatch, tmp_path):
    benchmark = Benchmark(Subject(tmp_path, []), QUICK, 1, tmp_path / "kept.json")
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


@pytest.fixture
def sides(monkeypatch, tmp_path):
    """Let sides answer at once, and return a function that runs the benchmark, and their orders."""
    orders = []

    def start(_module, order, *, threads):
        assert threads == 2
        orders.append(order)
        if len(order["batch_sizes"]) > 1:
            return {"seconds": {str(size): abs(size - 4) + 1.0 for size in order["batch_sizes"]}}
        if order["per_document"] and order["side"] == "hflm":
            raise SideError("no memory")
        found = figures(8.0 if order["side"] == "hflm" else 2.0, 0.0, (-1, -2))
        return {**found, "tasks": {"piqa": found["tasks"]["one"]}}

    for name in ("piqa", "hellaswag", "arc_easy"):
        (tmp_path / f"{name}.jsonl").touch()
    monkeypatch.setattr(fewshot_vs_lm_eval, "start_side", start)
    monkeypatch.setattr(fewshot_vs_lm_eval, "load_smollm2", lambda _: tmp_path / "model")

    def run(*words):
        given = ["--threads", "2", "--data", str(tmp_path), "--keep", str(tmp_path / "kept.json")]
        return main([*given, *words])

    return run, orders


def test_a_whole_run_measures_most_examples_first_and_ends_with_its_line(sides, capsys):
    run, orders = sides
    assert run("--shots", "0", "10") == 0
    assert [(one["side"], one["shots"], one["documents"]) for one in orders] == [
        *(("hflm", 10, 1), ("hflm", 0, 8)),
        *(("ours", 10, 100), ("hflm", 10, 100)),
        *(("ours", 0, 100), ("hflm", 0, 100), ("hflm", 0, 100), ("ours", 0, 100)),
    ]
    sizes = [FULL.tried[shots].batch_sizes for shots in (10, 0)]
    assert [tuple(one["batch_sizes"]) for one in orders] == [*sizes, *([(4,)] * 6)]
    assert all(max(trial.batch_sizes) <= 4 * trial.documents for trial in FULL.tried.values())
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert found["speedup_0"] == found["speedup_10"] == 4
    assert found["per_document_shots"] == {}
    assert list(found["shots"]) == ["0", "10"]
    assert "8 of 8 after" in said.err


def test_what_was_measured_before_a_failure_is_kept(sides, tmp_path, capsys):
    run, _ = sides
    assert run() == 2
    said = capsys.readouterr().err
    assert said.endswith("steerline: no memory\n")
    kept = json.loads((tmp_path / "kept.json").read_text())
    # Three batch sizes, one pair at ten shots, two at five, and ours of the pair that failed.
    assert len(kept["measured"]) == 3 + 2 + 4 + 1
    assert kept["measured"][-1]["what"].startswith("5, drawn a document shots, pair 1 of 1, ours")
    assert kept["measured"][-1]["seconds"] == {"piqa": 2.0}
    assert {name: kept["so_far"][name] for name in ("speedup_5", "speedup_10")} == {
        "speedup_5": 4,
        "speedup_10": 4,
    }
    assert "speedup_0" not in kept["so_far"]


def test_accuracies_are_shown_a_task(sides, capsys):
    run, orders = sides
    assert run("--accuracies") == 0
    assert [one["documents"] for one in orders] == [8, 1000, 1000]
    assert "| piqa | 1         | 50.0 %    | 50.0 %    | 25.0 %" in capsys.readouterr().out


def test_quick_runs_both_sides(capsys, tmp_path):
    assert main(["--quick", "--threads", "1", "--keep", str(tmp_path / "kept.json")]) == 0
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
