import pytest
import torch

from pipeline.advantages import estimate_advantages, shape_rewards
from pipeline.errors import ShapeError

LENGTHS = [5, 1, 3]


def random_rows(seed: int, time: int = 5):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), time)
    mask = torch.arange(time) < torch.tensor(LENGTHS)[:, None]
    return torch.randn(shape, dtype=torch.float64, generator=generator), mask


def brute_force(rewards, values, length, gamma, lam):
    """Sum the definition term by term, one row."""
    advantages = []
    for t in range(length):
        total = 0.0
        for step in range(length - t):
            now = t + step
            following = values[now + 1] if now + 1 < length else 0.0
            delta = rewards[now] + gamma * following - values[now]
            total += (gamma * lam) ** step * delta
        advantages.append(total)
    return advantages


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_gae_is_the_sum_of_its_definition(gamma, lam):
    rewards, mask = random_rows(0)
    values, _ = random_rows(1)
    advantages, returns = estimate_advantages(rewards, values, mask, gamma, lam)
    for row, length in enumerate(LENGTHS):
        expected = brute_force(rewards[row].tolist(), values[row].tolist(), length, gamma, lam)
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-12)
        expected_returns = advantages[row, :length] + values[row, :length]
        assert torch.equal(returns[row, :length], expected_returns)
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


def test_without_discount_and_lambda_one_it_telescopes_to_return_minus_value():
    rewards, mask = random_rows(2)
    values, _ = random_rows(3)
    advantages, _ = estimate_advantages(rewards, values, mask, 1.0, 1.0)
    for row, length in enumerate(LENGTHS):
        to_go = rewards[row, :length].flip(0).cumsum(0).flip(0)
        expected = to_go - values[row, :length]
        assert torch.allclose(advantages[row, :length], expected, atol=1e-12)


def test_what_stands_in_the_padding_changes_nothing():
    rewards, mask = random_rows(4)
    values, _ = random_rows(5)
    clean = estimate_advantages(rewards, values, mask, 1.0, 0.95)
    dirty = estimate_advantages(
        torch.where(mask, rewards, float("nan")),
        torch.where(mask, values, 1e9),
        mask,
        1.0,
        0.95,
    )
    assert torch.equal(clean[0], dirty[0])
    assert torch.equal(clean[1], dirty[1])


def test_shaped_rewards_sum_to_score_minus_beta_kl():
    logprobs, mask = random_rows(6)
    ref_logprobs, _ = random_rows(7)
    scores = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    rewards = shape_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=0.3)
    kl = torch.where(mask, logprobs - ref_logprobs, 0.0).sum(dim=1)
    assert torch.allclose(rewards.sum(dim=1), scores - 0.3 * kl, atol=1e-12)
    assert (rewards[~mask] == 0).all()


def test_the_score_stands_on_the_last_real_token():
    logprobs, mask = random_rows(8)
    scores = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    rewards = shape_rewards(scores, logprobs, logprobs, mask, kl_coef=0.3)
    for row, length in enumerate(LENGTHS):
        assert rewards[row, length - 1] == scores[row]
        assert rewards[row].count_nonzero() == 1


def test_a_policy_that_is_the_reference_pays_no_kl():
    logprobs, mask = random_rows(9)
    zero = torch.zeros(3, dtype=torch.float64)
    assert shape_rewards(zero, logprobs, logprobs, mask, kl_coef=9.0).count_nonzero() == 0


def test_shapes_must_be_equal():
    rewards, mask = random_rows(0)
    with pytest.raises(ShapeError):
        estimate_advantages(rewards, rewards[:, :-1], mask, 1.0, 1.0)
    with pytest.raises(ShapeError):
        shape_rewards(torch.zeros(2), rewards, rewards, mask, 0.1)
