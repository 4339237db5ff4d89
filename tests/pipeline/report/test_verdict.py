"""The verdict says what the numbers say, of every stage, and of figures that compare."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.evaluate import ReportSection
from pipeline.config.run import RunConfig
from pipeline.records import write_jsonl
from pipeline.report.page import write_report
from pipeline.report.words import MINUS
from tests.pipeline.report.drawn import compare_models, retokenize, write_json

ASKED = 80


def answer(run_dir: Path, **right: int) -> None:
    """Let stages answer so many of a task's questions rightly, the first ones."""
    names = [name.replace("_at_", "@") for name in right]
    rows, results = [], {}
    for name, count in zip(names, right.values(), strict=True):
        correct = (np.arange(ASKED) < count).astype(int).tolist()
        figures = {"acc": count / ASKED, "stderr": float(np.std(correct)) / 9, "n": ASKED}
        results[name] = {"facts": {"0": figures}}
        cell = {"stage": name, "task": "facts", "shots": 0}
        rows += [{**cell, "doc": doc, "correct": value} for doc, value in enumerate(correct)]
    folder = run_dir / "evaluate"
    write_json(folder / "results.json", results)
    write_json(folder / "summary.json", {name: {} for name in names})
    write_jsonl(folder / "documents.jsonl", rows)


def verdict(config: RunConfig, folder: Path) -> list[str]:
    write_report(config, folder, config.section("report", ReportSection))
    sentences: list[str] = json.loads((folder / "report.json").read_text())["verdict"]
    return sentences


def test_a_stage_that_the_verdict_has_no_words_for_falls_all_the_same(
    config: RunConfig, tmp_path: Path
) -> None:
    answer(config.run_dir, pretrain=60, sft=60, sft_at_ppo_init=20)
    sentences = verdict(config, tmp_path)
    said = [sentence for sentence in sentences if "single-task comparisons" in sentence]
    assert said == [
        "Of 2 single-task comparisons with the base, significantly lower: sft@ppo_init on 1 (Holm)."
    ]


def test_several_fallen_stages_are_named_as_elsewhere(config: RunConfig, tmp_path: Path) -> None:
    answer(config.run_dir, pretrain=70, sft=20, ppo=69, ppo_at_no_ptx=30, ppo_at_wide=10)
    (said,) = [each for each in verdict(config, tmp_path) if "single-task comparisons" in each]
    assert said == (
        "Of 4 single-task comparisons with the base, significantly lower: SFT on 1, "
        "PPO without ptx on 1, ppo@wide on 1 (Holm)."
    )


def test_none_is_said_where_nothing_fell_whatever_rose(config: RunConfig, tmp_path: Path) -> None:
    answer(config.run_dir, pretrain=40, sft=39, sft_at_ppo_init=79)
    (said,) = [each for each in verdict(config, tmp_path) if "single-task comparisons" in each]
    assert said == "None of 2 single-task comparisons with the base fell significantly."


def test_models_that_no_run_made_are_named_as_given(config: RunConfig, tmp_path: Path) -> None:
    answer(config.run_dir, first=70, second=20)
    compare_models(config.run_dir, ["first", "second"])
    said = [each for each in verdict(config, tmp_path) if "single-task comparisons" in each]
    assert said == [
        "Of 1 single-task comparisons with first, significantly lower: second on 1 (Holm)."
    ]


def test_an_evaluation_without_a_comparison_says_nothing_of_any(
    config: RunConfig, tmp_path: Path
) -> None:
    answer(config.run_dir, pretrain=60)
    assert not [each for each in verdict(config, tmp_path) if "comparisons" in each]


@pytest.mark.parametrize("models", [False, True])
def test_where_tokens_differ_it_speaks_of_bits_per_byte(
    config: RunConfig, run_dir: Path, tmp_path: Path, models: bool
) -> None:
    if models:
        compare_models(run_dir, ["pretrain", "sft", "ppo"])
    (said,) = [each for each in verdict(config, tmp_path) if "held-out text" in each.lower()]
    assert said.startswith("Perplexity on held-out text is 9.84 at ")
    retokenize(run_dir, "ppo")
    sentences = verdict(config, tmp_path)
    assert not [each for each in sentences if each.startswith("Perplexity")]
    (said,) = [each for each in sentences if "held-out text" in each.lower()]
    names = ("pretrain", "sft", "ppo") if models else ("the base", "SFT", "PPO-ptx")
    changed = rf"\([+{MINUS}]0\.\d{{3}}, 95 % interval [^)]*\)"
    figures = [rf"\d\.\d{{3}} at {name} {changed}" for name in names[1:]]
    assert re.search(", ".join(figures), said), said
    assert said.startswith(f"Held-out text costs 0.805 bits per byte at {names[0]}, ")
    assert said.endswith("; perplexities do not compare, for the tokens differ.")
