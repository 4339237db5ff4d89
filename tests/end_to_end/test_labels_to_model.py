"""From people's rankings, made through the app, to a reward model, and back to whose they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labeling_ui.app import create_app
from labeling_ui.settings import AppSettings
from pipeline.artifacts import hash_file
from pipeline.store import Judgment, LabelStore
from pipeline.store.accounts import Accounts
from pipeline.store.desk import Desk
from pipeline.store.oversight import Oversight
from stages.cli import main
from tests.labeling_ui.lab_handlers import LabPage
from tests.labeling_ui.scripted import add_people, label_all

MICRO = Path(__file__).with_name("micro.yaml")
PEOPLE = dict.fromkeys(("ada", "bob", "cyd"), "train")
BY_PEOPLE = ("label.simulated=0", "label.simulated_held_out=0", "label.validation_overlap=2")


class Run:
    """A micro run whose labels come from people.

    Attributes:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def call(self, stage: str, *words: str) -> int:
        """Run a stage in this process and return its exit code."""
        return main([stage, str(MICRO), f"run_dir={self.folder}", *BY_PEOPLE, *words])

    def manifest(self, stage: str) -> dict[str, Any]:
        text = (self.folder / stage / "manifest.json").read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(text)
        return manifest

    def store(self) -> LabelStore:
        return LabelStore.open(self.folder / "labels.db", create=False)

    def made_from(self, store: LabelStore, labeler: str) -> dict[str, list[Any]]:
        """Return what the lead's page lists as made from a labeler's work, by stage."""
        page = LabPage(store, "lena", self.folder)
        return {row[0]: row[1:] for row in page.call("show", labeler)}


@pytest.fixture(scope="module")
def labeled(finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that people have labeled and a reward model learned from."""
    run = Run(tmp_path_factory.mktemp("labels_to_model") / "run")
    for stage in ("pretrain", "sft"):
        shutil.copytree(finished.run_dir / stage, run.folder / stage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.store.passwords.COST", 2**5)
        assert run.call("sample") == 0
        assert run.call("label") == 2, "the tasks wait for people"
        with run.store() as store:
            add_people(Accounts(store), PEOPLE)
            app = create_app(store, AppSettings(), run_dir=run.folder)
            label_all(app, [*PEOPLE])
        assert run.call("label") == 0
        assert run.call("reward") == 0
    return run.folder


@pytest.fixture
def run(labeled: Path, tmp_path: Path) -> Run:
    """Return a copy of that run, to go on with."""
    shutil.copytree(labeled, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def refused(run: Run, capfd: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Return a function that runs a stage that must refuse, and gives its one line."""

    def check(stage: str) -> str:
        before = (run.folder / stage / "manifest.json").read_bytes()
        capfd.readouterr()
        assert run.call(stage) == 2
        (line,) = [one for one in capfd.readouterr().err.splitlines() if one.strip()]
        assert (run.folder / stage / "manifest.json").read_bytes() == before
        return line

    return check


def judge_again(store: LabelStore, labeler: str) -> None:
    """Let a labeler turn their newest ranking round."""
    desk, id_ = Desk(store), store.add_labeler(labeler)
    task = desk.reopen(id_, desk.history(id_)[0].id)
    said = task.submitted.ranks
    ranks = {completion: max(said.values()) + 1 - rank for completion, rank in said.items()}
    desk.submit(id_, task.token, Judgment(ranks=ranks), "round")


def test_a_reward_model_names_the_peoples_rankings_that_it_learned_from(run: Run) -> None:
    label, reward = run.manifest("label"), run.manifest("reward")
    with run.store() as store:
        snapshot = store.snapshot_hash()
        rankings = store.rankings("train")
        assert Oversight(store).snapshots()[snapshot] == set(PEOPLE)
        rows = store.export_rows()
    assert reward["status"] == "complete"
    assert reward["sources"]["store:"] == label["metrics"]["snapshot"] == snapshot
    assert reward["parents"]["label"] == hash_file(run.folder / "label" / "manifest.json")
    learned = reward["metrics"]["rankings"] + reward["metrics"]["rankings_without_pairs"]
    assert learned == len(rankings) > 0
    assert (label["metrics"]["judgments_human"], label["metrics"]["judgments_simulated"]) == (
        len(rows),
        0,
    )
    assert {row["labeler"] for row in rows} == set(PEOPLE)
    assert all(row["interface"] and not row["simulated"] for row in rows)
    assert (run.folder / "reward/model/model.safetensors").is_file()


def test_unchanged_labels_skip_both_stages(run: Run) -> None:
    before = {stage: run.manifest(stage) for stage in ("label", "reward")}
    for stage, manifest in before.items():
        assert run.call(stage) == 0
        assert run.manifest(stage) == manifest


def test_new_judgments_are_counted_and_a_finished_model_is_not_silently_stale(
    run: Run, refused: Callable[[str], str]
) -> None:
    before = run.manifest("reward")["sources"]["store:"]
    with run.store() as store:
        judge_again(store, "ada")
        now = store.snapshot_hash()
    words = f"the labels have changed (snapshot {before[:12]} then, {now[:12]} now)"
    line = refused("reward")
    assert f"was made from other inputs: {words}. Run it with --force" in line
    assert run.call("label") == 0
    label = run.manifest("label")
    assert (label["status"], label["metrics"]["snapshot"]) == ("complete", now)
    assert f"stage label has changed; {words}" in refused("reward")
    assert run.call("reward", "--force") == 0
    assert run.manifest("reward")["sources"]["store:"] == now
    assert run.call("reward") == 0


def test_a_removed_labelers_work_is_followed_to_the_reward_model(
    run: Run, refused: Callable[[str], str]
) -> None:
    with run.store() as store:
        found = run.made_from(store, "bob")
        assert set(found) == {"label", "reward"}
        status, sure, why, model, checkpoints, _ = found["reward"]
        assert (status, sure) == ("complete", "yes")
        assert why == f"reads the label store, labels {store.snapshot_hash()[:12]}"
        assert model == run.manifest("reward")["model_hash"][:12]
        kept = sorted(path.name for path in (run.folder / "reward/checkpoints").iterdir())
        assert [f"step-{int(step):08d}" for step in checkpoints.split(", ")] == kept
        Oversight(store).exclude("bob", "clicks through", "lena")
        assert set(run.made_from(store, "bob")) == {"label", "reward"}
    assert "the labels have changed" in refused("reward")
    assert run.call("label") == 0
    assert run.call("reward", "--force") == 0
    with run.store() as store:
        assert run.made_from(store, "bob") == {}
        assert set(run.made_from(store, "ada")) == {"label", "reward"}
        left = len(store.rankings("train"))
    figures = run.manifest("reward")["metrics"]
    assert figures["rankings"] + figures["rankings_without_pairs"] == left
