"""How PPO went: its time, its evaluations and the doctor's findings, against sums made by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.config.evaluate import ReportSection
from pipeline.config.run import RunConfig, resolve
from pipeline.doctor import Course
from pipeline.records import write_jsonl
from pipeline.report.gather import gather
from pipeline.report.health import finding_table, held_out_table, time_table
from pipeline.report.page import write_report
from pipeline.report.sections import ppo_charts
from pipeline.runs import Manifest
from tests.pipeline.report.placed import read_numbers

HOSTILE = "<script>alert(1)</script> \u202etxt.exe {{ 7 * 7 }} https://evil.example/"


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    ppo = {"init": "sft", "prompts": ["tiny:prompts"], "rollout_batch_size": 4, "minibatch_size": 4}
    sections = {"run_dir": str(tmp_path / "run"), "base": "a-model", "report": {}}
    return resolve({**sections, "ppo": ppo, "ppo@no_ptx": {"ptx_coef": 0}})


def write_stage(config: RunConfig, stage: str, rows: list[dict[str, object]]) -> None:
    folder = config.run_dir / stage
    folder.mkdir(parents=True)
    Manifest(stage=stage, status="complete", seed=0, config_hash="c0" * 32).write(folder)
    write_jsonl(folder / "metrics.jsonl", rows)


def row_of(step: int, **figures: object) -> dict[str, object]:
    spent = {"perf/rollout_seconds": 2.0, "perf/score_seconds": 1.0, "perf/train_seconds": 5.0}
    row = {"step": step, "episodes": 4 * step, "objective/length": 10.0 * step, **spent}
    return {**row, "objective/kl": 0.5, "objective/kl_coef": 0.02, **figures}


def evaluated(step: int, scores: float, best: int) -> dict[str, object]:
    figures = {"scores": scores, "kl": scores / 10, "win_rate": scores / 4, "start_scores": 0.5}
    asked = {"prompts": 6, "best_iteration": best}
    return row_of(step, **{f"eval/{key}": value for key, value in {**figures, **asked}.items()}) | {
        "perf/eval_seconds": 4.0
    }


def page_of(config: RunConfig, tmp_path: Path) -> tuple[str, dict]:
    write_report(config, tmp_path, config.section("report", ReportSection))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = html.partition('<section id="ppo"')[2].partition("</section>")[0]
    section = re.sub(r'<span data-json="[^"]*">([^<]*)</span>', r"\1", section)
    return section, json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_phases_are_sums_and_shares_and_rates_count_completion_tokens(config) -> None:
    write_stage(config, "ppo", [row_of(1), evaluated(2, 1.0, 2)])
    (row,) = time_table(gather(config))
    spent = {name: (phase.seconds, phase.share) for name, phase in row.phases.items()}
    assert spent == {
        "rollout": (4, 0.2),
        "score": (2, 0.1),
        "train": (10, 0.5),
        "eval": (4, 0.2),
    }
    assert (row.iterations, row.seconds) == (2, 20)
    # 4 completions of 10 tokens, and 4 of 20.
    assert row.episodes_per_second == pytest.approx(8 / 20)
    assert row.tokens_per_second == pytest.approx(120 / 20)
    assert row.rollout_tokens_per_second == pytest.approx(120 / 4)


def test_a_log_without_times_or_episodes_has_no_row_or_no_rates(config) -> None:
    timed = {key: value for key, value in row_of(1).items() if key != "episodes"}
    write_stage(config, "ppo", [timed])
    write_stage(config, "ppo@no_ptx", [{"step": 1, "episodes": 4}])
    (row,) = time_table(gather(config))
    assert (row.stage, row.seconds) == ("ppo", 8)
    assert (row.episodes_per_second, row.tokens_per_second) == (None, None)


def test_the_best_evaluation_stands_beside_the_last_and_is_marked(config, tmp_path) -> None:
    rows = [row_of(1), evaluated(2, 2.0, 2), row_of(3), evaluated(4, 1.0, 2)]
    write_stage(config, "ppo", rows)
    write_stage(config, "ppo@no_ptx", [row_of(1)])
    run = gather(config)
    (row,) = held_out_table(run)
    assert (row.evaluations, row.prompts, row.start, row.best_iteration) == (2, 6, 0.5, 2)
    assert row.best == (2.0, 0.2, 0.5)
    assert row.last == (1.0, 0.1, 0.25)
    charts = {chart.source: chart for chart in ppo_charts(run)}
    for key, best in (("eval/scores", "2"), ("eval/kl", "0.200"), ("eval/win_rate", "0.500")):
        assert charts[key].description.endswith(f", {best} at the best step 2.")
        assert "<use" in charts[key].svg.partition("<desc")[2]
    assert "best step" not in charts["objective/kl"].description
    section, numbers = page_of(config, tmp_path)
    assert "(ppo.init)" in section
    assert numbers["ppo_health"]["held_out"][0]["best_iteration"] == 2


def test_the_kl_coefficient_is_drawn_only_where_it_moves(config) -> None:
    write_stage(config, "ppo", [row_of(1), row_of(2)])
    moving = [row_of(step, **{"objective/kl_coef": 0.1 * step}) for step in (1, 2)]
    write_stage(config, "ppo@no_ptx", moving)
    (chart,) = [c for c in ppo_charts(gather(config)) if c.source == "objective/kl_coef"]
    assert chart.description.startswith("ppo@no_ptx goes from 0.100")
    assert "ppo goes" not in chart.description


def test_findings_have_their_iterations_and_newest_sentence(config, tmp_path) -> None:
    found = [
        {},
        {"doctor": {"kl": "far: 60."}},
        {"doctor": {"kl": "far: 70.", "ratio": "big."}},
        {},
    ]
    rows = [row_of(step, **extra) for step, extra in enumerate(found, start=1)]
    write_stage(config, "ppo", rows)
    write_stage(config, "ppo@no_ptx", rows[:3])
    table = finding_table(gather(config))
    kl, ratio = Course("kl", "far: 70.", 2, 3, 2), Course("ratio", "big.", 3, 3, 1)
    assert [(row.stage, row.course, row.lasting) for row in table] == [
        ("ppo", kl, False),
        ("ppo", ratio, False),
        ("ppo@no_ptx", kl, True),
        ("ppo@no_ptx", ratio, True),
    ]
    section, numbers = page_of(config, tmp_path)
    assert re.search(r"<td>2</td><td>3</td><td>2</td><td[^>]*>far: 70\.</td>", section)
    assert numbers["ppo_health"]["findings"][0]["course"] == kl._asdict()


def test_every_number_has_its_place(config, tmp_path) -> None:
    wrong = {"doctor": {"kl": "far."}}
    write_stage(config, "ppo", [row_of(1), evaluated(2, 2.0, 2), row_of(3) | wrong])
    write_report(config, tmp_path, config.section("report", ReportSection))
    page = read_numbers(tmp_path)
    places = [place for section, place, _ in page.placed if section == "ppo"]
    assert len(places) == len(set(places)) == 10 + 3 + 12
    for table in ("held_out", "findings", "times"):
        assert any(place.startswith(f"/ppo_health/{table}/0/") for place in places)
    assert not any(re.search(r"\d", text) for section, text in page.bare if section == "ppo")


def test_a_finding_is_text_whatever_it_says(config, tmp_path) -> None:
    write_stage(config, "ppo", [row_of(1, doctor={HOSTILE: HOSTILE, "list": ["<i>"]})])
    write_stage(config, "ppo@no_ptx", [row_of(1, doctor="<script>")])
    section, _ = page_of(config, tmp_path)
    assert section.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert "<script" not in section
    assert "<i>" not in section
    assert "\u202e" not in section
    assert "⟨U+202E⟩" in section


def test_a_training_without_findings_is_said_to_have_none(config, tmp_path) -> None:
    write_stage(config, "ppo", [row_of(1)])
    section, numbers = page_of(config, tmp_path)
    assert "The doctor found nothing wrong." in section
    assert numbers["ppo_health"]["findings"] == []
