from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.config.engine import EngineSection
from pipeline.errors import SteerlineError
from pipeline.models import load_policy, load_value_model
from pipeline.ppo_loop import PPOLoop
from pipeline.records import Prompt
from pipeline.runs import Alone, Manifest, StageRun, checkpoint_path, list_checkpoints

HELD_OUT = [Prompt.from_text(text) for text in ("Tom has a cat", "fox", "Where is Mia?")]
EVALUATED = {
    **{"episodes": 8 * 6, "num_ppo_epochs": 2, "learning_rate": 2e-3, "kl_coef": 0.02},
    **{"eval_every": 2, "eval_prompts": ["not read here"], "checkpoint_every": 1},
    **{"keep_checkpoints": 99, "sample_every": 3, "sample_prompts": 2},
}


def open_run(folder: Path, step: int = 0) -> StageRun:
    manifest = Manifest(stage="ppo", status="running", seed=5, config_hash="")
    return StageRun("ppo", folder, Alone(), manifest, resume_step=step)


def rows_of(run: StageRun, name: str = "metrics") -> list[dict]:
    lines = (run.folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def make_loop(make_trainer, tmp_path_factory):
    def make(section, folder=None, step=0, **fields):
        run = open_run(folder or tmp_path_factory.mktemp("run"), step)
        trainer = make_trainer(section, **fields)
        if run.resume_from:
            # As the stage does: the weights come from the checkpoint's folders.
            parts = {"policy": trainer.policy, "value": trainer.value_model}
            parts |= {"average": trainer.average} if trainer.average is not None else {}
            for name, model in parts.items():
                load = load_value_model if name == "value" else load_policy
                model.load_state_dict(load(run.resume_from / name, torch.float64).state_dict())
            run.metrics.rewind(step)
            run.samples.rewind(step)
        return PPOLoop(trainer, run, HELD_OUT)

    return make


STATEFUL = {
    **{"select": "best_score", "patience": 3, "score_scaling": "running", "kl_target": 0.2},
    **{"kl_horizon": 20, "lr_schedule": "linear"},
}


@pytest.fixture(scope="module")
def whole(make_loop, change):
    """Return a training that ran to its end, and what it returned."""
    loop = make_loop(change(**EVALUATED, **STATEFUL))
    return loop, loop.run()


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_cut_anywhere_it_ends_as_if_it_had_not_been(
    whole, make_loop, change, timeless, tmp_path, cut
):
    loop, expected = whole
    folder = tmp_path / "cut"
    shutil.copytree(loop.stage.folder, folder)
    # The logs hold lines from after the checkpoint, as a kill leaves them.
    for step in list_checkpoints(folder):
        if step > cut:
            shutil.rmtree(checkpoint_path(folder, step))
    resumed = make_loop(change(**EVALUATED, **STATEFUL), folder, step=cut)
    assert resumed.run() == expected
    for name in ("metrics", "samples"):
        ours, theirs = rows_of(resumed.stage, name), rows_of(loop.stage, name)
        assert [timeless(row) for row in ours] == [timeless(row) for row in theirs]
    for part in ("candidate", "policy", "value_model"):
        models = getattr(loop.trainer, part), getattr(resumed.trainer, part)
        for a, b in zip(*(model.parameters() for model in models), strict=True):
            assert torch.equal(a, b), part


def test_evaluations_come_when_asked_and_at_the_end(make_loop, change):
    loop = make_loop(change(**EVALUATED | {"eval_every": 3, "episodes": 8 * 4}))
    figures = loop.run()
    rows = rows_of(loop.stage)
    assert [row["step"] for row in rows if "eval/scores" in row] == [3, 4]
    assert {"eval/kl", "eval/win_rate", "eval/length", "eval/eos_rate"} < figures.keys()
    assert "perf/eval_seconds" in rows[2]
    assert not any(name.startswith("perf/") for name in figures)
    assert [row["step"] for row in rows_of(loop.stage, "samples")] == [3, 3, 4, 4]


def test_samples_tell_the_whole_prompt_beside_its_last_turn(make_loop, change):
    system = {"role": "system", "content": "Be brief."}
    texts = ("Where is Mia?", "fox", "Tom has a cat", "Say hello.")
    prompts = [Prompt((system, {"role": "user", "content": text})) for text in texts]
    loop = make_loop(change(**EVALUATED), prompts=prompts)
    loop.show_samples()
    rows = rows_of(loop.stage, "samples")
    assert [row["messages"] for row in rows] == [list(prompt.messages) for prompt in prompts[:2]]
    assert [row["prompt"] for row in rows] == list(texts[:2])


def test_without_evaluations_nothing_is_held_out(make_loop, change):
    loop = make_loop(change())
    figures = loop.run()
    assert loop.held_out is None
    assert not any(name.startswith("eval/") for name in figures)
    assert loop.trainer.iteration == 4


@pytest.mark.parametrize("average", [True, False])
def test_the_best_by_score_is_what_remains(make_loop, change, whole, average):
    loop, _ = whole
    if not average:
        loop = make_loop(change(**EVALUATED, select="best_score", ema_decay=None))
        loop.run()
    scores = {row["step"]: row["eval/scores"] for row in rows_of(loop.stage) if "eval/kl" in row}
    best = max(scores, key=scores.__getitem__)
    assert loop.selection.best_iteration == best
    assert loop.figures["eval/best_iteration"] == best
    folder = checkpoint_path(loop.stage.folder, best) / ("average" if average else "policy")
    kept = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    for a, b in zip(loop.trainer.candidate.parameters(), kept.parameters(), strict=True):
        assert torch.equal(a, b)
    again = loop.held_out.measure(loop.trainer.candidate, loop.trainer.ref_policy)
    assert again["eval/scores"] == scores[best]


def test_patience_ends_the_training_and_a_resumed_one_knows(make_loop, change):
    section = change(**EVALUATED | {"eval_every": 1}, select="best_score", patience=2)
    loop = make_loop(section)
    # A best from before that no policy reaches.
    loop.selection.note(0, 1e9)
    figures = loop.run()
    assert loop.trainer.iteration == 2
    assert list_checkpoints(loop.stage.folder) == [1, 2]
    assert (figures["eval/best_iteration"], loop.best) == (0, {})
    resumed = make_loop(section, loop.stage.folder, step=2)
    assert resumed.is_done
    assert resumed.run() == figures


def test_the_page_explains_every_key(make_loop, change, ptx_text):
    every = change(
        **EVALUATED | {"episodes": 16},
        engine=EngineSection(logprobs=True),
        stop_approxkl=1e-9,
        ptx_coef=1.0,
        ptx_ratio=1,
    )
    loop = make_loop(every, ptx=ptx_text(), policy_seed=3)
    loop.run()
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
    page = page.replace("reward/NAME", "reward/reward")
    explained = set(re.findall(r"`([^`]+)`", page.split("## `ppo`")[1].split("## `")[0]))
    rows = rows_of(loop.stage)
    shown = set().union(*rows)
    assert {"doctor", "policy/epochs", "grad_norm/both", "eval/win_rate"} <= shown
    assert {f"engine/{name}" for name in ("logprob_gap", "importance_capped")} <= shown
    for row in rows:
        assert row.keys() - {"step"} <= explained


def test_last_keeps_the_last(make_loop, change):
    loop = make_loop(change(**EVALUATED | {"episodes": 8 * 3}, ema_decay=None))
    loop.run()
    kept = load_policy(checkpoint_path(loop.stage.folder, 3) / "policy", torch.float64)
    for a, b in zip(loop.trainer.candidate.parameters(), kept.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not list(loop.stage.folder.rglob("best.safetensors"))


def test_findings_are_logged_each_time_and_said_once(make_loop, change, caplog):
    # A policy that is not its reference is the first finding that there can be.
    loop = make_loop(change(), policy_seed=3)
    with caplog.at_level(logging.WARNING):
        loop.run()
    rows = rows_of(loop.stage)
    assert list(rows[0]["doctor"]) == ["start_kl"]
    assert "doctor" not in rows[1]
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"ppo, iteration 1: {rows[0]['doctor']['start_kl']}"]


def test_a_healthy_training_says_nothing(make_loop, change, caplog):
    loop = make_loop(change())
    with caplog.at_level(logging.WARNING):
        loop.run()
    assert not caplog.records
    assert not any("doctor" in row for row in rows_of(loop.stage))


def test_a_number_that_is_not_finite_leaves_the_last_checkpoint(make_loop, change):
    loop = make_loop(change(checkpoint_every=1))
    step = loop.trainer.step

    def poisoned():
        if loop.trainer.iteration == 2:
            with torch.no_grad():
                next(loop.trainer.value_model.parameters()).fill_(float("inf"))
        return step()

    loop.trainer.step = poisoned
    with pytest.raises(SteerlineError, match="of iteration 3 must be finite, got nan"):
        loop.run()
    assert list_checkpoints(loop.stage.folder) == [1, 2]
    assert [row["step"] for row in rows_of(loop.stage)] == [1, 2]
    resumed = make_loop(loop.section, loop.stage.folder, step=2)
    resumed.run()
    assert resumed.trainer.iteration == 4
