from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.calibration import expected_calibration_error
from pipeline.errors import DataError
from pipeline.evaluation.perplexity import (
    DocumentLoss,
    cut_windows,
    measure_documents,
    summarize_confidence,
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
    found = measure_documents(model, tiny_formatter.tokenizer, TEXTS, batch_size).documents
    for text, document in zip(TEXTS, found, strict=True):
        ids = tiny_formatter.document_ids(text)
        assert document.nll == pytest.approx(brute_force(model, ids, 24), abs=1e-6)
        assert document.tokens == len(ids) - 1
        assert document.bytes == len(text.encode())


def test_order_and_company_change_nothing(make_policy, tiny_formatter):
    model = make_policy(context=24)
    tokenizer = tiny_formatter.tokenizer
    together = measure_documents(model, tokenizer, TEXTS, 3).documents
    backwards = measure_documents(model, tokenizer, TEXTS[::-1], 5).documents[::-1]
    for first, second in zip(together, backwards, strict=True):
        assert first.nll == pytest.approx(second.nll, abs=1e-9)
        assert first.confidence == pytest.approx(second.confidence, abs=1e-9)
        assert (first.tokens, first.correct) == (second.tokens, second.correct)


def test_summary_by_hand():
    found = summarize_losses([DocumentLoss(6.0, 2, 4, 1.0, 1), DocumentLoss(2.0, 2, 12, 1.0, 1)])
    assert found["perplexity"] == pytest.approx(math.exp(8 / 4))
    assert found["bits_per_byte"] == pytest.approx(8 / 16 / math.log(2))


def test_a_uniform_model_has_the_vocabularys_perplexity(make_policy, tiny_formatter):
    model = make_policy()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    documents = measure_documents(model, tiny_formatter.tokenizer, TEXTS, 4).documents
    found = summarize_losses(documents)
    assert found["perplexity"] == pytest.approx(model.config.vocab_size)
    # The first token is the likeliest of equals; it pads, and stands in no text.
    assert [document.correct for document in documents] == [0] * len(TEXTS)


def next_tokens(model, ids, context):
    """Return each predicted token's confidence and correctness, token by token."""
    found = []
    for place in range(1, len(ids)):
        start = (place - 1) // (context - 1) * (context - 1)
        with torch.no_grad():
            shares = model(torch.tensor([ids[start:place]])).logits[0, -1].softmax(-1)
        found.append((shares.max().item(), float(shares.argmax().item() == ids[place])))
    return found


def test_confidence_in_the_next_token_is_the_brute_forces(make_policy, tiny_formatter):
    model, tokenizer = make_policy(context=24), tiny_formatter.tokenizer
    # Text that the model itself finds likely, so that some of its guesses come true.
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([tokenizer("Mia")["input_ids"]]), max_new_tokens=20, do_sample=False
        )
    texts = [*TEXTS, tokenizer.decode(ids[0], skip_special_tokens=True)]
    found = measure_documents(model, tokenizer, texts, 3)
    expected = []
    for text, document in zip(texts, found.documents, strict=True):
        pairs = next_tokens(model, tiny_formatter.document_ids(text), 24)
        assert document.confidence == pytest.approx(sum(sure for sure, _ in pairs), abs=1e-6)
        assert document.correct == sum(right for _, right in pairs)
        expected += pairs
    sure, right = (np.array(each) for each in zip(*expected, strict=True))
    assert right.sum() > 0
    figures = summarize_confidence(found.documents, found.confidences, 8)
    assert figures["token_accuracy"] == pytest.approx(right.mean())
    assert figures["token_overconfidence"] == pytest.approx(sure.mean() - right.mean())
    points = figures["token_reliability"]
    assert sum(point["n"] for point in points) == len(sure)
    assert sum(point["n"] * point["accuracy"] for point in points) == pytest.approx(right.sum())
    # Bins end between two of 2,000 narrow ones, so that few of these tokens stand in another.
    assert figures["token_ece"] == pytest.approx(
        expected_calibration_error(sure, right, 8), abs=0.02
    )


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 30])
def test_windows_predict_every_token_but_the_first_once(length):
    windows = cut_windows(list(range(length)), 8)
    assert all(len(window) <= 8 for window in windows)
    assert [token for window in windows for token in window[1:]] == list(range(1, length))


def test_nothing_to_predict_is_refused():
    with pytest.raises(DataError, match=r"evaluate\.perplexity"):
        summarize_losses([])
