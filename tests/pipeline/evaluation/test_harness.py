from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lm_eval.api.registry import get_aggregation
from lm_eval.evaluator import evaluate

from pipeline.errors import ConfigError
from pipeline.evaluation.catalogue import load_tasks
from pipeline.evaluation.harness import run_tasks, summarize_choices
from pipeline.evaluation.likelihood import SharedPrefixLM
from pipeline.evaluation.loading import build_task, quiet
from pipeline.evaluation.tasks import LocalTask, read_task

OPTIONS = {"limit": None, "batch_size": 16, "bins": 4, "seed": 0}


@pytest.fixture
def long_policy(make_policy):
    return make_policy(context=256)


@pytest.fixture
def tasks(questions, tmp_path):
    return load_tasks([str(questions)], [0, 1, 3], 0, tmp_path)


def test_figures_have_the_contracts_keys(long_policy, tiny_tokenizer, tasks):
    outcome = run_tasks(long_policy, tiny_tokenizer, tasks, shots=[0, 1, 3], **OPTIONS)
    assert set(outcome.figures) == {"questions"}
    assert set(outcome.figures["questions"]) == {"0", "1", "3"}
    for figures in outcome.figures["questions"].values():
        assert {"acc", "stderr", "n", "ece", "brier", "acc_norm"} <= set(figures)
        assert figures["n"] == 9
    assert len(outcome.documents) == 27


def test_accuracies_and_brier_are_lm_evals_own(long_policy, tiny_tokenizer, questions, tmp_path):
    task = read_task(questions, examples=2)
    own = build_task(task, tmp_path)
    outcome = run_tasks(long_policy, tiny_tokenizer, {"questions": own}, shots=[2], **OPTIONS)
    own._aggregation_list["brier_score"] = get_aggregation("brier_score")
    own._metric_fn_list["brier_score"] = None
    with quiet():
        theirs = evaluate(
            SharedPrefixLM(long_policy, tiny_tokenizer, 4),
            {"tasks": {"questions": own}},
            bootstrap_iters=0,
        )["results"]["questions"]
    ours = outcome.figures["questions"]["2"]
    for key, metric in (("acc", "acc"), ("acc_norm", "acc_norm"), ("brier", "brier_score")):
        assert ours[key] == pytest.approx(theirs[f"{metric},none"], abs=1e-9)


def test_two_models_are_asked_the_same(make_policy, tiny_tokenizer, tasks):
    first = run_tasks(make_policy(0, context=256), tiny_tokenizer, tasks, shots=[0, 3], **OPTIONS)
    second = run_tasks(make_policy(1, context=256), tiny_tokenizer, tasks, shots=[0, 3], **OPTIONS)
    again = run_tasks(make_policy(0, context=256), tiny_tokenizer, tasks, shots=[0, 3], **OPTIONS)
    for one, other in zip(first.documents, second.documents, strict=True):
        assert [one[key] for key in ("task", "shots", "doc", "gold", "tokens")] == [
            other[key] for key in ("task", "shots", "doc", "gold", "tokens")
        ]
        assert one["logliks"] != other["logliks"]
    assert again == first


def test_logliks_of_a_document_are_teacher_forced(long_policy, tiny_tokenizer, tasks):
    outcome = run_tasks(long_policy, tiny_tokenizer, tasks, shots=[1], **OPTIONS)
    task = tasks["questions"]
    for row in outcome.documents:
        doc = task.eval_docs[row["doc"]]
        context = tiny_tokenizer(task.fewshot_context(doc, 1))["input_ids"]
        for choice, loglik in zip(doc["choices"], row["logliks"], strict=True):
            whole = tiny_tokenizer(task.fewshot_context(doc, 1) + " " + choice)["input_ids"]
            with torch.no_grad():
                logprobs = long_policy(torch.tensor([whole])).logits[0].log_softmax(-1)
            expected = sum(
                logprobs[place - 1, whole[place]].item()
                for place in range(len(context), len(whole))
            )
            assert loglik == pytest.approx(expected, abs=1e-5)


def test_a_random_model_is_at_chance_and_one_that_knows_is_not(
    make_policy, tiny_tokenizer, tmp_path
):
    answers = ["cat", "dog"]
    rows = [{"query": f"Say {i}:", "choices": answers, "gold": i % 2} for i in range(200)]
    task = build_task(LocalTask("copy", ("query", "choices", "gold"), rows, []), tmp_path)
    random = run_tasks(
        make_policy(context=64), tiny_tokenizer, {"copy": task}, shots=[0], **OPTIONS
    ).figures["copy"]["0"]
    # Three standard errors around a half.
    assert abs(random["acc"] - 0.5) < 3 * math.sqrt(0.25 / 200)

    rows = [{**row, "gold": 0} for row in rows]
    task = build_task(LocalTask("biased", ("query", "choices", "gold"), rows, []), tmp_path)
    knowing = make_policy(context=64)
    first, second = (tiny_tokenizer(f" {word}", add_special_tokens=False) for word in answers)
    with torch.no_grad():
        embeddings = knowing.get_output_embeddings().weight
        embeddings[second["input_ids"]] = 0
        embeddings[first["input_ids"]] = 0
        knowing.lm_head.bias = torch.nn.Parameter(torch.zeros(len(embeddings), dtype=torch.float64))
        knowing.lm_head.bias[first["input_ids"]] += 3
    figures = run_tasks(knowing, tiny_tokenizer, {"biased": task}, shots=[0], **OPTIONS).figures
    assert figures["biased"]["0"]["acc"] == 1
    assert figures["biased"]["0"]["brier"] < 0.1


def test_limit_takes_the_first_documents(long_policy, tiny_tokenizer, tasks):
    options = {**OPTIONS, "limit": 4}
    outcome = run_tasks(long_policy, tiny_tokenizer, tasks, shots=[0], **options)
    assert [row["doc"] for row in outcome.documents] == [0, 1, 2, 3]


def test_more_shots_than_examples(long_policy, tiny_tokenizer, tasks):
    with pytest.raises(ConfigError, match="at most the examples of the task questions"):
        run_tasks(long_policy, tiny_tokenizer, tasks, shots=[5], **OPTIONS)


def test_another_error_is_not_said_to_be_of_the_examples(
    long_policy, tiny_tokenizer, tasks, monkeypatch
):
    def fail(*_):
        raise ValueError("of the task's own")

    monkeypatch.setattr(tasks["questions"], "process_results", fail)
    # All three examples are shown, and they suffice.
    with pytest.raises(ValueError, match="of the task's own"):
        run_tasks(long_policy, tiny_tokenizer, tasks, shots=[3], **OPTIONS)


def test_contexts_that_were_cut_are_counted_and_said(make_policy, tiny_tokenizer, tasks, caplog):
    policy = make_policy(context=32)
    outcome = run_tasks(policy, tiny_tokenizer, tasks, shots=[0, 3], **OPTIONS)
    assert outcome.figures["questions"]["3"]["cut_contexts"] == 9
    assert caplog.messages[-1].startswith("few-shot: questions, shots 3: 9 contexts")


def test_winogrande_and_lambada_forms(long_policy, tiny_tokenizer, write_rows, tmp_path):
    options = [
        {"context_options": ["Mia has a", "Tom has a"], "continuation": "cat.", "gold": i % 2}
        for i in range(4)
    ]
    options[3]["context_options"] = ["Ann has a", "Tom has a"]
    words = [
        {"context": f"{name} has a", "continuation": "cat"} for name in ("Mia",) * 3 + ("Tom",)
    ]
    paths = [write_rows(options, "wino.jsonl"), write_rows(words, "lambada.jsonl")]
    tasks = load_tasks([str(path) for path in paths], [0, 1], 0, tmp_path)
    outcome = run_tasks(long_policy, tiny_tokenizer, tasks, shots=[0, 1], **OPTIONS)
    assert {row["gold"] for row in outcome.documents if row["task"] == "wino"} == {0, 1}
    right = [row["correct"] for row in outcome.documents if row["task"] == "wino"][:3]
    # The same question with either label: exactly the alternate ones are right.
    assert sorted({right[0], right[1]}) == [0, 1]
    assert right[0] == right[2]
    for shots in ("0", "1"):
        figures = outcome.figures["lambada"][shots]
        assert figures["n"] == 3
        assert figures["acc"] in (0, 1)
    expected = "Tom has a cat\n\nMia has a"
    assert tasks["lambada"].fewshot_context(tasks["lambada"].eval_docs[0], 1) == expected


def test_summary_by_hand():
    rows = [
        {
            "correct": 1,
            "confidence": 0.8,
            "correct_norm": 1,
            "correct_token": 0,
            "gold": 0,
            "logliks": [math.log(0.8), math.log(0.2)],
            "tokens": [2, 1],
        },
        {
            "correct": 0,
            "confidence": 0.6,
            "correct_norm": 0,
            "correct_token": 0,
            "gold": 1,
            "logliks": [math.log(0.6), math.log(0.4)],
            "tokens": [1, 1],
        },
    ]
    found = summarize_choices(rows, bins=1)
    assert found["acc"] == 0.5
    assert found["ece"] == pytest.approx(abs((1 + 0) - (0.8 + 0.6)) / 2)
    assert found["brier"] == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)
    assert found["acc_token"] == 0
    assert found["stderr"] == pytest.approx(np.std([1, 0], ddof=1) / math.sqrt(2))
