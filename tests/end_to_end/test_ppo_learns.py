"""PPO learns in every mode: scores rise, the KL stays bounded, the pretraining text is kept.

Read from the ``metrics.jsonl`` of real stage runs on a small policy, seeds fixed. The reward is the
share of vowels, in tenths: its mean starts near 0, with a standard deviation of 0.8 a completion,
so that a quarter's mean over 128 of them has a standard error of 0.07.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from stages.cli import main

LEARNING = Path(__file__).with_name("learning.yaml")
REWARD = '''
def count_vowels(prompts, completions):
    """Give ten times the share of vowels, less what the untrained policy has."""
    return [10 * sum(c in "aeiou" for c in text) / max(len(text), 1) - 3 for text in completions]
'''
RISE = 0.3
"""Least rise of the mean score from first to last quarter: four standard errors; the smallest was
0.62 when this was set."""
MOST_KL = 8.0
"""Nats a completion; the highest of the six was 5.3 when this was set."""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Return a run folder with a policy to start from; the reward can be imported."""
    folder = tmp_path_factory.mktemp("learning")
    (folder / "learning_reward.py").write_text(REWARD)
    sys.path.insert(0, str(folder))
    for stage in ("pretrain", "sft"):
        assert main([stage, str(LEARNING), f"run_dir={folder / 'run'}"]) == 0
    yield folder / "run"
    sys.path.remove(str(folder))
    sys.modules.pop("learning_reward", None)


@pytest.mark.parametrize(
    "stage", ["ppo", "ppo@ptx", "ppo@adapter", "ppo@adapter_ptx", "ppo@trunk", "ppo@trunk_ptx"]
)
def test_scores_rise_and_the_kl_stays_bounded(start, stage):
    assert main([stage, str(LEARNING), f"run_dir={start}"]) == 0
    log = (start / stage / "metrics.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in log.splitlines()]
    quarter = len(rows) // 4

    def means(key: str) -> tuple[float, float]:
        first, last = rows[:quarter], rows[-quarter:]
        return tuple(sum(row[key] for row in part) / quarter for part in (first, last))

    assert len(rows) == 16
    before, after = means("objective/scores")
    assert after - before > RISE
    assert max(row["objective/kl"] for row in rows) < MOST_KL
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    if stage.endswith("ptx"):
        before, after = means("loss/ptx")
        assert after < before
