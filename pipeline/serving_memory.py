"""Tell what memory a request takes beside the weights: the keys and values of all it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.cached_model import TokenCache
from pipeline.judges import RewardJudge
from pipeline.models import reads_last_token
from pipeline.served_models import Served
from pipeline.serving_messages import DistributionRequest, GenerationRequest
from pipeline.streaming import Policy


def room_for(request: GenerationRequest | DistributionRequest, models: Sequence[Served]) -> int:
    """Return the bytes of keys and values that a request may come to hold.

    Answers count at their full length: all go on until ``max_new_tokens`` at worst.

    Args:
        request: what is asked.
        models: the policy first.
    """
    policies = [model for model in models if isinstance(model, Policy)]
    length = len(policies[0].formatter.prompt_ids(request.prompt)) + _more_tokens(request)
    if length > policies[0].context:
        # It is refused when it begins.
        return 0
    rows = [cache_bytes(one.model, length) for one in policies]
    if isinstance(request, DistributionRequest):
        # One model reads after the other.
        return max(rows)
    judges = [model for model in models if isinstance(model, RewardJudge)]
    # It reads one answer after the other, and encoders keep nothing.
    scores = [cache_bytes(one.model, length) for one in judges if reads_last_token(one.model)]
    return request.samples * sum(rows) + sum(scores)


def _more_tokens(request: GenerationRequest | DistributionRequest) -> int:
    if isinstance(request, DistributionRequest):
        return len(request.prefix)
    return request.decoding.max_new_tokens


def cache_bytes(model: Any, length: int) -> int:
    """Return what a model keeps of a row that it has read.

        bytes = sum over layers of 2 * key heads * head size * tokens kept * bytes a number

    Args:
        model: a decoder.
        length: of the row, tokens; a layer with a sliding window keeps no more than that.
    """
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = sum(
        min(length, getattr(layer, "sliding_window", length))
        for layer in TokenCache(config=model.config).layers
    )
    return int(2 * key_heads * size * kept * model.dtype.itemsize)
