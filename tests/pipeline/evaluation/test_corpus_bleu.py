from __future__ import annotations

import pytest
from lm_eval.api.registry import get_aggregation

from pipeline.evaluation.corpus_bleu import count_matches
from pipeline.evaluation.harness import _read_other
from pipeline.report.bleu import measure_bleu

PAIRS = [
    ["The cat sleeps on the old red mat.", "The cat sleeps on the mat."],
    ["Where does the dog live?", "The dog lives where?"],
    ["It rains, and nobody is outside.", "It rains; nobody is outside."],
]


def test_the_counts_of_the_rows_give_lm_evals_figure():
    samples = [
        {"doc_id": i, "metrics": ["bleu", "ter"], "bleu": pair, "ter": pair}
        for i, pair in enumerate(PAIRS)
    ]
    rows = {str(i): _read_other(sample, "") for i, sample in enumerate(samples)}
    assert [set(row) for row in rows.values()] == [{"doc", "bleu_counts"}] * 3
    counts = {name: row["bleu_counts"] for name, row in rows.items()}
    assert measure_bleu(counts) == pytest.approx(get_aggregation("bleu")(PAIRS), abs=1e-9)
    assert measure_bleu(counts) > 1


def test_one_documents_counts_by_hand():
    # Commas and full stops are words of their own.
    assert count_matches("a cat, a dog", "a cat, a bird.") == {
        "matches": [4, 3, 2, 1],
        "totals": [6, 5, 4, 3],
        "words": 6,
        "reference_words": 5,
    }


def test_a_bleu_that_is_a_number_needs_no_counts():
    sample = {"doc_id": 0, "metrics": ["bleu"], "bleu": 0.5}
    assert _read_other(sample, "") == {"doc": 0, "bleu": 0.5}
