from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.evaluate import ReportSection
from pipeline.config.run import resolve
from pipeline.evaluation.people import (
    figures_against,
    hash_comparisons,
    measure_preferences,
    read_comparisons,
)
from pipeline.records import Prompt
from pipeline.report.page import write_report
from pipeline.runs import Manifest
from pipeline.store import Judgment, LabelStore, Provenance, SampledCompletion
from pipeline.store.oversight import Oversight
from stages import evaluate

STAGES = ("sft", "ppo")


def add_prompts(store: LabelStore, count: int) -> None:
    """Let both stages answer prompts; PPO's answer says so."""
    for number in range(count):
        prompt = Prompt.from_text(f"Question {number}?")
        store.add_prompts([prompt], split="validation")
        samples = [SampledCompletion(f"by {stage}", Provenance(stage)) for stage in STAGES]
        store.add_completions(prompt.id, samples)
    store.create_comparison_tasks(STAGES, 4, "validation")


def compare(store: LabelStore, name: str, *, tasks: int, ppo_rank: int) -> None:
    """Let a labeler compare so many; 1 prefers PPO's answer, 2 the other, 0 neither."""
    kind = "simulated" if name.startswith("simulated-") else "human"
    labeler = store.add_labeler(name, kind=kind)
    for _ in range(tasks):
        task = store.lease_task(labeler)
        assert task is not None
        sft_rank = {1: 2, 2: 1, 0: 1}[ppo_rank]
        ranks = {
            choice.id: (ppo_rank or 1) if choice.text == "by ppo" else sft_rank
            for choice in task.completions
        }
        store.submit(task.token, Judgment(ranks), f"{name}/{task.id}")


@pytest.fixture
def store(tmp_path):
    with LabelStore.open(tmp_path / "run" / "labels.db") as opened:
        add_prompts(opened, 4)
        yield opened


def test_preferences_are_shares_of_comparisons_and_say_who_judged(store):
    compare(store, "ada", tasks=4, ppo_rank=1)
    compare(store, "bob", tasks=4, ppo_rank=0)
    compare(store, "simulated-1", tasks=2, ppo_rank=2)
    people, simulated = measure_preferences(read_comparisons(store))
    assert (people["stage"], people["against"], people["judge"]) == ("ppo", "sft", "people")
    assert (people["win_rate"], people["prompts"], people["comparisons"]) == (0.75, 4, 8)
    assert people["low"] <= 0.75 <= people["high"]
    assert (simulated["judge"], simulated["win_rate"]) == ("simulated", 0.0)
    rows = [people, simulated]
    assert figures_against(rows, "sft") == {
        "ppo": {"people_win_rate_vs_sft": 0.75, "simulated_win_rate_vs_sft": 0.0}
    }
    assert figures_against(rows, "ppo") == {
        "sft": {"people_win_rate_vs_ppo": 0.25, "simulated_win_rate_vs_ppo": 1.0}
    }


def test_removed_labelers_do_not_count(store):
    compare(store, "ada", tasks=4, ppo_rank=1)
    said = hash_comparisons(read_comparisons(store))
    compare(store, "eve", tasks=4, ppo_rank=2)
    assert hash_comparisons(read_comparisons(store)) != said
    Oversight(store).exclude("eve", "clicks at random", "lena")
    assert hash_comparisons(read_comparisons(store)) == said


def test_evaluate_counts_comparisons_and_counts_anew(tree, finish, store):
    tree["sample"] = {"prompts": ["tiny:prompts"], "stages": [*STAGES]}
    tree["label"] = {"comparisons": [{"stages": [*STAGES]}]}
    for stage in ("pretrain", "sft", "ppo"):
        finish(stage)
    config = resolve(tree)

    def figures() -> dict[str, float]:
        evaluate.run(config, "evaluate")
        manifest = Manifest.read(Path(tree["run_dir"]) / "evaluate")
        assert manifest is not None
        return {key: value for key, value in manifest.metrics.items() if "people" in key}

    assert figures() == {}, "nobody has been asked yet"
    labels = Path(tree["run_dir"]) / "label"
    labels.mkdir()
    Manifest("label", "complete", 0, "").write(labels)
    compare(store, "ada", tasks=3, ppo_rank=1)
    assert figures() == {"ppo/people_win_rate_vs_sft": 1.0}
    compare(store, "bob", tasks=3, ppo_rank=2)
    assert figures() == {"ppo/people_win_rate_vs_sft": 0.5}
    folder = Path(tree["run_dir"]) / "report"
    folder.mkdir()
    write_report(config, folder, ReportSection())
    page = (folder / "report.html").read_text(encoding="utf-8")
    row = page.split("Answers that labelers preferred")[1].split("</table>")[0]
    assert '<td>people</td><td><span data-json="/preferences/0/win_rate">50.0</span><' in row
