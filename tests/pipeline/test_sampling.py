import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from pipeline.config.sampling import DecodingSection
from pipeline.decoding import GeneratedTokenPenalty
from pipeline.errors import DataError
from pipeline.records import Prompt
from pipeline.sampling import pick_tokens, sample_completions, uniforms

PROMPTS = [
    Prompt.from_text(text)
    for text in ("Hello Mia", "Where does Tom live?", "List three animals", "cat", "Say 12")
]
DECODING = DecodingSection(max_new_tokens=12)


def sample(model, formatter, prompts=PROMPTS, decoding=DECODING, **options):
    defaults = {"seed": 3, "batch_size": 8}
    return sample_completions(model, formatter, prompts, decoding, **{**defaults, **options})


def test_regrouping_changes_no_token(make_policy, tiny_formatter):
    model = make_policy()
    together = sample(model, tiny_formatter)
    assert together == sample(model, tiny_formatter, batch_size=2)
    assert together == sample(model, tiny_formatter, batch_size=1)
    assert together[::-1] == sample(model, tiny_formatter, PROMPTS[::-1])
    assert len({completion.text for completion in together}) > 1


def test_seed_step_and_index_each_give_other_tokens(make_policy, tiny_formatter):
    model = make_policy()
    first = sample(model, tiny_formatter)
    assert first == sample(model, tiny_formatter)
    for change in ({"seed": 4}, {"step": 1}, {"sample_index": 1}):
        assert first != sample(model, tiny_formatter, **change)


def test_greedy_is_the_models_own_generate(make_policy, tiny_formatter):
    model = make_policy()
    decoding = DecodingSection(temperature=0, max_new_tokens=10)
    for prompt, completion in zip(
        PROMPTS, sample(model, tiny_formatter, decoding=decoding), strict=True
    ):
        ids = torch.tensor([tiny_formatter.prompt_ids(prompt.messages)])
        expected = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=10,
            eos_token_id=tiny_formatter.end_id,
            pad_token_id=tiny_formatter.pad_id,
        )[0, ids.shape[1] :]
        assert completion.ids == expected.tolist()


def test_beam_search_is_the_models_own(make_policy, tiny_formatter):
    model = make_policy()
    decoding = DecodingSection(
        temperature=0, num_beams=3, max_new_tokens=6, length_penalty=0.5, early_stopping=True
    )
    best, second = sample(model, tiny_formatter, [PROMPTS[0]] * 2, decoding, sample_index=[0, 1])
    ids = torch.tensor([tiny_formatter.prompt_ids(PROMPTS[0].messages)])
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        num_beams=3,
        num_return_sequences=2,
        length_penalty=0.5,
        early_stopping=True,
        max_new_tokens=6,
        eos_token_id=tiny_formatter.end_id,
        pad_token_id=tiny_formatter.pad_id,
    )[:, ids.shape[1] :]
    assert best.ids == found[0].tolist()
    assert best.ids != second.ids


def test_tokens_are_drawn_from_the_distribution():
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, float("-inf")], dtype=torch.float64)
    draws = torch.from_numpy(uniforms("distribution", 20_000))
    tokens = pick_tokens(logits.expand(len(draws), -1), draws)
    counts = np.bincount(tokens.numpy(), minlength=5)
    assert counts[4] == 0
    expected = logits[:4].softmax(0).numpy() * len(draws)
    assert chisquare(counts[:4], expected).pvalue > 1e-3


@pytest.mark.parametrize("vocabulary", [3, 256, 257, 1000])
def test_picking_is_the_inverse_of_the_cumulative_distribution(vocabulary):
    torch.manual_seed(0)
    logits = 3 * torch.randn(200, vocabulary, dtype=torch.float64)
    logits[:, 1] = float("-inf")
    uniform = torch.rand(200, dtype=torch.float64)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    expected = torch.searchsorted(cumulative, uniform[:, None], right=True)[:, 0]
    assert torch.equal(pick_tokens(logits, uniform), expected)


@pytest.mark.parametrize("place", [0, 255, 256, 599])
def test_rounding_never_picks_an_impossible_token(place):
    logits = torch.full((3, 600), float("-inf"))
    logits[:, place] = 0.0
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert pick_tokens(logits, uniform).tolist() == [place] * 3


def test_the_extremes_of_the_uniform_pick_possible_tokens():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf")]] * 2)
    uniform = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert pick_tokens(logits, uniform).tolist() == [1, 1]


def test_a_completion_ends_at_its_first_end_token(make_policy, tiny_formatter):
    decoding = DecodingSection(max_new_tokens=40, temperature=9.0)
    completions = sample(
        make_policy(), tiny_formatter, PROMPTS * 3, decoding, sample_index=[*range(15)]
    )
    assert {completion.finish_reason for completion in completions} == {"eos", "length"}
    for completion in completions:
        ends = [i for i, token in enumerate(completion.ids) if token == tiny_formatter.end_id]
        if completion.finish_reason == "eos":
            assert ends == [len(completion.ids) - 1]
        else:
            assert not ends
            assert len(completion.ids) == 40


def test_the_end_is_forbidden_before_the_least_length(make_policy, tiny_formatter):
    model = make_policy()
    decoding = DecodingSection(max_new_tokens=12, min_new_tokens=12, temperature=2.0)
    for completion in sample(model, tiny_formatter, decoding=decoding):
        assert len(completion.ids) == 12
        assert tiny_formatter.end_id not in completion.ids[:-1]


def test_a_stop_string_ends_the_text_and_is_left_out(make_policy, tiny_formatter):
    model = make_policy()
    free = sample(model, tiny_formatter)
    text = max((completion.text for completion in free), key=len)
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    stopped = sample(model, tiny_formatter, decoding=dataclasses.replace(DECODING, stop=[stop]))
    for before, after in zip(free, stopped, strict=True):
        assert after.text == before.text.partition(stop)[0]
        assert (after.finish_reason == "stop") == (stop in before.text)


def test_top_k_one_is_greedy(make_policy, tiny_formatter):
    model = make_policy()
    greedy = sample(model, tiny_formatter, decoding=dataclasses.replace(DECODING, temperature=0))
    top = sample(model, tiny_formatter, decoding=dataclasses.replace(DECODING, top_k=1))
    nucleus = sample(model, tiny_formatter, decoding=dataclasses.replace(DECODING, top_p=1e-6))
    assert greedy == top == nucleus


def test_penalties_count_generated_tokens_only():
    ids = torch.tensor([[0, 1, 2, 2, 3]])  # the first two are prompt
    scores = torch.tensor([[1.0, 1.0, 1.0, -1.0, 1.0]])
    penalty = GeneratedTokenPenalty(2, repetition=2.0, presence=0.5, frequency=0.25)
    changed = penalty(ids, scores)
    assert changed[0].tolist() == pytest.approx([1.0, 1.0, 0.5 - 0.5 - 0.5, -2.0 - 0.75, 1.0])
    neutral = GeneratedTokenPenalty(2, repetition=1.0, presence=0.0, frequency=0.0)
    assert torch.equal(neutral(ids, scores), scores)


def test_a_frequency_penalty_ends_repetition(make_policy, tiny_formatter):
    model = make_policy()
    plain = dataclasses.replace(DECODING, temperature=0, max_new_tokens=24)
    penalised = dataclasses.replace(plain, frequency_penalty=50.0)
    repeats = [
        len(completion.ids) - len(set(completion.ids))
        for decoding in (plain, penalised)
        for completion in sample(model, tiny_formatter, decoding=decoding)
    ]
    assert sum(repeats[: len(PROMPTS)]) > sum(repeats[len(PROMPTS) :]) == 0


def test_a_prompt_without_room_is_refused(make_policy, tiny_formatter):
    long = Prompt.from_text("cat dog fox " * 30)
    with pytest.raises(
        DataError, match=rf"at most 52 tokens.*got \d+ at prompt {long.id} \('cat dog"
    ):
        sample(make_policy(), tiny_formatter, [long])
