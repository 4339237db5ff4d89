"""Run packs through a causal language model and score what they hold.

A pack is one row of tokens on top of a trunk, whose keys and values are computed once and neither
copied nor expanded. A mask of all pairs of tokens, and positions to match, make each token see
exactly what it would see alone; logits are computed where a token is scored and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from pipeline.cached_model import TokenCache
from pipeline.evaluation.packing import Layout, Pack, Query, count_shared, lay_out

MASKED_KERNELS = ("sdpa", "eager")
"""Attention kernels of transformers that take a mask of all pairs."""
MOVING_ROPES = ("dynamic", "longrope")
"""Rotary embeddings whose angles depend on how long the whole pass is."""
TOKENS_A_PASS = {"cpu": 512}
TOKENS_ON_GPU = 4096
"""Tokens a pass. More keep a GPU busy; on a CPU the products are at their best from some 200 on,
and tokens of other questions that attention looks at in vain are work like any other."""
LOGITS_A_PASS = 2**28
"""Logits of one pass are bounded to about this many numbers: 1 GB in float32."""


class Scores(NamedTuple):
    """Scored tokens, one a place.

    Attributes:
        query: number of the query that each belongs to.
        logprob: log p(token | what is before it), nats, in double.
        likeliest: whether no token has more.
    """

    query: NDArray[np.int64]
    logprob: NDArray[np.float64]
    likeliest: NDArray[np.bool_]


class Trunk:
    """Hold the keys and values of the tokens that packs stand on.

    Args:
        model: a causal language model for which ``packs_exactly`` is true.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cache: DynamicCache = TokenCache(config=model.config)
        self._ids: list[int] = []
        self._steps: list[tuple[int, list[tuple[Tensor, Tensor]]]] = []

    def stand_on(self, ids: Sequence[int], depths: Sequence[int]) -> None:
        """Make the trunk these tokens, lengthened step by step; what it has of them stays.

        Args:
            ids: tokens, as many as the last depth or more.
            depths: how long the trunk is after each step, ascending.
        """
        shared, kept = count_shared(self._ids, ids), 0
        for (depth, _), wanted in zip(self._steps, depths, strict=False):
            if depth != wanted or depth > shared:
                break
            kept += 1
        del self._steps[kept:]
        self.drop_leaves()
        for depth in depths[kept:]:
            new = torch.tensor([list(ids[len(self._ids) : depth])], device=self.model.device)
            self.model(input_ids=new, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            self._ids = list(ids[:depth])
            layers = [(layer.keys, layer.values) for layer in self.cache.layers]
            self._steps.append((depth, layers))

    def repeat(self, count: int) -> DynamicCache:
        """Return a copy of the keys and values, once for each row of a batch."""
        copy = TokenCache(config=self.model.config)
        layers: Sequence[Any] = self.cache.layers
        for number, layer in enumerate(layers):
            copy.update(
                layer.keys.expand(count, -1, -1, -1), layer.values.expand(count, -1, -1, -1), number
            )
        return copy

    def drop_leaves(self) -> None:
        """Forget the keys and values of what was computed on top of the trunk."""
        if not self._steps:
            self._ids, self.cache = [], TokenCache(config=self.model.config)
            return
        depth, layers = self._steps[-1]
        self._ids = self._ids[:depth]
        for layer, (keys, values) in zip(self.cache.layers, layers, strict=True):
            layer.keys, layer.values = keys, values


@torch.no_grad()
def score_packs(model: Any, queries: Sequence[Query], packs: Sequence[Pack], chunk: int) -> Scores:
    """Score every token of the queries that the packs hold.

    Args:
        model: a causal language model for which ``packs_exactly`` is true.
        queries: those that the packs were planned from.
        packs: all or some of a plan; neighbours share their trunk.
        chunk: tokens a forward pass; only a query that is longer alone takes several.
    """
    trunk = Trunk(model)
    found = []
    for pack in packs:
        trunk.stand_on(queries[pack.rows[0]].ids, pack.trunk)
        layout = lay_out(queries, pack)
        found += [
            _score_chunk(model, trunk, pack.depth, layout, first, chunk)
            for first in range(0, len(layout.ids), chunk)
        ]
        trunk.drop_leaves()
    if not found:
        return Scores(np.empty(0, np.int64), np.empty(0), np.empty(0, bool))
    return Scores(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _score_chunk(
    model: Any, trunk: Trunk, depth: int, layout: Layout, first: int, chunk: int
) -> Scores:
    """Run the nodes of a layout from ``first`` on, at most ``chunk`` of them."""
    device, end = model.device, min(first + chunk, len(layout.ids))
    low, high = np.searchsorted(layout.scored, (first, end))
    kept = torch.from_numpy(layout.scored[low:high] - first).to(device)
    logits = model(
        input_ids=torch.from_numpy(layout.ids[None, first:end]).to(device),
        attention_mask=None if layout.is_chain else _mask(model, layout, depth, first, end),
        position_ids=torch.from_numpy(layout.positions[None, first:end]).to(device),
        past_key_values=trunk.cache,
        use_cache=True,
        logits_to_keep=kept if len(kept) else 1,
    ).logits[0]
    here = np.flatnonzero((layout.logits >= low) & (layout.logits < high))
    rows = torch.from_numpy(layout.logits[here] - low).to(device)
    logprob, likeliest = score_tokens(logits, rows, torch.from_numpy(layout.target[here]))
    return Scores(layout.query[here], logprob.cpu().numpy(), likeliest.cpu().numpy())


def score_tokens(logits: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return tokens' log-probabilities in double, and whether each is the likeliest of its row.

    In float32 ``log_softmax`` over 49,152 tokens is some 1e-5 too low a token on a CPU, for it sums
    the exponentials one by one; ``logsumexp`` is nearer. But lm_eval's ``HFLM`` uses the former,
    and to give its numbers is what this is for: over 40 tokens the two are 5e-4 apart.

    Args:
        logits: [rows, vocabulary].
        rows: which row predicts each token, [tokens].
        tokens: [tokens].
    """
    logprobs = logits.log_softmax(-1, torch.promote_types(logits.dtype, torch.float32))
    likeliest = logprobs.argmax(dim=-1)
    tokens = tokens.to(logits.device)
    return logprobs[rows, tokens].double(), likeliest[rows] == tokens


def _mask(model: Any, layout: Layout, depth: int, first: int, end: int) -> Tensor:
    """Return which trunk tokens and nodes each node of a chunk sees, [1, 1, nodes, all]."""
    sees = np.ones((end - first, depth + end), dtype=bool)
    sees[:, depth:] = layout.sees[first:end, :end]
    mask = torch.from_numpy(sees).to(model.device)[None, None]
    if model.config._attn_implementation == "sdpa":
        return mask
    # Eager attention adds the mask to its scores.
    least = torch.finfo(model.dtype).min
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, least)


def pass_tokens(model: Any) -> int:
    """Return how many tokens a pass of the model should have, on the device where it stands."""
    wanted = TOKENS_A_PASS.get(model.device.type, TOKENS_ON_GPU)
    return max(1, min(wanted, LOGITS_A_PASS // int(model.get_output_embeddings().weight.shape[0])))


def packs_exactly(model: Any, dtype: torch.dtype) -> bool:
    """Tell whether packs give the model's own numbers: by its kind, and by trying it.

    Sliding windows, recurrent layers, kernels without masks of pairs, positions that are not given
    by ``position_ids`` (ALiBi) do not.

    Args:
        model: a causal language model, placed on its device.
        dtype: that it computes in.
    """
    rope = getattr(model.config, "rope_parameters", None) or {}
    layers = DynamicCache(config=model.config).layers
    if (
        model.config._attn_implementation not in MASKED_KERNELS
        or rope.get("rope_type") in MOVING_ROPES
        or any(type(layer) is not DynamicLayer for layer in layers)
    ):
        return False
    stem = [2, 5, 3, 7, 4]
    queries = [
        Query([*stem, 6, 3], [6, 3, 2]),
        Query([*stem, 6, 5, 4], [5, 4, 7]),
        Query([*stem[:4], 3, 2], [2, 6]),
    ]
    try:
        packed = score_packs(model, queries, [Pack((2, 0, 1), (3,), 8)], chunk=5)
        alone = [_score_alone(model, query) for query in queries]
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
    tolerance = min(1e4 * torch.finfo(dtype).eps, 0.5)
    return all(
        np.allclose(packed.logprob[packed.query == i], one, rtol=0, atol=tolerance)
        for i, one in enumerate(alone)
    )


@torch.no_grad()
def _score_alone(model: Any, query: Query) -> NDArray[np.float64]:
    logits = model(input_ids=torch.tensor([query.ids], device=model.device)).logits[0]
    rows = torch.arange(query.start, len(query.ids), device=model.device)
    return score_tokens(logits, rows, torch.tensor(query.targets))[0].cpu().numpy()
