"""Sample and compute with all processes of a stage: each does a share, and all end up with all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.config.sampling import DecodingSection
from pipeline.distributed import Workers
from pipeline.formatting import Formatter
from pipeline.records import Prompt
from pipeline.rollout import Episodes, lay_out
from pipeline.sampling import SampledText, sample_completions


@dataclass(frozen=True)
class EpisodeSampler:
    """Draw completions, the same ones however many processes draw them.

    Attributes:
        workers: the processes at work.
        formatter: of the tokenizer that the models share.
        decoding: temperature and lengths.
        seed: the run's.
        batch_size: completions at once on one process.
    """

    workers: Workers
    formatter: Formatter
    decoding: DecodingSection
    seed: int
    batch_size: int

    def sample(
        self,
        model: Any,
        prompts: Sequence[Prompt],
        *,
        step: int = 0,
        sample_index: Sequence[int] | None = None,
    ) -> list[SampledText]:
        """Sample a completion for each prompt, in the prompts' order.

        Args:
            model: a policy, wrapped or not.
            prompts: what to answer.
            step: part of the key of the randomness.
            sample_index: part of it too, one a prompt; 0 for all by default.
        """
        workers = self.workers
        index = [0] * len(prompts) if sample_index is None else sample_index
        share = range(workers.rank, len(prompts), workers.world_size)
        with workers.autocast():
            sampled = sample_completions(
                workers.unwrap(model),
                self.formatter,
                [prompts[row] for row in share],
                self.decoding,
                seed=self.seed,
                step=step,
                sample_index=[index[row] for row in share],
                batch_size=self.batch_size,
            )
        completions = dict(workers.gather_objects(list(zip(share, sampled, strict=True))))
        return [completions[row] for row in range(len(prompts))]

    def roll_out(
        self,
        model: Any,
        prompts: Sequence[Prompt],
        encoded: Sequence[Sequence[int]],
        *,
        step: int = 0,
        sample_index: Sequence[int] | None = None,
    ) -> Episodes:
        """Sample as ``sample`` does, and lay prompts and completions out in rows.

        Args:
            model: as for ``sample``.
            prompts: as for ``sample``.
            encoded: the prompts' token ids.
            step: as for ``sample``.
            sample_index: as for ``sample``.
        """
        sampled = self.sample(model, prompts, step=step, sample_index=sample_index)
        rows = [completion.ids for completion in sampled]
        ids, attention_mask, completion_mask = lay_out(encoded, rows, self.formatter.pad_id)
        # The token that sampling stops at, whatever the tokenizer calls its end of text.
        ended = torch.tensor([row[-1] == self.formatter.end_id for row in rows])
        device = self.workers.device
        return Episodes(
            ids=ids.to(device),
            attention_mask=attention_mask.to(device),
            completion_mask=completion_mask.to(device),
            ended=ended.to(device),
            prompts=tuple(prompts),
        )


def spread(
    workers: Workers,
    episodes: Episodes,
    batch_size: int,
    dtype: torch.dtype,
    compute: Callable[[Episodes], Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Compute figures of episodes, each process on its share of the rows.

    Args:
        workers: the processes at work.
        episodes: all of them, on every process.
        batch_size: rows at once on one process.
        dtype: of the figures.
        compute: gives named figures of a few rows without their common padding: [rows], or
            [rows, time] over the completion's tokens.
    Returns:
        The figures of all rows, on every process; zero where the completion mask is False.
    """
    mask, device = episodes.completion_mask, workers.device
    columns: dict[str, Tensor] = {}
    share = torch.arange(workers.rank, len(episodes), workers.world_size)
    for start in range(0, len(share), batch_size):
        rows = share[start : start + batch_size]
        part = episodes.rows(rows).trimmed()
        for name, values in compute(part).items():
            whole = mask.shape if values.dim() == 2 else mask.shape[:1]
            column = columns.setdefault(name, torch.zeros(whole, dtype=dtype, device=device))
            if values.dim() == 2:
                column[rows, : values.shape[1]] = values.to(dtype)
            else:
                column[rows] = values.to(dtype)
    # Each row was filled on one process, and is zero on the others.
    return {
        name: torch.where(mask, total, 0.0) if total.dim() == 2 else total
        for name, total in ((name, workers.total(column)) for name, column in columns.items())
    }
