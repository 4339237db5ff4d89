from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from pipeline.agreement import (
    Bootstrap,
    krippendorff_alpha,
    labeler_agreement,
    mean_kendall_tau,
    pairwise_agreement,
    rating_alpha,
)
from pipeline.records import Prompt, Ranking

NAN = float("nan")
# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: 4 observers, 12 units.
RELIABILITY = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


def rank(
    prompt: str, labeler: str | None, ranks: tuple[int, ...], ratings: tuple[int, ...] | None = None
) -> Ranking:
    texts = tuple("abcdefghi"[: len(ranks)])
    return Ranking(Prompt.from_text(prompt), texts, ranks, ratings, labeler)


def simulate(prompts: int, labelers: int, k: int, seed: int, levels: int = 4) -> list[Ranking]:
    rng = random.Random(seed)
    return [
        rank(
            f"p{p}",
            f"l{labeler}",
            tuple(rng.randint(1, levels) for _ in range(k)),
            tuple(rng.randint(1, 7) for _ in range(k)),
        )
        for p in range(prompts)
        for labeler in range(labelers)
    ]


@pytest.mark.parametrize(
    ("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_equals_the_published_values(metric: str, published: float) -> None:
    # The published values have three decimals.
    assert krippendorff_alpha(RELIABILITY, metric) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("metric", ["nominal", "ordinal", "interval"])
def test_alpha_does_not_depend_on_the_order_of_coders_and_units(metric: str) -> None:
    rng = np.random.default_rng(0)
    shuffled = RELIABILITY[rng.permutation(4)][:, rng.permutation(12)]
    expected = krippendorff_alpha(RELIABILITY, metric)
    assert krippendorff_alpha(shuffled, metric) == pytest.approx(expected, abs=1e-12)


def test_ordinal_alpha_sees_only_the_order_of_values() -> None:
    stretched = RELIABILITY**3
    expected = krippendorff_alpha(RELIABILITY, "ordinal")
    assert krippendorff_alpha(stretched, "ordinal") == pytest.approx(expected, abs=1e-12)
    assert krippendorff_alpha(stretched, "interval") != pytest.approx(
        krippendorff_alpha(RELIABILITY, "interval"), abs=1e-3
    )


def test_alpha_is_one_for_agreement_zero_for_chance_and_undefined_without_variation() -> None:
    assert krippendorff_alpha(np.array([[1.0, 2, 3], [1, 2, 3]]), "ordinal") == 1.0
    assert math.isnan(krippendorff_alpha(np.array([[2.0, 2], [2, 2]]), "ordinal"))
    assert math.isnan(krippendorff_alpha(np.array([[1.0, NAN], [NAN, 2]]), "ordinal"))
    noise = np.random.default_rng(0).integers(1, 8, size=(3, 4000)).astype(float)
    # Standard error of alpha here is about 1 / sqrt(3 * 4000).
    assert krippendorff_alpha(noise, "ordinal") == pytest.approx(0.0, abs=0.03)


def test_rating_alpha_is_alpha_with_completions_as_units() -> None:
    rankings = simulate(prompts=6, labelers=3, k=4, seed=1)
    matrix = np.full((3, 24), NAN)
    for ranking in rankings:
        row, prompt = int(ranking.labeler[1:]), int(ranking.prompt.messages[0]["content"][1:])
        matrix[row, prompt * 4 : prompt * 4 + 4] = ranking.ratings
    estimate = rating_alpha(rankings)
    assert estimate.value == pytest.approx(krippendorff_alpha(matrix, "ordinal"), abs=1e-12)
    assert (estimate.prompts, estimate.count) == (6, 72)
    assert estimate.low < estimate.value < estimate.high


@pytest.mark.parametrize(
    ("one", "other", "with_ties", "without"),
    [
        ((1, 2), (1, 2), 1.0, 1.0),
        ((1, 2), (2, 1), 0.0, 0.0),
        ((1, 1), (1, 2), 0.5, None),
        ((1, 1), (1, 1), 1.0, None),
        ((1, 2, 3), (1, 2, 2), 2.5 / 3, 1.0),
        ((1, 2, 3), (2, 1, 1), 0.5 / 3, 0.0),
    ],
)
def test_ties_count_half_against_a_preference(
    one: tuple[int, ...], other: tuple[int, ...], with_ties: float, without: float | None
) -> None:
    rankings = [rank("p", "x", one), rank("p", "y", other)]
    assert pairwise_agreement(rankings, ties=True).value == pytest.approx(with_ties, abs=1e-12)
    decided = pairwise_agreement(rankings, ties=False)
    assert (decided is None) if without is None else (decided.value == without)


@pytest.mark.parametrize("ties", [True, False])
def test_agreement_equals_the_count_over_all_comparisons(ties: bool) -> None:
    rankings = simulate(prompts=5, labelers=4, k=4, seed=2)
    agreed = counted = 0.0
    for first, second in itertools.combinations(rankings, 2):
        if first.prompt != second.prompt:
            continue
        for i, j in itertools.combinations(range(4), 2):
            s, t = (np.sign(item.ranks[i] - item.ranks[j]) for item in (first, second))
            if not ties and 0 in (s, t):
                continue
            counted += 1
            agreed += 1.0 if s == t else 0.5 if 0 in (s, t) else 0.0
    estimate = pairwise_agreement(rankings, ties=ties)
    assert estimate.value == pytest.approx(agreed / counted, abs=1e-12)
    assert estimate.count == counted


def test_agreement_does_not_depend_on_the_order_of_rows_or_completions() -> None:
    rankings = simulate(prompts=6, labelers=3, k=4, seed=3)
    rng = random.Random(0)
    moved = []
    for ranking in rankings:
        order = rng.sample(range(4), 4)
        moved.append(
            Ranking(
                ranking.prompt,
                tuple(ranking.completions[i] for i in order),
                tuple(ranking.ranks[i] for i in order),
                tuple(ranking.ratings[i] for i in order),
                ranking.labeler,
            )
        )
    rng.shuffle(moved)
    assert pairwise_agreement(moved, ties=True) == pairwise_agreement(rankings, ties=True)
    assert rating_alpha(moved) == rating_alpha(rankings)
    tau, moved_tau = mean_kendall_tau(rankings), mean_kendall_tau(moved)
    assert moved_tau.value == pytest.approx(tau.value, abs=1e-12)


def test_only_shared_completions_are_compared() -> None:
    prompt = Prompt.from_text("p")
    rankings = [
        Ranking(prompt, ("a", "b", "c"), (1, 2, 3), labeler="x"),
        Ranking(prompt, ("c", "b", "d"), (1, 2, 3), labeler="y"),
    ]
    estimate = pairwise_agreement(rankings, ties=True)
    assert (estimate.value, estimate.count) == (0.0, 1)


def test_a_prompt_that_was_never_compared_has_no_part_in_the_estimate() -> None:
    rankings = simulate(prompts=6, labelers=2, k=3, seed=5)
    lone = [rank(f"lone {i}", "l0", (1, 2, 3), (5, 4, 3)) for i in range(20)]
    for measure in (mean_kendall_tau, rating_alpha):
        assert measure([*rankings, *lone]) == measure(rankings)
    both = [pairwise_agreement(rows, ties=True) for rows in ([*rankings, *lone], rankings)]
    assert both[0] == both[1]
    assert both[0].prompts == 6


def test_one_labeler_twice_is_no_agreement_and_unnamed_ones_are_different() -> None:
    assert pairwise_agreement([rank("p", "x", (1, 2)), rank("p", "x", (1, 2))], ties=True) is None
    unnamed = [rank("p", None, (1, 2)), rank("p", None, (1, 2))]
    assert pairwise_agreement(unnamed, ties=True).count == 1


def test_nothing_shared_gives_no_estimate() -> None:
    rankings = [rank("p", "x", (1, 2), (3, 4)), rank("q", "y", (1, 2), (5, 6))]
    assert pairwise_agreement(rankings, ties=True) is None
    assert mean_kendall_tau(rankings) is None
    assert rating_alpha(rankings) is None
    assert labeler_agreement(rankings, ties=True) == {}
    assert pairwise_agreement([], ties=True) is None
    assert rating_alpha([]) is None


def test_tau_b_corrects_for_ties() -> None:
    same = [rank("p", "x", (1, 2, 2)), rank("p", "y", (1, 2, 2))]
    assert mean_kendall_tau(same).value == pytest.approx(1.0, abs=1e-12)
    # 2 of 3 pairs concordant, 1 tied on one side: 2 / sqrt(3 * 2).
    partly = [rank("p", "x", (1, 2, 3)), rank("p", "y", (1, 2, 2))]
    assert mean_kendall_tau(partly).value == pytest.approx(2 / math.sqrt(6), abs=1e-12)
    all_tied = [*same, rank("p", "z", (1, 1, 1))]
    assert mean_kendall_tau(all_tied).count == 1


def test_the_odd_labeler_out_agrees_least() -> None:
    rankings = []
    for p in range(8):
        rankings += [rank(f"p{p}", name, (1, 2, 3)) for name in ("ada", "bob")]
        rankings.append(rank(f"p{p}", "cyd", (3, 2, 1)))
    found = labeler_agreement(rankings, ties=True)
    assert {name: item.value for name, item in found.items()} == {
        "ada": 0.5,
        "bob": 0.5,
        "cyd": 0.0,
    }
    assert found["cyd"].count == 8 * 2 * 3


def test_the_interval_is_seeded_widens_with_its_level_and_narrows_with_data() -> None:
    few, many = simulate(20, 2, 4, seed=4), simulate(320, 2, 4, seed=4)

    def width(rankings: list[Ranking], **settings: float) -> float:
        estimate = pairwise_agreement(rankings, ties=True, bootstrap=Bootstrap(**settings))
        assert estimate.low <= estimate.value <= estimate.high
        return estimate.high - estimate.low

    first = pairwise_agreement(few, ties=True)
    assert pairwise_agreement(few, ties=True) == first
    assert pairwise_agreement(few, ties=True, bootstrap=Bootstrap(seed=1)) != first
    assert width(few, level=0.5) < width(few, level=0.95)
    # 16 times the prompts: a quarter of the width, up to the noise of the resampling.
    assert width(many) == pytest.approx(width(few) / 4, rel=0.4)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # Independent rankings without ties agree half the time.
    rng = random.Random(0)
    covered = 0
    for trial in range(100):
        rankings = [
            rank(f"p{p}", name, tuple(rng.sample((1, 2, 3), 3)))
            for p in range(40)
            for name in ("x", "y")
        ]
        settings = Bootstrap(samples=200, level=0.9, seed=trial)
        estimate = pairwise_agreement(rankings, ties=False, bootstrap=settings)
        covered += estimate.low <= 0.5 <= estimate.high
    # 90 expected, standard deviation 3; percentile intervals of 40 prompts run slightly short.
    assert 78 <= covered <= 99
