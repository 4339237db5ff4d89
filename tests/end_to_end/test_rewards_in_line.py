"""PPO with a reward model, a foreign one and a function: alone, on two processes, cut by a bug."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from stages.cli import main

MICRO = Path(__file__).with_name("micro.yaml")

CODE = '''
from pathlib import Path

HERE = Path(__file__).parent


def rank_by_length(prompts, completions):
    """Give the longest of all completions 1 and the shortest 0: it must see them together."""
    calls = HERE / "calls.txt"
    before = calls.read_text().splitlines() if calls.exists() else []
    if before and (HERE / "broken").exists():
        raise ConnectionError("no answer")
    calls.write_text("".join(f"{line}\\n" for line in [*before, len(completions)]))
    order = sorted(range(len(completions)), key=lambda i: (len(completions[i]), prompts[i].id, i))
    scores = [0.0] * len(order)
    for place, i in enumerate(order):
        scores[i] = place / (len(order) - 1)
    return scores
'''


@pytest.fixture(scope="module")
def rewards(foreign_folder) -> str:
    return (
        "ppo.rewards=[{stage: reward, weight: 0.5}, "
        f"{{model: {foreign_folder}, retokenize: true, name: judge}}, "
        "{function: line_rewards:rank_by_length, weight: 0.1, name: length}]"
    )


@pytest.fixture(scope="module")
def start(finished, make_line, tmp_path_factory):
    """Return a function that copies the finished run without its PPO, and gives it a module."""

    def copy():
        folder = tmp_path_factory.mktemp("rewards")
        shutil.copytree(finished.run_dir, folder / "run")
        shutil.rmtree(folder / "run" / "ppo")
        (folder / "modules").mkdir()
        (folder / "modules" / "line_rewards.py").write_text(CODE)
        return make_line(folder / "run", folder / "modules")

    return copy


@pytest.fixture(scope="module")
def alone(start, rewards):
    """Return a run whose PPO had all three rewards, uninterrupted, in one process."""
    line = start()
    done = line.run("ppo", rewards)
    assert done.returncode == 0, done.stderr
    return line


@pytest.fixture
def here(monkeypatch):
    """Return a function that runs PPO in this process, and returns its exit code."""

    def run(line, rewards):
        monkeypatch.setattr(sys, "path", [str(line.modules), *sys.path])
        monkeypatch.delitem(sys.modules, "line_rewards", raising=False)
        return main(["ppo", str(MICRO), f"run_dir={line.run_dir}", rewards])

    yield run
    sys.modules.pop("line_rewards", None)


def test_every_reward_is_logged_and_in_the_lineage(alone, foreign_folder):
    manifest, rows = alone.manifest("ppo"), alone.metrics("ppo")
    assert set(manifest["parents"]) == {"sft@ppo_init", "reward"}
    assert {str(foreign_folder), "line_rewards:rank_by_length"} < set(manifest["sources"])
    assert len(rows) == 3
    for row in rows:
        assert [key for key in row if key.startswith("reward/") and not key.endswith("_std")] == [
            "reward/reward",
            "reward/judge",
            "reward/length",
        ]
        assert row["reward/length"] == pytest.approx(0.5)
        total = 0.5 * row["reward/reward"] + row["reward/judge"] + 0.1 * row["reward/length"]
        penalty = 1 - row["objective/eos_rate"]
        assert row["objective/scores"] == pytest.approx(total - penalty, abs=1e-9)
    assert (alone.modules / "calls.txt").read_text().split() == ["8"] * 3


@pytest.mark.distributed
def test_two_processes_score_as_one_and_a_function_sees_each_completion_once(alone, start, rewards):
    line = start()
    done = line.launch(line.script("ppo", rewards), processes=2)
    assert done.returncode == 0, done.stderr
    assert line.manifest("ppo")["world_size"] == 2
    for ours, theirs in zip(line.metrics("ppo"), alone.metrics("ppo"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)
    assert (line.modules / "calls.txt").read_text().split() == ["8"] * 3


def check_refusal(line, stderr: str) -> None:
    """Check what a function that failed in the second of three iterations left."""
    said = [text for text in stderr.splitlines() if text.startswith("steerline: ")]
    assert len(said) == 1, stderr
    assert "ppo.rewards[2].function must give one finite number a completion" in said[0]
    assert "got ConnectionError (no answer) at prompt" in said[0]
    assert line.manifest("ppo")["status"] == "failed"
    kept = [path.name for path in (line.run_dir / "ppo/checkpoints").iterdir()]
    assert kept == ["step-00000001"]


def test_a_function_that_fails_keeps_the_checkpoint_and_the_run_goes_on(
    alone, start, rewards, here, capfd
):
    line = start()
    (line.modules / "broken").touch()
    assert here(line, rewards) == 2
    check_refusal(line, capfd.readouterr().err)
    (line.modules / "broken").unlink()
    assert here(line, rewards) == 0
    assert line.metrics("ppo") == alone.metrics("ppo")


@pytest.mark.distributed
def test_a_function_that_fails_ends_every_process(start, rewards):
    line = start()
    (line.modules / "broken").touch()
    done = line.launch(line.script("ppo", rewards), processes=2)
    assert done.returncode != 0
    check_refusal(line, done.stderr)


def test_a_function_alone_needs_no_reward_model(start, here):
    line = start()
    shutil.rmtree(line.run_dir / "reward")
    assert here(line, "ppo.rewards=[{function: line_rewards:rank_by_length}]") == 0
    assert set(line.manifest("ppo")["parents"]) == {"sft@ppo_init"}
    assert line.metrics("ppo")[0]["value/mean"] == 0
    assert line.metrics("ppo")[-1]["value/mean"] != 0


def test_a_copy_of_the_reward_model_that_pads_with_its_end_gives_the_same_numbers(
    finished, start, here, tmp_path, caplog
):
    line, folder = start(), tmp_path / "copied"
    shutil.copytree(line.run_dir / "reward/model", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    assert here(line, f"ppo.rewards=[{{model: {folder}, name: reward}}]") == 0
    assert f"the tokenizer of {folder} pads with its end <|eos|>" in caplog.text
    assert line.metrics("ppo") == finished.metrics("ppo")


def test_a_changed_function_asks_for_force(alone, start, rewards, here, capfd):
    line = start()
    shutil.rmtree(line.run_dir)
    shutil.copytree(alone.run_dir, line.run_dir)
    before = json.dumps(line.manifest("ppo"))
    assert here(line, rewards) == 0
    (line.modules / "line_rewards.py").write_text(CODE + "# changed\n")
    assert here(line, rewards) == 2
    assert "data line_rewards:rank_by_length has changed" in capfd.readouterr().err
    assert json.dumps(line.manifest("ppo")) == before
