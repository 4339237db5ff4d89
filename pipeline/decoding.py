"""Change next-token logits by what a completion already holds.

The penalties of OpenAI's and CTRL's samplers, over generated tokens only: transformers counts the
prompt's tokens as well, and has no presence or frequency penalty.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pipeline.config.sampling import DecodingSection


class GeneratedTokenPenalty(LogitsProcessor):
    """Make tokens less likely that the completion already holds.

        z_v <- z_v / r if z_v > 0 else z_v * r      for each v generated (Keskar et al. 2019)
        z_v <- z_v - presence * [n_v > 0] - frequency * n_v

    n_v is how often token v was generated.

    Args:
        prompt_length: columns of the input that are prompt and padding.
        repetition: r, 1 is off.
        presence: subtracted once for each token that was generated.
        frequency: subtracted for each time a token was generated.
    """

    def __init__(
        self, prompt_length: int, repetition: float, presence: float, frequency: float
    ) -> None:
        self.prompt_length = prompt_length
        self.repetition = repetition
        self.presence = presence
        self.frequency = frequency

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the changed logits, [batch, vocabulary]."""
        generated = input_ids[:, self.prompt_length :]
        counts = torch.zeros_like(scores)
        counts.scatter_add_(1, generated, torch.ones_like(generated, dtype=scores.dtype))
        seen = counts > 0
        repeated = torch.where(scores > 0, scores / self.repetition, scores * self.repetition)
        scores = torch.where(seen, repeated, scores)
        return scores - self.presence * seen.to(scores.dtype) - self.frequency * counts


def logits_processors(
    decoding: DecodingSection, prompt_length: int, end_id: int, device: torch.device
) -> LogitsProcessorList:
    """Return the processors that the parameters ask for, in the order of transformers."""
    processors = LogitsProcessorList()
    penalties = (decoding.repetition_penalty, decoding.presence_penalty, decoding.frequency_penalty)
    if penalties != (1.0, 0.0, 0.0):
        processors.append(GeneratedTokenPenalty(prompt_length, *penalties))
    if decoding.min_new_tokens:
        processors.append(
            MinNewTokensLengthLogitsProcessor(
                prompt_length, decoding.min_new_tokens, end_id, device=str(device)
            )
        )
    if decoding.temperature not in (0.0, 1.0):
        processors.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.temperature and decoding.top_k:
        processors.append(TopKLogitsWarper(decoding.top_k))
    if decoding.temperature and decoding.top_p < 1:
        processors.append(TopPLogitsWarper(decoding.top_p))
    return processors
