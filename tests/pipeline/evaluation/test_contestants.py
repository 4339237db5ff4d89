from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.artifacts import fill_folder
from pipeline.config.evaluate import EvaluateSection
from pipeline.config.run import resolve
from pipeline.errors import RunError
from pipeline.evaluation.contestants import find_contestants, hash_win_rates
from pipeline.runs import checkpoint_path

MODELS = ["pretrain", "sft", "ppo"]


@pytest.fixture
def tree(tree):
    kept = {key: tree[key] for key in ("run_dir", "pretrain", "sft", "ppo")}
    prompts = tree["evaluate"]["prompts"]
    return {**kept, "reward": {"init": "sft"}, "evaluate": {"prompts": prompts, "win_rates": {}}}


@pytest.fixture
def trained(tree, finish):
    for name, seed in (("pretrain", 0), ("sft", 1), ("ppo", 2), ("reward", 3)):
        finish(name, seed)
    return tree


def ask(tree, **asked):
    tree["evaluate"]["win_rates"] = asked
    config = resolve(tree)
    section = config.section("evaluate", EvaluateSection).win_rates
    assert section is not None
    return config, section


def names(tree, **asked) -> list[str]:
    return [each.name for each in find_contestants(*ask(tree, **asked), MODELS, "evaluate")]


def write_checkpoint(tree, step: int) -> Path:
    path = checkpoint_path(Path(tree["run_dir"]) / "ppo", step)
    path.parent.mkdir(exist_ok=True)
    with fill_folder(path) as folder:
        (folder / "average").mkdir()
        (folder / "average" / "config.json").write_text("{}")
    return path


def test_all_stages_stand_in_the_lines_order_and_ppos_start_is_always_there(trained):
    assert names(trained) == MODELS
    assert names(trained, stages=["ppo", "pretrain"]) == MODELS
    found = find_contestants(*ask(trained), MODELS, "evaluate")
    assert [(each.stage, each.start, each.step) for each in found] == [
        ("pretrain", None, None),
        ("sft", None, None),
        ("ppo", "sft", None),
    ]
    assert len({each.hash for each in found}) == 3


def test_checkpoints_come_after_all_stages_and_must_be_whole(trained):
    path = write_checkpoint(trained, 8)
    write_checkpoint(trained, 4)
    assert names(trained) == MODELS
    assert names(trained, checkpoints=True) == [*MODELS, "ppo.4", "ppo.8"]
    last = find_contestants(*ask(trained, checkpoints=True), MODELS, "evaluate")[-1]
    assert (last.stage, last.start, last.step) == ("ppo", "sft", 8)
    assert last.path == path / "average"
    (path / "average" / "config.json").write_text("{ }")
    with pytest.raises(RunError, match=r"step-00000008 is damaged"):
        names(trained, checkpoints=True)


def test_what_win_rates_are_made_from_is_known_by_hashes(trained, tmp_path):
    def hashed(reward: str | None = "reward", **asked) -> dict[str, str]:
        return hash_win_rates(*ask(trained, **asked), "evaluate", reward)

    template = tmp_path / "t.txt"
    template.write_text("one")
    judge = {"url": "http://x", "model": "m", "template": str(template)}
    before = hashed(judge=judge, checkpoints=True)
    assert set(before) == {"configuration", "stage reward", "template", "checkpoints ppo"}
    assert hashed(judge=judge, checkpoints=True) == before
    template.write_text("two")
    write_checkpoint(trained, 4)
    after = hashed(judge={**judge, "model": "n"}, checkpoints=True)
    assert {key for key in before if before[key] != after[key]} == {*before} - {"stage reward"}
    assert set(hashed(reward=None)) == {"configuration"}


def test_a_policy_whose_start_is_gone_is_compared_without_a_way(trained):
    write_checkpoint(trained, 4)
    shutil.rmtree(Path(trained["run_dir"]) / "sft")
    left = [name for name in MODELS if name != "sft"]
    found = find_contestants(*ask(trained, checkpoints=True), left, "evaluate")
    assert [(each.name, each.start) for each in found] == [("pretrain", None), ("ppo", None)]
