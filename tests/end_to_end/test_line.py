"""The whole line in a few steps: it runs, is skipped, and runs on two processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from pipeline.model_finding import find_model
from pipeline.model_places import find_models
from pipeline.runs import list_checkpoints
from pipeline.served_models import load_model
from tests.end_to_end.stages import POLICIES, PPO, STAGES, TRAINED, same


def test_every_stage_is_complete_and_its_lineage_can_be_walked(finished):
    manifests = {stage: finished.manifest(stage) for stage in STAGES}
    assert {m["status"] for m in manifests.values()} == {"complete"}
    assert set(manifests["ppo"]["parents"]) == {"sft@ppo_init", "reward"}
    assert set(manifests["reward"]["parents"]) == {"sft", "label"}
    assert manifests["reward"]["sources"]["store:"] == manifests["label"]["metrics"]["snapshot"]
    assert set(manifests["label"]["parents"]) == {"sample"}
    assert manifests["sample"]["parents"].keys() == {"sft"}
    for stage in TRAINED:
        assert (finished.run_dir / stage / "model/model.safetensors").is_file()
        assert finished.metrics(stage)


def test_results_have_the_promised_shape(finished):
    results = json.loads((finished.run_dir / "evaluate/results.json").read_text())
    assert set(results) == set(POLICIES)
    assert len(results["ppo"]) >= 6
    for task in results["ppo"].values():
        assert set(task) == {"0", "1"}
        assert {"acc", "stderr", "n", "ece", "brier"} <= set(task["1"])
        assert task["1"]["n"] == 4


def test_generation_and_training_are_one_distribution(finished):
    for row in finished.metrics("ppo@hydra"):
        assert row["engine/logprob_gap"] == pytest.approx(0, abs=1e-9)
        assert row["engine/importance_mean"] == pytest.approx(1, abs=1e-9)
    assert not any(key.startswith("engine/") for row in finished.metrics("ppo") for key in row)


def test_ppo_is_evaluated_on_prompts_that_it_is_not_trained_on(finished):
    rows = finished.metrics("ppo@no_ptx")
    scores = [row["eval/scores"] for row in rows]
    assert len(scores) == 3
    assert rows[-1]["eval/best_iteration"] == 1 + scores.index(max(scores))
    assert {row["eval/prompts"] for row in rows} == {4}
    coefs = [row["objective/kl_coef"] for row in rows]
    assert coefs[0] == 0.02
    assert len(set(coefs)) == 3
    assert not any("eval/scores" in row for row in finished.metrics("ppo"))
    config = (finished.run_dir / "ppo@no_ptx/config.yaml").read_text(encoding="utf-8")
    assert "select: best_score" in config


def test_ppo_is_compared_with_best_of_n(finished):
    figures = json.loads((finished.run_dir / "evaluate/best_of.json").read_text())
    assert (figures["stage"], figures["prompts"], figures["completions"]) == ("sft@ppo_init", 4, 3)
    assert list(figures["policies"]) == list(PPO)
    one, two = figures["best_of"]
    assert two["score"]["estimate"] > one["score"]["estimate"]
    assert '<section id="best-of"' in (finished.run_dir / "report/report.html").read_text()


def test_every_stage_is_compared_with_every_other_and_ppo_followed_from_its_start(finished):
    found = json.loads((finished.run_dir / "evaluate/win_rates.json").read_text())
    assert found["stages"] == list(POLICIES)
    for judge in ("gold", "reward"):
        pairs = found["judges"][judge]["pairs"]
        assert len(pairs) == len(POLICIES) * (len(POLICIES) - 1) // 2
        assert {row["prompts"] for row in pairs} == {8}
    ways = {way["stage"]: way["points"] for way in found["trajectories"]}
    assert list(ways) == list(PPO)
    # Of a hydra's checkpoints, which hold adapters, none has a whole policy.
    steps = {stage: [point["step"] for point in points] for stage, points in ways.items()}
    assert steps["ppo@hydra"] == [None, None]
    assert steps["ppo"] == [None, 2, None]
    assert all(points[-1]["kl"] is not None for points in ways.values())
    assert '<section id="wins"' in (finished.run_dir / "report/report.html").read_text()


@pytest.fixture
def unchanged(finished):
    """Check that a test leaves every stage as it was."""

    def times() -> dict[str, int]:
        return {s: (finished.run_dir / s / "manifest.json").stat().st_mtime_ns for s in STAGES}

    before = times()
    yield
    assert times() == before


@pytest.mark.usefixtures("unchanged")
def test_a_finished_line_is_skipped(finished):
    done = finished.run("run")
    assert done.returncode == 0, done.stderr
    assert "skipped" in done.stdout


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_a_module_that_runs(finished, stage):
    done = finished.start_together(stage, processes=1).wait()
    assert done.returncode == 0, done.stderr


def test_models_load_with_plain_transformers(finished, tmp_path):
    code = """
import sys, json
from transformers import (AutoTokenizer, AutoModelForCausalLM,
    AutoModelForSequenceClassification, AutoModelForTokenClassification)
root, answers = sys.argv[1], {}
for stage in sys.argv[2:]:
    reward = stage.startswith("reward")
    kind = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    folder = f"{root}/{stage}/model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), kind.from_pretrained(folder)
    chat = [{"role": "user", "content": "Where does Mia live?"}]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    logits = model(**ids).logits
    assert logits.isfinite().all()
    answers[stage] = list(logits.shape)
for stage in (stage for stage in sys.argv[2:] if stage.startswith("ppo")):
    value = AutoModelForTokenClassification.from_pretrained(f"{root}/{stage}/value")
    answers[f"value of {stage}"] = list(value(**ids).logits.shape)
assert not any(name.partition(".")[0] in ("pipeline", "stages") for name in sys.modules)
print(json.dumps(answers))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished.run_dir), *TRAINED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shapes = json.loads(done.stdout)
    assert shapes["reward"] == [1, 1]
    assert {shapes[f"value of {stage}"][-1] for stage in PPO} == {1}
    assert shapes["ppo"] == shapes["pretrain"]


def test_every_checkpoint_of_a_policy_can_be_asked(finished):
    places = {place.name: place for place in find_models(finished.run_dir)}
    ids, answers = torch.tensor([[5, 6, 7, 8]]), {}
    for stage in POLICIES:
        steps = list_checkpoints(finished.run_dir / stage)
        assert len(steps) >= 2
        for name in (stage, *(f"{stage}.{step}" for step in steps)):
            place = places[name]
            beside = place.tokenizer and str(place.tokenizer)
            policy = load_model(find_model("policy", str(place.path), beside), torch.device("cpu"))
            assert policy.formatter.prompt_ids([{"role": "user", "content": "Who?"}])
            answers[name] = policy.model(ids).logits
        if stage in ("pretrain", "ppo", "ppo@hydra", "ppo@trunk"):
            # These keep the last: its checkpoint is what the stage's model was made of.
            last = answers[f"{stage}.{steps[-1]}"]
            assert torch.allclose(last, answers[stage], atol=1e-4), stage
        if stage in ("pretrain", "ppo"):
            assert not torch.equal(*(answers[f"{stage}.{step}"] for step in steps[-2:]))
    last = list_checkpoints(finished.run_dir / "pretrain")[-1]
    assert places[f"pretrain.{last}"].tokenizer == finished.run_dir / "pretrain" / "tokenizer"


@pytest.mark.distributed
def test_two_processes_make_the_same_numbers_as_one(finished, make_line, tmp_path):
    line = make_line(tmp_path / "run")
    done = line.launch(line.command("run"), processes=2)
    assert done.returncode == 0, done.stderr
    for stage in STAGES:
        assert line.manifest(stage)["world_size"] == 2, stage
        assert finished.manifest(stage)["world_size"] == 1, stage
    for stage in TRAINED:
        ours, theirs = line.metrics(stage), finished.metrics(stage)
        assert same(ours, theirs, tolerance=1e-6), stage
    # Evaluation computes in float32.
    ours, theirs = (x.manifest("evaluate")["metrics"] for x in (line, finished))
    assert same(ours, theirs, tolerance=1e-4)


def test_one_seed_makes_the_same_metrics_twice(finished, make_line, tmp_path):
    line = make_line(tmp_path / "run")
    shutil.copytree(finished.run_dir, line.run_dir)
    for stage in ("sft", "ppo"):
        shutil.rmtree(line.run_dir / stage)
        assert line.run(stage).returncode == 0
        assert line.metrics(stage) == finished.metrics(stage)
