from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import pipeline.evaluation.evaluator as evaluator_module
from pipeline.config.run import resolve
from pipeline.errors import ConfigError, RegressionError, RunError
from pipeline.evaluation import cells as cell_keys
from pipeline.evaluation.evaluator import read_texts
from pipeline.evaluation.tasks import read_task
from pipeline.runs import Manifest
from stages import evaluate


@pytest.fixture
def measured(monkeypatch):
    """Return the list of what is measured from here on."""
    calls = []

    def count(name):
        real = getattr(evaluator_module, name)

        def counted(*args, **options):
            calls.append(name)
            return real(*args, **options)

        monkeypatch.setattr(evaluator_module, name, counted)

    for name in ("run_tasks", "measure_documents", "sample_completions"):
        count(name)
    return calls


def read(tree, name):
    return json.loads((Path(tree["run_dir"]) / "evaluate" / name).read_text())


def rows_of(tree, name):
    text = (Path(tree["run_dir"]) / "evaluate" / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


ALL = ["run_tasks", "measure_documents", "sample_completions"]


def test_it_works_with_the_base_alone_and_grows(tree, finish, measured):
    finish("pretrain")
    evaluate.run(resolve(tree), "evaluate")
    assert measured == ALL
    results = read(tree, "results.json")
    assert set(results) == {"pretrain"}
    assert set(results["pretrain"]["questions"]) == {"0", "2"}
    assert {"acc", "stderr", "n", "ece", "brier"} <= set(results["pretrain"]["questions"]["2"])
    before = read(tree, "stages/pretrain.json")

    finish("sft", 1)
    finish("sft@other", 1)
    measured.clear()
    evaluate.run(resolve(tree), "evaluate")
    assert measured == ALL * 2
    assert list(read(tree, "results.json")) == ["pretrain", "sft", "sft@other"]
    assert read(tree, "stages/pretrain.json") == before
    # Equal weights give equal figures and no preference.
    summary = read(tree, "summary.json")
    assert summary["sft@other"]["perplexity"] == summary["sft"]["perplexity"]
    assert summary["sft@other"]["win_rate_vs_sft"] == 0.5
    assert summary["pretrain"]["perplexity"] != summary["sft"]["perplexity"]
    asked = [(row["task"], row["shots"], row["doc"]) for row in rows_of(tree, "documents.jsonl")]
    assert asked == asked[: len(asked) // 3] * 3


def test_a_second_run_measures_nothing_and_new_shots_need_force(tree, finish, measured):
    finish("pretrain")
    evaluate.run(resolve(tree), "evaluate")
    measured.clear()
    evaluate.run(resolve(tree), "evaluate")
    assert measured == []
    tree["evaluate"]["shots"] = [0, 3]
    with pytest.raises(RunError, match=r"evaluate\.shots.*--force"):
        evaluate.run(resolve(tree), "evaluate")
    assert measured == []
    evaluate.run(resolve(tree), "evaluate", force=True)
    assert set(read(tree, "results.json")["pretrain"]["questions"]) == {"0", "3"}


@pytest.fixture
def cells(monkeypatch):
    """Return the list of tasks and shots that are run from here on."""
    calls = []
    real = evaluator_module.run_tasks

    def counted(model, tokenizer, tasks, *, shots, **options):
        counts = shots if isinstance(shots, dict) else dict.fromkeys(tasks, shots)
        calls.extend((name, count) for name in tasks for count in counts[name])
        return real(model, tokenizer, tasks, shots=shots, **options)

    monkeypatch.setattr(evaluator_module, "run_tasks", counted)
    return calls


def test_only_new_tasks_and_shots_are_measured(tree, finish, cells, write_rows):
    finish("pretrain")
    evaluate.run(resolve(tree), "evaluate")
    assert cells == [("questions", 0), ("questions", 2)]
    before = read(tree, "results.json")["pretrain"]
    rows = [{"query": f"Say {i}", "choices": ["cat", "dog"], "gold": i % 2} for i in range(8)]
    tree["evaluate"]["tasks"].append(str(write_rows(rows, "more.jsonl")))
    cells.clear()
    evaluate.run(resolve(tree), "evaluate", force=True)
    assert cells == [("more", 0), ("more", 2)]
    grown = read(tree, "results.json")["pretrain"]
    assert list(grown) == ["questions", "more"]
    assert grown["questions"] == before["questions"]

    tree["evaluate"]["shots"] = [0, 1, 2]
    cells.clear()
    evaluate.run(resolve(tree), "evaluate", force=True)
    # As many rows are kept as examples as before: the questions are the same.
    assert cells == [("questions", 1), ("more", 1)]
    grown = read(tree, "results.json")["pretrain"]
    assert [list(task) for task in grown.values()] == [["0", "1", "2"]] * 2
    assert grown["questions"]["2"] == before["questions"]["2"]
    asked = [(row["task"], row["shots"]) for row in rows_of(tree, "documents.jsonl")]
    assert asked == sorted(asked, key=lambda cell: (cell[0] == "more", cell[1]))

    # Fewer are taken from what stands: no model is loaded.
    tree["evaluate"]["tasks"].pop(0)
    cells.clear()
    evaluate.run(resolve(tree), "evaluate", force=True)
    assert cells == []
    assert list(read(tree, "results.json")["pretrain"]) == ["more"]


@pytest.mark.parametrize(
    "change", [{"limit": 3}, {"precision": "bf16"}, {"calibration_bins": 3}], ids=str
)
def test_what_the_figures_depend_on_is_measured_again(tree, finish, cells, change):
    finish("pretrain")
    evaluate.run(resolve(tree), "evaluate")
    before = read(tree, "summary.json")["pretrain"]
    tree["evaluate"] |= change
    cells.clear()
    evaluate.run(resolve(tree), "evaluate", force=True)
    assert cells == [("questions", 0), ("questions", 2)]
    after = read(tree, "summary.json")["pretrain"]
    if "precision" in change:
        assert after["perplexity"] != before["perplexity"]
        assert after["perplexity"] == pytest.approx(before["perplexity"], rel=0.05)
    else:
        assert after["perplexity"] == before["perplexity"]


@pytest.fixture
def greet(tree, questions, tmp_path):
    """Return a function that writes a task whose question begins with a constant of its script."""
    folder = tmp_path / "own"
    read_task(questions, examples=2).write(folder)
    path = folder / "questions.yaml"
    config = yaml.safe_load(path.read_text()) | {"doc_to_text": "ASK"}
    path.write_text(yaml.safe_dump(config).replace("ASK", "!function words.ask"))
    tree["evaluate"] |= {"perplexity": [], "prompts": []}

    def write(greeting, named):
        (folder / "words.py").write_text(
            f"GREETING = {greeting!r}\n\n\ndef ask(doc):\n    return GREETING + doc['query']\n"
        )
        tree["evaluate"]["tasks"] = [str(path if named == "file" else folder)]

    return write


@pytest.mark.parametrize("named", ["file", "folder"])
def test_what_a_tasks_function_uses_is_measured_again(tree, finish, cells, greet, named):
    finish("pretrain")
    greet("Say: ", named)
    evaluate.run(resolve(tree), "evaluate")
    before = read(tree, "results.json")
    greet("Tell me, ", named)
    with pytest.raises(RunError, match=r"own.* has changed"):
        evaluate.run(resolve(tree), "evaluate")
    cells.clear()
    evaluate.run(resolve(tree), "evaluate", force=True)
    assert cells == [("questions", 0), ("questions", 2)]
    assert read(tree, "results.json") != before
    cells.clear()
    evaluate.run(resolve(tree), "evaluate", force=True)
    assert cells == []


def test_other_formats_of_tasks_are_noticed(tree, finish, cells, monkeypatch):
    finish("pretrain")
    evaluate.run(resolve(tree), "evaluate")
    monkeypatch.setattr(cell_keys, "VERSION", cell_keys.VERSION + 1)
    with pytest.raises(RunError, match=r"data task formats has changed\. .*--force"):
        evaluate.run(resolve(tree), "evaluate")
    cells.clear()
    evaluate.run(resolve(tree), "evaluate", force=True)
    assert cells == [("questions", 0), ("questions", 2)]


def test_an_evaluation_that_does_not_know_its_formats_is_taken_over(tree, finish, cells):
    finish("pretrain")
    evaluate.run(resolve(tree), "evaluate")
    path = Path(tree["run_dir"]) / "evaluate" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sources"]["task formats"]
    path.write_text(json.dumps(manifest))
    before = read(tree, "results.json")
    with pytest.raises(RunError, match=r"data task formats is new\. .*--force"):
        evaluate.run(resolve(tree), "evaluate")
    cells.clear()
    evaluate.run(resolve(tree), "evaluate", force=True)
    assert cells == []
    assert read(tree, "results.json") == before


def test_a_kill_loses_only_the_task_at_work(tree, finish, cells, write_rows, monkeypatch):
    finish("pretrain")
    rows = [{"query": f"Say {i}", "choices": ["cat", "dog"], "gold": i % 2} for i in range(8)]
    tree["evaluate"]["tasks"].append(str(write_rows(rows, "more.jsonl")))
    counted = evaluator_module.run_tasks

    def stop_at_more(model, tokenizer, tasks, **options):
        if "more" in tasks:
            raise KeyboardInterrupt
        return counted(model, tokenizer, tasks, **options)

    monkeypatch.setattr(evaluator_module, "run_tasks", stop_at_more)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(resolve(tree), "evaluate")
    monkeypatch.setattr(evaluator_module, "run_tasks", counted)
    cells.clear()
    evaluate.run(resolve(tree), "evaluate")
    assert cells == [("more", 0), ("more", 2)]
    assert list(read(tree, "results.json")["pretrain"]) == ["questions", "more"]


def test_a_kill_loses_only_the_part_at_work(tree, finish, measured, monkeypatch):
    finish("pretrain")
    finish("sft", 1)
    real = evaluator_module.measure_documents

    def stop_at_sft(*args, label, **options):
        if label.startswith("sft"):
            raise KeyboardInterrupt
        return real(*args, label=label, **options)

    monkeypatch.setattr(evaluator_module, "measure_documents", stop_at_sft)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(resolve(tree), "evaluate")
    assert measured == [*ALL, "run_tasks"]
    measured.clear()
    monkeypatch.setattr(evaluator_module, "measure_documents", real)
    evaluate.run(resolve(tree), "evaluate")
    assert measured == ["measure_documents", "sample_completions"]
    assert set(read(tree, "results.json")) == {"pretrain", "sft"}


def test_the_reward_model_judges_what_the_gold_cannot(tree, finish, measured):
    finish("pretrain")
    finish("sft", 1)
    evaluate.run(resolve(tree), "evaluate")
    completions = rows_of(tree, "completions/sft.jsonl")
    assert [("followed" in row, "score" in row) for row in completions] == [(True, False)] * 6 + [
        (False, False)
    ] * 4
    finish("reward", 2)
    measured.clear()
    evaluate.run(resolve(tree), "evaluate")
    # The same completions are judged again, not sampled again.
    assert measured == []
    judged = rows_of(tree, "completions/sft.jsonl")
    assert [row["completion"] for row in judged] == [row["completion"] for row in completions]
    assert ["score" in row for row in judged] == [False] * 6 + [True] * 4
    summary = read(tree, "summary.json")["sft"]
    assert summary["reward_score"] == pytest.approx(sum(row["score"] for row in judged[6:]) / 4)
    manifest = Manifest.read(resolve(tree).run_dir / "evaluate")
    assert set(manifest.parents) == {"pretrain", "sft", "reward"}
    assert manifest.metrics["sft/reward_score"] == summary["reward_score"]


def test_summary_is_the_mean_of_the_rows(tree, finish):
    finish("pretrain")
    evaluate.run(resolve(tree), "evaluate")
    summary = read(tree, "summary.json")["pretrain"]
    rows = rows_of(tree, "completions/pretrain.jsonl")
    utilities = [row["utility"] for row in rows if "utility" in row]
    assert summary["utility"] == pytest.approx(sum(utilities) / len(utilities))
    assert summary["prompts"] == len(rows) == 10
    results = read(tree, "results.json")["pretrain"]["questions"]
    assert summary["fewshot"] == pytest.approx((results["0"]["acc"] + results["2"]["acc"]) / 2)
    assert len(rows_of(tree, "texts/pretrain.jsonl")) == 5


def test_refusals(tree, finish):
    with pytest.raises(RunError, match="Run 'steerline pretrain CONFIG' first"):
        evaluate.run(resolve(tree), "evaluate")
    finish("pretrain")
    tree["evaluate"] = {}
    with pytest.raises(ConfigError, match="must have tasks, perplexity or prompts"):
        evaluate.run(resolve(tree), "evaluate")


def test_a_variant_cannot_be_held_to_the_tax(tree, finish, measured):
    finish("pretrain")
    tree["evaluate"]["max_tax"] = 0.02
    tree["evaluate@again"] = {}
    with pytest.raises(ConfigError, match=r"evaluate@again\.max_tax must be null, got 0\.02"):
        evaluate.run(resolve(tree), "evaluate@again")
    assert measured == []
    tree["evaluate@again"]["max_tax"] = None
    evaluate.run(resolve(tree), "evaluate@again")
    assert measured == ALL


def test_texts_are_shared_among_the_sources(tree):
    tree["evaluate"]["perplexity"] = [
        {"path": "tiny:facts", "split": "test"},
        {"path": "tiny:stories", "split": "test", "limit": 1},
        *tree["evaluate"]["perplexity"],
    ]
    sources = resolve(tree).stages["evaluate"].perplexity
    texts = list(read_texts(sources, 8, seed=0))
    assert len(texts) == 3 + 1 + 2
    assert texts == list(read_texts(sources, 8, seed=0))
    assert len(list(read_texts(sources, 2, seed=0))) == 2


def test_the_gate_fails_the_stage_and_its_figures_stay(tree, finish, measured):
    finish("pretrain")
    finish("sft", 1)
    evaluate.run(resolve(tree), "evaluate")
    manifest = Manifest.read(resolve(tree).run_dir / "evaluate")
    measured.clear()
    tree["evaluate"]["max_tax"] = 1.0
    evaluate.run(resolve(tree), "evaluate")
    tree["evaluate"]["max_tax"] = 0.0
    documents = Path(tree["run_dir"]) / "evaluate" / "documents.jsonl"
    rows = [json.loads(line) for line in documents.read_text().splitlines()]
    # Right at the base and wrong after: the paired fall is the whole of it.
    for row in rows:
        row["correct"] = int(row["stage"] == "pretrain")
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RegressionError, match=r"sft changes the few-shot mean by .100\.00 points"):
        evaluate.run(resolve(tree), "evaluate")
    # It fails again although all is measured, and nothing was measured or marked anew.
    with pytest.raises(RegressionError):
        evaluate.run(resolve(tree), "evaluate")
    assert measured == []
    assert Manifest.read(resolve(tree).run_dir / "evaluate") == manifest
