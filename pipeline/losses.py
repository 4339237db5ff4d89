"""Compute PPO's losses a token: pure functions; the caller masks, sums and divides."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.masked import require_same_shape


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probability of each token, [batch, time].

    At least float32, whatever the logits' type; float64 stays float64.

    Args:
        logits: [batch, time, vocabulary].
        tokens: ids, [batch, time].
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(dim=-1)


def token_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each next-token distribution in nats, [batch, time]."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logprobs = logits.log_softmax(dim=-1)
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float
) -> Tensor:
    """Return PPO's clipped surrogate loss of each token.

        L_t = -min(rho_t A_t, clip(rho_t, 1 - eps, 1 + eps) A_t),   rho_t = pi(a_t) / pi_old(a_t)

    Schulman et al. 2017, eq. 7.

    Args:
        logprobs: under the policy being trained, [batch, time].
        old_logprobs: under the policy that sampled, [batch, time].
        advantages: A_t, [batch, time].
        clip_range: eps.
    Raises:
        ShapeError: if the shapes differ.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def importance_weights(logprobs: Tensor, engine_logprobs: Tensor, cap: float) -> Tensor:
    """Return the truncated importance weight of each token that another engine sampled.

        w_t = min(pi(a_t) / pi_engine(a_t), C)

    With the policy gradient times w, an expectation over the engine's samples is one over the
    policy's; the cap trades a little bias for a bounded variance (Ionides 2008; for engines of
    reinforcement learning Yao et al. 2025).

    Args:
        logprobs: of the sampled tokens as the trainer computes them, [batch, time].
        engine_logprobs: as the engine that sampled computed them, [batch, time].
        cap: C.
    Raises:
        ShapeError: if the shapes differ.
    """
    require_same_shape(logprobs=logprobs, engine_logprobs=engine_logprobs)
    return (logprobs - engine_logprobs).exp().clamp(max=cap)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, value_clip_range: float
) -> Tensor:
    """Return the clipped value loss of each token.

        L_t = 1/2 max((V_t - R_t)^2, (clip(V_t, V_old - eps, V_old + eps) - R_t)^2)

    Stiennon et al. 2020's code; N implementation details of RLHF, 19.

    Args:
        values: V_t of the value model being trained, [batch, time].
        old_values: at the time of the rollout, [batch, time].
        returns: R_t, [batch, time].
        value_clip_range: eps.
    Raises:
        ShapeError: if the shapes differ.
    """
    require_same_shape(values=values, old_values=old_values, returns=returns)
    change = (values - old_values).clamp(-value_clip_range, value_clip_range)
    clipped = old_values + change
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
