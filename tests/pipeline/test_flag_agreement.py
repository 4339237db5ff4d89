from __future__ import annotations

import math
import random

import numpy as np
import pytest
from statsmodels.stats.inter_rater import fleiss_kappa

from pipeline.agreement import krippendorff_alpha
from pipeline.flag_agreement import Vote, gwet_ac1, measure_flag

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section A: two observers.
MEG = (0, 1, 0, 0, 0, 0, 0, 0, 1, 0)
OWEN = (1, 1, 1, 0, 0, 1, 0, 0, 0, 0)


def vote(answers: list[tuple[int, ...]], per_prompt: int = 1) -> list[Vote]:
    """Return the votes of labelers who each answered every item."""
    return [
        Vote(f"p{item // per_prompt}", f"i{item}", bool(yes))
        for labeler in answers
        for item, yes in enumerate(labeler)
    ]


def draw(items: int, labelers: int, yes: float, noise: float, seed: int) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    truth = [rng.random() < yes for _ in range(items)]
    return [tuple(int(one != (rng.random() < noise)) for one in truth) for _ in range(labelers)]


def test_alpha_equals_the_published_value() -> None:
    found = measure_flag(vote([MEG, OWEN]))
    # 1 - 19 * 4 / (14 * 6), published as 0.095.
    assert found.alpha.value == pytest.approx(1 - 19 * 4 / 84, abs=1e-12)
    assert found.alpha.value == pytest.approx(0.095, abs=5e-4)
    assert (found.alpha.prompts, found.alpha.count) == (10, 20)
    assert found.prevalence.value == pytest.approx(6 / 20, abs=1e-12)


def test_ac1_equals_the_published_values() -> None:
    # The abstractors' table of the irrCAC package (Gwet): three categories, two raters.
    table = ((13, 0, 0), (0, 20, 7), (0, 4, 56))
    rows = [
        np.eye(3)[i] + np.eye(3)[j] for i in range(3) for j in range(3) for _ in range(table[i][j])
    ]
    assert gwet_ac1(np.array(rows)) == pytest.approx(0.8493305, abs=5e-8)
    # Four raters, five categories, missing answers (Gwet 2014, p. 120).
    ratings = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
            [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
        ]
    )
    counts = np.array([[(unit == k).sum() for k in range(1, 6)] for unit in ratings.T], float)
    assert gwet_ac1(counts) == pytest.approx(0.77544, abs=5e-6)


@pytest.mark.parametrize("seed", range(3))
def test_alpha_is_fleiss_kappa_with_the_correction_for_small_samples(seed: int) -> None:
    answers = draw(items=60, labelers=4, yes=0.3, noise=0.2, seed=seed)
    counts = np.array([[4 - sum(unit), sum(unit)] for unit in zip(*answers, strict=True)])
    kappa = fleiss_kappa(counts, method="fleiss")
    found = measure_flag(vote(answers, per_prompt=3))
    # Krippendorff (2011): alpha = kappa + (1 - kappa) / n on complete data, n being all answers.
    n = 240
    assert found.alpha.value == pytest.approx(kappa + (1 - kappa) / n, abs=1e-12)
    matrix = np.array(answers, dtype=float)
    assert found.alpha.value == pytest.approx(krippendorff_alpha(matrix, "nominal"), abs=1e-12)
    assert found.alpha.prompts == 20


def test_ac1_equals_its_definition_pair_by_pair() -> None:
    rng = random.Random(5)
    votes = [
        Vote(f"p{item % 7}", f"i{item}", rng.random() < 0.3)
        for item in range(40)
        for _ in range(rng.randint(1, 4))
    ]
    items: dict[str, list[bool]] = {}
    for one in votes:
        items.setdefault(one.item, []).append(one.yes)
    pairs = [
        np.mean([a == b for i, a in enumerate(said) for j, b in enumerate(said) if i != j])
        for said in items.values()
        if len(said) > 1
    ]
    yes = np.mean([np.mean(said) for said in items.values()])
    chance = 2 * yes * (1 - yes)
    found = measure_flag(votes)
    assert found.ac1.value == pytest.approx((np.mean(pairs) - chance) / (1 - chance), abs=1e-12)
    assert found.ac1.count == len(pairs)


def test_rare_flags_lower_alpha_and_leave_ac1() -> None:
    rare = measure_flag(vote(draw(items=400, labelers=2, yes=0.02, noise=0.03, seed=1)))
    common = measure_flag(vote(draw(items=400, labelers=2, yes=0.5, noise=0.03, seed=1)))
    assert rare.prevalence.value < 0.1 < common.prevalence.value
    assert rare.alpha.value < common.alpha.value - 0.2
    assert rare.ac1.value > 0.9


def test_agreement_that_is_not_defined_is_none() -> None:
    nobody = measure_flag([])
    assert (nobody.alpha, nobody.ac1, nobody.prevalence) == (None, None, None)
    alone = measure_flag([Vote("p", "i", True), Vote("q", "j", False)])
    assert (alone.alpha, alone.ac1) == (None, None)
    assert alone.prevalence.value == 0.5
    same = measure_flag(vote([(0, 0, 0), (0, 0, 0)]))
    assert same.alpha is None
    assert same.ac1.value == 1.0
    assert math.isnan(gwet_ac1(np.array([[1.0, 0.0]])))


def test_intervals_resample_prompts() -> None:
    answers = draw(items=120, labelers=2, yes=0.4, noise=0.2, seed=2)
    apart, together = measure_flag(vote(answers)), measure_flag(vote(answers, per_prompt=40))
    assert apart.ac1.value == pytest.approx(together.ac1.value, abs=1e-12)
    assert (apart.ac1.prompts, together.ac1.prompts) == (120, 3)
    for found in (apart.alpha, apart.ac1, apart.prevalence):
        assert found.low < found.value < found.high
