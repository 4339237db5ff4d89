from __future__ import annotations

import random
from itertools import combinations

import pytest

from pipeline.world import draw_labelers
from pipeline.world.flaws import spoil

# What a tuned model of this size writes at temperature 1: mostly right, then each kind of fault.
OUTPUTS = {
    "clean": 0.55,
    "padded": 0.08,
    "wrong": 0.2,
    "rambling": 0.05,
    "rude": 0.03,
    "off_task": 0.05,
    "garbled": 0.04,
}


def _write(item, rng):
    kind = rng.choices(list(OUTPUTS), list(OUTPUTS.values()))[0]
    if kind == "clean":
        return item.completion
    if kind == "garbled":
        return item.completion[: rng.randrange(1, 9)] + "".join(rng.choices("kzqw ae", k=12))
    return spoil(item, kind, rng)


@pytest.fixture(scope="module")
def judged_sets(world):
    rng = random.Random(0)
    items = world._instructions("train", 400, "prompts")
    return [(item.prompt, [_write(item, rng) for _ in range(rng.randint(4, 9))]) for item in items]


def pair_agreement(judgments):
    """Share of pairs that two labelers order alike; a tie against an order is half (WebGPT)."""
    agreed = total = 0.0
    for one, two in judgments:
        for i, j in combinations(range(len(one)), 2):
            a, b = (one[i] > one[j]) - (one[i] < one[j]), (two[i] > two[j]) - (two[i] < two[j])
            agreed += 1.0 if a == b else 0.5 if 0 in (a, b) else 0.0
            total += 1
    return agreed / total


def _agreement(labelers, sets):
    ranks = [[labeler.judge(prompt, texts).ranks for prompt, texts in sets] for labeler in labelers]
    scores = [pair_agreement(zip(one, two, strict=True)) for one, two in combinations(ranks, 2)]
    return sum(scores) / len(scores)


def test_labelers_agree_as_often_as_the_papers(world, judged_sets):
    distinct = [(prompt, list(dict.fromkeys(texts))) for prompt, texts in judged_sets]
    assert 0.70 <= _agreement(draw_labelers(world, 4, 0), distinct) <= 0.76


def test_noise_lowers_agreement_and_no_noise_leaves_only_leanings(world, judged_sets):
    sets = judged_sets[:120]
    quiet, usual, loud = (
        _agreement(draw_labelers(world, 3, 0, noise=noise), sets) for noise in (0.0, 1.0, 10.0)
    )
    assert quiet > 0.9
    assert quiet > usual > loud
    assert loud < 0.68


def test_a_judgment_depends_on_nothing_but_labeler_prompt_and_completion(world, judged_sets):
    labeler, other = draw_labelers(world, 2, 0)
    again = draw_labelers(world, 2, 0)[0]
    differ = 0
    for prompt, texts in judged_sets[:60]:
        judgment = labeler.judge(prompt, texts)
        assert again.judge(prompt, texts) == judgment
        mirrored = labeler.judge(prompt, texts[::-1])
        assert mirrored.ranks == judgment.ranks[::-1]
        assert mirrored.ratings == judgment.ratings[::-1]
        differ += other.judge(prompt, texts).ranks != judgment.ranks
    assert differ > 30


def test_ranks_ratings_and_flags_are_well_formed(world, judged_sets):
    (labeler,) = draw_labelers(world, 1, 5)
    for prompt, texts in judged_sets[:150]:
        judgment = labeler.judge(prompt, texts)
        assert len(judgment.ranks) == len(judgment.ratings) == len(judgment.flags) == len(texts)
        assert set(judgment.ranks) == set(range(1, max(judgment.ranks) + 1))
        assert all(1 <= rating <= 7 for rating in judgment.ratings)
        for i, j in combinations(range(len(texts)), 2):
            if texts[i] == texts[j]:
                assert judgment.ranks[i] == judgment.ranks[j]
            if judgment.ranks[i] < judgment.ranks[j]:
                assert judgment.ratings[i] >= judgment.ratings[j]


def test_better_completions_are_ranked_better_on_the_whole(world, judged_sets):
    labelers = draw_labelers(world, 3, 0)
    right = total = 0
    for prompt, texts in judged_sets:
        worth = [world.gold(prompt, text).utility for text in texts]
        for labeler in labelers:
            ranks = labeler.judge(prompt, texts).ranks
            for i, j in combinations(range(len(texts)), 2):
                if abs(worth[i] - worth[j]) > 0.2 and ranks[i] != ranks[j]:
                    total += 1
                    right += (ranks[i] < ranks[j]) == (worth[i] > worth[j])
    assert right / total > 0.85


def test_flags_tell_the_fault_with_few_errors(world):
    items = world._instructions("train", 200, "prompts")
    (labeler,) = draw_labelers(world, 1, 0)
    rng = random.Random(0)
    rude = [labeler.judge(item.prompt, [spoil(item, "rude", rng)]).flags[0] for item in items]
    clean = [labeler.judge(item.prompt, [item.completion]).flags[0] for item in items]
    assert sum(flags["harmful"] for flags in rude) / 200 > 0.9
    assert sum(flags["harmful"] for flags in clean) / 200 < 0.1
    assert sum(flags["fails_instruction"] for flags in clean) / 200 < 0.1


def test_groups_and_leanings_are_drawn_by_seed(world):
    labelers = draw_labelers(world, 4, 0, held_out=2)
    assert [labeler.group for labeler in labelers] == ["train"] * 4 + ["held_out"] * 2
    assert len({labeler.name for labeler in labelers}) == 6
    assert len({tuple(labeler.weights.values()) for labeler in labelers}) == 6
    assert draw_labelers(world, 1, 1)[0].weights != labelers[0].weights
    for labeler in labelers:
        assert sum(labeler.weights.values()) == pytest.approx(1)
