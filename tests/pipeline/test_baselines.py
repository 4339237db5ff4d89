from __future__ import annotations

import random

import pytest

from pipeline.baselines import fit_bag_of_words, fit_length, measure_floors, score_texts
from pipeline.ranking_accuracy import measure_accuracy
from pipeline.records import Prompt, Ranking

WORDS = [f"word{i}" for i in range(30)]


def draw(count: int, seed: int, *, rule: str) -> list[Ranking]:
    """Draw pairs that a rule decides: a telling word, the length, or nothing but a coin."""
    rng = random.Random(seed)
    rankings = []
    for i in range(count):
        words = [rng.sample(WORDS, rng.randint(3, 9)) for _ in range(2)]
        if rule == "word":
            words[0].insert(1, "Kindly")
        elif rule in ("longer", "shorter"):
            words.sort(key=len, reverse=rule == "longer")
            words[0 if rule == "longer" else 1].append("and so on")
        texts = [" ".join(part) for part in words]
        order = rng.sample([0, 1], 2)
        rankings.append(
            Ranking(
                Prompt.from_text(f"{seed} {i}"),
                tuple(texts[k] for k in order),
                tuple(k + 1 for k in order),
            )
        )
    return rankings


def score_nothing(rankings: list[Ranking]) -> list[list[float]]:
    """Score as a reward model does that tells no completions apart."""
    return [[0.0] * len(ranking.completions) for ranking in rankings]


def test_bag_of_words_finds_a_telling_word_and_length_does_not() -> None:
    held_out = draw(100, 1, rule="word")
    floors = measure_floors(draw(200, 0, rule="word"), held_out, score_nothing(held_out), seed=0)
    assert floors["bag_of_words"]["accuracy"] == 1.0
    assert floors["length"]["accuracy"] < 0.75
    assert floors["bag_of_words"]["ahead"] == {"difference": -0.5, "low": -0.5, "high": -0.5}
    assert floors["bag_of_words"]["by_labeler"] == {"unnamed": {"accuracy": 1.0, "n": 100}}
    assert floors["bag_of_words"]["n"] == floors["length"]["n"] == 100


def test_both_are_at_chance_where_there_is_nothing_to_find() -> None:
    held_out = draw(300, 1, rule="coin")
    floors = measure_floors(draw(300, 0, rule="coin"), held_out, score_nothing(held_out), seed=0)
    for floor in floors.values():
        # Four standard errors of 300 fair coins.
        assert 0.385 < floor["accuracy"] < 0.615
        assert floor["low"] < 0.5 < floor["high"]


@pytest.mark.parametrize("rule", ["longer", "shorter"])
def test_length_takes_its_sign_from_the_training_rankings(rule: str) -> None:
    held_out = draw(50, 1, rule=rule)
    scores = score_texts(fit_length(draw(50, 0, rule=rule)), held_out)
    assert measure_accuracy(held_out, scores, seed=0)["accuracy"] == 1.0
    sign = scores[0][0] / len(held_out[0].completions[0])
    assert sign == (1.0 if rule == "longer" else -1.0)


def test_bag_of_words_does_not_see_the_order_of_words_or_case() -> None:
    score = fit_bag_of_words(draw(50, 0, rule="word"))
    first, second, unknown = score(["Kindly word1 word2", "word2 WORD1 kindly", "unheard-of"])
    assert first == second > 0
    assert unknown == 0


def test_bag_of_words_turns_with_the_labelers_and_not_with_the_presented_order() -> None:
    rankings = draw(80, 0, rule="coin")
    presented = [Ranking(one.prompt, one.completions[::-1], one.ranks[::-1]) for one in rankings]
    opposed = [Ranking(one.prompt, one.completions, one.ranks[::-1]) for one in rankings]
    ours = fit_bag_of_words(rankings)(WORDS)
    # The solver stops at a gradient of 1e-4.
    assert fit_bag_of_words(presented)(WORDS) == pytest.approx(ours, abs=1e-3)
    assert fit_bag_of_words(opposed)(WORDS) == pytest.approx([-one for one in ours], abs=1e-3)
    assert max(ours) > 0.1


def test_a_ranking_of_many_pairs_weighs_as_much_as_one_of_two() -> None:
    prompt = Prompt.from_text("p")
    many = Ranking(prompt, ("long text", "a", "b", "c"), (1, 2, 2, 2))
    few = [Ranking(Prompt.from_text(f"{i}"), ("tiny", "lengthy"), (1, 2)) for i in range(2)]
    assert fit_length([many, *few])(["four"]) == [-4.0]


def test_texts_without_words_score_alike() -> None:
    rankings = [Ranking(Prompt.from_text("p"), ("!!", "??"), (1, 2))]
    assert fit_bag_of_words(rankings)(["!!", "??", "word"]) == [0.0, 0.0, 0.0]


def test_ties_alone_teach_the_floors_nothing() -> None:
    tied = [Ranking(Prompt.from_text("p"), ("a", "b"), (1, 1))]
    assert fit_bag_of_words(tied)(["a", "b"]) == [0.0, 0.0]
    assert fit_length(tied)(["a", "bb"]) == [1.0, 2.0]
    both = [*tied, Ranking(Prompt.from_text("q"), ("bb", "a"), (2, 1))]
    assert fit_length(both)(["a", "bb"]) == [-1.0, -2.0]
