from __future__ import annotations

import pytest
import torch

from pipeline.judges import RewardJudge, win_rate
from pipeline.models import load_reward_model
from pipeline.records import Prompt

PROMPTS = [Prompt.from_text(text) for text in ("Hello Mia", "Where does Tom live?", "cat")]
TEXTS = ["Hello.", "Tom lives in the town. Tom has a dog.", "dog"]


def test_the_reward_judge_scores_like_plain_transformers_less_the_offset(
    reward_folder, tiny_formatter
):
    scores = RewardJudge(reward_folder)(PROMPTS, TEXTS)
    model = load_reward_model(reward_folder).eval()
    for prompt, text, score in zip(PROMPTS, TEXTS, scores, strict=True):
        ids = tiny_formatter.prompt_ids(prompt.messages) + tiny_formatter.completion_ids(text)
        with torch.no_grad():
            raw = model(input_ids=torch.tensor([ids])).logits.item()
        assert score == pytest.approx(raw - 0.25, abs=1e-5)  # float32


def test_batches_and_order_change_no_score(reward_folder):
    together = RewardJudge(reward_folder, batch_size=3)(PROMPTS, TEXTS)
    alone = RewardJudge(reward_folder, batch_size=1)(PROMPTS[::-1], TEXTS[::-1])[::-1]
    assert together == pytest.approx(alone, abs=1e-5)  # float32


def test_a_win_counts_one_and_a_tie_half():
    assert win_rate([1, 2, 3, 4], [0, 2, 4, 0]) == (1 + 0.5 + 0 + 1) / 4
    assert win_rate([1.0], [1.0]) == 0.5
