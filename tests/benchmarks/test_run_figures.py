from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.run_figures import describe_judges, describe_scores, main, measure_kl
from pipeline.models import save_model
from pipeline.records import write_jsonl

PROMPTS = ("Hello Mia", "Where does Tom live?", "cat")


def write_answers(run_dir: Path, stage: str, **fields: list) -> None:
    folder = run_dir / "evaluate" / "completions"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"prompt_id": str(i), "messages": [{"role": "user", "content": prompt}]}
        | {"completion": "Tom has 12 dogs."}
        | {"finish_reason": ("eos", "length")[i % 2], "tokens": i}
        | {name: values[i] for name, values in fields.items()}
        for i, prompt in enumerate(PROMPTS)
    ]
    write_jsonl(folder / f"{stage}.jsonl", rows)


def test_judgments_are_pooled_by_source(tmp_path: Path) -> None:
    by_labeler = {"oasst#1": {"accuracy": 0.5, "n": 2}, "oasst#2": {"accuracy": 1.0, "n": 6}}
    figures = {"accuracy": 0.8, "low": 0.7, "high": 0.9, "n": 10}
    figures["by_labeler"] = {**by_labeler, "panda-1": {"accuracy": 0.25, "n": 4}}
    path = tmp_path / "reward" / "accuracy.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"reward_model": figures, "floors": {"length": figures}}))
    judges = describe_judges(tmp_path)
    assert list(judges) == ["reward_model", "length"]
    assert judges["length"]["by_source"] == {
        "oasst": {"accuracy": 0.875, "n": 8},
        "panda": {"accuracy": 0.25, "n": 4},
    }


def test_scores_are_compared_with_sfts_prompt_by_prompt(tmp_path: Path) -> None:
    write_answers(tmp_path, "sft", score=[0.0, 1.0, 5.0])
    write_answers(tmp_path, "ppo", score=[0.5, 1.5, 5.5])
    figures = describe_scores(tmp_path, ["sft", "ppo"])
    assert figures["ppo"]["against_sft"] == {"estimate": 0.5, "low": 0.5, "high": 0.5}
    assert "against_sft" not in figures["sft"]
    assert figures["sft"]["score"]["estimate"] == pytest.approx(2.0)


def test_the_kl_is_0_to_oneself_and_does_not_depend_on_the_batch(
    tmp_path: Path, make_policy, tiny_tokenizer
) -> None:
    for seed, stage in enumerate(("sft", "ppo")):
        policy = make_policy(seed, torch.float32)
        save_model(tmp_path / stage / "model", policy, tiny_tokenizer, "# A policy for tests\n")
    write_answers(tmp_path, "ppo")
    assert set(measure_kl(tmp_path, "ppo", "ppo")) == {0.0}
    one, all_ = (measure_kl(tmp_path, "ppo", "sft", size) for size in (1, 16))
    # Sums of float32 logprobs, in another order.
    assert one == pytest.approx(all_, abs=1e-4)
    assert abs(one.estimate) > 1e-2


def test_a_run_without_an_evaluation_is_one_line(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 2
    assert "results.json" in capsys.readouterr().err
