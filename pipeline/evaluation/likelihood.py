"""Give lm_eval a language model that computes what its requests share only once.

The requests of one few-shot task begin with the same description and examples, and the choices of
one question with the same context. Both are run once and their keys and values are kept, so that k
examples before each of n questions with c choices cost one pass over the examples, n over the
questions and n*c over the choices, instead of n*c over all of it. The log-likelihoods are those of
a plain teacher-forced pass (a test holds them to it).

Departures from lm_eval's ``HFLM``:
1. A context too long for the model is cut on the left at one place for all choices of a question,
   and counted in ``cut_contexts``; HFLM cuts each choice at its own.
2. A model whose cache is not plain attention (sliding windows, recurrent layers) takes HFLM's way.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from pipeline.errors import DataError
from pipeline.masked import positions
from pipeline.sampling import left_pad

Request = tuple[tuple[str, str], list[int], list[int]]
Likelihood = tuple[float, bool]


class SharedPrefixLM(HFLM):
    """Score continuations with an initialised causal language model.

    The tokenizer's own special tokens stand before a context, as before a pretraining document: one
    begin token where the tokenizer adds one, none where it does not.

    Args:
        model: a causal language model, placed on its device.
        tokenizer: the model's.
        batch_size: continuations a forward pass.

    Attributes:
        token_counts: (context, continuation) to the continuation's number of tokens, for all
            requests since it was last cleared.
        cut_contexts: how many contexts were cut on the left, since it was last set to 0.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int
    ) -> None:
        super().__init__(
            pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size
        )
        layers = DynamicCache(config=model.config).layers
        self._shares = all(type(layer) is DynamicLayer for layer in layers)
        self._encoded: dict[str, list[int]] = {}
        self.token_counts: dict[tuple[str, str], int] = {}
        self.cut_contexts = 0

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **options: Any
    ) -> list[int]:
        """Encode a text; the context that the choices of a question share only once."""
        if add_special_tokens is not None or options:
            ids: list[int] = super().tok_encode(string, add_special_tokens, **options)
            return ids
        if string not in self._encoded:
            self._encoded[string] = super().tok_encode(string)
        return self._encoded[string]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Likelihood]:
        """Return log p(continuation | context) and whether it is the greedy one, a request."""
        scored: list[Likelihood] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        self._encoded.clear()
        return scored

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = True, **options: Any
    ) -> list[Likelihood]:
        for pair, _, continuation in requests:
            self.token_counts[pair] = len(continuation)
        if not self._shares:
            scored: list[Likelihood] = super()._loglikelihood_tokens(
                requests, disable_tqdm=disable_tqdm, **options
            )
            return scored
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, (_, context, _) in enumerate(requests):
            groups.setdefault(tuple(context), []).append(i)
        contexts = [
            self._fit(context, max(len(requests[i][2]) for i in members))
            for context, members in groups.items()
        ]
        continuations = [[requests[i][2] for i in members] for members in groups.values()]
        results: list[Likelihood] = [(0.0, False)] * len(requests)
        scores = score_continuations(self.model, contexts, continuations, self.batch_size)
        for members, found in zip(groups.values(), scores, strict=True):
            for i, score in zip(members, found, strict=True):
                results[i] = score
        return results

    def _fit(self, context: Sequence[int], longest: int) -> list[int]:
        """Cut a context so that the longest continuation ends within the model's context."""
        room = self.max_length + 1 - longest
        if room < 1:
            raise DataError(
                f"evaluate.tasks: a choice must have at most {self.max_length} tokens, the model's "
                f"context, got {longest}. Remove the task, or shorten the choice."
            )
        self.cut_contexts += len(context) > room
        return list(context[-room:])


@torch.no_grad()
def score_continuations(
    model: Any,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    batch_size: int,
) -> list[list[Likelihood]]:
    """Score each context's continuations.

        log p(c | x) = sum_t log p(c_t | x, c_<t)

    Args:
        model: a causal language model with plain attention.
        contexts: token ids, none empty.
        continuations: for each context, the token ids of its continuations, none empty.
        batch_size: continuations a forward pass.
    Returns:
        For each context and continuation, the log-likelihood and whether every token is the
        likeliest.
    """
    assert all(contexts), "a context is empty"
    shared = common_prefix(contexts)
    start = DynamicCache(config=model.config)
    if shared:
        prefix = torch.tensor([contexts[0][:shared]], device=model.device)
        model(input_ids=prefix, past_key_values=start, use_cache=True, logits_to_keep=1)
    results: list[list[Likelihood]] = [[] for _ in contexts]
    for rows in _batches(contexts, continuations, batch_size):
        scored = _score_batch(
            model,
            copy.deepcopy(start),
            shared,
            [contexts[row][shared:] for row in rows],
            [continuations[row] for row in rows],
        )
        for row, found in zip(rows, scored, strict=True):
            results[row] = found
    return results


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all rows share, each keeping at least one of its own."""
    if not rows:
        return 0
    low, high = min(map(list, rows)), max(map(list, rows))
    longest = min(len(row) for row in rows) - 1
    for i in range(longest):
        if low[i] != high[i]:
            return i
    return longest


def _batches(
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    batch_size: int,
) -> Iterator[list[int]]:
    """Yield rows of like length whose continuations fill a batch; a row is never split."""
    batch: list[int] = []
    filled = 0
    for row in sorted(range(len(contexts)), key=lambda row: -len(contexts[row])):
        if batch and filled + len(continuations[row]) > batch_size:
            yield batch
            batch, filled = [], 0
        batch.append(row)
        filled += len(continuations[row])
    if batch:
        yield batch


def _score_batch(
    model: Any,
    cache: DynamicCache,
    shared: int,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
) -> list[list[Likelihood]]:
    device = model.device
    # 1. The contexts, on top of the shared prefix; their last logits give each first token.
    ids, own = left_pad(contexts, 0, device)
    mask = torch.cat([own.new_ones(len(contexts), shared), own], dim=1)
    if shared:
        cache.batch_select_indices(torch.zeros(len(contexts), dtype=torch.long, device=device))
    first = model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions(mask)[:, shared:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    owners = [row for row, group in enumerate(continuations) for _ in group]
    flat = [list(continuation) for group in continuations for continuation in group]
    owner = torch.tensor(owners, device=device)
    starts = torch.tensor([row[0] for row in flat], device=device)
    totals, greedy = _pick(first[owner], starts)
    # 2. The continuations' further tokens, on top of their contexts.
    longer = [i for i, row in enumerate(flat) if len(row) > 1]
    if longer:
        chosen = owner[longer]
        cache.batch_select_indices(chosen)
        inputs, new = _right_pad([flat[i][:-1] for i in longer], device)
        targets, _ = _right_pad([flat[i][1:] for i in longer], device)
        whole = torch.cat([mask[chosen], new], dim=1)
        logits = model(
            input_ids=inputs,
            attention_mask=whole.long(),
            position_ids=positions(whole)[:, -inputs.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        ).logits
        logprobs, likeliest = _pick(logits, targets)
        totals[longer] += logprobs.masked_fill(~new, 0.0).sum(dim=1)
        greedy[longer] &= (likeliest | ~new).all(dim=1)
    found = iter(zip(totals.tolist(), greedy.tolist(), strict=True))
    return [[next(found) for _ in group] for group in continuations]


def _pick(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return each token's log-probability in double, and whether it is the likeliest.

    Args:
        logits: [..., vocabulary].
        tokens: [...].
    """
    chosen = logits.gather(-1, tokens[..., None]).squeeze(-1).double()
    return chosen - logits.logsumexp(dim=-1).double(), logits.argmax(dim=-1) == tokens


def _right_pad(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask, [batch, time], the rows' starts aligned."""
    width = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = True
    return ids.to(device), mask.to(device)
