from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from pipeline.config.run import RunConfig, resolve
from pipeline.runs import Manifest, open_stage
from stages.status import show, tabulate


def make_config(run_dir: Path, **sft: object) -> RunConfig:
    return resolve(
        {"run_dir": str(run_dir), "base": "a-model", "sft": sft, "reward": {}, "sft@twin": None}
    )


def complete(config: RunConfig, name: str, *parents: str, force: bool = False) -> None:
    with open_stage(config, name, parents=parents, force=force) as run:
        run.finish({"loss": 1.23456, "origin": "scratch", "acc": 0.5})


def rows(config: RunConfig) -> dict[str, list[str]]:
    """Return the table as rendered: stage to the other cells."""
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(tabulate(config))
    lines = [line for line in captured.get().splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_an_empty_run_has_its_line_to_do(tmp_path: Path):
    found = rows(make_config(tmp_path / "absent"))
    assert list(found) == ["pretrain", "sft", "sft@twin", "reward", "report"]
    assert {cells[0] for cells in found.values()} == {"to do"}
    assert not (tmp_path / "absent").exists()


def test_a_complete_stage_shows_its_numbers_and_nothing_stale(tmp_path: Path):
    config = make_config(tmp_path)
    complete(config, "sft")
    status, metrics, age, _, note = rows(config)["sft"]
    assert (status, metrics, note) == ("complete", "loss 1.235, acc 0.5", "")
    assert age.endswith(" s")


def test_a_stage_at_work_is_running_and_a_killed_one_is_cut(tmp_path: Path):
    config = make_config(tmp_path)
    with open_stage(config, "sft") as run:
        assert rows(config)["sft"][0] == "running"
        with run.checkpoint(40, keep=1) as folder:
            (folder / "weights").touch()
        running = Manifest.read(run.folder)
        run.finish({})
    assert running is not None
    running.write(tmp_path / "sft")
    assert rows(config)["sft"][0] == "cut"
    assert rows(config)["sft"][-1] == "resumes from step 40"


def test_a_failed_stage_says_why(tmp_path: Path):
    config = make_config(tmp_path)
    with pytest.raises(ValueError, match="bad"), open_stage(config, "sft"):
        raise ValueError("bad [bold]value[/bold]")
    assert rows(config)["sft"][0] == "failed"
    assert rows(config)["sft"][-1] == "ValueError: bad [bold]value[/bold]. starts again"


def test_a_changed_key_makes_a_stage_stale_and_those_after_it(tmp_path: Path):
    config = make_config(tmp_path)
    complete(config, "sft")
    complete(config, "reward", "sft")
    changed = make_config(tmp_path, epochs=3)
    assert rows(changed)["sft"][-1] == "stale: sft.epochs 16.0 -> 3.0"
    assert rows(changed)["reward"][-1] == "stale: stage sft is stale"
    assert rows(config)["reward"][-1] == ""


def test_a_part_that_is_newly_asked_for_shows(tmp_path: Path):
    tree = {"run_dir": str(tmp_path), "base": "a-model", "evaluate": {"prompts": ["tiny:prompts"]}}
    complete(resolve(tree), "evaluate")
    assert rows(resolve(tree))["evaluate"][-1] == ""
    tree |= {"sft@ppo_init": {}, "evaluate": {**tree["evaluate"], "best_of": {}}}
    assert rows(resolve(tree))["evaluate"][-1] == "stale: best_of is new"


def test_a_parent_made_again_makes_a_stage_stale(tmp_path: Path):
    config = make_config(tmp_path)
    complete(config, "sft")
    complete(config, "reward", "sft")
    complete(config, "sft", force=True)
    assert rows(config)["sft"][-1] == ""
    assert rows(config)["reward"][-1] == "stale: stage sft has changed"


def test_a_stage_outside_the_line_shows_once_it_has_run(tmp_path: Path):
    config = make_config(tmp_path)
    complete(config, "label")
    assert rows(config)["label"][0] == "complete"


def test_a_manifest_that_cannot_be_read_is_a_row_and_no_error(tmp_path: Path):
    config = make_config(tmp_path)
    complete(config, "sft")
    (tmp_path / "sft" / "manifest.json").write_text("{")
    complete(config, "reward")
    assert rows(config)["sft"][0] == "damaged"
    assert rows(config)["reward"][0] == "complete"


def test_the_table_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    show(make_config(tmp_path))
    assert "pretrain" in capsys.readouterr().out


def log_findings(config: RunConfig, *findings: dict[str, str]) -> None:
    with open_stage(config, "ppo") as run:
        for step, found in enumerate(findings, start=1):
            run.metrics.write(step, {"doctor": found} if found else {})
        assert rows(config)["ppo"][0] == "running"
        run.finish({"objective/kl": 60.0})


def test_the_doctors_newest_finding_is_noted(tmp_path: Path):
    config = resolve(
        {"run_dir": str(tmp_path), "base": "a-model", "ppo": {"init": "sft", "prompts": ["p"]}}
    )
    log_findings(config, {"kl": "far."}, {"kl": "far.", "few_ends": "cut."}, {"few_ends": "cut."})
    assert rows(config)["ppo"][-1] == "doctor: few ends, iterations 2 to 3 and 1 more"


def test_a_healthy_ppo_and_another_stage_have_no_doctors_note(tmp_path: Path):
    config = resolve(
        {"run_dir": str(tmp_path), "base": "a-model", "ppo": {"init": "sft", "prompts": ["p"]}}
    )
    log_findings(config, {}, {})
    assert rows(config)["ppo"][-1] == ""


def test_a_damaged_log_is_noted_and_no_error(tmp_path: Path):
    config = resolve(
        {"run_dir": str(tmp_path), "base": "a-model", "ppo": {"init": "sft", "prompts": ["p"]}}
    )
    log_findings(config, {"kl": "far."})
    log = tmp_path / "ppo" / "metrics.jsonl"
    log.write_text("{\n" + log.read_text())
    assert "metrics.jsonl:1: not a JSON object" in rows(config)["ppo"][-1]
    log.write_text('{"step": 1, "doctor": {"kl": "far."}}\n{"step": 2, "doc')
    assert rows(config)["ppo"][-1] == "doctor: kl, iterations 1 to 1"
