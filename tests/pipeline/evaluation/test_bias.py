from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from pipeline.errors import DataError
from pipeline.evaluation.bias import (
    INSTRUCTIONS,
    entropy_bits,
    pair_crows,
    pair_winogender,
    summarize_pairs,
)
from pipeline.evaluation.catalogue import hash_tasks, load_tasks
from pipeline.evaluation.harness import run_tasks

OPTIONS = {"limit": None, "batch_size": 16, "bins": 4, "seed": 0}
CROWS = [
    {"sent_more": "The boy has a dog.", "sent_less": "The girl has a dog.", "bias_type": "gender"},
    {"sent_more": "Tom is old and small.", "sent_less": "Tom is small.", "bias_type": "age"},
    {"sent_more": "Mia lives here.", "sent_less": "Ann lives here.", "bias_type": "age"},
]


def wino(participant, gender, target="0"):
    pronoun = {"male": "he", "female": "she", "neutral": "they"}[gender]
    return {
        "sentence": f"The cook met the {participant} before {pronoun} left.",
        "pronoun": pronoun,
        "occupation": "cook",
        "participant": participant,
        "gender": gender,
        "target": target,
    }


GENDERS = ("neutral", "female", "male")
WINOGENDER = [wino(who, gender) for who in ("guest", "someone", "child") for gender in GENDERS]


@pytest.mark.parametrize(
    ("shares", "bits"),
    [
        ([0.5, 0.5], 1.0),
        ([0.9, 0.1], 0.4689955935892812),
        ([0.25, 0.75], 0.8112781244591328),
        ([1 / 3, 1 / 3, 1 / 3], math.log2(3)),
    ],
)
def test_entropy_of_known_shares(shares, bits):
    # A log-likelihood's own size says nothing: only the difference does.
    logliks = [math.log(share) - 80 for share in shares]
    assert entropy_bits(logliks) == pytest.approx(bits, abs=1e-12)


def test_entropy_of_a_certain_choice_is_zero():
    assert entropy_bits([0.0, -2000.0]) == pytest.approx(0, abs=1e-12)
    assert entropy_bits([0.0, -math.inf]) == 0


@pytest.fixture
def long_policy(make_policy):
    return make_policy(context=256)


def measure(policy, tokenizer, path, tmp_path):
    tasks = load_tasks([str(path)], [0, 5], 0, tmp_path / "run")
    return tasks, run_tasks(policy, tokenizer, tasks, shots=[0, 5], **OPTIONS)


def teacher_forced(policy, tokenizer, context, sentence):
    """Return log p(sentence | context), from one plain pass."""
    if context:
        prefix = tokenizer(context)["input_ids"]
        whole = tokenizer(f"{context} {sentence}")["input_ids"]
    else:
        prefix = [tokenizer.bos_token_id]
        whole = prefix + tokenizer(sentence, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logprobs = policy(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(logprobs[i - 1, whole[i]].item() for i in range(len(prefix), len(whole)))


def test_crows_pairs_with_three_instructions(long_policy, tiny_tokenizer, write_rows, tmp_path):
    path = write_rows(CROWS, "crows_pairs.jsonl")
    _, outcome = measure(long_policy, tiny_tokenizer, path, tmp_path)
    assert {name: list(found) for name, found in outcome.figures.items()} == {
        f"crows_pairs_{style}": ["0"] for style in ("basic", "respectful", "biased")
    }
    for style, instruction in INSTRUCTIONS.items():
        entropies, firsts = [], []
        for row in CROWS:
            logliks = [
                teacher_forced(long_policy, tiny_tokenizer, instruction, row[key])
                for key in ("sent_more", "sent_less")
            ]
            share = 1 / (1 + math.exp(logliks[1] - logliks[0]))
            entropies.append(-share * math.log2(share) - (1 - share) * math.log2(1 - share))
            firsts.append(logliks[0] > logliks[1])
        figures = outcome.figures[f"crows_pairs_{style}"]["0"]
        assert figures["entropy"] == pytest.approx(np.mean(entropies), abs=1e-6)
        assert figures["stereotype"] == pytest.approx(np.mean(firsts))
        assert figures["entropy_age"] == pytest.approx(np.mean(entropies[1:]), abs=1e-6)
        assert figures["entropy_stderr"] == pytest.approx(
            np.std(entropies, ddof=1) / math.sqrt(3), abs=1e-6
        )
        assert figures["n"] == 3
        # Nothing here is right or wrong.
        assert "acc" not in figures
    assert not any("correct" in row for row in outcome.documents)


def test_a_model_without_leaning_has_one_bit(make_policy, tiny_tokenizer, write_rows, tmp_path):
    rows = [{"sent_more": "a cat", "sent_less": "a dog", "bias_type": "x"}] * 2
    policy = make_policy(context=64)
    with torch.no_grad():
        policy.get_output_embeddings().weight.zero_()
    path = write_rows(rows, "crows_pairs.jsonl")
    tokens = {len(tiny_tokenizer(text)["input_ids"]) for text in ("a cat", "a dog")}
    assert len(tokens) == 1
    _, outcome = measure(policy, tiny_tokenizer, path, tmp_path)
    for figures in outcome.figures.values():
        assert figures["0"]["entropy"] == pytest.approx(1, abs=1e-9)


def test_winogender_pairs_he_with_she_and_leaves_out_someone():
    pairs = pair_winogender(WINOGENDER)
    assert pairs["choices"] == [
        [f"The cook met the {who} before {pronoun} left." for pronoun in ("he", "she")]
        for who in ("guest", "child")
    ]


def test_winogenders_two_readings_are_two_pairs():
    rows = [wino("guest", gender, target) for target in ("0", "1") for gender in GENDERS]
    assert len(pair_winogender(rows)) == 2


def test_winogender_by_its_path(long_policy, tiny_tokenizer, write_rows, tmp_path):
    path = write_rows(WINOGENDER, "mine.jsonl")
    tasks, outcome = measure(long_policy, tiny_tokenizer, path, tmp_path)
    assert list(tasks) == ["mine_basic", "mine_respectful", "mine_biased"]
    assert {"entropy", "male", "n"} <= set(outcome.figures["mine_basic"]["0"])
    assert outcome.figures["mine_basic"]["0"]["n"] == 2


def test_winogender_without_a_pair():
    with pytest.raises(DataError, match="got no such pair"):
        pair_winogender([wino("guest", "male"), wino("child", "female")])


def test_the_stereotype_comes_first():
    made = pair_crows(CROWS)
    assert made["choices"][0] == [CROWS[0]["sent_more"], CROWS[0]["sent_less"]]
    assert made["group"] == ["gender", "age", "age"]


def test_one_group_alone_is_not_listed():
    rows = [
        {"entropy": 1.0, "male": 1, "group": "all"},
        {"entropy": 0.5, "male": 0, "group": "all"},
    ]
    figures = summarize_pairs(rows, "male")
    assert figures["entropy"] == 0.75
    assert figures["male"] == 0.5
    assert "entropy_all" not in figures


@pytest.mark.usefixtures("no_hub")
def test_the_preset_reads_what_is_at_hand(write_rows, tmp_path, caplog):
    write_rows(CROWS, "crows_pairs.jsonl")
    multiple = {"choices": ["Cats purr.", "Cats sing."], "labels": [1, 0]}
    write_rows(
        [{"question": "What do cats do?", "mc1_targets": multiple, "mc2_targets": multiple}],
        "truthfulqa_mc.jsonl",
    )
    tasks = load_tasks(["bias"], [0, 5], 0, tmp_path / "run", data=str(tmp_path))
    assert list(tasks) == [
        *(f"crows_pairs_{style}" for style in INSTRUCTIONS),
        *("truthfulqa_mc1", "truthfulqa_mc2"),
    ]
    said = [record.getMessage() for record in caplog.records if "left out" in record.message]
    left_out = [f"winogender_{style}" for style in INSTRUCTIONS] + ["truthfulqa_gen"]
    assert [line.split(" is left out")[0].split()[-1] for line in said] == left_out


def test_the_presets_hash_follows_the_files_at_hand(write_rows, tmp_path):
    hashes = [hash_tasks(["bias"], None, 0), hash_tasks(["bias"], str(tmp_path), 0)]
    assert hashes[0] == hashes[1]
    for rows in (CROWS, CROWS[:2]):
        write_rows(rows, "crows_pairs.jsonl")
        hashes.append(hash_tasks(["bias"], str(tmp_path), 0))
    assert len({found["tasks of bias"] for found in hashes}) == 3


@pytest.mark.usefixtures("no_hub")
def test_the_preset_without_any_data(tmp_path):
    with pytest.raises(DataError, match=r"data of the preset 'bias' must be in evaluate\.data"):
        load_tasks(["bias"], [0], 0, tmp_path)


@pytest.mark.usefixtures("no_hub")
def test_truthfulqa_has_lm_evals_figures(long_policy, tiny_tokenizer, write_rows, tmp_path):
    targets = {"choices": ["Cats purr.", "Cats sing.", "Cats meow."], "labels": [1, 0, 1]}
    rows = [{"question": "What do cats do?", "mc1_targets": targets, "mc2_targets": targets}] * 2
    write_rows(rows, "truthfulqa_mc.jsonl")
    policy = long_policy
    tasks = load_tasks(["bias"], [0], 0, tmp_path / "run", data=str(tmp_path))
    outcome = run_tasks(policy, tiny_tokenizer, tasks, shots=[0, 3], **OPTIONS)
    # Six question-answer pairs stand before the question, whatever evaluate.shots says.
    assert list(outcome.figures["truthfulqa_mc2"]) == ["0"]
    context = tasks["truthfulqa_mc2"].fewshot_context(rows[0], 0)
    assert context.count("Q: ") == 7
    logliks = next(row["logliks"] for row in outcome.documents if row["task"] == "truthfulqa_mc1")
    shares = np.exp(logliks) / np.exp(logliks).sum()
    truthful = outcome.figures["truthfulqa_mc2"]["0"]["acc"]
    assert truthful == pytest.approx(shares[0] + shares[2], abs=1e-6)
    assert json.dumps(outcome.figures)
