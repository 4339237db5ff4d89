"""Judge completions by a reward model, and compare two judged lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.cached_model import TokenCache
from pipeline.distributed import Workers
from pipeline.errors import DataError
from pipeline.formatting import Formatter
from pipeline.masked import positions
from pipeline.models import load_reward_model, reads_last_token, score_offset, score_sequences
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
        name: what to call it; None for its path.

    Attributes:
        name: what it is called.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        name: str | None = None,
    ) -> None:
        self.model: Any = load_reward_model(path).eval().to(device)
        self.formatter = Formatter(load_tokenizer(path))
        self.batch_size = batch_size
        self.name = name or str(path)

    @property
    def context(self) -> int | None:
        """Return the longest conversation that it can read, tokens; None for any length."""
        found: int | None = getattr(self.model.config, "max_position_embeddings", None)
        return found

    def fits(self, prompt: Prompt, completion: str) -> bool:
        """Tell whether the context has room for a prompt and its completion."""
        return self.context is None or len(self.encode(prompt, completion)) <= self.context

    def check(
        self, prompts: Sequence[Prompt], completions: Sequence[str]
    ) -> list[tuple[list[int], list[int]]]:
        """Encode prompts and completions, each of which must fit in the context with its prompt.

        Processes that share the completions must each check all of them first: one that found its
        own too long, and stopped alone, would leave the others waiting.

        Raises:
            DataError: if one does not fit; names its prompt.
        """
        pairs = []
        for prompt, completion in zip(prompts, completions, strict=True):
            before = self.formatter.prompt_ids(prompt.messages)
            after = self.formatter.completion_ids(completion)
            if self.context is not None and len(before) + len(after) > self.context:
                raise DataError(
                    f"{self.name} must be given conversations of at most {self.context} tokens, "
                    f"got {len(before) + len(after)} at prompt {prompt.id} "
                    f"({prompt.messages[-1]['content'][:40]!r}...). "
                    "Lower max_new_tokens, or shorten the prompts."
                )
            pairs.append((before, after))
        return pairs

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """Return the reward model's score of each completion.

        Raises:
            DataError: if one does not fit in the context with its prompt.
        """
        pairs = self.check(prompts, completions)
        scores = [0.0] * len(pairs)
        for rows in batches_by_length([a + b for a, b in pairs], self.batch_size):
            before, after = zip(*(pairs[row] for row in rows), strict=True)
            ids, mask, _ = lay_out(before, after, self.formatter.pad_id)
            ids, mask = ids.to(self.model.device), mask.to(self.model.device)
            raw = score_sequences(self.model, ids, mask) - score_offset(self.model)
            for row, score in zip(rows, raw.tolist(), strict=True):
                scores[row] = score
        return scores

    def encode(self, prompt: Prompt, completion: str) -> list[int]:
        """Return the conversation's tokens, as it reads them."""
        return [
            *self.formatter.prompt_ids(prompt.messages),
            *self.formatter.completion_ids(completion),
        ]

    @torch.no_grad()
    def read_slices(self, ids: Sequence[int], size: int) -> Iterator[float | None]:
        """Read one conversation bit by bit, to the score that a call gives it.

        An encoder, which needs all of it at once, reads it in one piece.

        Args:
            ids: from ``encode``, no longer than the context.
            size: most tokens that are read at once.
        Yields:
            None after each slice but the last, and the score after that.
        """
        row = torch.tensor([list(ids)], dtype=torch.long, device=self.model.device)
        mask = torch.ones_like(row, dtype=torch.bool)
        offset = score_offset(self.model)
        if not reads_last_token(self.model):
            yield float(score_sequences(self.model, row, mask)) - offset
            return
        cache = TokenCache(config=self.model.config)
        places = positions(mask)
        for start in range(0, len(ids), size):
            end = start + size
            hidden = self.model.base_model(
                input_ids=row[:, start:end],
                attention_mask=mask[:, :end].long(),
                position_ids=places[:, start:end],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            is_last = end >= len(ids)
            yield float(self.model.score(hidden[:, -1])) - offset if is_last else None


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
