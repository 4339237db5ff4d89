from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config.run import RunConfig
from pipeline.errors import RunError
from pipeline.runs import Manifest
from stages.report import run


def report_manifest(config: RunConfig) -> Manifest:
    manifest = Manifest.read(config.run_dir / "report")
    assert manifest is not None
    return manifest


def test_the_report_is_made_from_every_complete_stage(config: RunConfig, run_dir: Path) -> None:
    run(config, "report")
    manifest = report_manifest(config)
    assert manifest.status == "complete"
    assert {*manifest.parents} == {path.parent.name for path in run_dir.glob("*/manifest.json")} - {
        "report"
    }
    numbers = json.loads((run_dir / "report" / "report.json").read_text())
    assert numbers["headline"] == manifest.metrics


def test_an_unchanged_run_leaves_the_report_as_it_is(config: RunConfig, run_dir: Path) -> None:
    run(config, "report")
    first = (run_dir / "report" / "manifest.json").read_bytes()
    run(config, "report")
    assert (run_dir / "report" / "manifest.json").read_bytes() == first


def test_new_numbers_and_another_title_rewrite_it_without_force(
    config: RunConfig, run_dir: Path
) -> None:
    run(config, "report")
    path = run_dir / "evaluate" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 1.0}))
    run(config.with_stage("report", title="Another title"), "report")
    assert "Another title" in (run_dir / "report" / "report.html").read_text()
    first = report_manifest(config)
    (run_dir / "ppo" / "manifest.json").unlink()
    run(config.with_stage("report", title="Another title"), "report")
    assert {*first.parents} - {*report_manifest(config).parents} == {"ppo"}


def test_an_evaluation_that_is_not_complete_is_asked_for(config: RunConfig, run_dir: Path) -> None:
    (run_dir / "evaluate" / "manifest.json").unlink()
    with pytest.raises(RunError, match="Run 'steerline evaluate CONFIG' first"):
        run(config, "report")


def test_another_tax_rewrites_the_gate(config: RunConfig, run_dir: Path) -> None:
    for max_tax in (0.12, 0.5):
        run(config.with_stage("evaluate", max_tax=max_tax), "report")
        gate = json.loads((run_dir / "report" / "report.json").read_text())["gate"]
        assert [row["passed"] for row in gate] == [True, True, True, max_tax == 0.5]
