"""Draw completions from a policy, the same ones however the prompts are grouped.

The randomness of a completion is keyed by (seed, step, prompt, sample index): its uniform numbers
come from its own generator and pick tokens by inverse transform. Neither the batch it is in, nor
its row, nor the number of processes changes a token.

Departures from ``model.generate``:
1. The batch shrinks as rows finish.
2. Randomness by row, not one generator for the batch (and not one seed a rank, as the literature).
3. Beam search is left to ``model.generate``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.cached_model import CachedModel
from pipeline.config.sampling import DecodingSection
from pipeline.decoding import logits_processors
from pipeline.formatting import Formatter
from pipeline.losses import token_logprobs
from pipeline.records import Prompt

FinishReason = Literal["eos", "length", "stop"]
CHUNK = 256
"""Probabilities that are summed before they are searched."""


@dataclass(frozen=True)
class SampledTokens:
    """One completion as token ids.

    Attributes:
        ids: sampled tokens, the end token included where there is one.
        logprobs: of each in the distribution that it was drawn from, nats; None where not recorded.
    """

    ids: list[int]
    logprobs: list[float] | None = None


@dataclass(frozen=True)
class SampledText:
    """One completion as it was sampled.

    Attributes:
        ids: sampled tokens, the end token included where there is one.
        text: what a person reads: without special tokens, cut at a stop string.
        finish_reason: ended by itself, cut at max_new_tokens, or at a stop string.
    """

    ids: list[int]
    text: str
    finish_reason: FinishReason


def uniforms(key: str, count: int) -> np.ndarray:
    """Return ``count`` uniform numbers in [0, 1) that depend on the key alone."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    return generator.random(count)


def pick_tokens(logits: Tensor, uniform: Tensor) -> Tensor:
    """Pick a token a row by inverse transform: the first whose cumulative probability exceeds u.

    Args:
        logits: processed next-token logits, [batch, vocabulary].
        uniform: one number in [0, 1) a row, [batch].
    Returns:
        Token ids, [batch].
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    probabilities = logits.softmax(dim=-1, dtype=exact)
    padding = -probabilities.shape[-1] % CHUNK
    chunks = nn.functional.pad(probabilities, (0, padding)).unflatten(-1, (-1, CHUNK))
    # First the chunk, then the token in it: long cumulative sums in double are slow.
    ends = chunks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    threshold = uniform[:, None] * ends[:, -1:]
    chunk = (ends <= threshold).sum(dim=-1, keepdim=True)
    rows = torch.arange(len(logits), device=logits.device)
    start = nn.functional.pad(ends, (1, 0)).gather(-1, chunk)
    within = chunks[rows, chunk[:, 0]].double().cumsum(dim=-1)
    # Rounding must not lead past the chunk's last possible token.
    least = (threshold - start).minimum(within[:, -1:].nextafter(torch.zeros_like(start)))
    tokens: Tensor = chunk[:, 0] * CHUNK + (within <= least).sum(dim=-1)
    return tokens


class Step(NamedTuple):
    """The next token of every completion that goes on.

    Attributes:
        rows: which completions of the batch, [rows].
        ids: prompts and completions before the token, [rows, width].
        mask: True at real tokens, [rows, width].
        logits: the model's own, [rows, vocabulary].
        processed: what the token was drawn from, [rows, vocabulary].
        tokens: the next ones, [rows].
        going: True where the completion goes on after the token, [rows].
    """

    rows: Tensor
    ids: Tensor
    mask: Tensor
    logits: Tensor
    processed: Tensor
    tokens: Tensor
    going: Tensor


def left_pad(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return ids and mask, [batch, time], the rows' ends aligned."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[i, width - len(row) :] = True
    return ids.to(device), mask.to(device)


@torch.no_grad()
def sample_steps(
    model: CachedModel,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    decoding: DecodingSection,
    formatter: Formatter,
) -> Iterator[Step]:
    """Sample one completion for each prompt, in one batch, and yield every step of all of them.

    Args:
        model: has read nothing, or all columns of the prompts but the last or more.
        prompts: token ids up to where the answer begins.
        keys: what each completion's randomness depends on.
        decoding: the parameters; ``num_beams`` is not read here.
        formatter: gives the end and padding tokens, and text for stop strings.
    """
    ids, mask = left_pad(prompts, formatter.pad_id, model.device)
    width = ids.shape[1]
    processors = logits_processors(decoding, width, formatter.end_id, model.device)
    draws = torch.from_numpy(np.stack([uniforms(key, decoding.max_new_tokens) for key in keys]))
    draws = draws.to(model.device)
    alive = torch.arange(len(prompts), device=model.device)
    for t in range(decoding.max_new_tokens):
        logits = model.read(ids, mask)
        processed = processors(ids, logits)
        greedy = decoding.temperature == 0
        tokens = processed.argmax(-1) if greedy else pick_tokens(processed, draws[alive, t])
        going = tokens != formatter.end_id
        before = ids
        ids = torch.cat([ids, tokens[:, None]], dim=1)
        if decoding.stop:
            going &= ~_stopped(ids[:, width:].tolist(), decoding, formatter, going)
        if t + 1 == decoding.max_new_tokens:
            going = torch.zeros_like(going)
        yield Step(alive, before, mask, logits, processed, tokens, going)
        if not going.any():
            return
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        if not going.all():
            ids, mask, alive = ids[going], mask[going], alive[going]
            model.keep(going)


def sample_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    decoding: DecodingSection,
    formatter: Formatter,
    *,
    with_logprobs: bool = False,
) -> list[SampledTokens]:
    """Sample one completion for each prompt, in one batch.

    Args:
        model: a causal language model.
        prompts: as for ``sample_steps``.
        keys: as for ``sample_steps``.
        decoding: as for ``sample_steps``.
        formatter: as for ``sample_steps``.
        with_logprobs: record the tokens' log-probabilities; changes no token.
    Returns:
        A completion a prompt.
    """
    finished: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    for step in sample_steps(CachedModel(model), prompts, keys, decoding, formatter):
        rows = step.rows.tolist()
        for row, token in zip(rows, step.tokens.tolist(), strict=True):
            finished[row].append(token)
        if with_logprobs:
            chosen = token_logprobs(step.processed, step.tokens)
            for row, logprob in zip(rows, chosen.tolist(), strict=True):
                logprobs[row].append(logprob)
    if not with_logprobs:
        return [SampledTokens(row) for row in finished]
    return [SampledTokens(*row) for row in zip(finished, logprobs, strict=True)]


def _stopped(
    rows: Sequence[Sequence[int]], decoding: DecodingSection, formatter: Formatter, like: Tensor
) -> Tensor:
    texts = [formatter.decode(row) for row in rows]
    hits = [any(stop in text for stop in decoding.stop) for text in texts]
    return torch.tensor(hits, device=like.device)


@torch.no_grad()
def search_beams(
    model: Any, prompt: Sequence[int], decoding: DecodingSection, formatter: Formatter, count: int
) -> list[list[int]]:
    """Return the ``count`` best completions of a prompt by beam search, best first."""
    ids = torch.tensor([list(prompt)], device=model.device)
    processors = logits_processors(decoding, ids.shape[1], formatter.end_id, model.device)
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=processors,
        do_sample=False,
        num_beams=decoding.num_beams,
        num_return_sequences=count,
        length_penalty=decoding.length_penalty,
        early_stopping=decoding.early_stopping,
        max_new_tokens=decoding.max_new_tokens,
        eos_token_id=formatter.end_id,
        pad_token_id=formatter.pad_id,
        stop_strings=decoding.stop or None,
        tokenizer=formatter.tokenizer if decoding.stop else None,
    )
    rows = [row[ids.shape[1] :].tolist() for row in found]
    return [_cut_after_end(row, formatter) for row in rows]


def _cut_after_end(row: list[int], formatter: Formatter) -> list[int]:
    if formatter.end_id in row:
        return row[: row.index(formatter.end_id) + 1]
    while row and row[-1] == formatter.pad_id:
        row = row[:-1]
    return row


def read_text(ids: list[int], decoding: DecodingSection, formatter: Formatter) -> SampledText:
    """Turn sampled ids into text, cut before the first stop string."""
    text = formatter.decode(ids)
    places = [text.index(stop) for stop in decoding.stop if stop in text]
    if places:
        return SampledText(ids, text[: min(places)], "stop")
    return SampledText(ids, text, "eos" if formatter.end_id in ids else "length")


def sample_completions(
    model: Any,
    formatter: Formatter,
    prompts: Sequence[Prompt],
    decoding: DecodingSection,
    *,
    seed: int,
    step: int = 0,
    sample_index: int | Sequence[int] = 0,
    batch_size: int = 32,
) -> list[SampledText]:
    """Sample one completion for each prompt.

    Args:
        model: a causal language model.
        formatter: of the model's tokenizer.
        prompts: what to answer; give a prompt several times for several completions.
        decoding: temperature, truncation, penalties, lengths, stop strings.
        seed: the run's.
        step: part of the key, so that the same prompt is answered anew at another step.
        sample_index: tells several completions of one prompt apart; one for all, or one each.
        batch_size: completions at once; changes nothing but speed.

    Raises:
        DataError: if a prompt leaves no room for max_new_tokens in the model's context.
    """
    encoded = check_room(model, formatter, prompts, decoding, "prompts")
    indices = [sample_index] * len(prompts) if isinstance(sample_index, int) else list(sample_index)
    keys = sampling_keys(prompts, indices, seed=seed, step=step)
    if decoding.num_beams > 1:
        beams = [
            search_beams(model, ids, decoding, formatter, index + 1)[index]
            for ids, index in zip(encoded, indices, strict=True)
        ]
        return [read_text(ids, decoding, formatter) for ids in beams]
    sampled = sample_rows(model, encoded, keys, decoding, formatter, batch_size=batch_size)
    return [read_text(row.ids, decoding, formatter) for row in sampled]


def check_room(
    model: Any,
    formatter: Formatter,
    prompts: Sequence[Prompt],
    decoding: DecodingSection,
    where: str,
) -> list[list[int]]:
    """Encode prompts whose completions must fit in a model's context.

    Processes that share the prompts must each check all of them first: one that found its own too
    long, and stopped alone, would leave the others waiting.

    Args:
        model: a causal language model.
        formatter: of the model's tokenizer.
        prompts: what to answer.
        decoding: how long an answer may be.
        where: the setting that they come from.

    Raises:
        DataError: if a prompt leaves no room for max_new_tokens in the model's context.
        ConfigError: if max_new_tokens alone leaves none.
    """
    room = model.config.max_position_embeddings - decoding.max_new_tokens
    return formatter.check_lengths(prompts, room, where)


def sampling_keys(
    prompts: Sequence[Prompt], indices: Sequence[int], *, seed: int, step: int
) -> list[str]:
    """Return what the randomness of each prompt's completion depends on."""
    pairs = zip(prompts, indices, strict=True)
    return [f"{seed}:{step}:{prompt.id}:{index}" for prompt, index in pairs]


def sample_rows(
    model: Any,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    decoding: DecodingSection,
    formatter: Formatter,
    *,
    batch_size: int,
    with_logprobs: bool = False,
) -> list[SampledTokens]:
    """Sample as ``sample_batch`` does, in batches of prompts of like length.

    Args:
        model: as for ``sample_batch``.
        prompts: as for ``sample_batch``.
        keys: as for ``sample_batch``.
        decoding: as for ``sample_batch``.
        formatter: as for ``sample_batch``.
        batch_size: completions at once; changes nothing but speed.
        with_logprobs: as for ``sample_batch``.
    """
    sampled: dict[int, SampledTokens] = {}
    for rows in batches_by_length(prompts, batch_size):
        batch = sample_batch(
            model,
            [prompts[row] for row in rows],
            [keys[row] for row in rows],
            decoding,
            formatter,
            with_logprobs=with_logprobs,
        )
        sampled.update(zip(rows, batch, strict=True))
    return [sampled[row] for row in range(len(prompts))]


def batches_by_length(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Yield batches of row indices, rows of like length together."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), size):
        yield order[start : start + size]
