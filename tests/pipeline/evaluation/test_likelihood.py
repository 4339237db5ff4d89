from __future__ import annotations

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from pipeline.errors import DataError
from pipeline.evaluation.likelihood import SharedPrefixLM, common_prefix, score_continuations

PREFIX = "List three animals: cat, dog, fox.\n"
PAIRS = [
    (PREFIX + "Where does Tom live? Tom lives in the", " town"),
    (PREFIX + "Where does Tom live? Tom lives in the", " blue forest"),
    (PREFIX + "Mia has a", " cat"),
    (PREFIX + "Mia has a", " big dog."),
    (PREFIX + "Mia has a", " " + "boat " * 5 + "boat"),
]


def direct(model, context, continuation):
    """Score by one plain pass over context and continuation."""
    ids = torch.tensor([list(context) + list(continuation)])
    with torch.no_grad():
        logprobs = model(ids).logits.log_softmax(-1)[0]
    places = range(len(context), ids.shape[1])
    total = sum(logprobs[place - 1, ids[0, place]].item() for place in places)
    greedy = all(logprobs[place - 1].argmax() == ids[0, place] for place in places)
    return total, greedy


def requests_of(lm, pairs=PAIRS):
    return [(pair, *lm._encode_pair(*pair)) for pair in pairs]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_are_those_of_a_teacher_forced_pass(make_policy, tiny_tokenizer, batch_size):
    model = make_policy()
    lm = SharedPrefixLM(model, tiny_tokenizer, batch_size)
    requests = requests_of(lm)
    for (_, context, continuation), found in zip(
        requests, lm._loglikelihood_tokens(requests), strict=True
    ):
        total, greedy = direct(model, context, continuation)
        assert found[0] == pytest.approx(total, abs=1e-9)
        assert found[1] == greedy


def test_scores_are_those_of_lm_evals_own_model(make_policy, tiny_tokenizer):
    lm = SharedPrefixLM(make_policy(), tiny_tokenizer, 8)
    requests = requests_of(lm)
    theirs = HFLM._loglikelihood_tokens(lm, requests, disable_tqdm=True)
    for ours, other in zip(lm._loglikelihood_tokens(requests), theirs, strict=True):
        assert ours[0] == pytest.approx(other[0], abs=1e-9)
        assert ours[1] == other[1]


def test_the_greedy_continuation_is_recognised(make_policy, tiny_tokenizer):
    model = make_policy()
    context = tiny_tokenizer("Mia has a")["input_ids"]
    best = []
    for _ in range(3):
        with torch.no_grad():
            best.append(model(torch.tensor([context + best])).logits[0, -1].argmax().item())
    other = [*best[:2], (best[2] + 1) % model.config.vocab_size]
    ((first, second),) = score_continuations(model, [context], [[best, other]], 4)
    assert first[1]
    assert not second[1]
    assert first[0] > second[0]


def test_a_context_begins_as_a_pretraining_document_does(make_policy, tiny_formatter):
    lm = SharedPrefixLM(make_policy(), tiny_formatter.tokenizer, 8)
    context, continuation = lm._encode_pair("Mia has a", " cat")
    document = tiny_formatter.document_ids("Mia has a cat")
    assert context + continuation == document[:-1]
    assert context.count(tiny_formatter.tokenizer.bos_token_id) == 1


def test_a_sliding_window_takes_lm_evals_way(make_policy, tiny_tokenizer):
    model = make_policy(sliding_window=4)
    lm = SharedPrefixLM(model, tiny_tokenizer, 2)
    requests = requests_of(lm)
    for (_, context, continuation), found in zip(
        requests, lm._loglikelihood_tokens(requests), strict=True
    ):
        assert found[0] == pytest.approx(direct(model, context, continuation)[0], abs=1e-9)


def test_a_long_context_is_cut_at_one_place_for_all_choices(make_policy, tiny_tokenizer):
    model = make_policy(context=16)
    lm = SharedPrefixLM(model, tiny_tokenizer, 8)
    requests = requests_of(lm, PAIRS[:2])
    longest = max(len(continuation) for _, _, continuation in requests)
    found = lm._loglikelihood_tokens(requests)
    assert lm.cut_contexts == 1
    for (_, context, continuation), score in zip(requests, found, strict=True):
        total, _ = direct(model, context[-(17 - longest) :], continuation)
        assert score[0] == pytest.approx(total, abs=1e-9)


def test_a_choice_longer_than_the_context_is_refused(make_policy, tiny_tokenizer):
    lm = SharedPrefixLM(make_policy(context=16), tiny_tokenizer, 8)
    with pytest.raises(DataError, match="at most 16 tokens"):
        lm._loglikelihood_tokens([(("a", "b"), [1], [5] * 20)])


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([], 0),
        ([[1, 2, 3]], 2),
        ([[1, 2, 3], [1, 2, 3, 4]], 2),
        ([[1, 2, 3], [1, 5, 3], [1, 2]], 1),
        ([[1], [1, 2]], 0),
        ([[2, 1], [1, 2]], 0),
    ],
)
def test_common_prefix_leaves_every_row_a_token(rows, shared):
    assert common_prefix(rows) == shared
