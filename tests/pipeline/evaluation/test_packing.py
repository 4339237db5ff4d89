from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.packing import (
    LEAST_STEM,
    Query,
    common_prefix,
    count_shared,
    count_tokens,
    lay_out,
    plan_packs,
    share_packs,
)

STEM = list(range(100, 140))


def query(context, continuation):
    return Query([*context, *continuation[:-1]], list(continuation))


def few_shot(questions, choices=2, stem=STEM, words=6, seed=0):
    """Return queries of questions after one stem; choices share their first token."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(questions):
        own = rng.integers(10, 90, size=words - 1).tolist()
        context = [*stem, 300 + number, *own]
        made += [query(context, [5, choice, 6, 7]) for choice in range(choices)]
    return made


def walk(queries, packs):
    """Return, for every query, the ids that its scored tokens see, trunk and nodes in order."""
    seen = {}
    for pack in packs:
        layout = lay_out(queries, pack)
        trunk = list(queries[pack.rows[0]].ids[: pack.depth])
        for row, logits, target in zip(layout.query, layout.logits, layout.target, strict=True):
            node = layout.scored[logits]
            nodes = np.flatnonzero(layout.sees[node])
            places = layout.positions[nodes]
            assert places.tolist() == list(range(pack.depth, pack.depth + len(nodes)))
            seen.setdefault(int(row), []).append(
                ([*trunk, *layout.ids[nodes].tolist()], int(target))
            )
    return seen


@pytest.mark.parametrize("budget", [1, 8, 20, 64, 1000])
@pytest.mark.parametrize(
    "queries",
    [
        few_shot(7),
        few_shot(5, stem=[]),
        [*few_shot(3), *few_shot(3, stem=STEM[:20], seed=1)],
        # A document's own examples, longer than a pack.
        [q for seed in range(3) for q in few_shot(1, 3, STEM[seed:], words=30, seed=seed)],
        # The same twice, a choice that begins another, one token, scored from the start.
        [
            query([1], [2, 3, 4, 5]),
            query([1], [2, 3]),
            query([1], [9]),
            query([1], [2, 3]),
            query([1, 2], [3, 4]),
        ],
        # Whole texts that share more than a stem that could be computed before.
        [query([1], [*range(2, 40), last]) for last in range(50, 56)],
    ],
)
def test_every_token_sees_what_stands_before_it_and_nothing_else(queries, budget):
    packs = plan_packs(queries, budget)
    assert sorted(row for pack in packs for row in pack.rows) == list(range(len(queries)))
    seen = walk(queries, packs)
    for i, one in enumerate(queries):
        whole = [*one.ids, one.targets[-1]]
        places = range(one.start + 1, len(whole))
        assert seen[i] == [(whole[:place], whole[place]) for place in places]
    for pack in packs:
        assert pack.nodes == len(lay_out(queries, pack).ids)
        assert pack.nodes <= budget or len(pack.rows) == 1


def test_shared_tokens_are_computed_once():
    queries = few_shot(10, choices=4, words=6)
    packs = plan_packs(queries, budget=64)
    computed = sum(
        count_tokens(queries, pack, before)
        for before, pack in zip([None, *packs], packs, strict=False)
    )
    # The stem, ten questions of six, and for each the shared first token and 4 x 2 more.
    assert computed == len(STEM) + 10 * (6 + 1 + 4 * 2)
    assert all(pack.trunk == (len(STEM),) for pack in packs)
    assert len(packs) == 3


def test_one_token_choices_cost_their_context_only():
    packs = plan_packs([query([1, 2, 3], [choice]) for choice in range(4)], 100)
    assert [pack.nodes for pack in packs] == [3]
    layout = lay_out([query([1, 2, 3], [choice]) for choice in range(4)], packs[0])
    assert layout.scored.tolist() == [2]
    assert layout.is_chain


def test_a_stem_inside_a_stem_is_entered_and_left():
    # Two documents with examples of their own after a description that both share.
    queries = [
        q
        for seed in (0, 1)
        for q in few_shot(4, 2, [*STEM, *range(200 + 40 * seed, 230 + 40 * seed)])
    ]
    packs = plan_packs(queries, budget=40)
    assert {pack.trunk for pack in packs} == {(40, 70)}
    computed = sum(
        count_tokens(queries, pack, before)
        for before, pack in zip([None, *packs], packs, strict=False)
    )
    assert computed == 40 + 2 * (30 + 4 * (6 + 1 + 2 * 2))


def test_a_short_stem_is_no_pass_of_its_own():
    queries = few_shot(20, stem=STEM[: LEAST_STEM - 1])
    assert {pack.trunk for pack in plan_packs(queries, 64)} == {()}


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 50])
def test_processes_share_all_packs_evenly(world_size):
    queries = few_shot(40, choices=3)
    packs = plan_packs(queries, 48)
    shares = [share_packs(queries, packs, rank, world_size) for rank in range(world_size)]
    assert [i for share in shares for i in share] == list(range(len(packs)))
    if world_size <= 3:
        tokens = [sum(packs[i].nodes for i in share) for share in shares]
        assert max(tokens) - min(tokens) <= len(STEM) + 2 * 48


def test_a_plan_is_the_same_in_whatever_order_requests_come():
    queries = few_shot(12)
    ids = [[queries[row].ids for row in pack.rows] for pack in plan_packs(queries, 50)]
    turned = queries[::-1]
    assert [[turned[row].ids for row in pack.rows] for pack in plan_packs(turned, 50)] == ids
    assert plan_packs([], 50) == []


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([], 0),
        ([[1, 2, 3]], 2),
        ([[1, 2, 3], [1, 2, 3, 4]], 2),
        ([[1, 2, 3], [1, 5, 3], [1, 2]], 1),
        ([[1], [1, 2]], 0),
        ([[2, 1], [1, 2]], 0),
    ],
)
def test_common_prefix_leaves_every_row_a_token(rows, shared):
    assert common_prefix(rows) == shared


def test_shared_tokens_are_counted():
    assert count_shared([1, 2, 3], [1, 2, 4]) == 2
    assert count_shared([1, 2], [1, 2, 4]) == 2
    assert count_shared([], [1]) == 0
