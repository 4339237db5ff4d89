from __future__ import annotations

import json

import pytest

from benchmarks.reward_sides import LEXICON, MAX_LENGTH, draw_rankings, pair_rows
from benchmarks.reward_vs_trl import main, summarize
from benchmarks.subjects import SHAPES, make_tokenizer
from pipeline.formatting import Formatter

VOCABULARY = SHAPES["tiny"].vocabulary


def test_rankings_follow_the_words_and_are_the_same_each_time() -> None:
    rankings = draw_rankings(300, 4, VOCABULARY, seed=1)
    assert rankings == draw_rankings(300, 4, VOCABULARY, seed=1)
    assert rankings[0] != draw_rankings(300, 4, VOCABULARY, seed=2)[0]
    assert all(sorted(ranking.ranks) == [1, 2, 3, 4] for ranking in rankings)
    # A word's worth is how often it stands in the best completion rather than in the worst; learned
    # on one half, it orders the other half's best and worst.
    worth = dict.fromkeys((f"w{i}" for i in range(LEXICON)), 0.0)
    right = []
    for i, ranking in enumerate(rankings):
        best, worst = (ranking.completions[ranking.ranks.index(r)].split() for r in (1, 4))
        if i < 150:
            for sign, words in ((1, best), (-1, worst)):
                for word in words:
                    worth[word] += sign / len(words)
        else:
            means = [sum(worth[w] for w in words) / len(words) for words in (best, worst)]
            right.append(means[0] > means[1])
    assert sum(right) / len(right) > 0.85


def test_trl_gets_every_pair_once_the_better_one_chosen() -> None:
    rankings = draw_rankings(5, 9, VOCABULARY, seed=3)
    formatter = Formatter(make_tokenizer(VOCABULARY))
    rows = pair_rows(rankings, formatter)
    assert len(rows["chosen_ids"]) == len(rows["rejected_ids"]) == 5 * 36
    assert max(len(ids) for ids in rows["chosen_ids"] + rows["rejected_ids"]) <= MAX_LENGTH
    head = formatter.prompt_ids(rankings[0].prompt.messages)
    ranks = {
        (*head, *formatter.completion_ids(text)): rank
        for text, rank in zip(rankings[0].completions, rankings[0].ranks, strict=True)
    }
    pairs = [
        (ranks[tuple(chosen)], ranks[tuple(rejected)])
        for chosen, rejected in zip(rows["chosen_ids"][:36], rows["rejected_ids"][:36], strict=True)
    ]
    assert sorted(pairs) == [(i, j) for i in range(1, 10) for j in range(i + 1, 10)]


def test_a_case_is_summed_up_by_medians_and_paired_ratios() -> None:
    def figures(rate):
        return dict.fromkeys(("accuracy", "low", "high", "steps", "peak_bytes"), 1.0) | {
            "comparisons_per_second": rate
        }

    measured = {"ours": [figures(rate) for rate in (6.0, 9.0, 8.0)]}
    measured["trl"] = [figures(rate) for rate in (2.0, 2.0, 4.0)]
    summary = summarize(measured)
    assert [summary[name] for name in ("ratio", "low", "high")] == [3.0, 2.0, 4.5]
    assert summary["ours"]["comparisons_per_second"] == 8
    assert summary["trl"]["comparisons_per_second"] == 2


def test_quick_runs_both_sizes_on_both_sides(capsys) -> None:
    assert main(["--quick", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| K")
    found = json.loads(lines[-1])
    for name, steps in (("k4", 4), ("k9", 2)):
        case = found[name]
        assert case["ours"]["steps"] == case["trl"]["steps"] == steps
        rates = [case[side]["comparisons_per_second"] for side in ("ours", "trl")]
        assert case["ratio"] == pytest.approx(rates[0] / rates[1])
        assert 0 < case["trl"]["accuracy"] < 1
