from __future__ import annotations

import math

import pytest
import torch

from pipeline.errors import DataError
from pipeline.evaluation.perplexity import (
    DocumentLoss,
    cut_windows,
    measure_documents,
    summarize_losses,
)

TEXTS = [
    "Mia has a cat.",
    "Tom has 12 red dogs and a blue boat. " * 6,
    "Where does Tom live?",
    "ş 猫 🙂",
    "Hello Mia, how are you? " * 3,
]


def brute_force(model, ids, context):
    """Add -log p token by token, each from a pass over its window up to it."""
    total = 0.0
    for place in range(1, len(ids)):
        start = (place - 1) // (context - 1) * (context - 1)
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:place]])).logits[0, -1]
        total -= logits.log_softmax(-1)[ids[place]].item()
    return total


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_losses_are_the_brute_force_sums(make_policy, tiny_formatter, batch_size):
    model = make_policy(context=24)
    found = measure_documents(model, tiny_formatter, TEXTS, batch_size)
    for text, document in zip(TEXTS, found, strict=True):
        ids = tiny_formatter.document_ids(text)
        assert document.nll == pytest.approx(brute_force(model, ids, 24), abs=1e-6)
        assert document.tokens == len(ids) - 1
        assert document.bytes == len(text.encode())


def test_order_and_company_change_nothing(make_policy, tiny_formatter):
    model = make_policy(context=24)
    together = measure_documents(model, tiny_formatter, TEXTS, 3)
    backwards = measure_documents(model, tiny_formatter, TEXTS[::-1], 5)[::-1]
    for first, second in zip(together, backwards, strict=True):
        assert first.nll == pytest.approx(second.nll, abs=1e-9)


def test_summary_by_hand():
    found = summarize_losses([DocumentLoss(6.0, 2, 4), DocumentLoss(2.0, 2, 12)])
    assert found["perplexity"] == pytest.approx(math.exp(8 / 4))
    assert found["bits_per_byte"] == pytest.approx(8 / 16 / math.log(2))


def test_a_uniform_model_has_the_vocabularys_perplexity(make_policy, tiny_formatter):
    model = make_policy()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    found = summarize_losses(measure_documents(model, tiny_formatter, TEXTS, 4))
    assert found["perplexity"] == pytest.approx(model.config.vocab_size)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 30])
def test_windows_predict_every_token_but_the_first_once(length):
    windows = cut_windows(list(range(length)), 8)
    assert all(len(window) <= 8 for window in windows)
    assert [token for window in windows for token in window[1:]] == list(range(1, length))


def test_nothing_to_predict_is_refused():
    with pytest.raises(DataError, match=r"evaluate\.perplexity"):
        summarize_losses([])
