"""Give lm_eval a language model that computes what its requests share only once.

The requests of one few-shot task begin with the same description and examples, the choices of one
question with the same context, and often with the same words. All of it is a tree of tokens, and
each token of it is computed once (``packing``), many questions in one pass without padding
(``passes``), by one of the processes. What is generated stands on the shared examples likewise.

Log-likelihoods, greedy flags and texts are those of lm_eval's ``HFLM``. Departures from it:
1. A context too long for the model is cut on the left at one place for all choices of a question,
   and counted in ``cut_contexts``; HFLM cuts each choice at its own.
2. A model that packs would not give its own numbers (sliding windows, recurrent layers, a kernel
   without masks of pairs) takes HFLM's way.
3. Several processes get all requests each and share the work here; under HFLM each has documents
   of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.cpu import without_onednn
from pipeline.distributed import Workers
from pipeline.errors import DataError
from pipeline.evaluation.packing import (
    LEAST_STEM,
    Query,
    common_prefix,
    plan_packs,
    share_packs,
)
from pipeline.evaluation.passes import Trunk, packs_exactly, pass_tokens, score_packs

REMEMBERED = 1024
"""Texts whose tokens are kept at once: the choices of a question come one after the other."""

Request = tuple[tuple[str, str] | None, list[int], list[int]]
Likelihood = tuple[float, bool]


class SharedPrefixLM(HFLM):
    """Score and generate with an initialised causal language model.

    The tokenizer's own special tokens stand before a context, as before a pretraining document: one
    begin token where the tokenizer adds one, none where it does not.

    Args:
        model: a causal language model, placed on its device.
        tokenizer: the model's.
        batch_size: sequences a forward pass where nothing can be packed, and in generation.
        workers: the processes that share the work, and their precision; None is this one alone, in
            the precision of the model.

    Attributes:
        token_counts: (context, continuation) to the continuation's number of tokens, for all
            requests since it was last cleared.
        cut_contexts: how many contexts were cut on the left, since it was last set to 0; the
            choices of a question have one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        workers: Workers | None = None,
    ) -> None:
        lower = workers is not None and workers.precision == "bf16"
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            mixed_precision_dtype=torch.bfloat16 if lower else None,
        )
        self.workers = workers
        self.token_counts: dict[tuple[str, str], int] = {}
        self.cut_contexts = 0
        self._encoded: dict[str, list[int]] = {}
        self._trunk: Trunk | None = None
        self._stem: Tensor = torch.empty(0, dtype=torch.long)
        with self._as_theirs():
            self._packs = packs_exactly(model, torch.bfloat16 if lower else model.dtype)

    @contextlib.contextmanager
    def _as_theirs(self) -> Iterator[None]:
        """Compute in the precision asked for, by the products that a model has under ``HFLM``.

        In float32, with oneDNN's in 30 layers, 60 answers of up to 250 nats were up to 9.7e-5 away
        from HFLM's (SmolLM2-135M); with the same products up to 5.2e-5.
        """
        lower = self.mixed_precision_dtype
        autocast = torch.autocast(self.device.type, dtype=lower, enabled=lower is not None)
        with without_onednn(self.model), autocast:
            yield

    @property
    def _place(self) -> tuple[int, int]:
        """Return this process's number among those that share the work, and how many they are."""
        return (self.workers.rank, self.workers.world_size) if self.workers else (0, 1)

    def _gather(self, own: list[tuple[int, Any]], count: int) -> list[Any]:
        """Return what all processes found, in the order of its numbers from 0 to ``count``."""
        found = dict(self.workers.gather_objects(own) if self.workers else own)
        return [found[i] for i in range(count)]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **options: Any
    ) -> list[int]:
        """Encode a text; the context that the choices of a question share only once."""
        if add_special_tokens is not None or options:
            ids: list[int] = super().tok_encode(string, add_special_tokens, **options)
            return ids
        if string not in self._encoded:
            if len(self._encoded) == REMEMBERED:
                self._encoded.clear()
            self._encoded[string] = super().tok_encode(string)
        return self._encoded[string]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Likelihood]:
        """Return log p(continuation | context) and whether it is the greedy one, a request."""
        scored: list[Likelihood] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        self._encoded.clear()
        return scored

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Return the log-likelihood of whole texts, in windows where they are too long."""
        scored: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)
        self._encoded.clear()
        return scored

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = True, **options: Any
    ) -> list[Likelihood]:
        for pair, _, continuation in requests:
            if not continuation:
                raise DataError(
                    "evaluate.tasks: a choice must have tokens of its own after the context, "
                    f"got {pair!r:.80}. Remove the document, or mend its choices."
                )
            if pair is not None:
                self.token_counts[pair] = len(continuation)
        queries = self._cut(requests)
        if self._packs:
            return self._score(queries)
        rank, world_size = self._place
        with without_onednn(self.model):
            own: list[Likelihood] = super()._loglikelihood_tokens(
                requests[rank::world_size], disable_tqdm=disable_tqdm, **options
            )
        places = range(rank, len(requests), world_size)
        return self._gather(list(zip(places, own, strict=True)), len(requests))

    def _cut(self, requests: Sequence[Request]) -> list[Query]:
        """Make queries of requests, contexts that are too long cut as far as the longest choice."""
        longest: dict[tuple[int, ...], int] = {}
        for _, context, continuation in requests:
            key = tuple(context)
            longest[key] = max(longest.get(key, 0), len(continuation))
        room = {key: self.max_length + 1 - count for key, count in longest.items()}
        if min(room.values(), default=1) < 1:
            raise DataError(
                f"evaluate.tasks: a choice must have at most {self.max_length} tokens, the model's "
                f"context, got {max(longest.values())}. Remove the task, or shorten the choice."
            )
        self.cut_contexts += sum(len(key) > space for key, space in room.items())
        return [
            Query([*context[-room[tuple(context)] :], *continuation[:-1]], continuation)
            for _, context, continuation in requests
        ]

    def _score(self, queries: Sequence[Query]) -> list[Likelihood]:
        """Score the queries in packs, every process its share of them."""
        budget = pass_tokens(self.model)
        packs = plan_packs(queries, budget)
        own = [packs[i] for i in share_packs(queries, packs, *self._place)]
        with self._as_theirs():
            scores = score_packs(self.model, queries, own, budget)
        totals, greedy = np.zeros(len(queries)), np.ones(len(queries), dtype=bool)
        np.add.at(totals, scores.query, scores.logprob)
        np.logical_and.at(greedy, scores.query, scores.likeliest)
        rows = [row for pack in own for row in pack.rows]
        found = [(row, (float(totals[row]), bool(greedy[row]))) for row in rows]
        return self._gather(found, len(queries))

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Return what the model says after each context, up to a stop sequence."""
        rank, world_size = self._place
        # Neighbours are of like length: every process gets some of each.
        order = sorted(
            range(len(requests)), key=lambda i: -len(self.tok_encode(requests[i].args[0]))
        )
        places = order[rank::world_size]
        self._count_cut(requests)
        own = [requests[i] for i in places]
        texts: list[str] = []
        if own:
            self._plant([self.tok_encode(request.args[0]) for request in own])
            with without_onednn(self.model):
                texts = super().generate_until(own, disable_tqdm=disable_tqdm)
        self._trunk = None
        self._encoded.clear()
        return self._gather(list(zip(places, texts, strict=True)), len(requests))

    def _count_cut(self, requests: Sequence[Any]) -> None:
        """Count the contexts that leave no room for what is to be generated."""
        for request in requests:
            context, options = request.args
            wanted = normalize_gen_kwargs(options, self.max_gen_toks)["max_gen_toks"]
            if wanted >= self.max_length:
                raise DataError(
                    f"evaluate.tasks: max_gen_toks of the task {request.task_name} must be less "
                    f"than the model's context ({self.max_length} tokens), got {wanted}. Lower it, "
                    "or remove the task."
                )
            self.cut_contexts += len(self.tok_encode(context)) > self.max_length - wanted

    @torch.no_grad()
    def _plant(self, contexts: Sequence[Sequence[int]]) -> None:
        """Compute what all contexts begin with, if it is worth it."""
        shared = common_prefix(contexts) if self._packs and len(contexts) > 1 else 0
        # Of a stem longer than the context every prompt is cut, and none begins with it.
        if not LEAST_STEM <= shared < self.max_length:
            return
        self._stem = torch.tensor(contexts[0][:shared], device=self.device)
        self._trunk = Trunk(self.model)
        with self._as_theirs():
            self._trunk.stand_on(contexts[0], [shared])

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **options: Any
    ) -> Tensor:
        """Generate from a batch, padded on the left; on the trunk where all rows begin with it.

        Returns:
            Contexts and what follows, [batch, time]. The columns of a context are in no order that
            matters: lm_eval reads those after it.
        """
        mask, trunk = options["attention_mask"], self._trunk
        moved = None if trunk is None else move_padding(context, mask, self._stem)
        if trunk is not None and moved is not None:
            context, options["attention_mask"] = moved
            options["past_key_values"] = trunk.repeat(len(context))
        found: Tensor = super()._model_generate(context, max_length, stop, **options)
        return found


def move_padding(ids: Tensor, mask: Tensor, stem: Tensor) -> tuple[Tensor, Tensor] | None:
    """Put the padding of rows after the stem that all begin with; None if one does not.

    Args:
        ids: token ids, padded on the left, [batch, time].
        mask: 1 at real tokens, [batch, time].
        stem: token ids, [shared]; every row must have more than these.
    Returns:
        Ids and mask, [batch, time], whose first columns are the stem.
    """
    shared = len(stem)
    lengths = mask.sum(dim=1)
    if int(lengths.min()) <= shared:
        return None
    # A row's columns from its first token on, then its padding, then what is left of it.
    begins = (ids.shape[1] - lengths)[:, None]
    columns = torch.arange(ids.shape[1], device=ids.device)[None]
    source = torch.where(columns < shared, columns + begins, columns - shared)
    source = torch.where(columns >= shared + begins, columns, source)
    moved, real = ids.gather(1, source), mask.gather(1, source)
    return (moved, real) if bool((moved[:, :shared] == stem).all()) else None
