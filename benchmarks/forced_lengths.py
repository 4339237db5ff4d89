"""Make completions end where a recorded list says, on any sampler that takes logits processors.

Both sides of a benchmark sample from the same random weights, but not the same tokens, so their
completions would end elsewhere. ``ForcedLengths`` forbids the end token before the length that was
recorded for a row and leaves nothing else at it. It finds the row by its prompt, and so works
whether a sampler keeps its batch or shrinks it. Neither model nor sampler is changed otherwise; the
cost is a comparison a row and token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from benchmarks.side_by_side import ROOT
from pipeline import sampling
from pipeline.config.sampling import DecodingSection

RECORDED = ROOT / "benchmarks" / "results" / "completion-lengths.json"


def recorded_lengths(limit: int, path: Path = RECORDED) -> list[int]:
    """Return the recorded lengths, end token included; ``limit + 1`` is no end within ``limit``.

    Args:
        limit: where both sides cut a completion, at most what the list was recorded with.
        path: the record, of ``benchmarks.completion_lengths``.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    cut = record["max_new_tokens"]
    assert limit <= cut, f"lengths were recorded up to {cut} tokens, got a limit of {limit}"
    return [min(length, limit + 1) for length in record["lengths"]]


class ForcedLengths(LogitsProcessor):
    """End each row at its length.

    Args:
        lengths: the place of the end token in the completion, from 1, by the prompt's ids; one
            beyond the sampler's limit never ends.
        prompt_tokens: of every prompt; none is padded.
        end_id: the end token.
        never: tokens that no completion may hold (padding, which would end it for some).
    """

    def __init__(
        self,
        lengths: Mapping[tuple[int, ...], int],
        prompt_tokens: int,
        end_id: int,
        never: Sequence[int],
    ) -> None:
        self.lengths = lengths
        self.prompt_tokens = prompt_tokens
        self.end_id = end_id
        self.never = list(never)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the changed logits, [batch, vocabulary]."""
        place = input_ids.shape[1] - self.prompt_tokens + 1
        prompts = input_ids[:, : self.prompt_tokens].tolist()
        ends = [self.lengths[tuple(prompt)] == place for prompt in prompts]
        scores = scores.clone()
        scores[:, [self.end_id, *self.never]] = float("-inf")
        if any(ends):
            rows = torch.tensor(ends, device=scores.device)
            scores[rows] = float("-inf")
            scores[rows, self.end_id] = 0.0
        return scores


@contextmanager
def in_our_sampler(forced: ForcedLengths) -> Iterator[None]:
    """Let ``pipeline.sampling`` end its completions by the list: after its own processors."""
    sampler: Any = sampling
    own = sampler.logits_processors

    def with_forced(
        decoding: DecodingSection, prompt_length: int, end_id: int, device: torch.device
    ) -> LogitsProcessorList:
        processors = own(decoding, prompt_length, end_id, device)
        return LogitsProcessorList([*processors, forced])

    sampler.logits_processors = with_forced
    try:
        yield
    finally:
        sampler.logits_processors = own


def in_generate(model: Any, forced: ForcedLengths) -> None:
    """Let a model's ``generate`` end its completions by the list, whatever it is called with."""
    own = model.generate

    def generate(*args: Any, **options: Any) -> Any:
        return own(*args, logits_processor=LogitsProcessorList([forced]), **options)

    model.generate = generate
