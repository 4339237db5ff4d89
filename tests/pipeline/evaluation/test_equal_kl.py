from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.best_of import best_of_kl
from pipeline.evaluation.equal_kl import compare, compare_at, flatten_figures

N = [1, 2, 4]
DRAWN = 5


def start_rows(prompts=12, seed=0, gold=True):
    """Draw completions whose scores partly tie, some of them judged by gold."""
    rng = np.random.default_rng(seed)
    return [
        {"prompt_id": f"p{i}", "sample": j, "score": float(np.round(rng.normal(), 1))}
        | ({"followed": int(rng.random() < 0.5), "utility": float(rng.random())} if gold else {})
        for i in range(prompts)
        for j in range(DRAWN)
    ]


def policy_rows(prompts=12, kl=0.3, seed=1, gold=True):
    rng = np.random.default_rng(seed)
    return [
        {"prompt_id": f"p{i}", "sample": 5 + j, "score": float(rng.normal() + 0.5)}
        | ({"followed": int(rng.random() < 0.7), "utility": float(rng.random())} if gold else {})
        | {"log_ratio": float(kl + 0.1 * rng.normal())}
        for i in range(prompts)
        for j in range(3)
    ]


def by_prompt(rows):
    grouped = {}
    for row in rows:
        grouped.setdefault(row["prompt_id"], []).append(row)
    return list(grouped.values())


def best_of_by_enumeration(group, n, name):
    """Average over all subsets, and over those that tie for the best of one."""
    means = []
    for subset in itertools.combinations(group, n):
        top = max(row["score"] for row in subset)
        means.append(np.mean([row[name] for row in subset if row["score"] == top]))
    return np.mean(means)


@pytest.mark.parametrize("name", ["score", "followed", "utility"])
def test_best_of_n_is_the_mean_over_all_subsets(name):
    rows = start_rows()
    figures = compare(rows, {}, N, seed=0)
    for point in figures["best_of"]:
        expected = np.mean(
            [best_of_by_enumeration(group, point["n"], name) for group in by_prompt(rows)]
        )
        assert point[name]["estimate"] == pytest.approx(expected, abs=1e-12)
        assert point[name]["low"] < expected < point[name]["high"]
        assert point["kl"] == best_of_kl(point["n"])
    assert (figures["prompts"], figures["completions"]) == (12, DRAWN)
    assert figures["policies"] == {}


def test_one_sample_wins_half_against_another():
    (one,) = compare(start_rows(), {}, [1], seed=0)["best_of"]
    assert one["win_rate"] == {
        key: pytest.approx(0.5, abs=1e-12) for key in ("estimate", "low", "high")
    }


def test_a_policy_is_judged_by_means_over_its_samples_and_pairs_with_the_start():
    start, policy = start_rows(), policy_rows()
    (figures,) = compare(start, {"ppo": policy}, N, seed=0)["policies"].values()
    for name, key in (("kl", "log_ratio"), ("score", "score"), ("utility", "utility")):
        expected = np.mean([row[key] for row in policy])
        assert figures[name]["estimate"] == pytest.approx(expected, abs=1e-12)
    wins = [
        np.mean([a["utility"] > b["utility"] for a in ours for b in theirs])
        for ours, theirs in zip(by_prompt(policy), by_prompt(start), strict=True)
    ]
    assert figures["win_rate"]["estimate"] == pytest.approx(np.mean(wins), abs=1e-12)


def test_at_equal_kl_the_curve_is_read_between_neighbouring_n():
    start, policy = start_rows(), policy_rows(kl=0.3)
    # 3 is not asked for, and is a point of the curve all the same.
    (figures,) = compare(start, {"ppo": policy}, N, seed=0)["policies"].values()
    assert figures["between"] == [2, 3]
    share = (figures["kl"]["estimate"] - best_of_kl(2)) / (best_of_kl(3) - best_of_kl(2))
    two, three = (
        np.mean([best_of_by_enumeration(group, n, "score") for group in by_prompt(start)])
        for n in (2, 3)
    )
    found = figures["at_equal_kl"]["score"]
    assert found["best_of"] == pytest.approx((1 - share) * two + share * three, abs=1e-12)
    assert found["difference"] == pytest.approx(
        figures["score"]["estimate"] - found["best_of"], abs=1e-12
    )
    assert found["low"] < found["difference"] < found["high"]


def test_a_policy_that_is_best_of_n_is_not_ahead_of_it():
    rng = np.random.default_rng(3)
    levels = np.array([best_of_kl(n) for n in (1, 2, 3)])
    curve = np.sort(rng.normal(size=(3, 20)), axis=0)
    found = compare_at(np.full(20, levels[1]), curve[1], curve, levels, seed=0)
    assert found == {
        "best_of": pytest.approx(curve[1].mean()),
        **{key: pytest.approx(0, abs=1e-12) for key in ("difference", "low", "high")},
    }


def test_the_interval_holds_what_resampling_the_kl_as_well_gives():
    rng = np.random.default_rng(4)
    prompts, levels = 400, np.array([0.0, 1.0])
    curve = np.stack([rng.normal(size=prompts), 2 + rng.normal(size=prompts)])
    kl, values = 0.5 + rng.normal(size=prompts), rng.normal(size=prompts)
    found = compare_at(kl, values, curve, levels, seed=0)
    resampled = []
    for _ in range(4000):
        drawn = rng.integers(prompts, size=prompts)
        level = kl[drawn].mean()
        rival = (1 - level) * curve[0, drawn].mean() + level * curve[1, drawn].mean()
        resampled.append(values[drawn].mean() - rival)
    low, high = np.quantile(resampled, [0.025, 0.975])
    # Both intervals are of a few thousand resamples, about 0.5 wide.
    assert found["low"] == pytest.approx(low, abs=0.02)
    assert found["high"] == pytest.approx(high, abs=0.02)
    # A fixed level would have given an interval half as wide.
    fixed = np.std(values - curve.mean(axis=0)) / np.sqrt(prompts)
    assert found["high"] - found["low"] > 1.5 * (2 * 1.96 * fixed)


@pytest.mark.parametrize("kl", [-0.5, 3.0])
def test_outside_the_curve_nothing_is_compared(kl):
    (figures,) = compare(start_rows(), {"ppo": policy_rows(kl=kl)}, N, seed=0)["policies"].values()
    assert figures["between"] is None
    assert set(figures["at_equal_kl"].values()) == {None}
    assert figures["score"]["estimate"] > 0


def test_prompts_without_gold_have_a_score_and_wins_by_it():
    start = start_rows(4, gold=True) + [
        {**row, "prompt_id": "x" + row["prompt_id"]} for row in start_rows(4, 5, gold=False)
    ]
    policy = policy_rows(4, gold=True) + [
        {**row, "prompt_id": "x" + row["prompt_id"]} for row in policy_rows(4, seed=6, gold=False)
    ]
    (figures,) = compare(start, {"ppo": policy}, N, seed=0)["policies"].values()
    followed = [row["followed"] for row in policy if "followed" in row]
    assert figures["followed"]["estimate"] == pytest.approx(np.mean(followed), abs=1e-12)
    wins = []
    for ours, theirs in zip(by_prompt(policy), by_prompt(start), strict=True):
        key = "utility" if "utility" in ours[0] else "score"
        wins.append(np.mean([a[key] > b[key] for a in ours for b in theirs]))
    assert figures["win_rate"]["estimate"] == pytest.approx(np.mean(wins), abs=1e-12)
    only_scores = compare(start_rows(gold=False), {"ppo": policy_rows(gold=False)}, N, seed=0)
    assert set(only_scores["best_of"][0]) == {"n", "kl", "score", "win_rate"}


def test_figures_are_logged_by_stage():
    found = {"stage": "sft@ppo_init", **compare(start_rows(), {"ppo": policy_rows()}, N, seed=0)}
    flat = flatten_figures(found)
    assert set(flat) == {"sft@ppo_init", "ppo"}
    assert flat["sft@ppo_init"]["best_of/4/kl"] == best_of_kl(4)
    assert flat["ppo"]["best_of/kl"] == found["policies"]["ppo"]["kl"]["estimate"]
    ahead = found["policies"]["ppo"]["at_equal_kl"]["score"]["difference"]
    assert flat["ppo"]["best_of/ahead/score"] == ahead
