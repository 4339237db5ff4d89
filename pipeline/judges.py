"""Judge completions by a reward model, and compare two judged lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.distributed import Workers
from pipeline.formatting import Formatter
from pipeline.models import load_reward_model, score_offset, score_sequences
from pipeline.ranking_data import pad_right
from pipeline.records import Prompt
from pipeline.rollout import lay_out
from pipeline.sampling import batches_by_length
from pipeline.tokenizer import load_tokenizer


class Judge(Protocol):
    """Give each completion one number; more is better."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Return a score a completion."""


class RewardJudge:
    """Score with a reward model; demonstrations score 0 on average.

    Args:
        path: the reward stage's ``model/``.
        device: where it computes.
        batch_size: completions a forward pass.
    """

    def __init__(
        self, path: Path, device: torch.device | str = "cpu", batch_size: int = 32
    ) -> None:
        self.model: Any = load_reward_model(path).eval().to(device)
        self.formatter = Formatter(load_tokenizer(path))
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Return the reward model's score of each completion."""
        formatter = self.formatter
        before = [formatter.prompt_ids(prompt.messages) for prompt in prompts]
        after = [formatter.completion_ids(text) for text in completions]
        scores = [0.0] * len(before)
        whole = [a + b for a, b in zip(before, after, strict=True)]
        for rows in batches_by_length(whole, self.batch_size):
            ids, mask, _ = lay_out(
                [before[row] for row in rows], [after[row] for row in rows], formatter.pad_id
            )
            ids, mask = ids.to(self.model.device), mask.to(self.model.device)
            raw = score_sequences(self.model, ids, mask) - score_offset(self.model)
            for row, score in zip(rows, raw.tolist(), strict=True):
                scores[row] = score
        return scores


@torch.no_grad()
def score_rows(
    model: Any, rows: Sequence[list[int]], pad_id: int, batch_size: int, crew: Workers
) -> list[float]:
    """Score encoded conversations, before the offset, shared among the processes.

    Args:
        model: a reward model, not wrapped.
        rows: token ids.
        pad_id: what to pad with.
        batch_size: rows a forward pass.
        crew: the processes at work.
    """
    model.eval()
    mine = range(crew.rank, len(rows), crew.world_size)
    scored: list[tuple[int, float]] = []
    for batch in batches_by_length([rows[i] for i in mine], batch_size):
        ids, mask = pad_right([rows[mine[i]] for i in batch], pad_id)
        scores = score_sequences(model, ids.to(crew.device), mask.to(crew.device))
        scored += zip((mine[i] for i in batch), scores.tolist(), strict=True)
    return [score for _, score in sorted(crew.gather_objects(scored))]


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return how often ours scores above theirs on the same prompt, ties half."""
    wins = [float(a > b) + 0.5 * float(a == b) for a, b in zip(ours, theirs, strict=True)]
    return sum(wins) / len(wins)
