"""Run models over episodes, and read what they say of the completions' tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipeline.distributed import Workers
from pipeline.masked import positions
from pipeline.rollout import Episodes


def model_inputs(episodes: Episodes) -> dict[str, Any]:
    """Return what a forward pass over whole episodes takes, wherever their padding is."""
    return {
        "input_ids": episodes.ids,
        "attention_mask": episodes.attention_mask.long(),
        "position_ids": positions(episodes.attention_mask),
        "use_cache": False,
    }


def completion_logits(
    workers: Workers, model: Any, episodes: Episodes, temperature: float
) -> Tensor:
    """Return the logits that the completion tokens were drawn from, [batch, time, vocabulary].

    Divided by the sampling temperature, so that training sees the distribution that was sampled
    (N details, 10).
    """
    time = episodes.completion_mask.shape[1]
    with workers.autocast():
        logits: Tensor = model(**model_inputs(episodes), logits_to_keep=time + 1).logits[:, :-1]
    return logits / temperature


def completion_values(workers: Workers, model: Any, episodes: Episodes) -> Tensor:
    """Return the value before each completion token, [batch, time]."""
    time = episodes.completion_mask.shape[1]
    with workers.autocast():
        values: Tensor = model(**model_inputs(episodes)).logits[:, -time - 1 : -1, 0]
    return values


def completion_logits_and_values(
    workers: Workers, model: Any, episodes: Episodes, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return what the two functions above return, from one pass of a policy with a value head."""
    time = episodes.completion_mask.shape[1]
    with workers.autocast():
        output, values = model(**model_inputs(episodes), logits_to_keep=time + 1, with_values=True)
    return output.logits[:, :-1] / temperature, values[:, -time - 1 : -1]
