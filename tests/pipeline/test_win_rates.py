from __future__ import annotations

import json

import pytest

from pipeline.bootstrap import bootstrap_mean
from pipeline.preferences import Comparison
from pipeline.win_rates import describe_judge, describe_pair, to_rows

ORDER = ["pretrain", "sft", "ppo"]


def test_pairs_have_the_later_stage_first_whoever_was_compared_with_whom():
    items = [
        Comparison("p", "sft", "ppo", 0.0, -5),
        Comparison("q", "ppo", "sft", 0.5, 3),
        Comparison("q", "pretrain", "sft", 0.0, 2),
        Comparison("q", "best", "sft", 1.0, 0),
    ]
    found = describe_judge(items, ORDER, seed=0, samples=10)
    assert [(one.stage, one.against) for one in found.pairs] == [
        ("sft", "pretrain"),
        ("ppo", "sft"),
        ("best", "sft"),
    ]
    ppo = found.pairs[1]
    assert (ppo.win_rate.estimate, ppo.ties, ppo.longer) == (0.75, 0.5, 4.0)
    assert (ppo.prompts, ppo.comparisons) == (2, 2)
    assert (found.prompts, found.comparisons, found.ties) == (2, 4, 0.25)
    assert [one.stage for one in found.strengths] == ["pretrain", "sft", "ppo", "best"]
    assert (found.first_preferred, found.disagreed) == (None, None)


def test_a_win_rates_interval_resamples_prompts():
    items = [Comparison(str(i // 4), "ppo", "sft", float(i % 3 == 0), i) for i in range(24)]
    found = describe_pair(items, seed=7, samples=10)
    values = [one.preference for one in items]
    assert found.win_rate == bootstrap_mean(values, [one.prompt for one in items], seed=7)
    assert found.win_rate != bootstrap_mean(values, seed=7)


def test_position_bias_and_disagreement_are_those_of_single_verdicts():
    """Of five pairs shown twice, two judged by place, one by answer, one tied, one half tied."""
    shown = [(1.0, 1.0), (1.0, 0.0), (0.5, 0.5), (1.0, 0.5), (0.0, 0.0)]
    preferences = [0.5, 1.0, 0.5, 0.5, 0.5]
    items = [
        Comparison(str(i), "ppo", "sft", won, i, first)
        for i, (won, first) in enumerate(zip(preferences, shown, strict=True))
    ]
    found = describe_judge([*items, Comparison("z", "ppo", "sft", 0.5, 0)], ORDER, seed=0)
    assert found.first_preferred is not None
    assert found.first_preferred.estimate == pytest.approx((2 + 1 + 1 + 1.5 + 0) / 10)
    assert found.disagreed == 0.6
    assert found.ties == pytest.approx(5 / 6)


def test_a_judge_of_nothing_is_a_fault():
    with pytest.raises(ValueError, match="at least one comparison"):
        describe_judge([], ORDER, seed=0)


def test_figures_are_written_as_json_has_them():
    items = [Comparison(str(i), "ppo", "sft", float(i % 2), i) for i in range(6)]
    found = describe_judge(items, ORDER, seed=0, samples=10)
    rows = json.loads(json.dumps(to_rows(found)))
    assert rows["pairs"][0]["win_rate"] == found.pairs[0].win_rate._asdict()
    assert rows["pairs"][0]["length_controlled"]["separated"] is False
    assert rows["strengths"][0]["strength"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
    assert to_rows({"a": (None, 1), "b": [(0.5,)]}) == {"a": [None, 1], "b": [[0.5]]}
