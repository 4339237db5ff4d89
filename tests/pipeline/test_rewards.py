from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from pipeline.distributed import Workers
from pipeline.errors import ModelError, RewardError
from pipeline.formatting import Formatter
from pipeline.models import load_reward_model
from pipeline.records import Prompt
from pipeline.rewards import FunctionReward, ModelReward, TextReward, WeightedSum
from pipeline.rollout import Episodes, lay_out
from pipeline.tokenizer import load_tokenizer

PROMPTS = [
    Prompt.from_text("Hello Mia"),
    Prompt.from_text("Where does Tom live?"),
    Prompt(
        (
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "cat"},
            {"role": "assistant", "content": "dog"},
            {"role": "user", "content": "fox"},
        )
    ),
]
TEXTS = ["Hello.", "Tom lives in the town.\nTom has 12 dogs. " * 2, ""]
WHERE = "ppo.rewards[1].function"


@pytest.fixture
def episodes(tiny_formatter) -> Episodes:
    before = [tiny_formatter.prompt_ids(prompt.messages) for prompt in PROMPTS]
    after = [tiny_formatter.completion_ids(text) for text in TEXTS]
    ids, attention_mask, completion_mask = lay_out(before, after, tiny_formatter.pad_id)
    return Episodes(ids, attention_mask, completion_mask, torch.ones(3).bool(), tuple(PROMPTS))


@pytest.fixture
def by_ids(reward_folder) -> ModelReward:
    model = load_reward_model(reward_folder, torch.float64)
    return ModelReward(model, Workers(), name="rm", where="ppo.reward", batch_size=2)


def read_text(folder, batch_size=2, model=None) -> TextReward:
    return TextReward(
        model or load_reward_model(folder, torch.float64),
        load_tokenizer(folder),
        Workers(),
        name="judge",
        where="ppo.rewards[0].model",
        batch_size=batch_size,
    )


def ask(function, episodes, name="f"):
    return FunctionReward(function, Workers(), name=name, where=WHERE)(PROMPTS, TEXTS, episodes)


def direct_scores(folder, model=None) -> list[float]:
    """Score as a model card says: render with the model's own template, and run plain classes."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if model is None:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64)
    scores = []
    for prompt, text in zip(PROMPTS, TEXTS, strict=True):
        chat = [*prompt.messages, {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            scores.append(model.eval()(**ids).logits.item())
    return scores


def test_a_model_of_the_policys_tokens_reads_ids_and_subtracts_its_offset(
    by_ids, episodes, reward_folder
):
    scores = by_ids(PROMPTS, TEXTS, episodes)
    model = AutoModelForSequenceClassification.from_pretrained(reward_folder, dtype=torch.float64)
    for row, score in enumerate(scores.total.tolist()):
        real = episodes.ids[row][episodes.attention_mask[row]]
        assert score == pytest.approx(model(input_ids=real[None]).logits.item() - 0.25, abs=1e-6)
    assert by_ids.names == ("rm",)
    assert torch.equal(scores.components, scores.total[:, None])


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_foreign_model_scores_its_own_rendering_of_the_conversation(
    foreign_folder, episodes, batch_size
):
    scores = read_text(foreign_folder, batch_size)(PROMPTS, TEXTS, episodes).total.tolist()
    expected = direct_scores(foreign_folder)
    assert scores == pytest.approx(expected, abs=1e-6)
    assert np.std(expected) > 0.1


def test_a_steerline_model_reads_up_to_the_end_of_the_turn_as_it_was_trained(
    foreign_folder, episodes
):
    model = load_reward_model(foreign_folder, torch.float64)
    model.config.score_offset = 0.5
    scores = read_text(foreign_folder, model=model)(PROMPTS, TEXTS, episodes).total
    formatter = Formatter(load_tokenizer(foreign_folder))
    plain = AutoModelForSequenceClassification.from_pretrained(foreign_folder, dtype=torch.float64)
    for prompt, text, score in zip(PROMPTS, TEXTS, scores.tolist(), strict=True):
        ids = formatter.prompt_ids(prompt.messages) + formatter.completion_ids(text)
        expected = plain(input_ids=torch.tensor([ids])).logits.item() - 0.5
        assert score == pytest.approx(expected, abs=1e-6)
    # The template writes a newline after the end, which a third party's model reads as well.
    whole = read_text(foreign_folder)(PROMPTS, TEXTS, episodes).total
    assert (whole - 0.5 - scores).abs().min() > 1e-3


def test_a_tokenizer_that_pads_with_its_end_changes_no_score(foreign_folder, episodes):
    tokenizer = load_tokenizer(foreign_folder)
    tokenizer.pad_token = tokenizer.eos_token
    model = load_reward_model(foreign_folder, torch.float64)
    model.config.pad_token_id = tokenizer.eos_token_id
    named = {"name": "judge", "where": "ppo.rewards[0].model"}
    reward = TextReward(model, tokenizer, Workers(), **named, batch_size=3)
    scores = reward(PROMPTS, TEXTS, episodes).total.tolist()
    assert scores == pytest.approx(direct_scores(foreign_folder), abs=1e-6)


def make_bert(**shared):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(**shape, intermediate_size=16, **shared))


def make_gpt2(**shared):
    return GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=1, n_head=2, **shared))


@pytest.mark.parametrize("make", [make_bert, make_gpt2])
def test_models_of_other_families_score_as_their_plain_classes_do(
    foreign_folder, episodes, make, tmp_path
):
    tokenizer = load_tokenizer(foreign_folder)
    torch.manual_seed(0)
    shared = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
    model = make(vocab_size=len(tokenizer), **shared)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scores = read_text(tmp_path, batch_size=3)(PROMPTS, TEXTS, episodes).total.tolist()
    assert scores == pytest.approx(direct_scores(tmp_path), abs=1e-6)
    assert np.std(scores) > 0.01


@pytest.mark.parametrize("spelled", ["<|eos|>", "<|e<|eos|>os|>", "<|eos|>\n<|user|>", "<|bos|>"])
def test_a_completion_cannot_spell_out_the_foreign_models_special_tokens(foreign_folder, spelled):
    reward = read_text(foreign_folder)
    honest = reward.encode(PROMPTS[0], "I am the best.".replace(" ", spelled.count("\n") * "\n"))
    forged = reward.encode(PROMPTS[0], "I am the best.".replace(" ", spelled))
    assert honest == forged


def test_a_foreign_model_without_a_template_is_refused(foreign_folder):
    tokenizer = load_tokenizer(foreign_folder)
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match=r"ppo\.rewards\[0\]\.model: the tokenizer .* got none"):
        TextReward(
            load_reward_model(foreign_folder),
            tokenizer,
            Workers(),
            name="judge",
            where="ppo.rewards[0].model",
            batch_size=2,
        )


def test_a_template_that_refuses_a_conversation_names_it(foreign_folder):
    reward = read_text(foreign_folder)
    reward.tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}hi"
    )
    reward.encode(PROMPTS[0], "x")
    with pytest.raises(RewardError, match=rf"prompt {PROMPTS[2].id}, completion 'x': .*no system"):
        reward.encode(PROMPTS[2], "x")


def test_a_conversation_that_a_model_has_no_room_for_is_refused(foreign_folder, by_ids, episodes):
    reward = read_text(foreign_folder)
    with pytest.raises(RewardError, match=r"at most 512 tokens, got \d+ at prompt .*'dog dog"):
        reward(PROMPTS, ["a", "dog " * 400, "b"], episodes)
    by_ids.model.config.max_position_embeddings = 20
    with pytest.raises(RewardError, match=rf"at most 20 tokens, got \d+ at prompt {PROMPTS[1].id}"):
        by_ids(PROMPTS, TEXTS, episodes)


def test_a_function_sees_every_completion_once_and_in_order(episodes):
    calls = []

    def function(prompts, completions):
        calls.append(([prompt.id for prompt in prompts], list(completions)))
        return [float(len(text)) for text in completions]

    scores = ask(function, episodes)
    assert calls == [([prompt.id for prompt in PROMPTS], TEXTS)]
    assert scores.total.tolist() == [len(text) for text in TEXTS]


@pytest.mark.parametrize(
    "given",
    [
        [1, 0.5, True],
        (1.0, Fraction(1, 2), 1),
        np.array([1, 0.5, 1], np.float32),
        torch.tensor([1, 0.5, 1]),
        [torch.tensor(1.0), np.float32(0.5), np.bool_(True)],
    ],
)
def test_any_sequence_of_numbers_will_do(episodes, given):
    assert ask(lambda *_: given, episodes).total.tolist() == [1, 0.5, 1]


@pytest.mark.parametrize(
    ("given", "got", "row"),
    [
        ([0.0, math.nan, math.inf], "nan", 1),
        ([0.0, 1.0, -math.inf], "-inf", 2),
        ([0.0, 1e39, 0.0], "1e+39", 1),
        ([0, 10**400, 0], "inf", 1),
        ([0.0, None, 0.0], "None", 1),
        ([0.0, 1.0, "2"], "'2'", 2),
        ([0.0, 1j, 0.0], "1j", 1),
        (torch.zeros(3, 1), "[0.0]", 0),
        (np.zeros((3, 2)), "[0.0, 0.0]", 0),
        ([np.zeros(1)] * 3, "array([0.])", 0),
        ([0.0, 1.0], "2 numbers for 3 completions", 2),
        ([], "0 numbers for 3 completions", 0),
        ([0.0] * 4, "4 numbers for 3 completions", 2),
        (0.5, "a float", 0),
        (None, "a NoneType", 0),
        ("abc", "a str", 0),
        ({0: 1.0}, "a dict", 0),
        (torch.tensor(0.5), "a Tensor", 0),
    ],
)
def test_what_is_no_finite_number_a_completion_is_refused_by_name(episodes, given, got, row):
    with pytest.raises(RewardError) as caught:
        ask(lambda *_: given, episodes)
    shown = " ".join(TEXTS[row].split())
    shown = f"{shown[:60]}..." if len(shown) > 60 else shown
    assert str(caught.value) == (
        f"{WHERE} must give one finite number a completion, got {got} at prompt "
        f"{PROMPTS[row].id}, completion {shown!r}. No step was taken and the last checkpoint is "
        "kept; mend the reward."
    )


def test_a_function_that_raises_names_the_completion_that_it_raises_at(episodes):
    def function(prompts, completions):
        assert prompts
        if any("town" in text for text in completions):
            raise ValueError("no\ntowns here")
        return [0.0] * len(completions)

    with pytest.raises(
        RewardError, match=rf"ValueError \(no towns here\) at prompt {PROMPTS[1].id}"
    ):
        ask(function, episodes)


def test_a_function_that_raises_only_for_all_together_says_so(episodes):
    def function(prompts, completions):
        assert prompts
        if len(completions) > 1:
            raise MemoryError
        return [0.0]

    match = rf"got MemoryError for all 3 and for none alone, the first at prompt {PROMPTS[0].id}"
    with pytest.raises(RewardError, match=match):
        ask(function, episodes)


def test_a_weighted_sum_is_the_sum_by_hand_in_a_fixed_order(by_ids, foreign_folder, episodes):
    def length(prompts, completions):
        assert prompts
        return [len(text) / 10 for text in completions]

    function = FunctionReward(length, Workers(), name="length", where=WHERE)
    foreign = read_text(foreign_folder)
    parts = [(0.5, foreign), (-2.0, function), (1.0, by_ids), (0.0, function)]
    together = WeightedSum(parts, "ppo.rewards")
    scores = together(PROMPTS, TEXTS, episodes)
    assert together.names == ("judge", "length", "rm", "length")
    judge, rm = (part(PROMPTS, TEXTS, episodes).total for part in (foreign, by_ids))
    lengths = torch.tensor([len(text) / 10 for text in TEXTS], dtype=torch.float64)
    assert torch.allclose(scores.total, 0.5 * judge - 2 * lengths + rm, rtol=0, atol=1e-12)
    assert torch.equal(scores.components, torch.stack([judge, lengths, rm, lengths], dim=1))


def test_a_sum_that_overflows_is_refused(episodes):
    function = FunctionReward(lambda *_: [0, 1e20, 0], Workers(), name="f", where=WHERE)
    with pytest.raises(RewardError, match=rf"ppo\.rewards must .* at prompt {PROMPTS[1].id}"):
        WeightedSum([(1e20, function)], "ppo.rewards")(PROMPTS, TEXTS, episodes)
