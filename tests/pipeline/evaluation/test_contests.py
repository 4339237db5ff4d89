from __future__ import annotations

import pytest

from pipeline.bootstrap import Interval
from pipeline.evaluation.contests import (
    between,
    compare_people,
    compare_values,
    describe_point,
    describe_start,
    flatten_figures,
    pair_stages,
    with_rival,
)
from pipeline.preferences import Comparison
from pipeline.win_rates import describe_judge
from tests.pipeline.judgments import judged, outputs


def rows(**texts: tuple[str, float]):
    return {
        prompt: {"prompt_id": prompt, "completion": text, "score": score}
        for prompt, (text, score) in texts.items()
    }


def test_the_higher_value_wins_and_equal_answers_tie_whatever_their_scores():
    ours = rows(p=("long answer", 2.0), q=("x", 1.0), r=("same", 1.0000001), s=("a", 3.0))
    theirs = rows(p=("short", 1.0), q=("y", 1.0), r=("same", 1.0), t=("b", 0.0))
    found = list(compare_values("score", "ppo", "sft", ours, theirs))
    assert found == [
        Comparison("p", "ppo", "sft", 1.0, 6),
        Comparison("q", "ppo", "sft", 0.5, 0),
        Comparison("r", "ppo", "sft", 0.5, 0, same=True),
    ]
    assert list(compare_values("utility", "ppo", "sft", ours, theirs)) == []


def test_labelers_comparisons_say_what_was_shown_first():
    pair = outputs("p", 2, o0=("sft",), o1=("ppo", "ppo@x"))
    known = {"prompt": "p", "kind": "comparison", "outputs": pair}
    people, simulated = (
        judged("ada", (2, 1), presented=(1, 0), **known),
        judged("simulated-1", (1, 1), presented=None, simulated=True, **known),
    )
    found = compare_people([people, simulated])
    assert [(one.stage, one.against) for one in found["people"]] == [
        ("sft", "ppo"),
        ("sft", "ppo@x"),
    ]
    (one, _) = found["people"]
    # PPO's answer was shown first, is longer by 10, and won.
    assert (one.preference, one.longer, one.first) == (0.0, -10, (1.0,))
    assert [(one.preference, one.first) for one in found["simulated"]] == [(0.5, ())] * 2
    (only,) = compare_people([people], stages=["ppo@x", "sft"])["people"]
    assert only.against == "ppo@x"
    turned = judged("ada", (2, 1), presented=(0, 1), **known)
    assert compare_people([turned])["people"][0].first == (0.0,)


def test_pairs_are_all_of_them_or_those_with_one():
    stages = ["pretrain", "sft", "ppo"]
    assert pair_stages(stages, None) == [("sft", "pretrain"), ("ppo", "pretrain"), ("ppo", "sft")]
    assert pair_stages(stages, "sft") == [("pretrain", "sft"), ("ppo", "sft")]


def test_comparisons_of_two_stages_are_seen_from_the_first_and_those_with_one_are_kept():
    items = [
        Comparison("p", "ppo", "sft", 1.0, 4),
        Comparison("q", "sft", "ppo", 1.0, 3),
        Comparison("r", "sft", "pretrain", 0.0, 2),
    ]
    assert between(items, "ppo", "sft") == [items[0], Comparison("q", "ppo", "sft", 0.0, -3)]
    assert between(items, "ppo", "pretrain") == []
    assert with_rival(items, "pretrain") == items[2:]
    assert with_rival(items, None) == items


def test_overstatement_is_the_reward_models_win_rate_less_the_others_on_the_same_prompts():
    def compare(won: float, *prompts: str) -> list[Comparison]:
        return [Comparison(prompt, "ppo", "sft", won, 0) for prompt in prompts]

    judgments = {
        "reward": compare(1.0, "p", "q", "r"),
        "gold": [*compare(1.0, "p"), *compare(0.0, "q"), *compare(0.5, "r")],
        "llm": compare(0.0, "p", "z"),
        "people": [],
    }
    answers = {"p": {"score": 2.0, "log_ratio": 3.0}, "q": {"score": 1.0, "log_ratio": 1.0}}
    found = describe_point("ppo.4", 4, answers, judgments, seed=0)
    assert set(found.win_rates) == {"reward", "gold", "llm"}
    assert found.win_rates["reward"] == Interval(1.0, 1.0, 1.0)
    assert found.overstated["gold"].estimate == pytest.approx(0.5)
    assert found.overstated["gold"].low < 0.5 < found.overstated["gold"].high
    assert found.overstated["llm"] == Interval(1.0, 1.0, 1.0)
    assert (found.kl.estimate, found.score.estimate) == (2.0, 1.5)
    bare = describe_point("ppo", None, {"p": {}}, {}, seed=0)
    assert (bare.kl, bare.score, bare.win_rates, bare.overstated) == (None, None, {}, {})
    assert describe_start("sft", answers, seed=0).kl == Interval(0.0, 0.0, 0.0)


def test_logged_figures_are_against_one_stage_from_either_side():
    items = [
        Comparison(str(i), stage, "sft", won, i)
        for stage, wins in (("pretrain", (0, 0, 1, 0)), ("ppo", (1, 1, 0, 1)))
        for i, won in enumerate(map(float, wins))
    ]
    figures = describe_judge(items, ["pretrain", "sft", "ppo"], seed=0, samples=10)
    flat = flatten_figures({"gold": figures}, "sft")
    assert set(flat) == {"pretrain", "sft", "ppo"}
    assert set(flat["sft"]) == {"win_rates/gold/strength"}
    assert flat["pretrain"]["win_rates/gold/vs_sft"] == pytest.approx(0.25)
    assert flat["ppo"]["win_rates/gold/vs_sft"] == pytest.approx(0.75)
    controlled = "win_rates/gold/vs_sft_length_controlled"
    before, after = (pair.length_controlled.win_rate.estimate for pair in figures.pairs)
    assert flat["pretrain"][controlled] == pytest.approx(1 - before)
    assert flat["ppo"][controlled] == after
    won = [Comparison(str(i), "ppo", "sft", 1.0, i) for i in range(4)]
    alone = {"gold": describe_judge(won, ["sft", "ppo"], seed=0, samples=10)}
    assert set(flatten_figures(alone, "sft")["ppo"]) == {
        "win_rates/gold/strength",
        "win_rates/gold/vs_sft",
    }
