"""Hold what one PPO iteration sampled and learned about it, and cut it into minibatches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from pipeline.records import Prompt

COLUMNS = 8
"""Prompts and completions of a batch take a multiple of these columns where there are as many:
libraries prepare a kernel for every new shape, and GPUs multiply eights faster."""
LIKE = 0.75
"""Share of its batch's longest row that a row must have to be scored in one batch with it."""


@dataclass(frozen=True)
class Episodes:
    """Prompts with their sampled completions, one row an episode.

    Rows are laid out as left padding, prompt, completion, right padding; completions begin in the
    same column for every row.

    Attributes:
        ids: the whole rows, [batch, width].
        attention_mask: True at real tokens, [batch, width].
        completion_mask: True at real completion tokens, [batch, time].
        ended: True where the completion ended by itself, [batch].
        prompts: what was asked, one a row.
        engine_logprobs: of the completions as the engine that sampled them computed them,
            [batch, time]; None where it recorded none.
    """

    ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor
    ended: Tensor
    prompts: tuple[Prompt, ...]
    engine_logprobs: Tensor | None = field(default=None, kw_only=True)

    @property
    def completions(self) -> Tensor:
        """Return the completion columns of the ids, [batch, time]."""
        return self.ids[:, -self.completion_mask.shape[1] :]

    @property
    def token_count(self) -> int:
        """Return how many real completion tokens there are."""
        return int(self.completion_mask.sum())

    def __len__(self) -> int:
        """Return how many episodes there are."""
        return self.ids.shape[0]

    def rows(self, index: Tensor) -> Self:
        """Return the episodes of an index."""
        prompts = tuple(self.prompts[i] for i in index.tolist())
        index = index.to(self.ids.device)
        rows: dict[str, Any] = {name: tensor[index] for name, tensor in self._tensors().items()}
        return dataclasses.replace(self, prompts=prompts, **rows)

    def split(self, size: int, order: Tensor) -> Iterator[Self]:
        """Yield parts of ``size`` episodes, in the given order."""
        for start in range(0, len(order), size):
            yield self.rows(order[start : start + size])

    @property
    def lengths(self) -> Tensor:
        """Return how many tokens each episode has, prompt included, in main memory, [batch]."""
        return self.attention_mask.sum(dim=1).cpu()

    def by_length(self, rows: Tensor) -> Tensor:
        """Sort rows by how many tokens they have, the longest first."""
        return rows[self.lengths[rows].argsort(descending=True, stable=True)]

    def alike(self, rows: Tensor, size: int) -> Iterator[Tensor]:
        """Yield batches of at most ``size`` rows, none much shorter than its batch's longest."""
        lengths = self.lengths.tolist()
        batch: list[int] = []
        for row in self.by_length(rows).tolist():
            if len(batch) == size or (batch and lengths[row] < LIKE * lengths[batch[0]]):
                yield torch.tensor(batch)
                batch = []
            batch.append(row)
        if batch:
            yield torch.tensor(batch)

    def trimmed(self) -> Self:
        """Drop columns that are padding in every row, and keep a multiple of ``COLUMNS``."""
        time = self.completion_mask.shape[1]
        prompt = self.ids.shape[1] - time
        longest = prompt - int(self.attention_mask.any(dim=0).int().argmax())
        first = prompt - min(prompt, _rounded_up(longest))
        last = min(time, _rounded_up(max(1, int(self.completion_mask.any(dim=0).sum()))))
        width = slice(first, prompt + last)
        cut: dict[str, Any] = {
            name: tensor[:, width if name in ("ids", "attention_mask") else slice(last)]
            for name, tensor in self._tensors().items()
            if tensor.dim() == 2 and name != "components"
        }
        return dataclasses.replace(self, **cut)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Judged(Episodes):
    """Episodes with what the four models say of them.

    Attributes:
        scores: weighted sum of the rewards, what a missing end costs included, [batch].
        components: the single rewards before weights and penalty, [batch, rewards].
        logprobs: of the completions under the policy that sampled them, [batch, time].
        ref_logprobs: under the reference, [batch, time].
        values: before each completion token, [batch, time].
    """

    scores: Tensor
    components: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor


@dataclass(frozen=True)
class Rollout(Judged):
    """Episodes with all that the update needs.

    Attributes:
        scaled_scores: the scores as they are rewarded: scaled and clipped, [batch].
        rewards: KL-shaped, [batch, time].
        advantages: [batch, time].
        returns: [batch, time].
        importance: weights that make up for the engine's sampling, [batch, time]; None where it
            recorded no log-probabilities, or they are not to weigh.
    """

    scaled_scores: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    importance: Tensor | None = field(default=None, kw_only=True)


def _rounded_up(columns: int) -> int:
    return -(-columns // COLUMNS) * COLUMNS


def lay_out(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Put prompts and completions in rows whose completions begin in the same column.

    Args:
        prompts: token ids a row.
        completions: token ids a row.
        pad_id: fills what is no token.
    Returns:
        ids and attention mask, [batch, width], and the completion mask, [batch, time].
    """
    prompt_width = max(len(prompt) for prompt in prompts)
    time = max(len(completion) for completion in completions)
    ids = torch.full((len(prompts), prompt_width + time), pad_id, dtype=torch.long)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        real = slice(prompt_width - len(prompt), prompt_width + len(completion))
        ids[i, real] = torch.tensor([*prompt, *completion], dtype=torch.long)
        mask[i, real] = True
    return ids, mask, mask[:, prompt_width:]
