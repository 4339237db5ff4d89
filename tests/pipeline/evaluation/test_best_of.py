from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import pipeline.evaluation.best_of as best_of_module
from pipeline.config.best_of import BestOfSection
from pipeline.config.run import resolve
from pipeline.data import read_prompts
from pipeline.distributed import Workers
from pipeline.errors import ConfigError, DataError, RunError
from pipeline.evaluation.best_of import BestOfEvaluator, Subject, sequence_logprobs, spread
from pipeline.records import Prompt
from pipeline.runs import Manifest, model_of
from stages import evaluate

N = [1, 2, 3]


@pytest.fixture
def tree(tree):
    """Leave out what other tests look at, and ask for best-of-n from sft."""
    kept = {key: tree["evaluate"][key] for key in ("prompts", "decoding")}
    asked = {"stage": "sft", "n": N, "samples": 2}
    return {**tree, "reward": {"init": "sft"}, "evaluate": {**kept, "best_of": asked}}


@pytest.fixture
def trained(tree, finish):
    """Complete the line: a start, a policy that is its twin and one that is not."""
    tree["ppo@twin"] = {}
    for name, seed in (("pretrain", 0), ("sft", 1), ("reward", 2), ("ppo", 3), ("ppo@twin", 1)):
        finish(name, seed)
    return tree


@pytest.fixture
def drawn(monkeypatch):
    """Return the list of how many completions are drawn at a time from here on."""
    calls = []
    real = best_of_module.sample_completions

    def counted(model, formatter, prompts, *args, **options):
        calls.append(len(prompts))
        return real(model, formatter, prompts, *args, **options)

    monkeypatch.setattr(best_of_module, "sample_completions", counted)
    return calls


def folder_of(tree):
    return Path(tree["run_dir"]) / "evaluate"


def figures_of(tree):
    return json.loads((folder_of(tree) / "best_of.json").read_text())


def rows_of(folder, stage):
    text = (folder / "best_of" / f"{stage}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def run(tree, **options):
    evaluate.run(resolve(tree), "evaluate", **options)


def test_a_start_and_its_policies_answer_the_same_prompts(trained, drawn):
    run(trained)
    assert drawn == [10 * 4, 10 * 2, 10 * 2]
    figures = figures_of(trained)
    assert (figures["stage"], figures["reward"], figures["prompts"]) == ("sft", "reward", 10)
    assert [point["n"] for point in figures["best_of"]] == N
    assert list(figures["policies"]) == ["ppo", "ppo@twin"]
    start = rows_of(folder_of(trained), "sft")
    assert [row["sample"] for row in start] == [0, 1, 2, 3] * 10
    assert all({"score", "completion", "finish_reason"} <= row.keys() for row in start)
    assert ["utility" in row for row in start] == [True] * 24 + [False] * 16
    assert not any("log_ratio" in row or "ids" in row for row in start)
    policy = rows_of(folder_of(trained), "ppo")
    assert [row["sample"] for row in policy] == [4, 5] * 10
    assert [row["prompt_id"] for row in policy[::2]] == [row["prompt_id"] for row in start[::4]]
    # The same answer to a prompt has the same score to the bit: it ties.
    scores = {}
    for row in start:
        scores.setdefault((row["prompt_id"], row["completion"]), set()).add(row["score"])
    assert {len(each) for each in scores.values()} == {1}


def test_a_policy_that_is_the_start_has_no_kl(trained):
    run(trained)
    assert {row["log_ratio"] for row in rows_of(folder_of(trained), "ppo@twin")} == {0.0}
    policies = figures_of(trained)["policies"]
    assert policies["ppo@twin"]["kl"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
    assert policies["ppo@twin"]["between"] == [1, 2]
    assert policies["ppo"]["kl"]["estimate"] > 0
    metrics = Manifest.read(folder_of(trained)).metrics
    assert metrics["ppo/best_of/kl"] == policies["ppo"]["kl"]["estimate"]
    assert metrics["sft/best_of/3/score"] == figures_of(trained)["best_of"][2]["score"]["estimate"]
    lines = (folder_of(trained) / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    assert [row["stage"] for row in logged if "best_of/kl" in row] == ["ppo", "ppo@twin"]


def test_what_was_drawn_is_drawn_once(trained, drawn):
    run(trained)
    drawn.clear()
    run(trained)
    assert drawn == []
    before = rows_of(folder_of(trained), "sft")
    # Other n of the same draw.
    trained["evaluate"]["best_of"]["n"] = [1, 3]
    run(trained)
    assert drawn == []
    assert [point["n"] for point in figures_of(trained)["best_of"]] == [1, 3]
    assert rows_of(folder_of(trained), "sft") == before
    # Fewer prompts are another draw.
    trained["evaluate"]["best_of"]["limit"] = 5
    run(trained)
    assert drawn == [5 * 4, 5 * 2, 5 * 2]
    assert {row["prompt_id"] for row in rows_of(folder_of(trained), "sft")} == {
        row["prompt_id"] for row in before[::8]
    }


def test_a_new_reward_model_judges_the_same_completions(trained, finish, drawn):
    run(trained)
    before = rows_of(folder_of(trained), "ppo")
    drawn.clear()
    shutil.rmtree(Path(trained["run_dir"]) / "reward")
    finish("reward", 9)
    run(trained)
    assert drawn == []
    after = rows_of(folder_of(trained), "ppo")
    kept = ("prompt_id", "sample", "completion", "log_ratio", "utility")
    for old, new in zip(before, after, strict=True):
        assert [old.get(key) for key in kept] == [new.get(key) for key in kept]
        assert old["score"] != new["score"]
    # A new start is another draw, and another KL.
    shutil.rmtree(Path(trained["run_dir"]) / "sft")
    finish("sft", 11)
    run(trained)
    assert drawn == [40, 20, 20]


def test_a_finished_evaluation_takes_it_without_force_and_keeps_it(trained, drawn):
    asked = trained["evaluate"].pop("best_of")
    run(trained)
    assert drawn == []
    answers = (folder_of(trained) / "completions" / "sft.jsonl").stat().st_mtime_ns
    trained["evaluate"]["best_of"] = asked
    run(trained)
    assert len(drawn) == 3
    assert (folder_of(trained) / "completions" / "sft.jsonl").stat().st_mtime_ns == answers
    found = figures_of(trained)
    del trained["evaluate"]["best_of"]
    run(trained)
    assert figures_of(trained) == found


def test_a_new_policy_is_added_and_without_being_asked_old_figures_go(trained, finish, drawn):
    run(trained)
    trained["ppo@new"] = {}
    finish("ppo@new", 7)
    drawn.clear()
    run(trained)
    assert drawn == [20]
    assert list(figures_of(trained)["policies"]) == ["ppo", "ppo@twin", "ppo@new"]
    trained["ppo@newer"] = {}
    finish("ppo@newer", 8)
    del trained["evaluate"]["best_of"]
    run(trained)
    assert not (folder_of(trained) / "best_of.json").exists()
    assert "ppo/best_of/kl" not in Manifest.read(folder_of(trained)).metrics


def test_a_policy_from_elsewhere_is_not_compared(trained, finish):
    trained["ppo@elsewhere"] = {"init": "sft@other"}
    finish("sft@other", 5)
    finish("ppo@elsewhere", 6)
    run(trained)
    assert list(figures_of(trained)["policies"]) == ["ppo", "ppo@twin"]


def test_a_kill_loses_only_the_stage_at_work(trained, drawn, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(best_of_module, "sequence_logprobs", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(trained)
    assert drawn == [40, 20]
    drawn.clear()
    run(trained)
    assert drawn == [20, 20]
    assert list(figures_of(trained)["policies"]) == ["ppo", "ppo@twin"]


def test_batches_change_nothing_but_speed(trained, tmp_path):
    config = resolve(trained)

    def draw(batch_size):
        folder = tmp_path / f"batches-{batch_size}"
        folder.mkdir()
        sft, reward, ppo = (
            Subject(name, model_of(config, name), name) for name in ("sft", "reward", "ppo")
        )
        prompts = read_prompts(config.stages["evaluate"].prompts, config.seed)
        BestOfEvaluator(
            BestOfSection(stage="sft", n=N, samples=2),
            *(prompts, 8, config.seed, Workers(), folder, sft, reward, batch_size),
        ).evaluate([ppo])
        return [row for stage in ("sft", "ppo") for row in rows_of(folder, stage)]

    for small, large in zip(draw(3), draw(32), strict=True):
        assert small["completion"] == large["completion"]
        for key in ("score", "log_ratio"):
            # The models compute in float32.
            assert small.get(key) == pytest.approx(large.get(key), abs=1e-5)


def test_sequence_logprobs_are_those_of_each_sequence_alone(make_policy, tiny_formatter):
    model = make_policy(4)
    prompts = [tiny_formatter.prompt_ids([{"role": "user", "content": "Hi " * i}]) for i in (1, 5)]
    completions = [[9, 7, 30, 11], [8, tiny_formatter.end_id]]
    for temperature in (1.0, 0.7):
        found = sequence_logprobs(
            model, prompts, completions, temperature, tiny_formatter.pad_id, batch_size=2
        )
        for prompt, completion, total in zip(prompts, completions, found, strict=True):
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
            logprobs = (logits / temperature).log_softmax(dim=-1)
            expected = sum(logprobs[i, token].item() for i, token in enumerate(completion))
            assert total == pytest.approx(expected, abs=1e-10)


def test_a_limit_takes_prompts_evenly():
    prompts = [Prompt.from_text(str(i)) for i in range(10)]
    assert spread(prompts, None) == prompts
    assert spread(prompts, 99) == prompts
    assert spread(prompts, 4) == [prompts[i] for i in (0, 2, 5, 7)]


def test_it_can_be_all_that_is_measured(trained, write_rows):
    path = write_rows([{"prompt": "Say it"}, {"prompt": "Say more"}], "own.jsonl")
    trained["evaluate"] = {
        "decoding": {"max_new_tokens": 8},
        "best_of": {"stage": "sft", "n": N, "prompts": [str(path)]},
    }
    run(trained)
    assert figures_of(trained)["prompts"] == 2
    # A change of the prompts' file is seen.
    write_rows([{"prompt": "Say it"}], "own.jsonl")
    run(trained)
    assert figures_of(trained)["prompts"] == 1


def test_it_waits_for_the_reward_model(tree, finish):
    finish("pretrain")
    finish("sft", 1)
    with pytest.raises(RunError, match=r"reward.*Run 'steerline reward CONFIG' first"):
        run(tree)


def test_prompts_must_leave_room(trained):
    trained["evaluate"]["decoding"]["max_new_tokens"] = 500
    del trained["evaluate"]["prompts"]
    trained["evaluate"]["best_of"]["prompts"] = [{"path": "tiny:prompts", "limit": 2}]
    with pytest.raises(DataError, match=r"evaluate\.best_of\.prompts: a prompt must have at most"):
        run(trained)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"stage": "sftt"}, r"evaluate\.best_of\.stage must name a .* got 'sftt'.*'sft'"),
        ({"reward": "sft"}, r"evaluate\.best_of\.reward must name a reward stage"),
        ({"n": []}, r"best_of\.n must be ascending positive integers, got \[\]"),
        ({"n": [0, 1]}, r"best_of\.n must be ascending"),
        ({"n": [2, 2]}, r"best_of\.n must be ascending"),
        ({"n": [4, 2]}, r"best_of\.n must be ascending"),
        ({"n": [1.5]}, r"best_of\.n\[0\] must be integer"),
        ({"samples": 0}, r"best_of\.samples must be 1 or more"),
        ({"limit": 0}, r"best_of\.limit must be 1 or more"),
        ({"temperature": 0}, r"best_of\.temperature must be positive"),
    ],
)
def test_refusals(tree, asked, said):
    tree["evaluate"]["best_of"] |= asked
    with pytest.raises(ConfigError, match=said):
        resolve(tree)
    del tree["evaluate"]["prompts"]
    tree["evaluate"]["best_of"] = {"stage": "sft"}
    with pytest.raises(ConfigError, match=r"best_of\.prompts must name prompts"):
        resolve(tree)
