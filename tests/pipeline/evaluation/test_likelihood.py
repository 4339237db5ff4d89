from __future__ import annotations

import types

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from pipeline.errors import DataError
from pipeline.evaluation.likelihood import SharedPrefixLM, move_padding
from pipeline.evaluation.loading import quiet

PREFIX = "List three animals: cat, dog, fox.\n"
PAIRS = [
    (PREFIX + "Where does Tom live? Tom lives in the", " town"),
    (PREFIX + "Where does Tom live? Tom lives in the", " blue forest"),
    (PREFIX + "Mia has a", " cat"),
    (PREFIX + "Mia has a", " big dog."),
    (PREFIX + "Mia has a", " " + "boat " * 5 + "boat"),
]
TEXTS = ["Mia lives in the forest.", "Tom has 12 red dogs and a blue boat. " * 6, "cat"]


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


def ask(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@pytest.fixture
def make_theirs(tiny_tokenizer):
    """Return a function that makes lm_eval's own language model of a model."""

    def make(model, batch_size=2):
        with quiet():
            return HFLM(
                pretrained=model, tokenizer=tiny_tokenizer, backend="causal", batch_size=batch_size
            )

    return make


@pytest.mark.parametrize("budget", [1, 24, 512])
def test_scores_are_those_of_a_teacher_forced_pass(
    make_policy, tiny_tokenizer, monkeypatch, budget
):
    monkeypatch.setattr("pipeline.evaluation.likelihood.pass_tokens", lambda _: budget)
    model = make_policy()
    lm = SharedPrefixLM(model, tiny_tokenizer, 8)
    requests = requests_of(lm)
    for (_, context, continuation), found in zip(
        requests, lm._loglikelihood_tokens(requests), strict=True
    ):
        total, greedy = direct(model, context, continuation)
        assert found[0] == pytest.approx(total, abs=1e-9)
        assert found[1] == greedy


def test_scores_are_those_of_lm_evals_own_model(make_policy, tiny_tokenizer, make_theirs):
    model = make_policy()
    lm = SharedPrefixLM(model, tiny_tokenizer, 8)
    asked = [ask("loglikelihood", *pair) for pair in [*PAIRS, ("", "Mia has a cat")]]
    theirs = make_theirs(model).loglikelihood(asked, disable_tqdm=True)
    for ours, other in zip(lm.loglikelihood(asked), theirs, strict=True):
        assert ours[0] == pytest.approx(other[0], abs=1e-9)
        assert ours[1] == other[1]
    assert lm.token_counts[PAIRS[0]] == 1
    assert lm.cut_contexts == 0


def test_the_greedy_continuation_is_recognised(make_policy, tiny_tokenizer):
    model = make_policy()
    context = tiny_tokenizer("Mia has a")["input_ids"]
    best = []
    for _ in range(3):
        with torch.no_grad():
            best.append(model(torch.tensor([context + best])).logits[0, -1].argmax().item())
    other = [*best[:2], (best[2] + 1) % model.config.vocab_size]
    lm = SharedPrefixLM(model, tiny_tokenizer, 8)
    first, second = lm._loglikelihood_tokens([(None, context, best), (None, context, other)])
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


def test_choices_that_cannot_be_scored_are_refused(make_policy, tiny_tokenizer):
    lm = SharedPrefixLM(make_policy(context=16), tiny_tokenizer, 8)
    with pytest.raises(DataError, match="at most 16 tokens"):
        lm._loglikelihood_tokens([(("a", "b"), [1], [5] * 20)])
    with pytest.raises(DataError, match="must have tokens of its own"):
        lm._loglikelihood_tokens([(("a", ""), [1], [])])
    assert lm.loglikelihood([]) == []


@pytest.mark.parametrize("sliding_window", [None, 4])
def test_whole_texts_in_windows(make_policy, tiny_tokenizer, make_theirs, sliding_window):
    model = make_policy(context=16, sliding_window=sliding_window)
    asked = [ask("loglikelihood_rolling", text) for text in TEXTS]
    lm = SharedPrefixLM(model, tiny_tokenizer, 2)
    expected = make_theirs(model).loglikelihood_rolling(asked, disable_tqdm=True)
    assert lm.loglikelihood_rolling(asked) == pytest.approx(expected, abs=1e-9)
    assert lm.cut_contexts == 0


OPTIONS = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}


def contexts(shared=PREFIX * 2):
    asked = ("Where does Tom live?", "Mia", "Say hello to Mia. Hello", "The cat is small. The", "a")
    return [shared + text for text in asked]


@pytest.mark.parametrize("sliding_window", [None, 4])
@pytest.mark.parametrize("shared", ["", PREFIX * 2])
def test_texts_are_those_of_lm_evals_own_model(
    make_policy, tiny_tokenizer, make_theirs, shared, sliding_window
):
    model = make_policy(context=96, sliding_window=sliding_window)
    lm, theirs = SharedPrefixLM(model, tiny_tokenizer, 2), make_theirs(model)

    def generate(*stops):
        options = {**OPTIONS, "until": list(stops)}
        asked = [ask("generate_until", text, dict(options)) for text in contexts(shared)]
        texts = lm.generate_until(asked)
        assert texts == theirs.generate_until(asked, disable_tqdm=True)
        return texts

    whole = generate()
    assert len(set(whole)) == len(whole)
    stops = [text[-3:-1] for text in whole[1:4]]
    for text, cut in zip(whole, generate(*stops), strict=True):
        assert (
            cut == text[: min((text.index(stop) for stop in stops if stop in text), default=None)]
        )
    # Requests with different options are no batch.
    mixed = [
        ask("generate_until", text, {**OPTIONS, "until": stops[i % 2 :]})
        for i, text in enumerate(contexts(shared))
    ]
    assert lm.generate_until(mixed) == theirs.generate_until(mixed, disable_tqdm=True)


def test_the_shared_examples_are_computed_once_a_generation(
    make_policy, tiny_tokenizer, monkeypatch
):
    model = make_policy(context=96)
    lm = SharedPrefixLM(model, tiny_tokenizer, 5)
    counts = []
    embed = model.model.embed_tokens.forward
    monkeypatch.setattr(
        model.model.embed_tokens, "forward", lambda ids: counts.append(ids.shape) or embed(ids)
    )
    asked = [ask("generate_until", text, dict(OPTIONS)) for text in contexts()]
    lm.generate_until(asked)
    shared = counts[0][1]
    whole = max(len(tiny_tokenizer(text)["input_ids"]) for text in contexts())
    assert counts[0][0] == 1
    assert shared > 16
    assert tuple(counts[1]) == (5, whole - shared)
    assert {shape[1] for shape in counts[2:]} == {1}


def test_contexts_cut_for_what_is_generated_are_counted(make_policy, tiny_tokenizer, make_theirs):
    model = make_policy(context=40)
    lm = SharedPrefixLM(model, tiny_tokenizer, 2)
    asked = [ask("generate_until", text, dict(OPTIONS)) for text in [*contexts(), "Mia has a"]]
    texts = lm.generate_until(asked)
    assert texts == make_theirs(model).generate_until(asked, disable_tqdm=True)
    lengths = [len(tiny_tokenizer(request.args[0])["input_ids"]) for request in asked]
    assert lm.cut_contexts == sum(length > 40 - 12 for length in lengths) > 0


def test_shared_examples_longer_than_the_context_are_not_computed(
    make_policy, tiny_tokenizer, make_theirs, monkeypatch
):
    model = make_policy(context=20)
    asked = [ask("generate_until", text, dict(OPTIONS)) for text in contexts(PREFIX * 4)]
    expected = make_theirs(model).generate_until(asked, disable_tqdm=True)
    widths = []
    embed = model.model.embed_tokens.forward
    monkeypatch.setattr(
        model.model.embed_tokens, "forward", lambda ids: widths.append(ids.shape[1]) or embed(ids)
    )
    lm = SharedPrefixLM(model, tiny_tokenizer, 2)
    assert lm.generate_until(asked) == expected
    assert max(widths) <= 20 - OPTIONS["max_gen_toks"]
    assert lm.cut_contexts == len(asked)


def test_an_answer_that_leaves_no_room_for_a_question_is_refused(make_policy, tiny_tokenizer):
    lm = SharedPrefixLM(make_policy(context=16), tiny_tokenizer, 2)
    asked = ask("generate_until", "Mia", {**OPTIONS, "max_gen_toks": 16})
    asked.task_name = "said"
    with pytest.raises(DataError, match=r"task said must be less than the model's context \(16"):
        lm.generate_until([asked])
    asked.arguments = ("Mia", {**OPTIONS, "max_gen_toks": 15})
    assert len(lm.generate_until([asked])) == 1


def test_a_forgotten_text_is_encoded_again(make_policy, tiny_tokenizer, monkeypatch):
    model = make_policy()
    asked = [ask("loglikelihood", *pair) for pair in PAIRS]
    expected = SharedPrefixLM(model, tiny_tokenizer, 8).loglikelihood(asked)
    monkeypatch.setattr("pipeline.evaluation.likelihood.REMEMBERED", 2)
    lm = SharedPrefixLM(model, tiny_tokenizer, 8)
    held = []
    encode = lm.tokenizer.encode
    monkeypatch.setattr(
        lm.tokenizer, "encode", lambda *a, **b: held.append(len(lm._encoded)) or encode(*a, **b)
    )
    assert lm.loglikelihood(asked) == expected
    assert max(held) <= 2


def test_padding_moves_behind_the_stem():
    ids = torch.tensor([[0, 0, 7, 8, 3], [7, 8, 4, 5, 6], [0, 7, 8, 1, 2]])
    mask = (ids > 0).long()
    moved, real = move_padding(ids, mask, torch.tensor([7, 8]))
    assert moved.tolist() == [[7, 8, 0, 0, 3], [7, 8, 4, 5, 6], [7, 8, 0, 1, 2]]
    assert real.tolist() == [[1, 1, 0, 0, 1], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1]]
    assert move_padding(ids, mask, torch.tensor([7, 9])) is None
    assert move_padding(ids, mask, torch.tensor([7, 8, 3])) is None


class Crew:
    """Be one of several processes whose answers are put together afterwards."""

    precision = "float64"

    def __init__(self, rank, world_size):
        self.rank, self.world_size, self.own = rank, world_size, []

    def gather_objects(self, items):
        self.own = items
        return [(i, "elsewhere") for i in range(99)] + items


@pytest.mark.parametrize("sliding_window", [None, 4])
def test_shares_of_processes_make_the_whole(
    make_policy, tiny_tokenizer, sliding_window, monkeypatch
):
    monkeypatch.setattr("pipeline.evaluation.likelihood.pass_tokens", lambda _: 24)
    model = make_policy(context=96, sliding_window=sliding_window)
    alone = SharedPrefixLM(model, tiny_tokenizer, 2)
    requests = requests_of(alone)
    asked = [ask("generate_until", text, dict(OPTIONS)) for text in contexts()]
    scores, texts = alone._loglikelihood_tokens(requests), alone.generate_until(asked)
    parts: list[types.SimpleNamespace] = []
    for rank in range(3):
        crew = Crew(rank, 3)
        lm = SharedPrefixLM(model, tiny_tokenizer, 2, crew)
        lm._loglikelihood_tokens(requests)
        part = types.SimpleNamespace(scores=crew.own)
        lm.generate_until(asked)
        part.texts = crew.own
        parts.append(part)
    assert all(len(part.texts) in (1, 2) for part in parts)
    assert dict(sorted(one for part in parts for one in part.texts)) == dict(enumerate(texts))
    found = dict(one for part in parts for one in part.scores)
    assert sum(len(part.scores) for part in parts) == len(requests)
    for i, (total, greedy) in enumerate(scores):
        # Packs are the same on any number of processes, and so is every digit.
        assert found[i][0] == pytest.approx(total, abs=0 if sliding_window is None else 1e-12)
        assert found[i][1] == greedy


def test_bf16_computes_in_lower_precision(make_policy, tiny_tokenizer):
    model = make_policy(dtype=torch.float32)
    crew = Crew(0, 1)
    crew.precision = "bf16"
    lower = SharedPrefixLM(model, tiny_tokenizer, 8, crew)
    requests = requests_of(lower)
    exact = SharedPrefixLM(model, tiny_tokenizer, 8)._loglikelihood_tokens(requests)
    found = lower._loglikelihood_tokens(requests)
    gaps = [abs(one[0] - other[0]) for one, other in zip(found, exact, strict=True)]
    assert 0 < max(gaps) < 0.5
