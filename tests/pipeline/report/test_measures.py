"""Tasks that have no accuracy: the tax table leaves them out, the measures table holds them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from pipeline.config.evaluate import ReportSection
from pipeline.config.run import RunConfig
from pipeline.records import read_jsonl, write_jsonl
from pipeline.report.gather import gather
from pipeline.report.measures import measure_table
from pipeline.report.page import write_report
from pipeline.report.tax import MEAN, tax_table
from tests.pipeline.report.drawn import draw_generation, draw_translation, write_json


@pytest.fixture
def generation(run_dir: Path) -> np.ndarray:
    """Add a task with F1 a document and BLEU over all, at 4 shots, to base and PPO."""
    return draw_generation(run_dir)


def test_a_mean_over_documents_is_compared_pairwise(config: RunConfig, generation) -> None:
    rows = {(row.measure, row.stage): row for row in measure_table(gather(config), 0)}
    assert set(rows) == {(name, stage) for name in ("bleu", "f1") for stage in ("pretrain", "ppo")}
    row = rows["f1", "ppo"]
    assert row.change is not None
    assert row.change.difference == pytest.approx((generation[1] - generation[0]).mean())
    assert row.change.p_holm == row.change.p
    assert rows["f1", "pretrain"].change is None
    assert (row.n, row.cut, row.stderr) == (50, 3, None)


def test_a_figure_that_is_no_mean_over_documents_has_no_interval(
    config: RunConfig, generation
) -> None:
    assert generation.shape == (2, 50)
    (row,) = [
        row
        for row in measure_table(gather(config), 0)
        if (row.measure, row.stage) == ("bleu", "ppo")
    ]
    assert (row.value, row.stderr, row.change) == (20.5, 1.5, None)


def test_the_tax_is_that_of_the_tasks_with_an_accuracy(config: RunConfig, generation) -> None:
    assert generation.shape == (2, 50)
    run = gather(config)
    assert "reading" not in run.tasks
    assert run.shots == [0, 1, 5]
    tax = tax_table(run, 0)
    assert {cell.task for cell in tax} == {*run.tasks, MEAN}
    assert all(row.score is not None for row in tax.values())


def test_the_page_shows_them(config: RunConfig, generation, tmp_path: Path) -> None:
    assert generation.shape == (2, 50)
    write_report(config, tmp_path, config.section("report", type(config.stages["report"])))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = html.partition('<section id="measures"')[2].partition("</section>")[0]
    assert '<a href="#measures">' in html
    assert "f1, 4 shots" in section
    assert ">20.50</span> ± " in section
    assert section.count("</span> cut") == 4
    assert "None" not in section


def test_a_run_of_accuracies_alone_has_no_such_section(drawn_report: Path) -> None:
    html = (drawn_report / "report.html").read_text(encoding="utf-8")
    assert 'id="measures"' not in html
    assert "#measures" not in html


def test_a_run_without_any_accuracy_has_a_page(
    config: RunConfig, generation, run_dir: Path, tmp_path: Path
) -> None:
    assert generation.shape == (2, 50)
    path = run_dir / "evaluate" / "results.json"
    results = json.loads(path.read_text())
    kept = {stage: {"reading": results[stage]["reading"]} for stage in ("pretrain", "ppo")}
    path.write_text(json.dumps(kept))
    write_report(config, tmp_path, config.section("report", type(config.stages["report"])))
    numbers = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert numbers["tax"] == numbers["calibration"] == []
    assert len(numbers["measures"]) == 4


def test_tasks_with_shots_of_their_own_have_means_where_they_were_measured(
    config: RunConfig, run_dir: Path
) -> None:
    path = run_dir / "evaluate" / "results.json"
    results = json.loads(path.read_text())
    for tasks in results.values():
        tasks["sums"] = {"15": tasks["sums"]["5"]}
    path.write_text(json.dumps(results))
    documents = run_dir / "evaluate" / "documents.jsonl"
    rows = [row for _, row in read_jsonl(documents)]
    kept = [
        {**row, "shots": 15} if row["task"] == "sums" else row
        for row in rows
        if row["task"] != "sums" or row["shots"] == 5
    ]
    write_jsonl(documents, kept)
    run = gather(config)
    assert run.shots == [0, 1, 5, 15]
    tax = tax_table(run, 0)
    at_15, at_5 = (tax["sft", MEAN, shots] for shots in (15, 5))
    assert at_15.score == results["sft"]["sums"]["15"]["acc"]
    others = [task for task in run.tasks if task != "sums"]
    assert at_5.score == pytest.approx(np.mean([results["sft"][t]["5"]["acc"] for t in others]))
    # Over all shots every task weighs the same, however many numbers of shots it has.
    by_task = [
        np.mean([figures["acc"] for figures in by_shots.values()])
        for by_shots in results["sft"].values()
    ]
    assert tax["sft", MEAN, None].score == pytest.approx(np.mean(by_task))
    change = tax["sft", MEAN, None].change
    assert change is not None
    before = tax["pretrain", MEAN, None].score
    assert change.difference == pytest.approx(np.mean(by_task) - before)


def test_bleu_is_compared_by_the_counts_of_its_documents(config: RunConfig, run_dir: Path) -> None:
    pairs = draw_translation(run_dir)
    rows = {row.stage: row for row in measure_table(gather(config), 0)}
    assert [row.measure for row in rows.values()] == ["bleu", "bleu"]
    scores = {stage: corpus_bleu(*zip(*both, strict=True)) for stage, both in pairs.items()}
    change = rows["ppo"].change
    assert change is not None
    assert change.difference == pytest.approx(scores["ppo"] - scores["pretrain"])
    assert 0 < change.low < change.difference < change.high
    assert change.n == 60
    assert change.p_holm == change.p < 0.05
    assert rows["pretrain"].change is None
    assert rows["pretrain"].stderr is not None
    assert 0.5 < rows["pretrain"].stderr < 10


def corpus_bleu(references: tuple[str, ...], texts: tuple[str, ...]) -> float:
    score: float = sacrebleu.corpus_bleu(texts, [references]).score
    return score


def test_counts_that_do_not_give_the_figure_are_left_alone(
    config: RunConfig, run_dir: Path
) -> None:
    draw_translation(run_dir)
    path = run_dir / "evaluate" / "results.json"
    results = json.loads(path.read_text())
    results["ppo"]["translation"]["0"]["bleu"] += 1
    write_json(path, results)
    (row,) = [row for row in measure_table(gather(config), 0) if row.stage == "ppo"]
    assert (row.change, row.stderr) == (None, None)


def head(run_dir: Path, **figures: dict[str, float]) -> None:
    """Give stages a task whose accuracy is its F1."""
    path = run_dir / "evaluate" / "results.json"
    results = json.loads(path.read_text())
    for stage, own in figures.items():
        cell = {"acc": own["f1"], "stderr": 0.02, "f1_stderr": 0.02, "n": 50, **own}
        results[stage]["drop"] = {"4": cell}
    write_json(path, results)


def test_what_the_accuracy_stands_for_is_not_said_twice(config: RunConfig, run_dir: Path) -> None:
    # A stage that gets nothing right has no F1 either; the other tells the two apart.
    head(run_dir, pretrain={"f1": 0.0, "em": 0.0}, ppo={"f1": 0.4, "em": 0.3, "acc_x": 0.4})
    found = [(row.measure, row.stage, row.value) for row in measure_table(gather(config), 0)]
    assert found == [("acc_x", "ppo", 0.4), ("em", "pretrain", 0.0), ("em", "ppo", 0.3)]
    head(run_dir, pretrain={"f1": 0.2, "exact_match": 0.2}, ppo={"f1": 0.4, "exact_match": 0.4})
    assert measure_table(gather(config), 0) == []


def test_the_spreadsheet_holds_the_rows(config: RunConfig, run_dir: Path, tmp_path: Path) -> None:
    draw_generation(run_dir)
    draw_translation(run_dir)
    section = config.section("report", ReportSection)
    write_report(config, tmp_path, section)
    with (tmp_path / "measures.csv").open(encoding="utf-8", newline="") as lines:
        table = list(csv.DictReader(lines))
    rows = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["measures"]
    assert len(table) == len(rows) == 6
    for written, row in zip(table, rows, strict=True):
        change = row.pop("change") or {}
        expected = {**row, **change, "cut_contexts": row["cut"], "n": row["n"]}
        expected["documents"] = change.get("n")
        assert written == {
            key: "" if expected.get(key) is None else str(expected[key]) for key in written
        }
    assert {row["documents"] for row in table} == {"", "50", "60"}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "other measures in <code>measures.csv</code>" in page
    # Without any there is none, also where an earlier report had some.
    path = run_dir / "evaluate" / "results.json"
    results = json.loads(path.read_text())
    for tasks in results.values():
        for task in ("reading", "translation"):
            tasks.pop(task, None)
    write_json(path, results)
    write_report(config, tmp_path, section)
    assert not (tmp_path / "measures.csv").exists()
    assert "measures.csv" not in (tmp_path / "report.html").read_text(encoding="utf-8")
