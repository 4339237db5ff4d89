from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.run import RunConfig
from pipeline.report.calibrating import calibration_rows
from pipeline.report.diagrams import draw_reliability
from pipeline.report.gather import gather
from pipeline.report.outcomes import language_table


@pytest.fixture(scope="module")
def rows(drawn_report: Path) -> list[dict[str, Any]]:
    return json.loads((drawn_report / "report.json").read_text(encoding="utf-8"))["calibration"]


@pytest.fixture(scope="module")
def documents(drawn_run: Path) -> list[dict[str, Any]]:
    lines = (drawn_run / "evaluate" / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def values(documents: list[dict[str, Any]], stage: str, task: str, shots: int) -> np.ndarray:
    """Return each document's confidence, correctness and Brier score, [3, n]."""
    found = []
    for row in documents:
        if (row["stage"], row["task"], row["shots"]) == (stage, task, shots):
            shares = np.exp(np.array(row["logliks"]))
            error = shares / shares.sum() - np.eye(4)[row["gold"]]
            found.append((row["confidence"], row["correct"], error @ error))
    return np.array(found).T


def test_a_row_is_what_the_documents_say(rows, documents) -> None:
    single = [row for row in rows if row["task"] == "facts"]
    assert len(single) == 5 * 3
    for row in single:
        own = values(documents, row["stage"], "facts", row["shots"])
        base = values(documents, "pretrain", "facts", row["shots"])
        assert row["overconfidence"] == pytest.approx(own[0].mean() - own[1].mean())
        assert row["brier"] == pytest.approx(own[2].mean())
        assert sum(row["histogram"]) == row["n"] == own.shape[1]
        assert sum(point["n"] for point in row["reliability"]) == row["n"]
        gap = sum(p["n"] * abs(p["accuracy"] - p["confidence"]) for p in row["reliability"])
        assert gap / row["n"] == pytest.approx(row["ece"])
        if row["stage"] == "pretrain":
            assert row["brier_change"] is row["ece_difference"] is None
            continue
        change = row["brier_change"]
        assert change["difference"] == pytest.approx(own[2].mean() - base[2].mean())
        assert change["low"] < change["difference"] < change["high"]
        surplus = (own[0] - own[1]).mean() - (base[0] - base[1]).mean()
        assert row["overconfidence_change"]["difference"] == pytest.approx(surplus)


def test_the_mean_gives_every_task_the_same_weight(rows) -> None:
    (mean,) = [
        row
        for row in rows
        if (row["stage"], row["task"], row["shots"]) == ("sft", "mean over tasks", 5)
    ]
    parts = [row for row in rows if (row["stage"], row["shots"]) == ("sft", 5) and row != mean]
    assert len(parts) == 6
    for key in ("ece", "brier", "overconfidence", "ece_difference", "ece_mended", "ece_chance"):
        assert mean[key] == pytest.approx(np.mean([row[key] for row in parts]))
    assert mean["brier_change"]["difference"] == pytest.approx(
        np.mean([row["brier_change"]["difference"] for row in parts])
    )
    assert mean["n"] == sum(row["n"] for row in parts)
    assert 0.2 < mean["temperature"] < 20


def test_the_spreadsheet_holds_the_rows(rows, drawn_report: Path) -> None:
    with (drawn_report / "calibration.csv").open(encoding="utf-8", newline="") as lines:
        table = list(csv.DictReader(lines))
    assert len(table) == len(rows)
    for written, row in zip(table, rows, strict=True):
        assert written["ece"] == str(row["ece"])
        change = row["brier_change"] or {}
        assert written["brier_low"] == str(change.get("low", ""))
        assert written["temperature"] == str(row["temperature"])


def test_a_run_measured_before_there_were_temperatures_has_the_rest(
    config: RunConfig, run_dir: Path
) -> None:
    path = run_dir / "evaluate" / "results.json"
    results = json.loads(path.read_text())
    for task in results["sft"].values():
        for figures in task.values():
            del figures["temperature"], figures["ece_mended"]
    path.write_text(json.dumps(results))
    rows = calibration_rows(gather(config), 0, 10)
    own = [row for row in rows if row["stage"] == "sft" and row["task"] == "facts"]
    assert [row["temperature"] for row in own] == [None] * 3
    assert all(row["ece"] is not None and row["reliability"] for row in own)


def test_the_next_tokens_calibration_is_paired_by_text(config: RunConfig, run_dir: Path) -> None:
    rows = {row["stage"]: row for row in language_table(gather(config), 0)}
    assert rows["pretrain"]["overconfidence_change"] is None
    # Each text has 60 tokens: confidence 42 + i % 3 against 30 + i % 3, 24 right against 30.
    change = rows["sft"]["overconfidence_change"]
    assert change["difference"] == pytest.approx((42 - 24 - (30 - 30)) / 60)
    assert rows["sft"]["token_overconfidence"] == pytest.approx(0.3)
    path = run_dir / "evaluate" / "texts" / "sft.jsonl"
    text = path.read_text().replace('"tokens": 60', '"tokens": 61', 1)
    path.write_text(text)
    rows = {row["stage"]: row for row in language_table(gather(config), 0)}
    # Another tokenizer: the texts' tokens are not the same predictions.
    assert rows["sft"]["overconfidence_change"] is None
    assert rows["ppo"]["overconfidence_change"] is not None


def test_a_diagram_is_described_and_its_dots_stand_where_they_should() -> None:
    points = [
        {"confidence": 0.5, "accuracy": 0.25, "n": 4},
        {"confidence": 1.0, "accuracy": 1.0, "n": 4},
    ]
    lines = {"<b>sft</b>": (points, [0, 4, 0, 4])}
    chart = draw_reliability("r", "All & one", lines, {"<b>sft</b>": 2}, "evaluate/x")
    assert "<b>" not in chart.svg
    assert 'aria-labelledby="r-title r-desc"' in chart.svg
    assert "where least sure, 50.0 % sure and 25.0 % right" in chart.description
    assert "M124.0 143.0L214.0 8.0" in chart.svg
    assert "var(--series-2)" in chart.svg
    # The histogram's highest columns fill it; the others lie on its ground.
    assert chart.svg.count("V202") >= 2
