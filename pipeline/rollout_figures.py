"""Describe what was sampled and how an update changes it: the figures of ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.config.rewards import metric_keys
from pipeline.losses import token_entropy
from pipeline.masked import masked_mean, masked_variance
from pipeline.rollout import Judged, Rollout

REPEATED = 4
"""Tokens of the n-grams whose repetition is counted (Welleck et al. 2019: seq-rep-4)."""


def repetition(completions: Sequence[Sequence[int]], n: int = REPEATED) -> float:
    """Return the share of repeated n-grams, mean over completions; 0 for one shorter than n.

        1 - |distinct n-grams| / |n-grams|

    Welleck et al. 2019, section 6.1 (seq-rep-n).

    Args:
        completions: token ids a completion.
        n: tokens an n-gram.
    """
    shares = []
    for ids in completions:
        grams = list(zip(*(ids[at:] for at in range(n)), strict=False))
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return sum(shares) / len(shares)


def describe_components(names: Sequence[str], components: Tensor) -> dict[str, float]:
    """Return each single reward's mean and standard deviation over completions.

    Args:
        names: of the rewards.
        components: their scores, [batch, rewards].
    """
    figures: dict[str, float] = {}
    for name, scores in zip(names, components.T, strict=True):
        mean, spread = metric_keys(name)
        figures |= {mean: float(scores.mean()), spread: float(scores.std(correction=0))}
    return figures


def describe_answers(judged: Judged) -> dict[str, float]:
    """Return means over completions: scores, KL, entropy, length, ends, repetition.

    ``kl`` is the sampled log-ratio (k1), ``kl_k3`` Schulman's estimator that is never negative;
    both are sums over a completion's tokens.
    """
    mask = judged.completion_mask
    log_ratio = torch.where(mask, judged.logprobs - judged.ref_logprobs, 0.0)
    k3 = torch.where(mask, (-log_ratio).exp() - 1 + log_ratio, 0.0).sum(dim=1)
    surprisal = torch.where(mask, -judged.logprobs, 0.0).sum(dim=1)
    lengths = mask.sum(dim=1)
    rows = judged.completions.tolist()
    completions = [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
    return {
        "kl": float(log_ratio.sum(dim=1).mean()),
        "kl_k3": float(k3.mean()),
        "scores": float(judged.scores.mean()),
        "scores_std": float(judged.scores.std(correction=0)),
        "entropy": float(surprisal.mean()),
        "length": float(lengths.double().mean()),
        "eos_rate": float(judged.ended.double().mean()),
        "repetition": repetition(completions),
    }


def describe_rollout(rollout: Rollout, kl_coef: float) -> dict[str, float]:
    """Return the figures of a rollout before its update.

    Args:
        rollout: all episodes of an iteration.
        kl_coef: the beta that its rewards were shaped with.
    """
    mask = rollout.completion_mask
    answers = {f"objective/{name}": figure for name, figure in describe_answers(rollout).items()}
    kl = torch.where(mask, rollout.logprobs - rollout.ref_logprobs, 0.0).sum(dim=1)
    unexplained = masked_variance(rollout.returns - rollout.values, mask)
    variance = masked_variance(rollout.returns, mask).clamp(min=1e-12)
    return {
        **answers,
        "objective/rlhf_reward": float((rollout.scaled_scores - kl_coef * kl).mean()),
        "objective/scaled_scores": float(rollout.scaled_scores.mean()),
        "objective/kl_coef": kl_coef,
        "value/mean": float(masked_mean(rollout.values, mask)),
        "value/explained_variance": float(1 - unexplained / variance),
        **_describe_engine(rollout),
    }


def _describe_engine(rollout: Rollout) -> dict[str, float]:
    """Return how far another engine's log-probabilities are from the trainer's, if there is one."""
    figures, mask = {}, rollout.completion_mask
    if rollout.engine_logprobs is not None:
        gap = (rollout.logprobs - rollout.engine_logprobs).abs()
        figures["policy/engine_gap"] = float(masked_mean(gap, mask))
    if rollout.importance is not None:
        figures["policy/importance"] = float(masked_mean(rollout.importance, mask))
    return figures


@torch.no_grad()
def describe_tokens(
    part: Rollout,
    logits: Tensor,
    logprobs: Tensor,
    values: Tensor,
    *,
    clip_range: float,
    value_clip_range: float,
) -> dict[str, Tensor]:
    """Return what an update does at each token, [batch, time] each.

    Args:
        part: the episodes of a micro-batch.
        logits: of the policy being trained, [batch, time, vocabulary].
        logprobs: of the completions' tokens under it, [batch, time].
        values: of the value model being trained, [batch, time].
        clip_range: beyond it a ratio counts as clipped.
        value_clip_range: beyond it a value's change does.
    """
    change = logprobs - part.logprobs
    ratio = change.exp()
    value_change = (values - part.values).abs()
    return {
        "policy/approxkl": 0.5 * change**2,
        "policy/clipfrac": ((ratio - 1).abs() > clip_range).to(ratio.dtype),
        "policy/ratio": ratio,
        "policy/entropy": token_entropy(logits),
        "value/clipfrac": (value_change > value_clip_range).to(ratio.dtype),
    }
