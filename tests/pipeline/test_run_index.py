from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.errors import DataError, RunError
from pipeline.model_places import ModelPlace
from pipeline.run_index import PART, RunIndex, numbers_of, read_part
from pipeline.runs import Manifest, MetricsLog, checkpoint_path
from tests.run_folders import FINISHED, STARTED, add_lines, write_stage


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a folder that looks like a policy's."""
    return fake_model(tmp_path / "elsewhere" / "policy", "LlamaForCausalLM")


def fake_model(folder: Path, architecture: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_the_runs_of_a_folder_are_those_with_a_stage(runs: Path):
    write_stage(runs / "b", "sft")
    write_stage(runs / "a", "ppo@no_ptx")
    (runs / "notes").mkdir()
    (runs / "file").write_text("")
    write_stage(runs / "c", "cooking")
    index = RunIndex(runs / "b")
    assert index.runs() == ["a", "b"]
    assert index.folder("a") == runs.resolve() / "a"


def test_a_run_that_is_not_there_is_one_line_with_the_nearest(runs: Path):
    write_stage(runs / "tiny", "sft")
    index = RunIndex(runs / "tiny")
    for name in ("tinny", "../runs/tiny", "..", "", "tiny/sft", str(runs / "tiny")):
        with pytest.raises(RunError, match=r"^There is no run '.*' here\.") as told:
            index.folder(name)
        assert "\n" not in str(told.value)
    with pytest.raises(RunError, match="Did you mean 'tiny'"):
        index.stages("tinny")


def test_stages_stand_in_the_order_of_the_line_and_say_what_they_are(runs: Path):
    run = runs / "tiny"
    write_stage(run, "pretrain", log=[{"step": 1, "loss": 2.0}])
    write_stage(run, "sft", ["pretrain"], metrics={"eval_loss": 0.5, "origin": {}, "note": "x"})
    write_stage(run, "sft@ppo_init", ["pretrain"], status="failed", error="RunError: no")
    write_stage(run, "ppo", ["sft@ppo_init"], status="running", sources={"tiny:prompts": "ab"})
    (run / "report").mkdir()
    (run / "report" / "manifest.json").write_text("{}")
    pretrain, sft, init, ppo, report = RunIndex(run).stages("tiny")
    names = [stage.name for stage in (pretrain, sft, init, ppo, report)]
    assert names == ["pretrain", "sft", "sft@ppo_init", "ppo", "report"]
    assert (pretrain.status, pretrain.has_log, sft.has_log) == ("complete", True, False)
    assert (pretrain.started, pretrain.finished, pretrain.seconds) == (STARTED, FINISHED, 300.0)
    assert sft.metrics == {"eval_loss": 0.5}
    assert sft.parents == {"pretrain": True}
    assert (init.status, init.error) == ("failed", "RunError: no")
    assert (ppo.status, ppo.sources) == ("cut", {"tiny:prompts": "ab"})
    assert report.status == "damaged"
    assert "is no manifest of this version" in report.error


def test_a_stage_that_somebody_works_at_is_running(runs: Path):
    import fcntl

    folder = write_stage(runs / "tiny", "sft", status="running")
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert RunIndex(runs / "tiny").stages("tiny")[0].status == "running"


def test_a_parent_that_was_made_again_is_no_longer_what_it_was(runs: Path):
    run = runs / "tiny"
    write_stage(run, "pretrain")
    write_stage(run, "sft", ["pretrain"])
    write_stage(run, "ppo", ["sft"])
    shutil.rmtree(run / "pretrain")
    write_stage(run, "pretrain", seconds=1.0)
    shutil.rmtree(run / "sft")
    (ppo,) = [stage for stage in RunIndex(run).stages("tiny") if stage.name == "ppo"]
    assert ppo.parents == {"sft": False}
    write_stage(run, "sft", ["pretrain"])
    stages = {stage.name: stage for stage in RunIndex(run).stages("tiny")}
    assert stages["sft"].parents == {"pretrain": True}
    assert stages["ppo"].parents == {"sft": False}


def test_models_are_what_can_be_loaded(runs: Path, model: Path, tmp_path: Path):
    run = runs / "tiny"
    write_stage(run, "pretrain", model=model)
    sft = write_stage(run, "sft", model=model)
    shutil.copytree(model, checkpoint_path(sft, 20))
    shutil.copytree(model, checkpoint_path(sft, 40))
    (checkpoint_path(sft, 40) / "tokenizer_config.json").unlink()
    (checkpoint_path(sft, 20) / "model.safetensors").unlink()
    ranker = fake_model(tmp_path / "ranker", "LlamaForSequenceClassification")
    write_stage(run, "reward", model=ranker)
    valuer = fake_model(tmp_path / "valuer", "LlamaForTokenClassification")
    write_stage(run, "ppo", model=valuer)
    write_stage(run, "label")
    write_stage(runs / "other", "sft", model=model)
    index = RunIndex(run)
    assert [(place.id, place.kind) for place in index.models()] == [
        ("other/sft", "policy"),
        ("tiny/pretrain", "policy"),
        ("tiny/sft", "policy"),
        ("tiny/sft, step 40", "policy"),
        ("tiny/reward", "reward"),
    ]
    place = index.model("tiny/sft, step 40")
    folder = run.resolve() / "sft"
    path = checkpoint_path(folder, 40)
    assert place == ModelPlace("tiny", "sft", 40, "policy", path, folder / "model")
    with pytest.raises(RunError, match=r"There is no model 'tiny/stf' here. Did you mean 'tiny/"):
        index.model("tiny/stf")


@pytest.mark.parametrize(
    "config", ["", "[]", "{}", '{"architectures": []}', '{"architectures": 1}']
)
def test_a_folder_with_a_broken_configuration_is_no_model(config: str, runs: Path, model: Path):
    folder = write_stage(runs / "tiny", "sft", model=model)
    (folder / "model" / "config.json").write_text(config)
    assert RunIndex(runs / "tiny").models() == []


def test_a_log_is_read_in_parts(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    assert read_part(path).rows == ()
    add_lines(tmp_path, [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5, "stage": "sft"}])
    first = read_part(path)
    assert first.rows == ({"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5})
    assert (first.fresh, first.more, first.skipped) == (True, False, 0)
    nothing = read_part(path, first.cursor)
    assert (nothing.rows, nothing.fresh, nothing.cursor) == ((), False, first.cursor)
    with path.open("a") as out:
        out.write('{"step": 3, "lo')
    assert read_part(path, first.cursor).rows == ()
    with path.open("a") as out:
        out.write('ss": 1.0}\n')
    then = read_part(path, first.cursor)
    assert then.rows == ({"step": 3, "loss": 1.0},)
    assert not then.fresh
    assert read_part(path).rows == (*first.rows, *then.rows)


def test_a_log_that_was_begun_anew_is_read_anew(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, enabled=True)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0 / step})
    read = read_part(path)
    log.rewind(1)
    log.write(2, {"loss": 7.0})
    again = read_part(path, read.cursor)
    assert again.fresh
    assert [row["loss"] for row in again.rows] == [1.0, 7.0]
    path.write_text('{"step": 1, "loss": 9}\n')
    assert [row["loss"] for row in read_part(path, again.cursor).rows] == [9]


@pytest.mark.parametrize("cursor", ["x", "1:1", ":", "1:²", "9:" + "9" * 40, "-1:-1"])
def test_a_cursor_that_is_none_begins_at_the_start(cursor: str, tmp_path: Path):
    add_lines(tmp_path, [{"step": 1, "loss": 2.0}])
    part = read_part(tmp_path / "metrics.jsonl", cursor)
    assert (len(part.rows), part.fresh) == (1, True)
    inode = (tmp_path / "metrics.jsonl").stat().st_ino
    assert read_part(tmp_path / "metrics.jsonl", f"{inode}:5").fresh, "not where a line ends"


def test_lines_that_are_none_are_counted(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n[1]\n{"loss": 2}\n{"step": 2, "loss": NaN}\n')
    part = read_part(path)
    assert part.rows == ({"step": 1}, {"step": 2})
    assert part.skipped == 3


def test_a_long_log_comes_in_several_parts(tmp_path: Path):
    rows = [{"step": step, "note": "x" * 100_000} for step in range(25)]
    add_lines(tmp_path, rows)
    path, cursor, steps, parts = tmp_path / "metrics.jsonl", "", [], 0
    while True:
        part = read_part(path, cursor)
        cursor, parts = part.cursor, parts + 1
        steps += [row["step"] for row in part.rows]
        if not part.more:
            break
    assert steps == list(range(25))
    assert parts == 3
    path.write_text("x" * (PART + 1))
    with pytest.raises(DataError, match="must hold lines below"):
        read_part(path)


def test_metrics_of_a_stage_are_found_by_its_name(runs: Path):
    write_stage(runs / "tiny", "sft", log=[{"step": 1, "loss": 2.0}])
    index = RunIndex(runs / "tiny")
    assert index.read_metrics("tiny", "sft").rows == ({"step": 1, "loss": 2.0},)
    for stage in ("ppo", "../tiny/sft", ""):
        assert index.read_metrics("tiny", stage).rows == ()


def test_numbers_are_finite_and_no_booleans():
    row = {"a": 1, "b": 2.5, "c": True, "d": "3", "e": float("inf"), "f": None, "g": [1]}
    assert numbers_of(row) == {"a": 1, "b": 2.5}


def test_a_stage_that_is_set_aside_while_it_is_looked_at_is_left_out(runs: Path, monkeypatch):
    run = runs / "tiny"
    write_stage(run, "pretrain")
    write_stage(run, "sft")
    read = Manifest.read

    def read_late(folder: Path) -> Manifest | None:
        # What ``--force`` does between a look at the folder and one into it.
        if folder.name == "sft":
            (folder / "manifest.json").unlink()
        return read(folder)

    monkeypatch.setattr(Manifest, "read", read_late)
    assert [stage.name for stage in RunIndex(run).stages("tiny")] == ["pretrain"]
