from __future__ import annotations

import math
import re

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from pipeline.errors import DataError
from pipeline.judges import RewardJudge, win_rate
from pipeline.models import load_reward_model, new_reward_model, save_model
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


def read(judge, prompt, text, size):
    """Return the score of a completion that is read in slices, and how many there were."""
    told = list(judge.read_slices(judge.encode(prompt, text), size))
    assert told[:-1] == [None] * (len(told) - 1)
    return told[-1], len(told)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_conversation_read_in_slices_has_the_score_of_one_read_at_once(reward_folder, size):
    judge = RewardJudge(reward_folder)
    for prompt, text, whole in zip(PROMPTS, TEXTS, judge(PROMPTS, TEXTS), strict=True):
        score, slices = read(judge, prompt, text, size)
        assert score == pytest.approx(whole, abs=1e-5)  # float32
        assert slices == math.ceil(len(judge.encode(prompt, text)) / size)


def test_a_window_slides_along_the_slices(make_policy, tiny_tokenizer, tiny_formatter, tmp_path):
    save_model(
        tmp_path / "policy", make_policy(0, sliding_window=6), tiny_tokenizer, "# A policy\n"
    )
    model = new_reward_model(tmp_path / "policy", tiny_formatter, seed=1)
    save_model(tmp_path / "reward", model, tiny_tokenizer, "# A judge\n")
    judge = RewardJudge(tmp_path / "reward")
    (whole,) = judge(PROMPTS[1:2], TEXTS[1:2])
    assert read(judge, PROMPTS[1], TEXTS[1], 4)[0] == pytest.approx(whole, abs=1e-5)  # float32


def test_an_encoder_reads_a_conversation_in_one_piece(tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tiny_tokenizer), intermediate_size=16, num_labels=1, **shape)
    save_model(tmp_path, BertForSequenceClassification(config), tiny_tokenizer, "# A judge\n")
    judge = RewardJudge(tmp_path)
    (whole,) = judge(PROMPTS[1:2], TEXTS[1:2])
    assert read(judge, PROMPTS[1], TEXTS[1], 4) == (pytest.approx(whole, abs=1e-5), 1)  # float32
    assert judge.context == 512


def test_a_judge_has_a_name_and_a_context(reward_folder):
    judge = RewardJudge(reward_folder)
    assert (judge.name, judge.context) == (str(reward_folder), 64)
    assert RewardJudge(reward_folder, name="a judge").name == "a judge"


def test_a_conversation_beyond_the_context_is_refused_by_its_prompt(reward_folder):
    judge = RewardJudge(reward_folder, name="a judge")
    room = 64 - len(judge.encode(PROMPTS[0], ""))
    texts = {size: "cat " * size for size in range(1, 64)}
    lengths = {size: len(judge.encode(PROMPTS[0], text)) for size, text in texts.items()}
    longest = max(size for size, length in lengths.items() if length <= 64)
    assert 0 < longest <= room
    assert judge.fits(PROMPTS[0], texts[longest])
    assert math.isfinite(judge(PROMPTS[:1], [texts[longest]])[0])
    assert not judge.fits(PROMPTS[0], texts[longest + 1])
    said = (
        f"a judge must be given conversations of at most 64 tokens, got {lengths[longest + 1]} at "
        f"prompt {PROMPTS[0].id} ('Hello Mia'...). Lower max_new_tokens, or shorten the prompts."
    )
    with pytest.raises(DataError, match=re.escape(said)):
        judge([PROMPTS[1], PROMPTS[0]], ["cat", texts[longest + 1]])


def test_a_win_counts_one_and_a_tie_half():
    assert win_rate([1, 2, 3, 4], [0, 2, 4, 0]) == (1 + 0.5 + 0 + 1) / 4
    assert win_rate([1.0], [1.0]) == 0.5
