from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.artifacts import hash_file
from pipeline.errors import RunError
from pipeline.provenance import find_affected
from pipeline.runs import Manifest, checkpoint_path

WITH, WITHOUT = "a" * 64, "b" * 64
SNAPSHOTS = {WITH: {"ada", "bob"}, WITHOUT: {"ada"}}


@pytest.fixture
def make(tmp_path: Path):
    """Return a function that makes a stage's folder out of its parents and sources."""

    def write(stage: str, *parents: str, steps: tuple[int, ...] = (), **fields: object) -> None:
        folder = tmp_path / stage
        folder.mkdir(exist_ok=True)
        for step in steps:
            checkpoint_path(folder, step).mkdir(parents=True)
        hashes = {parent: hash_file(tmp_path / parent / "manifest.json") for parent in parents}
        defaults = {"status": "complete", "seed": 0, "config_hash": "", "parents": hashes}
        Manifest(stage, **{**defaults, **fields}).write(folder)

    return write


@pytest.fixture
def line(make, tmp_path: Path) -> Path:
    """Return a run whose reward model learned from ada and bob."""
    make("pretrain", model_hash="p")
    make("sft", "pretrain", model_hash="s")
    make("sample", "sft")
    make("label", "sample", metrics={"snapshot": WITH})
    make("reward", "sft", "label", sources={"store:": WITH}, model_hash="r", steps=(10, 20))
    make("sft@ppo_init", "pretrain", model_hash="i")
    make("ppo", "sft@ppo_init", "reward", model_hash="q", steps=(5,), finished="2030-01-01")
    make("evaluate", "sft", "ppo")
    return tmp_path


def found(run_dir: Path, labeler: str = "bob") -> dict[str, tuple[bool, str]]:
    return {
        one.stage: (one.certain, one.reason) for one in find_affected(run_dir, labeler, SNAPSHOTS)
    }


def test_the_walk_goes_from_labels_to_every_checkpoint(line: Path):
    affected = find_affected(line, "bob", SNAPSHOTS)
    assert [one.stage for one in affected] == ["label", "reward", "ppo", "evaluate"]
    assert all(one.certain for one in affected)
    _, reward, ppo, _ = affected
    assert (reward.model_hash, reward.checkpoints) == ("r", (10, 20))
    assert reward.reason == f"reads the label store, labels {WITH[:12]}"
    assert (ppo.reason, ppo.checkpoints, ppo.finished) == ("made from reward", (5,), "2030-01-01")


def test_who_is_in_no_snapshot_affects_nothing(line: Path):
    assert found(line, "cyd") == {}


def test_labels_without_the_labeler_clear_what_is_made_from_them(make, line: Path):
    # The label stage counted bob; the reward model was trained again without him.
    make("reward", "sft", "label", sources={"store:": WITHOUT}, model_hash="r2")
    make("ppo", "sft@ppo_init", "reward", model_hash="q2")
    make("evaluate", "sft", "ppo")
    assert set(found(line)) == {"label"}


def test_a_policy_of_a_reward_model_that_was_made_again_may_be_affected(make, line: Path):
    make("reward", "sft", "label", sources={"store:": WITHOUT}, model_hash="r2")
    affected = found(line)
    assert affected["ppo"] == (False, "made from an earlier reward, which is no longer there")
    assert affected["evaluate"] == (False, "made from ppo")
    assert "reward" not in affected


def test_a_base_that_was_made_again_says_nothing_of_labels(make, line: Path):
    make("sft", "pretrain", model_hash="other")
    assert set(found(line)) == {"label", "reward", "ppo", "evaluate"}
    assert all(certain for certain, _ in found(line).values())


def test_labels_of_which_nobody_noted_whose_they_are_may_be_theirs(make, line: Path):
    unknown = "c" * 64
    make("reward", "sft", "label", sources={"store:": unknown}, model_hash="r")
    affected = found(line)
    assert affected["reward"] == (
        False,
        f"reads labels {unknown[:12]}, of which nobody noted whose they are",
    )


def test_an_exported_file_is_followed_by_its_hash(make, line: Path):
    make("sft", sources={"data/demonstrations.jsonl": WITH}, model_hash="s")
    assert found(line)["sft"] == (True, f"reads data/demonstrations.jsonl, labels {WITH[:12]}")
    # What the earlier model behind the others was tuned on is not known any more.
    assert "sft" not in found(line, "cyd")
    assert not any(certain for certain, _ in found(line, "cyd").values())


def test_a_run_without_stages_has_nothing_to_find(tmp_path: Path):
    assert find_affected(tmp_path / "none", "bob", SNAPSHOTS) == []


def test_a_manifest_that_cannot_be_read_is_named(line: Path):
    (line / "ppo" / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"ppo.manifest\.json is no manifest"):
        find_affected(line, "bob", SNAPSHOTS)
