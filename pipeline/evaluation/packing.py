"""Plan the forward passes that score many continuations, every shared token in one of them.

The token ids of all requests make a prefix tree: the few-shot block is its stem, a question a
branch, the choices of a question its twigs. Sorted, the requests stand in the order in which the
tree is walked, and what two neighbours share is what the later one need not compute again. A
``Pack`` is a run of neighbours that fits one pass: its nodes are laid out one after the other in a
single row without padding, and each sees its own ancestors only. A stem that several packs stand on
is computed once, before; its keys and values stay (the trunk).

The plan depends on the requests alone, not on the processes, so that these cannot change a number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST_STEM = 16
"""Tokens that a stem must have to get a pass of its own; shorter ones are computed once a pack."""


class Query(NamedTuple):
    """One continuation that is to be scored.

    Attributes:
        ids: the context and the continuation but for its last token, which predicts nothing.
        targets: the continuation; its first token is predicted by the context's last.
    """

    ids: Sequence[int]
    targets: Sequence[int]

    @property
    def start(self) -> int:
        """Return the place in ``ids`` that predicts the first target."""
        return len(self.ids) - len(self.targets)


class Pack(NamedTuple):
    """Neighbouring queries that are computed together, on top of a trunk.

    Attributes:
        rows: the queries, numbers in the order given to ``plan_packs``.
        trunk: depths at which the trunk is lengthened in turn; the last is its length, none is no
            trunk. Its tokens are the first ones of any of the rows.
        nodes: tokens that the pack itself computes.
    """

    rows: tuple[int, ...]
    trunk: tuple[int, ...]
    nodes: int

    @property
    def depth(self) -> int:
        """Return how many tokens the trunk has."""
        return self.trunk[-1] if self.trunk else 0


class Layout(NamedTuple):
    """The nodes of a pack in the order in which they are laid out.

    Attributes:
        ids: token ids, [nodes].
        positions: places in the sequence, from 0 at the trunk's first token, [nodes].
        sees: which nodes each one attends to besides the whole trunk, [nodes, nodes].
        scored: nodes whose logits are needed, ascending.
        query: number of the query of each scored token, [tokens].
        logits: which row of the scored nodes' logits predicts it, [tokens].
        target: the token, [tokens].
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    sees: NDArray[np.bool_]
    scored: NDArray[np.int64]
    query: NDArray[np.int64]
    logits: NDArray[np.int64]
    target: NDArray[np.int64]

    @property
    def is_chain(self) -> bool:
        """Tell whether every node sees all before it, as in a row of plain text."""
        return bool(self.sees[-1].all())


def count_shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many first tokens two sequences share."""
    for i, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return i
    return min(len(left), len(right))


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all rows share, each keeping at least one of its own."""
    if not rows:
        return 0
    low, high = min(map(list, rows)), max(map(list, rows))
    return min(count_shared(low, high), min(len(row) for row in rows) - 1)


def plan_packs(queries: Sequence[Query], budget: int) -> list[Pack]:
    """Plan the passes that score all queries.

    Args:
        queries: none without ids or targets.
        budget: tokens a pass; one query that has more gets a pack of its own.
    Returns:
        Packs that hold every query once, in the order of the tree.
    """
    return list(_Planner(queries, budget).plan(0, len(queries), ())) if queries else []


class _Planner:
    """Walk the tree of the sorted queries; ``low`` and ``high`` bound a run of them."""

    def __init__(self, queries: Sequence[Query], budget: int) -> None:
        self.budget = budget
        self.order = sorted(range(len(queries)), key=lambda row: list(queries[row].ids))
        self.queries = [queries[row] for row in self.order]
        pairs = itertools.pairwise(self.queries)
        # What a query shares with the one before it.
        self.shared = [0, *(count_shared(left.ids, right.ids) for left, right in pairs)]
        own = [
            len(query.ids) - shared for query, shared in zip(self.queries, self.shared, strict=True)
        ]
        self.totals = [0, *itertools.accumulate(own)]

    def plan(self, low: int, high: int, trunk: tuple[int, ...]) -> Iterator[Pack]:
        """Yield the packs of a run, its branches filled in one after the other."""
        depth = trunk[-1] if trunk else 0
        start = low
        for first, end in self.branches(low, high, depth):
            if start < first and self.count_nodes(start, end, depth) > self.budget:
                yield self.pack(start, first, trunk)
                start = first
            if end - first > 1 and self.count_nodes(first, end, depth) > self.budget:
                yield from self.plan(first, end, (*trunk, self.measure_stem(first, end)))
                start = end
        if start < high:
            yield self.pack(start, high, trunk)

    def branches(self, low: int, high: int, depth: int) -> Iterator[tuple[int, int]]:
        """Yield the largest runs that fit a pack, have a stem of their own, or are one query."""
        waiting = [(low, high)]
        while waiting:
            first, end = waiting.pop()
            fits = end - first == 1 or self.count_nodes(first, end, depth) <= self.budget
            if fits or self.measure_stem(first, end) - depth >= LEAST_STEM:
                yield first, end
                continue
            fork = min(self.shared[first + 1 : end])
            cuts = [row for row in range(first + 1, end) if self.shared[row] == fork]
            waiting += reversed(list(itertools.pairwise([first, *cuts, end])))

    def count_nodes(self, low: int, high: int, depth: int) -> int:
        """Return how many tokens a pack of these queries computes on a trunk of ``depth``."""
        return len(self.queries[low].ids) - depth + self.totals[high] - self.totals[low + 1]

    def measure_stem(self, low: int, high: int) -> int:
        """Return how many first tokens the queries share before any of them is scored."""
        shared = self.shared[low + 1 : high]
        return min([*shared, *(query.start for query in self.queries[low:high])])

    def pack(self, low: int, high: int, trunk: tuple[int, ...]) -> Pack:
        depth = trunk[-1] if trunk else 0
        return Pack(tuple(self.order[low:high]), trunk, self.count_nodes(low, high, depth))


def lay_out(queries: Sequence[Query], pack: Pack) -> Layout:
    """Lay out the nodes of a pack in one row.

    Args:
        queries: those that the pack was planned from.
        pack: one of the plan.
    """
    depth = pack.depth
    ids: list[int] = []
    positions: list[int] = []
    parts: list[tuple[int, int, list[int]]] = []
    scores: list[tuple[int, int, int]] = []
    path: list[int] = []
    before: Sequence[int] = ()
    for row in pack.rows:
        query = queries[row]
        shared = count_shared(before, query.ids) - depth if before else 0
        path = path[:shared]
        new = list(range(len(ids), len(ids) + len(query.ids) - depth - shared))
        if new:
            parts.append((new[0], len(new), path))
            ids += query.ids[depth + shared :]
            positions += range(depth + shared, len(query.ids))
        path = path + new
        nodes = path[query.start - depth :]
        scores += [(row, node, target) for node, target in zip(nodes, query.targets, strict=True)]
        before = query.ids
    sees = np.zeros((len(ids), len(ids)), dtype=bool)
    for first, count, ancestors in parts:
        sees[first : first + count, ancestors] = True
        sees[first : first + count, first : first + count] = np.tri(count, dtype=bool)
    found = np.array(scores, dtype=np.int64)
    scored, logits = np.unique(found[:, 1], return_inverse=True)
    return Layout(
        np.array(ids, dtype=np.int64),
        np.array(positions, dtype=np.int64),
        sees,
        scored,
        found[:, 0],
        logits,
        found[:, 2],
    )


def share_packs(
    queries: Sequence[Query], packs: Sequence[Pack], rank: int, world_size: int
) -> range:
    """Return which packs are one process's: neighbours, with about as many tokens as the others'.

    Args:
        queries: those that the packs were planned from.
        packs: the whole plan.
        rank: the process's number.
        world_size: how many there are.
    """
    sizes = [
        count_tokens(queries, pack, before)
        for before, pack in zip([None, *packs], packs, strict=False)
    ]
    total, done, bounds = sum(sizes), 0, [0]
    for number, size in enumerate(sizes):
        # A pack belongs to the process in whose share its middle falls.
        while len(bounds) < world_size and (2 * done + size) * world_size >= (
            2 * len(bounds) * total
        ):
            bounds.append(number)
        done += size
    bounds += [len(packs)] * (world_size + 1 - len(bounds))
    return range(bounds[rank], bounds[rank + 1])


def count_tokens(queries: Sequence[Query], pack: Pack, before: Pack | None) -> int:
    """Return how many tokens a pack computes after another, its trunk's new ones included."""
    if not pack.trunk or before is None:
        return pack.nodes + pack.depth
    shared = count_shared(queries[before.rows[0]].ids, queries[pack.rows[0]].ids)
    steps = zip(before.trunk, pack.trunk, strict=False)
    kept = max((depth for old, depth in steps if old == depth <= shared), default=0)
    return pack.nodes + pack.depth - kept
