from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.records import Prompt, Ranking
from pipeline.store import LabelStore
from pipeline.store.oversight import Oversight
from stages.cli import main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return the configuration of a run that imports four people's rankings."""
    rows = [
        {"prompt": f"Which {i}?", "completions": ["a", "b", "c"], "ranks": ranks, "labeler": name}
        for i in range(6)
        for name, ranks in (("ada", [1, 2, 3]), ("bob", [1, 3, 2]))
    ]
    data = tmp_path / "rankings.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = tmp_path / "run.yaml"
    text = f"run_dir: {tmp_path / 'run'}\nbase: a-model\nlabel: {{imports: [{data}]}}\n"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def run_dir(config: Path) -> Path:
    return config.parent / "run"


@pytest.fixture
def label(config: Path, run_dir: Path) -> Callable[[], dict[str, Any]]:
    """Return a function that runs the stage, and gives its manifest."""

    def run() -> dict[str, Any]:
        assert main(["label", str(config)]) == 0
        manifest: dict[str, Any] = json.loads((run_dir / "label/manifest.json").read_text())
        assert manifest["status"] == "complete"
        return manifest

    return run


def test_the_stage_is_skipped_until_somebody_judges(
    label: Callable[[], dict[str, Any]], run_dir: Path
) -> None:
    first = label()
    assert (first["metrics"]["judgments_human"], first["metrics"]["imported"]) == (12, 12)
    assert label() == first
    with LabelStore.open(run_dir / "labels.db") as store:
        extra = Ranking(Prompt.from_text("Which 0?"), ("a", "b", "c"), (3, 2, 1), None, "cyd")
        split = next(one for one in ("train", "validation") if extra.prompt in prompts(store, one))
        store.import_rankings([extra], split=split, source="later")
        now = store.snapshot_hash()
    second = label()
    assert second["metrics"]["judgments_human"] == 13
    assert second["metrics"]["imported"] == 0
    assert first["metrics"]["snapshot"] != second["metrics"]["snapshot"] == now
    assert second["sources"] == first["sources"]
    assert label() == second


def prompts(store: LabelStore, split: str) -> list[Prompt]:
    return store.prompts(split)


def test_what_a_lead_decides_is_counted(label: Callable[[], dict[str, Any]], run_dir: Path) -> None:
    first = label()
    with LabelStore.open(run_dir / "labels.db") as store:
        Oversight(store).exclude("bob", "clicks through", "lena")
    second = label()
    assert second["metrics"]["snapshot"] != first["metrics"]["snapshot"]
    assert second["metrics"]["places_done"] == 6
    with LabelStore.open(run_dir / "labels.db") as store:
        assert Oversight(store).snapshots()[second["metrics"]["snapshot"]] == {"ada"}
        Oversight(store).restore("bob")
    assert label()["metrics"]["snapshot"] == first["metrics"]["snapshot"]


def test_a_finished_stage_whose_store_is_gone_is_one_line(
    label: Callable[[], dict[str, Any]],
    config: Path,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = label()
    (run_dir / "labels.db").unlink()
    assert main(["label", str(config)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("steerline: No label store in ")
    assert said.count("\n") == 1
    assert json.loads((run_dir / "label/manifest.json").read_text()) == before
    assert not (run_dir / "labels.db").exists()
