from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config.evaluate import ReportSection
from pipeline.config.run import RunConfig
from pipeline.evaluation.folder import EvaluationFolder, Part
from pipeline.report.gather import gather
from pipeline.report.page import write_report
from tests.pipeline.report.drawn import write_json

GONE = "sft@ppo_init"


@pytest.fixture
def without_one(run_dir: Path) -> Path:
    """Leave a stage out of what the evaluation put together last; its rows still lie there."""
    folder = run_dir / "evaluate"
    for name in ("summary.json", "results.json"):
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        del found[GONE]
        write_json(folder / name, found)
    lines = (folder / "documents.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["stage"] != GONE]
    (folder / "documents.jsonl").write_text("".join(kept), encoding="utf-8")
    assert (folder / "completions" / f"{GONE}.jsonl").is_file()
    assert (folder / "texts" / f"{GONE}.jsonl").is_file()
    return run_dir


def test_answers_and_texts_of_a_model_that_is_gone_are_not_current(
    config: RunConfig, without_one: Path, tmp_path: Path
) -> None:
    assert without_one.is_dir()
    run = gather(config)
    kept = ["pretrain", "sft", "ppo", "ppo@no_ptx"]
    assert run.evaluated == kept
    assert [*run.completions] == [*run.texts] == kept
    assert all(len(rows) == 150 for rows in run.completions.values())
    assert all(len(rows) == 50 for rows in run.texts.values())
    write_report(config, tmp_path, config.section("report", ReportSection))
    numbers = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    for table in ("glance", "tax", "calibration", "language", "instruction_following"):
        assert GONE not in {row["stage"] for row in numbers[table]}
    assert all(GONE not in sample["answers"] for sample in numbers["samples"])


def test_what_a_merge_leaves_out_stays_stored_and_is_not_reported(config: RunConfig) -> None:
    config.run_dir.mkdir()
    store = EvaluationFolder(config.run_dir / "evaluate")
    for stage in ("pretrain", "sft"):
        answers = [{"prompt_id": "p", "completion": stage, "utility": 0.5}]
        store.store(stage, "following", "a key", Part({"utility": 0.5}, answers))
        texts = [{"text": 0, "nll": 2.0, "tokens": 3, "bytes": 9}]
        store.store(stage, "perplexity", "a key", Part({"perplexity": 4.0}, texts))
    store.merge(["pretrain", "sft"], "sft")
    assert gather(config).evaluated == ["pretrain", "sft"]
    store.merge(["pretrain"], "sft")
    run = gather(config)
    assert run.evaluated == ["pretrain"]
    assert ([*run.texts], [*run.completions]) == (["pretrain"], ["pretrain"])
    # Its model may come back, and would not be measured again.
    assert store.rows("sft", "following") != []
