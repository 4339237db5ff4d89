from __future__ import annotations

import math

import pytest
import torch

from pipeline import streaming
from pipeline.config.sampling import DecodingSection
from pipeline.errors import DataError
from pipeline.formatting import Formatter
from pipeline.judges import RewardJudge
from pipeline.models import load_policy
from pipeline.records import Prompt
from pipeline.sampling import sample_completions
from pipeline.serving_messages import (
    DistributionRequest,
    Finished,
    GenerationRequest,
    Notice,
    Token,
)
from pipeline.streaming import (
    Policy,
    find_distribution,
    measure_tokens,
    stream_answers,
)
from pipeline.tokenizer import load_tokenizer

PROMPT = Prompt.from_text("Where does Tom live?")
SAMPLED = DecodingSection(max_new_tokens=12)
GREEDY = DecodingSection(max_new_tokens=12, temperature=0)
ROUNDING = 1e-9
"""A prompt that is read in other portions gives the last digits of float64 anew."""


@pytest.fixture(scope="module")
def policy(make_policy, tiny_formatter):
    return Policy("ours", make_policy(0), tiny_formatter)


@pytest.fixture(scope="module")
def reference(make_policy, tiny_formatter):
    return Policy("base", make_policy(1), tiny_formatter)


def ask(decoding=SAMPLED, samples=1, seed=3, prompt=PROMPT):
    return GenerationRequest("ours", prompt.messages, decoding, samples, seed)


def answer(policy, request, reference=None, judge=None):
    """Return the tokens and the end of each answer, and the notices."""
    events = [e for some in stream_answers(request, policy, reference, judge) for e in some]
    tokens = {sample: [] for sample in range(request.samples)}
    for event in events:
        if isinstance(event, Token):
            tokens[event.sample].append(event)
    ends = {event.sample: event for event in events if isinstance(event, Finished)}
    notices = [event.text for event in events if isinstance(event, Notice)]
    return tokens, ends, notices


def logits_after(policy, ids):
    """Return the distribution after each token of the answer, all read at once."""
    before = policy.formatter.prompt_ids(PROMPT.messages)
    with torch.no_grad():
        return policy.model(torch.tensor([before + ids])).logits[0, len(before) - 1 : -1]


@pytest.mark.parametrize("decoding", [GREEDY, DecodingSection(max_new_tokens=12, stop=["e"])])
def test_an_answer_is_that_of_sample_completions(policy, decoding):
    (expected,) = sample_completions(policy.model, policy.formatter, [PROMPT], decoding, seed=3)
    tokens, ends, _ = answer(policy, ask(decoding))
    assert [token.id for token in tokens[0]] == expected.ids
    assert ends[0].text == expected.text
    assert ends[0].finish_reason == expected.finish_reason


def test_samples_are_those_of_sample_completions_and_each_has_its_own(policy):
    decoding = DecodingSection(max_new_tokens=40, temperature=9.0, top_p=0.99, presence_penalty=0.5)
    expected = sample_completions(
        policy.model, policy.formatter, [PROMPT] * 40, decoding, seed=3, sample_index=range(40)
    )
    tokens, ends, _ = answer(policy, ask(decoding, samples=40))
    assert [[token.id for token in tokens[sample]] for sample in range(40)] == [
        completion.ids for completion in expected
    ]
    assert [ends[sample].text for sample in range(40)] == [one.text for one in expected]
    assert len({len(one.ids) for one in expected}) > 1, "the rows must not all end together"


def test_another_seed_gives_another_answer(policy):
    first, second = (answer(policy, ask(seed=seed))[1][0].text for seed in (3, 4))
    assert first != second


def test_a_long_prompt_is_read_in_slices_between_which_others_have_their_turn(policy, monkeypatch):
    whole = answer(policy, ask(samples=2))
    monkeypatch.setattr(streaming, "SLICE", 4)
    before = len(policy.formatter.prompt_ids(PROMPT.messages)) - 1
    turns = list(stream_answers(ask(samples=2), policy))
    assert [bool(some) for some in turns[: math.ceil(before / 4) + 1]] == [
        *[False] * math.ceil(before / 4),
        True,
    ]
    tokens, ends, _ = answer(policy, ask(samples=2))
    assert [token.id for token in tokens[1]] == [token.id for token in whole[0][1]]
    assert ends[0].logprob == pytest.approx(whole[1][0].logprob, abs=ROUNDING)


def test_each_turn_says_one_token_of_each_answer_that_goes_on(policy):
    turns = [some for some in stream_answers(ask(samples=3), policy) if some]
    for turn in turns:
        samples = [event.sample for event in turn]
        assert len(samples) == len(set(samples))


def test_the_pieces_of_text_join_to_the_answer(policy):
    decoding = DecodingSection(max_new_tokens=40, temperature=9.0)
    tokens, ends, _ = answer(policy, ask(decoding, samples=8))
    for sample, end in ends.items():
        assert "".join(token.text for token in tokens[sample]) == end.text


def test_the_figures_are_those_of_the_whole_answer_read_at_once(policy, reference):
    decoding = DecodingSection(max_new_tokens=12, temperature=0.7, top_p=0.9)
    tokens, ends, _ = answer(policy, ask(decoding), reference)
    ids = [token.id for token in tokens[0]]
    ours = logits_after(policy, ids).log_softmax(-1)
    theirs = logits_after(reference, ids).log_softmax(-1)
    for place, token in enumerate(tokens[0]):
        own = ours[place]
        assert token.logprob == pytest.approx(float(own[token.id]), abs=ROUNDING)
        assert token.ref_logprob == pytest.approx(float(theirs[place, token.id]), abs=ROUNDING)
        assert token.rank == sorted(own.tolist(), reverse=True).index(float(own[token.id])) + 1
        assert token.entropy == pytest.approx(float(-(own.exp() * own).sum()), abs=ROUNDING)
        kl = float((own.exp() * (own - theirs[place])).sum())
        assert token.kl == pytest.approx(kl, abs=ROUNDING)
    end = ends[0]
    assert end.logprob == pytest.approx(sum(token.logprob for token in tokens[0]))
    assert end.kl == pytest.approx(sum(token.kl for token in tokens[0]))
    ratio = sum(token.logprob - token.ref_logprob for token in tokens[0])
    assert end.log_ratio == pytest.approx(ratio)
    assert end.kl > 0.1, "two models that differ are some way apart"
    assert end.tokens == len(ids) - (ids[-1] == policy.formatter.end_id)


def test_the_reference_follows_rows_that_end_at_different_times(policy, reference):
    decoding = DecodingSection(max_new_tokens=20, stop=["e"])
    tokens, ends, _ = answer(policy, ask(decoding, samples=6), reference)
    assert len({end.tokens for end in ends.values()}) > 1
    for row in tokens.values():
        theirs = logits_after(reference, [token.id for token in row]).log_softmax(-1)
        for place, token in enumerate(row):
            assert token.ref_logprob == pytest.approx(float(theirs[place, token.id]), abs=ROUNDING)


def test_a_policy_is_no_way_from_itself(policy):
    tokens, ends, _ = answer(policy, ask(samples=2), policy)
    assert all(token.kl == pytest.approx(0, abs=1e-12) for row in tokens.values() for token in row)
    assert ends[0].kl == pytest.approx(0, abs=1e-12)
    assert ends[0].log_ratio == pytest.approx(0, abs=1e-12)


def test_without_a_reference_there_is_no_kl_and_without_a_judge_no_score(policy):
    tokens, ends, _ = answer(policy, ask())
    assert {(token.kl, token.ref_logprob) for token in tokens[0]} == {(None, None)}
    assert (ends[0].kl, ends[0].log_ratio, ends[0].score) == (None, None, None)


def test_the_score_is_the_reward_models(policy, reward_folder):
    judge = RewardJudge(reward_folder)
    _, ends, _ = answer(policy, ask(samples=3), None, judge)
    expected = judge([PROMPT] * 3, [ends[sample].text for sample in range(3)])
    assert [ends[sample].score for sample in range(3)] == pytest.approx(expected)


def test_an_answer_is_scored_in_slices_between_which_others_have_their_turn(
    policy, reward_folder, monkeypatch
):
    judge = RewardJudge(reward_folder)
    decoding = DecodingSection(max_new_tokens=12, min_new_tokens=12)
    texts = [end.text for end in answer(policy, ask(decoding, samples=3))[1].values()]
    expected = judge([PROMPT] * 3, texts)
    monkeypatch.setattr(streaming, "SLICE", 4)
    seen = []
    judge.model.base_model.register_forward_pre_hook(
        lambda _module, _given, named: seen.append(named["input_ids"].shape), with_kwargs=True
    )
    scores, slices = {}, 0
    for turn in stream_answers(ask(decoding, samples=3), policy, None, judge):
        assert len(seen) - slices <= 1, "a slice a turn"
        slices = len(seen)
        scores.update({event.sample: event.score for event in turn if isinstance(event, Finished)})
    assert [scores[sample] for sample in range(3)] == pytest.approx(expected, abs=1e-5)  # float32
    assert all(rows == 1 and width <= 4 for rows, width in seen)
    lengths = [len(judge.encode(PROMPT, text)) for text in texts]
    assert slices == sum(math.ceil(length / 4) for length in lengths)


def test_an_answer_that_is_too_long_for_the_judge_has_no_score_and_it_is_said_once(
    make_policy, tiny_formatter, reward_folder
):
    long = Policy("long", make_policy(0, context=512), tiny_formatter)
    judge = RewardJudge(reward_folder, name="the judge")
    decoding = DecodingSection(max_new_tokens=300, min_new_tokens=300)
    _, ends, notices = answer(long, ask(decoding, samples=2), None, judge)
    assert [end.score for end in ends.values()] == [None, None]
    assert notices == [
        "No score from the judge of an answer that does not fit in its context of 64 tokens with "
        "the prompt."
    ]
    room = 64 - len(judge.encode(PROMPT, ""))
    short = DecodingSection(max_new_tokens=room // 4)
    _, ends, notices = answer(long, ask(short, samples=2), None, judge)
    assert all(end.score is not None for end in ends.values())
    assert notices == []


def test_a_reference_of_another_tokenizer_is_left_out_and_said(policy, make_policy, foreign_folder):
    other = Policy("theirs", make_policy(1), Formatter(load_tokenizer(foreign_folder)))
    tokens, ends, notices = answer(policy, ask(), other)
    assert len(notices) == 1
    assert notices[0].startswith("No KL from theirs: it has another tokenizer (token ")
    assert ends[0].kl is None
    assert tokens[0][0].ref_logprob is None


def test_a_reference_of_a_short_context_is_left_out_and_said(policy, make_policy, tiny_formatter):
    short = Policy("short", make_policy(1, context=16), tiny_formatter)
    needed = len(tiny_formatter.prompt_ids(PROMPT.messages)) + 12
    _, ends, notices = answer(policy, ask(), short)
    assert notices == [f"No KL from short: its context is 16 tokens, and {needed} may be needed."]
    assert ends[0].kl is None


def test_a_prompt_that_leaves_no_room_is_refused(policy):
    with pytest.raises(DataError, match=r"^prompt: a prompt must have at most 52 tokens"):
        answer(policy, ask(prompt=Prompt.from_text("cat " * 60)))


def test_padded_vocabularies_and_impossible_tokens_give_numbers():
    low = float("-inf")
    logits = torch.tensor([[2.0, 1.0, low, 0.0], [0.0, 3.0, low, low]])
    ref_logits = torch.tensor([[1.0, 1.0, low, 0.0, 5.0], [1.0, 1.0, low, 1.0, low]])
    figures = measure_tokens(logits, torch.tensor([3, 1]), ref_logits)
    assert figures.ranks == [3, 1]
    p, q = logits[0].softmax(-1), ref_logits[0].softmax(-1)
    expected = sum(float(p[i] * (p[i] / q[i]).log()) for i in (0, 1, 3))
    assert figures.kls[0] == pytest.approx(expected, rel=1e-5)
    assert figures.ref_logprobs[0] == pytest.approx(float(q[3].log()), rel=1e-5)
    assert all(map(math.isfinite, figures.kls))


def distribution(policy, reference=None, **fields):
    request = DistributionRequest("ours", PROMPT.messages, **fields)
    (found,) = [one for some in find_distribution(request, policy, reference) for one in some]
    return found


def test_a_distribution_is_that_which_the_next_token_comes_from(policy, reference):
    tokens, _, _ = answer(policy, ask(GREEDY), reference)
    ids = [token.id for token in tokens[0]]
    found = distribution(policy, reference, prefix=tuple(ids[:3]), chosen=ids[3], top=5)
    own = logits_after(policy, ids)[3].softmax(-1)
    theirs = logits_after(reference, ids)[3].softmax(-1)
    assert [one.probability for one in found.tokens] == pytest.approx(own.topk(5).values.tolist())
    assert [one.rank for one in found.tokens] == [1, 2, 3, 4, 5]
    assert [one.ref_probability for one in found.tokens] == pytest.approx(
        [float(theirs[one.id]) for one in found.tokens]
    )
    assert found.entropy == pytest.approx(tokens[0][3].entropy)
    assert found.chosen == found.tokens[0], "greedy takes the likeliest"
    assert math.log(found.chosen.probability) == pytest.approx(tokens[0][3].logprob)


def test_a_chosen_token_beyond_the_likeliest_has_its_rank(policy):
    found = distribution(policy, top=400)
    one = found.tokens[37]
    again = distribution(policy, top=2, chosen=one.id)
    assert len(again.tokens) == 2
    assert again.chosen == one
    assert one.ref_probability is None
    assert sum(candidate.probability for candidate in found.tokens) == pytest.approx(1)


def test_a_distribution_without_a_fitting_reference_has_none(policy, make_policy, foreign_folder):
    other = Policy("theirs", make_policy(1), Formatter(load_tokenizer(foreign_folder)))
    assert {one.ref_probability for one in distribution(policy, other).tokens} == {None}


@pytest.mark.parametrize("fields", [{"prefix": (5, 400)}, {"chosen": -1}])
def test_a_token_that_the_model_does_not_have_is_refused(policy, fields):
    with pytest.raises(DataError, match=r"must hold tokens of ours, ids below 382, got (400|-1)\."):
        distribution(policy, **fields)


def test_a_distribution_beyond_the_context_is_refused(policy):
    with pytest.raises(DataError, match="must fit in the context of ours, 64 tokens, got"):
        distribution(policy, prefix=(300,) * 64)


def test_float32_greedy_answers_are_those_of_sample_completions(policy_folder):
    model = load_policy(policy_folder).eval()
    policy = Policy("ours", model, Formatter(load_tokenizer(policy_folder)))
    (expected,) = sample_completions(model, policy.formatter, [PROMPT], GREEDY, seed=0)
    tokens, _, _ = answer(policy, ask(GREEDY))
    assert [token.id for token in tokens[0]] == expected.ids
