"""Shape rewards and estimate advantages: pure functions on ``[batch, time]`` tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.masked import last_token, require_same_shape


def shape_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    completion_mask: Tensor,
    kl_coef: float,
) -> Tensor:
    """Give each token its KL penalty, and the last real token the score.

        r_t = -beta * (log pi(a_t|s_t) - log pi_ref(a_t|s_t)) + [t is last] * score

    Ouyang et al. 2022, eq. 2 without the pretraining term; Ziegler et al. 2019, eq. 2. The rewards
    of a row sum to score - beta * KL, where KL is the sampled log-ratio (k1).

    Args:
        scores: from the reward model, [batch].
        logprobs: of the sampled tokens under the policy, [batch, time].
        ref_logprobs: under the reference, [batch, time].
        completion_mask: True at real completion tokens, [batch, time].
        kl_coef: beta.
    Returns:
        Rewards, [batch, time]; zero where the mask is False.
    Raises:
        ShapeError: if the shapes differ.
    """
    require_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs, mask=completion_mask)
    require_same_shape(scores=scores, rows=logprobs[:, 0])
    rewards = torch.where(completion_mask, -kl_coef * (logprobs - ref_logprobs), 0.0)
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, last_token(completion_mask)] += scores
    return rewards


def estimate_advantages(
    rewards: Tensor, values: Tensor, completion_mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Estimate advantages with GAE(gamma, lambda).

        A_t = sum_l (gamma * lambda)^l * delta_{t+l}
        delta_t = r_t + gamma * V_{t+1} - V_t,   V = 0 past the last real token

    Schulman et al. 2016, eq. 16.

    Args:
        rewards: KL-shaped rewards, [batch, time], in score units.
        values: V_t, the value before token t, [batch, time].
        completion_mask: True at real completion tokens, [batch, time].
        gamma: discount.
        gae_lambda: lambda.
    Returns:
        Advantages and returns (A_t + V_t), [batch, time]; zero where the mask is False.
    Raises:
        ShapeError: if the shapes differ.
    """
    require_same_shape(rewards=rewards, values=values, completion_mask=completion_mask)
    rewards = torch.where(completion_mask, rewards, 0.0)
    values = torch.where(completion_mask, values, 0.0)
    advantages = torch.zeros_like(rewards)
    advantage = next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * gae_lambda * advantage
        # Past the last real token nothing is carried back.
        advantage = torch.where(completion_mask[:, t], advantage, 0.0)
        advantages[:, t] = advantage
        next_value = values[:, t]
    return advantages, torch.where(completion_mask, advantages + values, 0.0)
