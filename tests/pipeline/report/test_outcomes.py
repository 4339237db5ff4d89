from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.evaluate import ReportSection
from pipeline.config.run import RunConfig
from pipeline.records import read_jsonl, write_jsonl
from pipeline.report.gather import gather
from pipeline.report.outcomes import following_table, language_table
from pipeline.report.page import write_report
from tests.pipeline.report.drawn import retokenize


def score(run_dir: Path, stage: str, values: list[float], texts: list[str]) -> None:
    """Let the reward model judge a stage's first answers, and nothing else judge any."""
    path = run_dir / "evaluate" / "completions" / f"{stage}.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    write_jsonl(
        path,
        [
            {"prompt_id": row["prompt_id"], "completion": text, "score": value}
            for row, text, value in zip(rows, texts, values, strict=False)
        ],
    )


def test_the_same_answer_ties_with_itself_whatever_the_reward_models_rounding(
    config: RunConfig, run_dir: Path
) -> None:
    score(run_dir, "sft", [1.0, 2.0, 3.0, 1.0], ["a", "b", "c", "d"])
    # Three answers are SFT's, scored in other batches; the fourth is another, and better.
    score(run_dir, "ppo", [1.000001, 2.000001, 3.000001, 2.0], ["a", "b", "c", "D"])
    rows = {row.stage: row for row in following_table(gather(config), 0)}
    wins, change = rows["ppo"].wins, rows["ppo"].score_against_sft
    assert wins is not None
    assert change is not None
    assert wins.difference + 0.5 == pytest.approx((0.5 + 0.5 + 0.5 + 1) / 4)
    assert change.difference == pytest.approx(1 / 4)
    score(run_dir, "ppo", [1.000001, 2.000001, 3.000001, 1.000001], ["a", "b", "c", "d"])
    rows = {row.stage: row for row in following_table(gather(config), 0)}
    wins, change = rows["ppo"].wins, rows["ppo"].score_against_sft
    assert wins is not None
    assert change is not None
    for same in (wins, change):
        assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_a_perplexity_of_other_tokens_has_no_change(config: RunConfig, run_dir: Path) -> None:
    before = {row["stage"]: row for row in language_table(gather(config), 0)}
    assert all(row["same_tokens"] for row in before.values())
    assert before["sft"]["change"] == pytest.approx(11.31 / 9.84 - 1)
    retokenize(run_dir, "sft")
    after = {row["stage"]: row for row in language_table(gather(config), 0)}
    assert after["sft"] == {
        **before["sft"],
        "same_tokens": False,
        "change": None,
        "overconfidence_change": None,
    }
    assert after["sft"]["against_base"] is not None
    assert after["ppo"] == before["ppo"]


def test_a_base_of_other_tokens_leaves_no_stage_to_compare(
    config: RunConfig, run_dir: Path
) -> None:
    retokenize(run_dir, "pretrain")
    rows = {row["stage"]: row for row in language_table(gather(config), 0)}
    assert [row["change"] for row in rows.values()] == [None] * 5
    assert [row["same_tokens"] for row in rows.values()] == [True, *[False] * 4]


def write(config: RunConfig, folder: Path) -> tuple[str, dict[str, Any]]:
    write_report(config, folder, config.section("report", ReportSection))
    numbers = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return (folder / "report.html").read_text(encoding="utf-8"), numbers


def section_of(html: str, name: str) -> str:
    return html.partition(f'<section id="{name}"')[2].partition("</section>")[0]


def test_the_page_says_why_perplexities_do_not_compare(
    config: RunConfig, run_dir: Path, tmp_path: Path
) -> None:
    html, _ = write(config, tmp_path)
    assert "other tokens" not in html.lower()
    assert '<th scope="col">perplexity</th>' in section_of(html, "glance")
    retokenize(run_dir, "sft")
    html, numbers = write(config, tmp_path)
    text = section_of(html, "language")
    assert text.count('<span class="absent">other tokens</span>') == 1
    assert "Other tokens: the tokenizer is not the base&#39;s" in text
    assert "no change is given" in text
    glance = section_of(html, "glance")
    assert '<th scope="col">bits per byte</th>' in glance
    assert '<th scope="col">perplexity</th>' not in glance
    assert 'data-json="/glance/1/bits_per_byte"' in glance
    assert numbers["language"][1]["change"] is None
