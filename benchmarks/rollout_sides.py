"""Sample completions on one side, ours or transformers', in a process of its own.

``python -m benchmarks.rollout_sides ORDER`` with ``Order`` as JSON; ``benchmarks.rollout_vs_hf``
starts it. Weights, prompts, lengths and sampling are the same on both.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from benchmarks.forced_lengths import ForcedLengths, in_generate, in_our_sampler
from benchmarks.machine import peak_memory
from benchmarks.side_by_side import answer
from benchmarks.subjects import SHAPES, draw_prompts
from pipeline.config.sampling import DecodingSection
from pipeline.formatting import Formatter
from pipeline.models import load_policy
from pipeline.records import Prompt
from pipeline.sampling import sample_completions
from pipeline.tokenizer import load_tokenizer

SEED = 0


@dataclass(frozen=True)
class Order:
    """Say what a side has to do.

    Attributes:
        side: ``ours`` or ``transformers``.
        shape: of the policy, a key of ``subjects.SHAPES``.
        policy: its folder.
        prompt_tokens: of every prompt.
        max_new_tokens: limit of a completion.
        lengths: of the completions; the first batch of them warms up.
        batch: completions at once.
        threads: to compute with.
    """

    side: str
    shape: str
    policy: str
    prompt_tokens: int
    max_new_tokens: int
    lengths: list[int]
    batch: int
    threads: int


class Sampler:
    """Sample batches of completions on one side.

    Args:
        order: what to do.
    """

    def __init__(self, order: Order) -> None:
        policy, count = Path(order.policy), len(order.lengths)
        self.order, self.formatter = order, Formatter(load_tokenizer(policy))
        self.model: Any = load_policy(policy).eval()
        vocabulary = SHAPES[order.shape].vocabulary
        self.prompts: list[Prompt] = draw_prompts(count, order.prompt_tokens, vocabulary, SEED)
        self.encoded = [self.formatter.prompt_ids(prompt.messages) for prompt in self.prompts]
        lengths = {
            tuple(ids): length for ids, length in zip(self.encoded, order.lengths, strict=True)
        }
        assert len(lengths) == count, "two prompts are the same; draw longer ones"
        formatter = self.formatter
        self.forced = ForcedLengths(
            lengths, order.prompt_tokens, formatter.end_id, [formatter.pad_id]
        )

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Put the forced lengths into the side's sampler."""
        if self.order.side == "ours":
            with in_our_sampler(self.forced):
                yield
        else:
            in_generate(self.model, self.forced)
            torch.manual_seed(SEED)
            yield

    def lengths_of(self, start: int) -> list[int]:
        """Sample one batch, from the prompt number ``start`` on, and return its lengths."""
        rows = slice(start, start + self.order.batch)
        if self.order.side == "ours":
            sampled = sample_completions(
                self.model,
                self.formatter,
                self.prompts[rows],
                DecodingSection(max_new_tokens=self.order.max_new_tokens),
                seed=SEED,
                batch_size=self.order.batch,
            )
            return [len(one.ids) for one in sampled]
        ids = torch.tensor(self.encoded[rows])
        found = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.order.max_new_tokens,
            eos_token_id=self.formatter.end_id,
            pad_token_id=self.formatter.pad_id,
        )
        lengths: list[int] = (found[:, ids.shape[1] :] != self.formatter.pad_id).sum(dim=1).tolist()
        return lengths


def main() -> None:
    """Run one side."""
    order = Order(**json.loads(sys.argv[1]))
    torch.set_num_threads(order.threads)
    logging.set_verbosity_error()
    sampler = Sampler(order)
    with sampler.prepared():
        sampler.lengths_of(0)
        begin, found = time.perf_counter(), []
        for start in range(order.batch, len(order.lengths), order.batch):
            found += sampler.lengths_of(start)
        seconds = time.perf_counter() - begin
    expected = [min(length, order.max_new_tokens) for length in order.lengths[order.batch :]]
    assert found == expected, f"completions must have the given lengths {expected}, got {found}"
    answer(
        {
            "completions_per_second": len(found) / seconds,
            "tokens_per_second": sum(found) / seconds,
            "peak_bytes": peak_memory(),
        }
    )


if __name__ == "__main__":
    main()
