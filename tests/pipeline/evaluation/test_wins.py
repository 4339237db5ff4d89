from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.evaluation.answers as answers_module
import pipeline.llm_judge as judge_module
from pipeline.artifacts import fill_folder
from pipeline.config.run import resolve
from pipeline.config.sampling import DecodingSection
from pipeline.data import read_prompts
from pipeline.errors import ConfigError, JudgeError, RunError
from pipeline.evaluation.answers import is_whole
from pipeline.evaluation.best_of import sequence_logprobs
from pipeline.formatting import Formatter
from pipeline.models import load_policy
from pipeline.records import Prompt
from pipeline.runs import Manifest, checkpoint_path
from pipeline.store import Judgment, LabelStore, Provenance, SampledCompletion
from pipeline.tokenizer import load_tokenizer
from stages import evaluate
from tests.pipeline.judge_server import JudgeServer, refuse, say, serve


@pytest.fixture
def tree(tree):
    """Leave out what other tests look at, and ask for win rates."""
    kept = {key: tree["evaluate"][key] for key in ("prompts", "decoding")}
    line = {key: tree[key] for key in ("run_dir", "pretrain", "sft", "ppo")}
    return {**line, "reward": {"init": "sft"}, "evaluate": {**kept, "win_rates": {}}}


@pytest.fixture
def trained(tree, finish):
    """Complete the line: a policy, and one that is the twin of its start."""
    tree["ppo@twin"] = {}
    for name, seed in (("pretrain", 0), ("sft", 1), ("reward", 2), ("ppo", 3), ("ppo@twin", 1)):
        finish(name, seed)
    return tree


@pytest.fixture
def server(monkeypatch) -> Iterator[JudgeServer]:
    monkeypatch.setattr(judge_module, "FIRST_WAIT", 0.01)
    with serve(JudgeServer()) as listening:
        yield listening


@pytest.fixture
def scored(monkeypatch) -> list[int]:
    """Return the list of how many answers the reward model scores at a time from here on."""
    calls = []
    real = answers_module.RewardJudge.__call__

    def counted(self, prompts, completions):
        calls.append(len(prompts))
        return real(self, prompts, completions)

    monkeypatch.setattr(answers_module.RewardJudge, "__call__", counted)
    return calls


def folder_of(tree) -> Path:
    return Path(tree["run_dir"]) / "evaluate"


def wins_of(tree):
    return json.loads((folder_of(tree) / "win_rates.json").read_text())


def rows_of(tree, folder, stage):
    text = (folder_of(tree) / folder / f"{stage}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def run(tree, **options):
    evaluate.run(resolve(tree), "evaluate", **options)


def test_every_pair_is_compared_by_gold_and_by_the_reward_model(trained):
    run(trained)
    found = wins_of(trained)
    assert found["stages"] == ["pretrain", "sft", "ppo", "ppo@twin"]
    assert set(found["judges"]) == {"gold", "reward"}
    reward = found["judges"]["reward"]
    assert reward["model"] == "reward"
    assert [(row["stage"], row["against"]) for row in reward["pairs"]] == [
        ("sft", "pretrain"),
        ("ppo", "pretrain"),
        ("ppo@twin", "pretrain"),
        ("ppo", "sft"),
        ("ppo@twin", "sft"),
        ("ppo@twin", "ppo"),
    ]
    # Gold judges the tiny world's six prompts, the reward model all ten.
    assert {row["prompts"] for row in found["judges"]["gold"]["pairs"]} == {6}
    assert {row["prompts"] for row in reward["pairs"]} == {10}
    twin = next(row for row in reward["pairs"] if row["stage"] == "ppo@twin" and row["ties"] == 1)
    assert twin["against"] == "sft"
    assert twin["win_rate"] == {"estimate": 0.5, "low": 0.5, "high": 0.5}
    ours, theirs = (rows_of(trained, "wins", stage) for stage in ("ppo", "sft"))
    wins = [float(a["score"] > b["score"]) for a, b in zip(ours, theirs, strict=True)]
    pair = reward["pairs"][3]
    assert pair["win_rate"]["estimate"] == pytest.approx(sum(wins) / 10)
    assert [one["stage"] for one in reward["strengths"]] == found["stages"]
    metrics = Manifest.read(folder_of(trained)).metrics
    assert metrics["ppo/win_rates/reward/vs_sft"] == pair["win_rate"]["estimate"]
    lines = (folder_of(trained) / "metrics.jsonl").read_text().splitlines()
    assert "win_rates/gold/strength" in json.loads(lines[1])


def test_a_policys_way_has_its_kl_from_its_start(trained):
    run(trained)
    ppo, twin = wins_of(trained)["trajectories"]
    assert (ppo["stage"], ppo["start"]) == ("ppo", "sft")
    start, end = ppo["points"]
    assert (start["name"], start["kl"]["estimate"]) == ("sft", 0.0)
    assert twin["points"][1]["kl"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
    config = resolve(trained)
    prompts = read_prompts(config.stages["evaluate"].prompts, config.seed)
    models = [load_policy(config.run_dir / stage / "model") for stage in ("ppo", "sft")]
    formatter = Formatter(load_tokenizer(config.run_dir / "sft" / "model"))
    rows = rows_of(trained, "completions", "ppo")
    given = ([formatter.prompt_ids(p.messages) for p in prompts], [row["ids"] for row in rows])
    ours, theirs = (sequence_logprobs(model, *given, 1.0, formatter.pad_id, 10) for model in models)
    expected = sum(a - b for a, b in zip(ours, theirs, strict=True)) / 10
    assert end["kl"]["estimate"] == pytest.approx(expected, abs=1e-4)
    by_gold, by_reward = end["win_rates"]["gold"], end["win_rates"]["reward"]
    assert (
        by_reward["estimate"]
        == wins_of(trained)["judges"]["reward"]["pairs"][3]["win_rate"]["estimate"]
    )
    assert by_gold["low"] <= by_gold["estimate"] <= by_gold["high"]
    assert set(end["overstated"]) == {"gold"}


def test_a_greedy_policy_has_no_kl(trained):
    trained["evaluate"]["decoding"] = {"max_new_tokens": 8, "temperature": 0}
    run(trained)
    assert wins_of(trained)["trajectories"][0]["points"][1]["kl"] is None


@pytest.mark.parametrize(
    ("fields", "whole"),
    [
        ({}, True),
        ({"temperature": 0.7, "max_new_tokens": 3}, True),
        ({"temperature": 0}, False),
        ({"top_p": 0.9}, False),
        ({"stop": ["\n"]}, False),
    ],
)
def test_kl_is_measured_on_the_whole_distribution(fields, whole):
    assert is_whole(DecodingSection(**fields)) is whole


def test_what_was_measured_is_measured_once_and_a_new_reward_model_only_scores(
    trained, finish, scored
):
    run(trained)
    assert scored == [10, 10, 10, 10, 4, 4, 4, 4] or sorted(scored) == [4] * 4 + [10] * 4
    before = rows_of(trained, "wins", "ppo")
    scored.clear()
    run(trained)
    assert scored == []
    # Fewer pairs of the same answers need no force and no model.
    trained["evaluate"]["win_rates"] = {"against": "sft"}
    run(trained)
    assert scored == []
    assert {row["against"] for row in wins_of(trained)["judges"]["gold"]["pairs"]} == {"sft"} | {
        "pretrain"
    }
    shutil.rmtree(Path(trained["run_dir"]) / "reward")
    finish("reward", 9)
    run(trained)
    assert scored.count(10) == 4
    after = rows_of(trained, "wins", "ppo")
    kept = ("prompt_id", "completion", "utility", "log_ratio")
    assert [[row.get(key) for key in kept] for row in after] == [
        [row.get(key) for key in kept] for row in before
    ]
    assert [row["score"] for row in after] != [row["score"] for row in before]


def test_one_stage_alone_is_not_compared_and_no_reward_model_leaves_gold(tree, finish):
    finish("pretrain", 0)
    run(tree)
    assert not (folder_of(tree) / "win_rates.json").exists()
    finish("sft", 1)
    run(tree)
    found = wins_of(tree)
    assert (list(found["judges"]), found["trajectories"]) == (["gold"], [])
    tree["evaluate"]["win_rates"] = {"stages": ["sft", "ppo"]}
    with pytest.raises(RunError, match="Run 'steerline ppo CONFIG' first"):
        run(tree)


def save_checkpoint(tree, step: int, model, part: str = "average") -> None:
    path = checkpoint_path(Path(tree["run_dir"]) / "ppo", step)
    path.parent.mkdir(exist_ok=True)
    with fill_folder(path) as folder:
        model.save_pretrained(folder / part)


def test_checkpoints_stand_between_the_start_and_the_finished_policy(trained, make_policy):
    save_checkpoint(trained, 4, make_policy(1, context=512))
    save_checkpoint(trained, 8, make_policy(5, context=512))
    # The last iteration's is the finished policy; an adapter alone is no policy.
    last = resolve(trained).stages["ppo"].iterations
    save_checkpoint(trained, last, make_policy(3, context=512))
    path = checkpoint_path(Path(trained["run_dir"]) / "ppo", 9)
    with fill_folder(path) as folder:
        (folder / "average").mkdir()
        (folder / "average" / "adapter.txt").write_text("-")
    trained["evaluate"]["win_rates"] = {"checkpoints": True, "stages": ["sft", "ppo"]}
    run(trained)
    (way,) = wins_of(trained)["trajectories"]
    assert [(point["name"], point["step"]) for point in way["points"]] == [
        ("sft", None),
        ("ppo.4", 4),
        ("ppo.8", 8),
        ("ppo", None),
    ]
    # The first has the start's weights: it gives the same answers to the same random numbers.
    twin = way["points"][1]
    assert (twin["kl"]["estimate"], twin["win_rates"]["reward"]["estimate"]) == (0.0, 0.5)
    assert way["points"][2]["kl"]["estimate"] > 0
    said = [row["completion"] for row in rows_of(trained, "wins", "ppo.4")]
    assert said == [row["completion"] for row in rows_of(trained, "completions", "sft")]
    stages = {row["stage"] for row in wins_of(trained)["judges"]["gold"]["pairs"]}
    assert stages == {"ppo"}


def test_a_language_model_judges_and_is_not_asked_twice(trained, server):
    trained["evaluate"]["win_rates"] = {
        "stages": ["sft", "ppo"],
        "judge": {"url": server.url, "model": "judge-1", "limit": 5},
    }
    run(trained)
    found = wins_of(trained)["judges"]["llm"]
    assert (found["model"], found["without_verdict"], found["prompts"]) == ("judge-1", 0, 5)
    (pair,) = found["pairs"]
    lengths = [
        [len(row["completion"]) for row in rows_of(trained, "wins", stage)[::2]]
        for stage in ("ppo", "sft")
    ]
    wins = [0.5 + 0.5 * ((a > b) - (a < b)) for a, b in zip(*lengths, strict=True)]
    assert pair["win_rate"]["estimate"] == pytest.approx(sum(wins) / 5)
    assert found["first_preferred"]["estimate"] == 0.5
    assert found["disagreed"] == 0.0
    asked = len(server.asked)
    assert asked <= 10
    assert "llm" in wins_of(trained)["trajectories"][0]["points"][1]["win_rates"]
    run(trained, force=True)
    assert len(server.asked) == asked, "what was judged stays, whatever is overwritten"


def test_a_judge_that_is_down_costs_nothing_that_was_done(trained, server, scored):
    trained["evaluate"]["win_rates"] = {
        "against": "sft",
        "judge": {"url": server.url, "model": "m", "retries": 1, "concurrency": 1},
    }
    kept = server.answer
    server.answer = lambda body: kept(body) if len(server.asked) < 8 else refuse(502)
    with pytest.raises(
        JudgeError, match=r"evaluate\.win_rates\.judge\.url must answer.*7 verdicts"
    ):
        run(trained)
    manifest = Manifest.read(folder_of(trained))
    assert (manifest.status, manifest.error.partition(":")[0]) == ("failed", "JudgeError")
    assert (folder_of(trained) / "results.json").is_file()
    server.answer, asked = kept, len(server.asked)
    scored.clear()
    run(trained)
    assert scored == []
    assert wins_of(trained)["judges"]["llm"]["prompts"] == 10
    shown = [json.dumps(body) for body in server.asked]
    assert all(shown.index(text) >= asked - 2 for text in shown[asked:]), "asked before"


def test_a_judge_that_is_down_takes_nothing_back_that_was_measured(trained, server, scored):
    run(trained)
    trained["evaluate"]["prompts"] = trained["evaluate"]["prompts"][:1]
    asked = {"against": "sft", "judge": {"url": server.url, "model": "m", "retries": 0}}
    trained["evaluate"]["win_rates"] = asked
    kept = server.answer
    server.answer = lambda _: refuse(502)
    with pytest.raises(JudgeError):
        run(trained, force=True)
    assert len(rows_of(trained, "completions", "ppo")) == 6
    server.answer = kept
    scored.clear()
    run(trained)
    assert scored == []
    assert wins_of(trained)["judges"]["llm"]["prompts"] == 6


def test_a_judge_that_gives_no_verdicts_is_no_judge(trained, server):
    server.answer = lambda _: say("I like both.")
    judge = {"url": server.url, "model": "m"}
    trained["evaluate"]["win_rates"] = {"stages": ["sft", "ppo"], "judge": judge}
    with pytest.raises(
        JudgeError, match=r"must reply with a verdict, got none from 'm' on \d+ of 10"
    ):
        run(trained)


def test_what_cannot_be_asked_is_refused_before_anything_is_measured(trained, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = {"url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "NO_SUCH_KEY"}
    trained["evaluate"]["win_rates"] = {"judge": judge}
    with pytest.raises(ConfigError, match=r"win_rates\.judge\.api_key_env"):
        run(trained)
    judge |= {"api_key_env": None, "template": "/nowhere/t.txt"}
    with pytest.raises(ConfigError, match=r"win_rates\.judge\.template"):
        run(trained)
    assert not folder_of(trained).exists()


def test_labelers_comparisons_join_the_table(trained):
    stages = ("sft", "ppo")
    trained["sample"] = {"prompts": ["tiny:prompts"], "stages": [*stages]}
    trained["label"] = {"comparisons": [{"stages": [*stages]}]}
    run_dir = Path(trained["run_dir"])
    with LabelStore.open(run_dir / "labels.db") as store:
        prompt = Prompt.from_text("Question?")
        store.add_prompts([prompt], split="validation")
        samples = [SampledCompletion(f"by {stage}", Provenance(stage)) for stage in stages]
        store.add_completions(prompt.id, samples)
        store.create_comparison_tasks(stages, 2, "validation")
        labeler = store.add_labeler("ada")
        task = store.lease_task(labeler)
        ranks = {choice.id: 1 + (choice.text == "by sft") for choice in task.completions}
        store.submit(task.token, Judgment(ranks), "ada/1")
    (run_dir / "label").mkdir()
    Manifest("label", "complete", 0, "").write(run_dir / "label")
    run(trained)
    people = wins_of(trained)["judges"]["people"]
    (pair,) = people["pairs"]
    assert (pair["stage"], pair["against"], pair["win_rate"]["estimate"]) == ("ppo", "sft", 1.0)
    assert people["first_preferred"]["estimate"] in (0.0, 1.0)
    rates = wins_of(trained)["trajectories"][0]["points"][1]["win_rates"]
    assert rates["people"]["estimate"] == 1.0
    assert people["strengths"][1]["separated"]
    # With another rival than both they stand on the policy's way alone.
    trained["evaluate"]["win_rates"] = {"against": "pretrain"}
    run(trained)
    assert "people" not in wins_of(trained)["judges"]
    rates = wins_of(trained)["trajectories"][0]["points"][1]["win_rates"]
    assert rates["people"]["estimate"] == 1.0
