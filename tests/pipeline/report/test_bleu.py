"""The BLEU of a corpus, its interval and its significance, from the counts of documents."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sacrebleu

from pipeline.evaluation.corpus_bleu import count_matches
from pipeline.report.bleu import bleu_error, compare_bleu, measure_bleu

WORDS = ["a", "cat", "dog", "sees", "runs", "red", "old", "house"]


def draw_texts(count: int, kept: float, seed: int) -> list[tuple[str, str]]:
    """Return references and translations of which some words are right."""
    # The references of a seed are the same, whatever is kept of them.
    asked, draw = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    pairs = []
    for _ in range(count):
        right = asked.choice(WORDS, asked.integers(5, 11)).tolist()
        own = [word if draw.random() < kept else str(draw.choice(WORDS)) for word in right]
        pairs.append((" ".join(right), " ".join(own[: len(own) - draw.integers(2)])))
    return pairs


def counts(pairs: list[tuple[str, str]]) -> dict[str, dict]:
    return {str(i): count_matches(*pair) for i, pair in enumerate(pairs)}


def of_sacrebleu(pairs: list[tuple[str, str]]) -> float:
    score: float = sacrebleu.corpus_bleu([own for _, own in pairs], [[right for right, _ in pairs]])
    return score.score


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_it_is_sacrebleus(kept: float) -> None:
    for seed in range(5):
        pairs = draw_texts(20, kept, seed)
        assert measure_bleu(counts(pairs)) == pytest.approx(of_sacrebleu(pairs), abs=1e-9)


@pytest.mark.parametrize(
    "pairs",
    [
        [("a red cat sees a dog", "a red cat sees a dog")],
        # No run of four: nothing to count. Of two orders: no match, and smoothed.
        [("a red cat", "a red cat")],
        [("a red cat sees a dog", "a dog sees red old cat")],
        [("a red cat sees a dog", "")],
        [("a red cat sees a dog", "house old runs house old")],
        # Much too long is no matter, much too short is.
        [("a cat", "a cat sees a dog and a house"), ("a red cat sees a dog", "a red cat")],
    ],
)
def test_corpora_at_the_edge_are_sacrebleus_too(pairs: list[tuple[str, str]]) -> None:
    assert measure_bleu(counts(pairs)) == pytest.approx(of_sacrebleu(pairs), abs=1e-9)


def test_a_corpus_compared_with_itself_has_not_changed() -> None:
    own = counts(draw_texts(30, 0.8, 0))
    change = compare_bleu(own, own, seed=1)
    assert change is not None
    assert (change.difference, change.low, change.high, change.p) == (0, 0, 0, 1)


def test_stages_swapped_have_the_same_change_turned() -> None:
    ours, theirs = counts(draw_texts(40, 0.8, 0)), counts(draw_texts(40, 0.7, 1))
    there, back = compare_bleu(ours, theirs, seed=1), compare_bleu(theirs, ours, seed=1)
    assert there is not None
    assert back is not None
    assert (back.difference, back.p) == pytest.approx((-there.difference, there.p))
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_the_p_value_is_that_of_every_way_to_swap() -> None:
    ours, theirs = counts(draw_texts(10, 0.75, 2)), counts(draw_texts(10, 0.7, 2))
    change = compare_bleu(ours, theirs, seed=0)
    assert change is not None
    differences = []
    for places in itertools.product([0, 1], repeat=10):
        both = dict(zip(ours, places, strict=True))
        one = {name: (ours, theirs)[place][name] for name, place in both.items()}
        other = {name: (theirs, ours)[place][name] for name, place in both.items()}
        differences.append(measure_bleu(one) - measure_bleu(other))
    exact = np.mean(np.abs(differences) >= abs(change.difference) - 1e-9)
    assert 0.01 < exact < 0.99
    # Three standard errors of 100,000 draws.
    assert change.p == pytest.approx(exact, abs=0.005)


def test_the_interval_covers_the_change_of_a_large_corpus(monkeypatch) -> None:
    monkeypatch.setattr("pipeline.report.bleu.SIGN_DRAWS", 1)
    many = [counts(draw_texts(2000, kept, 9)) for kept in (0.8, 0.75)]
    truth = measure_bleu(many[0]) - measure_bleu(many[1])
    names, covered = sorted(many[0]), 0
    draw = np.random.default_rng(0)
    for seed in range(200):
        picked = draw.choice(names, 60, replace=False)
        change = compare_bleu(*({name: side[name] for name in picked} for side in many), seed=seed)
        assert change is not None
        covered += change.low <= truth <= change.high
    # Three standard errors of 200 data sets.
    assert covered / 200 == pytest.approx(0.95, abs=0.045)


def test_the_standard_error_shrinks_with_the_root_of_the_documents() -> None:
    few, many = (bleu_error(counts(draw_texts(count, 0.7, 3)), 0) for count in (50, 450))
    assert few / many == pytest.approx(3, rel=0.25)


def test_documents_that_only_one_stage_has_are_not_compared() -> None:
    own = counts(draw_texts(5, 0.8, 0))
    shifted = {str(int(name) + 3): value for name, value in own.items()}
    change = compare_bleu(own, shifted, seed=0)
    assert change is not None
    assert change.n == 2
    assert compare_bleu(own, {"other": own["0"]}, seed=0) is None


def test_the_nearest_of_several_references_counts() -> None:
    found = count_matches(["a red cat", "a dog sees a red old cat"], ["a dog sees a cat"])
    assert found == {
        "matches": [5, 3, 2, 1],
        "totals": [5, 4, 3, 2],
        "words": 5,
        # As near as seven, and shorter.
        "reference_words": 3,
    }
