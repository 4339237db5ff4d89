from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit

from pipeline.preferences import (
    Comparison,
    control_length,
    fit_logistic,
    is_separated,
    prefer,
    rate_strengths,
)

ORDER = ["pretrain", "sft", "ppo", "ppo@no_ptx"]
TRUTH = {"pretrain": 0.0, "sft": 1.2, "ppo": 2.0, "ppo@no_ptx": 0.7}


def draw_pairs(prompts: int, seed: int, ties: float = 0.2) -> list[Comparison]:
    """Let every pair be compared on every prompt, by the strengths of TRUTH."""
    draw = np.random.default_rng(seed)
    found = []
    for prompt in range(prompts):
        for one, other in itertools.combinations(ORDER, 2):
            wins = draw.random() < expit(TRUTH[one] - TRUTH[other])
            preference = 0.5 if draw.random() < ties else float(wins)
            found.append(Comparison(str(prompt), one, other, preference, 0))
    return found


def test_the_higher_value_is_preferred_and_the_same_text_ties_whatever_its_values():
    assert [prefer(*values, same=False) for values in ((2.0, 1.0), (1.0, 2.0), (1.0, 1.0))] == [
        1.0,
        0.0,
        0.5,
    ]
    assert prefer(1.000001, 1.0, same=True) == prefer(1.0, 1.000001, same=True) == 0.5


def test_logistic_fits_are_those_of_statsmodels_fractions_and_weights_included():
    draw = np.random.default_rng(3)
    design = np.stack([np.ones(80), draw.normal(size=80)], axis=1)
    won = draw.choice([0.0, 0.5, 1.0], 80, p=[0.3, 0.2, 0.5])
    oracle = sm.Logit(won, design).fit(disp=0, tol=1e-12)
    own = fit_logistic(design, won, np.ones(80), prior_sd=math.inf)
    assert own == pytest.approx(oracle.params, abs=1e-8)
    weights = draw.integers(0, 4, 80).astype(float)
    rows = np.repeat(np.arange(80), weights.astype(int))
    oracle = sm.Logit(won[rows], design[rows]).fit(disp=0, tol=1e-12)
    own = fit_logistic(design, weights * won, weights, prior_sd=math.inf)
    assert own == pytest.approx(oracle.params, abs=1e-8)


def test_many_fits_together_are_each_what_they_are_alone():
    draw = np.random.default_rng(4)
    design = draw.normal(size=(30, 3))
    trials = draw.integers(0, 5, (2, 6, 30)).astype(float)
    won = trials * draw.random((2, 6, 30))
    together = fit_logistic(design, won, trials)
    assert together.shape == (2, 6, 3)
    for at in np.ndindex(2, 6):
        assert together[at] == pytest.approx(fit_logistic(design, won[at], trials[at]), abs=1e-8)


def test_the_prior_is_what_it_says():
    # All of n trials won: n * sigmoid(-b) = b / sd^2 at the maximum.
    (b,) = fit_logistic(np.ones((1, 1)), np.array([50.0]), np.array([50.0]), prior_sd=3.0)
    assert 50 * expit(-b) == pytest.approx(b / 9, rel=1e-6)


def test_strengths_are_statsmodels_with_the_base_at_zero():
    items = draw_pairs(60, seed=1)
    design = np.zeros((len(items), 4))
    for row, one in enumerate(items):
        design[row, ORDER.index(one.stage)] = 1
        design[row, ORDER.index(one.against)] = -1
    oracle = sm.Logit([one.preference for one in items], design[:, 1:]).fit(disp=0, tol=1e-12)
    found = rate_strengths(items, ORDER, seed=0, samples=50)
    assert [one.stage for one in found] == ORDER
    # The prior moves 360 comparisons by less than this.
    assert [one.strength.estimate for one in found[1:]] == pytest.approx(oracle.params, abs=2e-3)
    assert found[0].strength == found[0].beats_base._replace(estimate=0, low=0, high=0)
    assert found[1].beats_base.estimate == pytest.approx(expit(found[1].strength.estimate))
    assert [one.comparisons for one in found] == [180] * 4
    assert not any(one.separated for one in found)


def test_neither_sides_nor_order_of_comparisons_move_a_strength():
    items = draw_pairs(30, seed=2)
    turned = [one.reversed if i % 2 else one for i, one in enumerate(items)]
    before = rate_strengths(items, ORDER, seed=0, samples=20)
    after = rate_strengths(turned[::-1], ORDER, seed=0, samples=20)
    for one, other in zip(before, after, strict=True):
        assert one.strength.estimate == pytest.approx(other.strength.estimate, abs=1e-9)
    assert items[0].reversed.reversed == items[0]


def test_intervals_of_strengths_widen_where_prompts_decide():
    """The same answer of a judge ten times over is not ten times the evidence."""
    once = draw_pairs(40, seed=5)
    often = [one for one in once for _ in range(10)]
    narrow = rate_strengths(
        [
            Comparison(f"{i}/{k}", *vars_of(one)[1:])
            for k in range(10)
            for i, one in enumerate(once)
        ],
        ORDER,
        seed=0,
        samples=200,
    )
    wide = rate_strengths(often, ORDER, seed=0, samples=200)
    single = rate_strengths(once, ORDER, seed=0, samples=200)
    for a, b, c in zip(wide[1:], single[1:], narrow[1:], strict=True):
        assert width(a.strength) == pytest.approx(width(b.strength), rel=0.05)
        assert width(c.strength) < 0.5 * width(a.strength)


def vars_of(one: Comparison) -> tuple:
    return (one.prompt, one.stage, one.against, one.preference, one.longer)


def width(interval) -> float:
    return interval.high - interval.low


def test_intervals_of_strengths_cover_the_truth():
    hits = []
    for seed in range(200):
        found = rate_strengths(draw_pairs(80, seed, ties=0.0), ORDER, seed=seed, samples=200)
        hits += [one.strength.low <= TRUTH[one.stage] <= one.strength.high for one in found[1:]]
    # 600 intervals, those of one data set not independent: 0.03 is about three standard errors.
    assert np.mean(hits) == pytest.approx(0.95, abs=0.03)


def test_a_stage_that_always_wins_is_said_to_have_no_finite_strength():
    items = [Comparison(str(i), "ppo", "sft", 1.0, 0) for i in range(50)]
    items += [Comparison(str(i), "sft", "pretrain", float(i % 3 > 0), 0) for i in range(50)]
    base, sft, ppo = rate_strengths(items, ORDER, seed=0, samples=50)
    assert [one.separated for one in (base, sft, ppo)] == [False, False, True]
    assert math.isfinite(ppo.strength.estimate)
    assert ppo.strength.estimate > sft.strength.estimate + 3
    # One tie leads back.
    items.append(Comparison("x", "ppo", "sft", 0.5, 0))
    assert not rate_strengths(items, ORDER, seed=0, samples=50)[2].separated


def test_a_circle_of_wins_is_even_and_finite():
    items = [
        Comparison(str(i), one, other, 1.0, 0)
        for i in range(9)
        for one, other in (("sft", "pretrain"), ("ppo", "sft"), ("pretrain", "ppo"))
    ]
    found = rate_strengths(items, ORDER, seed=0, samples=20)
    assert [one.strength.estimate for one in found] == pytest.approx([0, 0, 0], abs=1e-9)
    assert not any(one.separated for one in found)


def test_stages_that_nothing_connects_with_the_base_have_no_strength():
    items = [Comparison("p", "sft", "pretrain", 1.0, 0), Comparison("p", "ppo@x", "ppo", 0.0, 0)]
    found = rate_strengths(items, [*ORDER, "ppo@x"], seed=0, samples=10)
    assert [one.stage for one in found] == ["pretrain", "sft"]


def length_driven(count: int, bias: float, skill: float, shift: float, seed: int):
    """Draw comparisons of a judge who looks at length as well."""
    draw = np.random.default_rng(seed)
    longer = np.rint(draw.normal(shift, 40, count)).astype(int)
    feature = np.tanh(longer / longer.std())
    wins = draw.random(count) < expit(skill + bias * feature)
    return [
        Comparison(str(i), "ppo", "sft", float(won), int(more))
        for i, (won, more) in enumerate(zip(wins, longer, strict=True))
    ], feature


def test_length_control_is_statsmodels_at_no_difference():
    items, feature = length_driven(400, 1.5, 0.3, 25, seed=1)
    design = sm.add_constant(feature)
    oracle = sm.Logit([one.preference for one in items], design).fit(disp=0, tol=1e-12)
    found = control_length(items, seed=0, samples=100)
    assert found is not None
    # The prior's share in 400 comparisons.
    assert found.coefficient == pytest.approx(oracle.params[1], abs=2e-3)
    assert found.win_rate.estimate == pytest.approx(expit(oracle.params[0]), abs=1e-3)
    assert found.win_rate.low < found.win_rate.estimate < found.win_rate.high
    assert not found.separated


def test_what_length_alone_won_is_gone_at_equal_lengths():
    items, _ = length_driven(3000, 2.0, 0.0, 40, seed=2)
    raw = np.mean([one.preference for one in items])
    found = control_length(items, seed=0, samples=200)
    assert found is not None
    assert raw > 0.65
    assert found.win_rate.low < 0.5 < found.win_rate.high
    turned = control_length([one.reversed for one in items], seed=0, samples=20)
    assert turned is not None
    assert turned.win_rate.estimate == pytest.approx(1 - found.win_rate.estimate, abs=1e-9)
    assert turned.coefficient == pytest.approx(found.coefficient, abs=1e-9)


def test_equal_answers_stay_ties_and_say_nothing_of_length():
    items, _ = length_driven(300, -1.0, 0.8, -30, seed=4)
    alone = control_length(items, seed=0, samples=50)
    same = [Comparison(f"s{i}", "ppo", "sft", 0.5, 0, same=True) for i in range(100)]
    found = control_length([*items, *same], seed=0, samples=50)
    assert alone is not None
    assert found is not None
    assert found.coefficient == pytest.approx(alone.coefficient, abs=1e-9)
    assert found.win_rate.estimate == pytest.approx(0.125 + 0.75 * alone.win_rate.estimate)
    assert found.win_rate.low < found.win_rate.estimate < found.win_rate.high
    assert control_length(same, seed=0) is None


def test_intervals_at_equal_lengths_cover_the_truth():
    hits = []
    for seed in range(200):
        items, _ = length_driven(120, 1.0, 0.5, 20, seed)
        found = control_length(items, seed=seed, samples=200)
        assert found is not None
        hits.append(found.win_rate.low <= expit(0.5) <= found.win_rate.high)
    # Two standard errors of 200 data sets.
    assert np.mean(hits) == pytest.approx(0.95, abs=0.03)


def test_a_judge_blind_to_length_keeps_the_win_rate():
    items, _ = length_driven(3000, 0.0, 1.0, 10, seed=3)
    found = control_length(items, seed=0, samples=20)
    assert found is not None
    assert found.win_rate.estimate == pytest.approx(expit(1.0), abs=0.03)


def test_lengths_that_do_not_vary_control_nothing():
    items = [Comparison(str(i), "a", "b", float(i % 2), 7) for i in range(6)]
    assert control_length(items, seed=0) is None


@pytest.mark.parametrize(
    ("feature", "won", "separated"),
    [
        ([1, 2, -1, -2], [1, 1, 0, 0], True),
        ([1, 2, -1, -2], [0, 0, 1, 1], True),
        ([1, 2, -1, -2], [1, 0, 1, 0], False),
        ([1, 2, -1, -2], [1, 1, 1, 1], True),
        ([1, 2, 0, -2], [1, 1, 0.5, 0], True),
        ([1, 2, -1, -2], [1, 0.5, 0.5, 0], False),
        ([0.5, 0.5, 0.5], [1, 0, 1], True),
    ],
)
def test_separation_is_a_line_between_wins_and_losses(feature, won, separated):
    assert is_separated(np.array(feature, float), np.array(won, float)) is separated
