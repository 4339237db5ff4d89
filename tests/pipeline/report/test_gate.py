from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.config.run import RunConfig
from pipeline.errors import RegressionError, RunError
from pipeline.records import read_jsonl, write_jsonl
from pipeline.report.gate import check_tax, judge_tax
from pipeline.report.gather import Cell, RunRecord, gather
from pipeline.report.page import write_report
from pipeline.report.statistics import Change
from pipeline.report.tax import MEAN, TaxCell, tax_table
from pipeline.report.words import MINUS

# Of the drawn run: ppo@no_ptx loses some 20 points, the others a few at most.
FALLEN = "ppo@no_ptx"


def test_a_fall_beyond_the_tax_names_the_stage_the_fall_and_its_interval(
    config: RunConfig, run_dir: Path
) -> None:
    with pytest.raises(RegressionError) as caught:
        check_tax(config, 0.12)
    said = str(caught.value)
    assert "\n" not in said
    pattern = (
        rf"evaluate\.max_tax must hold, a fall of 12\.00 points at most, got more: "
        rf"{FALLEN} changes the few-shot mean by {MINUS}(\d+\.\d\d) points against pretrain "
        rf"\(95 % interval {MINUS}(\d+\.\d\d) to {MINUS}(\d+\.\d\d)\)\. The figures are in "
    )
    found = re.match(pattern, said)
    assert found is not None, said
    fall, low, high = (float(each) for each in found.groups())
    assert 12 < fall < 30
    assert low > fall > high
    assert str(run_dir / "evaluate") in said


def test_a_fall_within_the_tax_passes(config: RunConfig, run_dir: Path) -> None:
    assert run_dir.is_dir()
    check_tax(config, 0.5)


def test_the_estimate_decides_and_not_the_interval(config: RunConfig, run_dir: Path) -> None:
    assert run_dir.is_dir()
    run = gather(config)
    tax = tax_table(run, config.seed)
    (row,) = [row for row in judge_tax(run, tax, 0.5) if row.stage == FALLEN]
    just_enough, too_little = -row.difference + 1e-9, -row.difference - 1e-9
    assert row.low < -too_little < row.high
    assert [each.passed for each in judge_tax(run, tax, just_enough) if each.stage == FALLEN] == [
        True
    ]
    assert [each.passed for each in judge_tax(run, tax, too_little) if each.stage == FALLEN] == [
        False
    ]
    assert [row.stage for row in judge_tax(run, tax, 0.5)] == run.evaluated[1:]
    assert judge_tax(run, tax, None) == []


def test_the_report_shows_the_gate(config: RunConfig, run_dir: Path, tmp_path: Path) -> None:
    assert run_dir.is_dir()
    gated = config.with_stage("evaluate", max_tax=0.12)
    write_report(gated, tmp_path, gated.section("report", type(gated.stages["report"])))
    numbers = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert {row["stage"]: row["passed"] for row in numbers["gate"]} == {
        **dict.fromkeys(["sft", "sft@ppo_init", "ppo"], True),
        FALLEN: False,
    }
    assert f"A fall of 12.0 points is allowed, broken by {FALLEN}." in numbers["verdict"]
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count(">broken</td>") == 1
    assert html.count(">kept</td>") == 3


def test_the_base_alone_passes_and_nothing_to_compare_is_said(
    config: RunConfig, run_dir: Path
) -> None:
    path = run_dir / "evaluate" / "results.json"
    results = json.loads(path.read_text())
    for tasks in results.values():
        for by_shots in tasks.values():
            for figures in by_shots.values():
                del figures["acc"]
    path.write_text(json.dumps(results))
    said = r"few-shot accuracy of pretrain and of sft, sft@ppo_init, ppo, "
    with pytest.raises(RunError, match=said):
        check_tax(config, 0.5)
    for name in ("summary.json", "completions", "documents.jsonl", "texts"):
        (run_dir / "evaluate" / name).rename(run_dir / name)
    path.write_text(json.dumps({"pretrain": results["pretrain"]}))
    check_tax(config, 0.5)


def test_a_gain_passes_however_large(config: RunConfig, run_dir: Path) -> None:
    path = run_dir / "evaluate" / "documents.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    for row in rows:
        row["correct"] = int(row["stage"] != "pretrain")
    write_jsonl(path, rows)
    check_tax(config, 0.0)


def test_a_stage_that_cannot_be_compared_is_named_and_not_passed_over(
    config: RunConfig, run_dir: Path
) -> None:
    path = run_dir / "evaluate" / "documents.jsonl"
    gone = ("ppo", "facts", 5)
    rows = [row for _, row in read_jsonl(path)]
    write_jsonl(path, [r for r in rows if (r["stage"], r["task"], r["shots"]) != gone])
    with pytest.raises(RunError, match=r"of pretrain and of ppo on the same questions"):
        check_tax(config, 0.5)


def test_a_fall_of_exactly_what_is_allowed_passes() -> None:
    # A last bit below.
    assert 0.7 - 0.9 < -0.2
    change = Change(difference=0.7 - 0.9, low=-0.3, high=-0.1, n=10, p=0.01)
    run = RunRecord(
        run_dir=Path(),
        stages=(),
        scores={Cell("sft", "facts", 0): {"acc": 0.7}},
        **{name: {} for name in ("summary", "documents", "texts", "completions")},
        **{name: {} for name in ("accuracy", "best_of")},
        preferences=(),
    )
    cell = Cell("sft", MEAN, None)
    tax = {cell: TaxCell(cell, 0.7, None, 10, 0, None, None, change)}
    assert [row.passed for row in judge_tax(run, tax, 0.2)] == [True]
    assert [row.passed for row in judge_tax(run, tax, 0.1999)] == [False]
