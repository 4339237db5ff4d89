import dataclasses

import pytest
import torch

from pipeline.records import Prompt
from pipeline.rollout import Rollout
from pipeline.rollout_figures import (
    describe_answers,
    describe_components,
    describe_rollout,
    describe_tokens,
    repetition,
)


def make_rollout(**fields):
    """Make three completions of 5, 3 and 1 tokens in rows of 2 + 5 columns."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])

    def column():
        return torch.where(
            mask, torch.randn(3, 5, generator=generator, dtype=torch.float64), torch.nan
        )

    made = Rollout(
        ids=torch.tensor([[9, 9, 1, 2, 1, 2, 1], [9, 9, 3, 4, 5, 0, 0], [9, 9, 6, 0, 0, 0, 0]]),
        attention_mask=torch.cat([torch.ones(3, 2, dtype=torch.bool), mask], dim=1),
        completion_mask=mask,
        ended=torch.tensor([True, True, False]),
        prompts=(Prompt.from_text("a"),) * 3,
        components=torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 3.0]], dtype=torch.float64),
        scores=torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64),
        **{name: column() for name in ("logprobs", "ref_logprobs", "values")},
        scaled_scores=torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64),
        **{name: column() for name in ("rewards", "advantages", "returns")},
    )
    return dataclasses.replace(made, **fields)


@pytest.mark.parametrize(
    ("completions", "n", "share"),
    [
        ([[1, 2, 3, 4, 5]], 4, 0.0),
        ([[1, 2, 1, 2, 1, 2]], 4, 1 / 3),  # 1212, 2121, 1212
        ([[7] * 10], 4, 6 / 7),
        ([[1, 2, 3]], 4, 0.0),  # shorter than one 4-gram
        ([[7] * 10, [1, 2, 3, 4]], 4, 3 / 7),
        ([[1, 1, 2]], 1, 1 / 3),
        ([[]], 4, 0.0),
    ],
)
def test_repetition_is_the_share_of_ngrams_that_came_before(completions, n, share):
    assert repetition(completions, n) == pytest.approx(share)


def test_single_rewards_are_described_each_by_its_name():
    figures = describe_components(("a", "b"), make_rollout().components)
    assert figures == pytest.approx(
        {
            "reward/a": 2.0,
            "reward/a_std": (2 / 3) ** 0.5,
            "reward/b": 1.0,
            "reward/b_std": 2**0.5,
        }
    )


def test_answers_are_described_row_by_row_whatever_stands_in_the_padding():
    rollout = make_rollout()
    kl, k3, surprisal = [], [], []
    for row, length in enumerate((5, 3, 1)):
        policy, ref = rollout.logprobs[row, :length], rollout.ref_logprobs[row, :length]
        kl.append(float((policy - ref).sum()))
        k3.append(float(((ref - policy).exp() - 1 - (ref - policy)).sum()))
        surprisal.append(float(-policy.sum()))
    figures = describe_answers(rollout)
    assert figures["kl"] == pytest.approx(sum(kl) / 3)
    assert figures["kl_k3"] == pytest.approx(sum(k3) / 3)
    assert figures["entropy"] == pytest.approx(sum(surprisal) / 3)
    assert figures["scores"] == pytest.approx(3.0)
    assert figures["scores_std"] == pytest.approx((14 / 3) ** 0.5)
    assert figures["length"] == pytest.approx(3.0)
    assert figures["eos_rate"] == pytest.approx(2 / 3)
    assert figures["repetition"] == repetition([[1, 2, 1, 2, 1], [3, 4, 5], [6]])


def test_the_rewarded_score_less_the_penalty_is_the_objective():
    figures = describe_rollout(make_rollout(), 0.3)
    expected = 1.5 - 0.3 * figures["objective/kl"]
    assert figures["objective/rlhf_reward"] == pytest.approx(expected)
    assert figures["objective/scaled_scores"] == pytest.approx(1.5)
    assert figures["objective/kl_coef"] == 0.3
    assert not any(name.startswith("policy/") for name in figures)


def test_explained_variance_is_that_of_real_tokens():
    rollout = make_rollout()
    mask = rollout.completion_mask
    values, returns = rollout.values[mask], rollout.returns[mask]
    expected = 1 - (returns - values).var(correction=0) / returns.var(correction=0)
    computed = describe_rollout(rollout, 0.0)["value/explained_variance"]
    assert computed == pytest.approx(float(expected))


def test_the_gap_to_another_engine_is_described():
    rollout = make_rollout()
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    other = make_rollout(
        engine_logprobs=rollout.logprobs + 0.25 * sign,
        importance=torch.where(rollout.completion_mask, 1.5, torch.nan),
    )
    figures = describe_rollout(other, 0.0)
    assert figures["policy/engine_gap"] == pytest.approx(0.25)
    assert figures["policy/importance"] == pytest.approx(1.5)


def test_tokens_are_clipped_beyond_the_ranges():
    rollout = make_rollout()
    logprobs = rollout.logprobs + torch.tensor([0.0, 0.1, 0.2, -0.2, -0.3], dtype=torch.float64)
    values = rollout.values + torch.tensor([0.0, 0.1, 0.5, -0.1, -0.5], dtype=torch.float64)
    logits = torch.zeros(3, 5, 8, dtype=torch.float64)
    figures = describe_tokens(
        rollout, logits, logprobs, values, clip_range=0.2, value_clip_range=0.2
    )
    assert figures["policy/clipfrac"][0].tolist() == [0, 0, 1, 0, 1]  # e^-0.2 is 0.82, e^-0.3 0.74
    assert figures["value/clipfrac"][0].tolist() == [0, 0, 1, 0, 1]
    assert figures["policy/ratio"][0, 1].item() == pytest.approx(1.1051709180756477)
    assert figures["policy/approxkl"][0, 4].item() == pytest.approx(0.045)
    assert figures["policy/entropy"][0, 0].item() == pytest.approx(2.0794415416798357)
