"""Sample and compute with all processes of a stage: each does a share, and all end up with all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.config.sampling import DecodingSection
from pipeline.distributed import Workers
from pipeline.engines import RolloutEngine
from pipeline.formatting import Formatter
from pipeline.records import Prompt
from pipeline.rollout import Episodes, lay_out
from pipeline.sampling import SampledText, SampledTokens, read_text, sampling_keys


@dataclass(frozen=True)
class EpisodeSampler:
    """Have an engine draw completions, with ``HfEngine`` the same ones on any number of processes.

    Attributes:
        workers: the processes at work.
        formatter: of the tokenizer that the models share.
        engine: draws the completions of one process.
        seed: the run's.
    """

    workers: Workers
    formatter: Formatter
    engine: RolloutEngine
    seed: int

    @property
    def decoding(self) -> DecodingSection:
        """Return the engine's temperature and lengths."""
        return self.engine.decoding

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
        encoded = [self.formatter.prompt_ids(prompt.messages) for prompt in prompts]
        drawn = self._draw(model, prompts, encoded, step, sample_index)
        return [read_text(row.ids, self.decoding, self.formatter) for row in drawn]

    def _draw(
        self,
        model: Any,
        prompts: Sequence[Prompt],
        encoded: Sequence[Sequence[int]],
        step: int,
        sample_index: Sequence[int] | None,
    ) -> list[SampledTokens]:
        workers = self.workers
        index = [0] * len(prompts) if sample_index is None else sample_index
        keys = sampling_keys(prompts, index, seed=self.seed, step=step)
        share = range(workers.rank, len(prompts), workers.world_size)
        drawn = self.engine.sample(
            workers.unwrap(model), [encoded[row] for row in share], [keys[row] for row in share]
        )
        completions = dict(workers.gather_objects(list(zip(share, drawn, strict=True))))
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
        drawn = self._draw(model, prompts, encoded, step, sample_index)
        rows = [completion.ids for completion in drawn]
        ids, attention_mask, completion_mask = lay_out(encoded, rows, self.formatter.pad_id)
        # The token that sampling stops at, whatever the tokenizer calls its end of text.
        ended = torch.tensor([row[-1] == self.formatter.end_id for row in rows])
        device = self.workers.device
        engine_logprobs = _lay_out_logprobs(drawn, completion_mask)
        return Episodes(
            ids=ids.to(device),
            attention_mask=attention_mask.to(device),
            completion_mask=completion_mask.to(device),
            ended=ended.to(device),
            prompts=tuple(prompts),
            engine_logprobs=None if engine_logprobs is None else engine_logprobs.to(device),
        )


def _lay_out_logprobs(drawn: Sequence[SampledTokens], mask: Tensor) -> Tensor | None:
    rows = [completion.logprobs for completion in drawn if completion.logprobs is not None]
    if not rows:
        return None
    laid_out = torch.zeros(mask.shape, dtype=torch.float64)
    laid_out[mask] = torch.tensor(list(itertools.chain.from_iterable(rows)), dtype=torch.float64)
    return laid_out


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
        batch_size: rows at once on one process, at most; they are of like length.
        dtype: of the figures.
        compute: gives named figures of a few rows without their common padding: [rows], or
            [rows, time] over the completion's tokens.
    Returns:
        The figures of all rows, on every process; zero where the completion mask is False.
    """
    mask, device = episodes.completion_mask, workers.device
    columns: dict[str, Tensor] = {}
    share = torch.arange(workers.rank, len(episodes), workers.world_size)
    for rows in episodes.alike(share, batch_size):
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
