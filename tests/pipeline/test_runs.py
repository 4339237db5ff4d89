from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.artifacts import hash_text, partial_path
from pipeline.config.run import RunConfig, resolve
from pipeline.errors import DataError, RunError
from pipeline.runs import (
    Manifest,
    StageRun,
    checkpoint_path,
    config_hash,
    hash_parent,
    is_at_work,
    list_checkpoints,
    model_of,
    open_stage,
)


class CrashError(Exception):
    """Stand for a fault inside a stage."""


def make_config(run_dir: Path, seed: int = 0, **ppo: object) -> RunConfig:
    return resolve(
        {
            "run_dir": str(run_dir),
            "seed": seed,
            "base": "a-model",
            "ppo": {"init": "sft", **ppo},
        }
    )


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return make_config(tmp_path / "run")


def save(run: StageRun, step: int, keep: int = 2) -> None:
    with run.checkpoint(step, keep) as folder:
        (folder / "weights").write_text(f"weights of step {step}")


def complete(config: RunConfig, name: str, **options: object) -> None:
    with open_stage(config, name, **options) as run:
        assert not run.skip
        run.save_model(lambda path: (path / "weights").write_text(name) and None)
        run.finish({"loss": 1.5})


def cut(config: RunConfig, name: str, *steps: int) -> None:
    """Leave a stage as a killed process does: no word about its end."""
    with contextlib.suppress(CrashError), open_stage(config, name) as run:
        for step in steps:
            run.metrics.write(step, {"loss": step / 10})
            save(run, step)
            run.metrics.write(step + 1, {"loss": -1})
        manifest = Manifest.read(run.folder)
        raise CrashError
    assert manifest is not None
    manifest.write(config.run_dir / name)


def logged(config: RunConfig, name: str) -> list[int]:
    lines = (config.run_dir / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def read(config: RunConfig, name: str) -> Manifest:
    manifest = Manifest.read(config.run_dir / name)
    assert manifest is not None
    return manifest


def test_the_manifest_says_running_from_the_first_moment_and_complete_at_the_end(config: RunConfig):
    with open_stage(config, "sft") as run:
        assert read(config, "sft").status == "running"
        assert (run.folder / "config.yaml").is_file()
        run.finish({"loss": 1.5})
    manifest = read(config, "sft")
    assert (manifest.status, dict(manifest.metrics)) == ("complete", {"loss": 1.5})
    assert manifest.finished >= manifest.started
    assert manifest.seconds >= 0


def test_a_complete_unchanged_stage_is_skipped_and_left_as_it_is(config: RunConfig):
    complete(config, "sft")
    before = snapshot(config.run_dir / "sft")
    with open_stage(config, "sft") as run:
        assert run.skip
    assert snapshot(config.run_dir / "sft") == before


def test_a_stage_that_counts_may_be_done_again_and_keeps_what_it_had_where_that_fails(
    config: RunConfig,
):
    complete(config, "sft")
    with open_stage(config, "sft", again=True) as run:
        assert not run.skip
        run.finish({"loss": 0.5})
    assert read(config, "sft").metrics == {"loss": 0.5}
    before = snapshot(config.run_dir / "sft")
    with pytest.raises(DataError), open_stage(config, "sft", again=True):
        raise DataError("bad input")
    assert snapshot(config.run_dir / "sft") == before


def test_labels_that_have_changed_are_named_by_their_snapshots(config: RunConfig):
    complete(config, "sft", sources={"store:": "a" * 64})
    with (
        pytest.raises(RunError) as caught,
        open_stage(config, "sft", sources={"store:": "b" * 64}),
    ):
        pass
    words = "the labels have changed (snapshot aaaaaaaaaaaa then, bbbbbbbbbbbb now)"
    assert f"was made from other inputs: {words}. Run it with --force" in str(caught.value)


def test_force_makes_a_complete_stage_again_from_nothing(config: RunConfig):
    complete(config, "sft")
    (config.run_dir / "sft" / "leftover").touch()
    with open_stage(config, "sft", force=True) as run:
        assert not run.skip
        assert not (run.folder / "leftover").exists()
        assert not run.model_dir.exists()


def test_a_cut_stage_resumes_from_its_last_checkpoint_and_keeps_its_start(config: RunConfig):
    cut(config, "sft", 10, 20)
    started = read(config, "sft").started
    with open_stage(config, "sft") as run:
        assert run.resume_step == 20
        assert run.resume_from == checkpoint_path(run.folder, 20)
        assert (run.resume_from / "weights").read_text() == "weights of step 20"
        assert run.manifest.started == started


def test_the_metrics_of_a_resumed_stage_go_on_where_its_checkpoint_stands(config: RunConfig):
    cut(config, "sft", 10, 20)
    assert logged(config, "sft") == [10, 11, 20, 21]
    with open_stage(config, "sft") as run:
        run.metrics.write(21, {"loss": 0})
    assert logged(config, "sft") == [10, 11, 20, 21]


def test_a_half_written_line_of_metrics_is_dropped(config: RunConfig):
    cut(config, "sft", 10)
    with (config.run_dir / "sft" / "metrics.jsonl").open("a") as out:
        out.write('{"step": 5, "lo')
    with open_stage(config, "sft"):
        assert logged(config, "sft") == [10]


@pytest.mark.parametrize("line", [b"{}", b"[1]", b"\x00\x00", b'{"step": "x"}', b"caf\xe9"])
def test_a_line_of_metrics_that_cannot_be_read_is_named_and_kept(config: RunConfig, line: bytes):
    cut(config, "sft", 10)
    path = config.run_dir / "sft" / "metrics.jsonl"
    damaged = path.read_bytes() + line + b"\n"
    path.write_bytes(damaged)
    with (
        pytest.raises(RunError, match=r"metrics\.jsonl:3: must hold a JSON object with its 'step'"),
        open_stage(config, "sft"),
    ):
        pytest.fail("the stage was opened")
    assert path.read_bytes() == damaged


def test_a_stage_that_starts_again_logs_from_nothing(config: RunConfig):
    with contextlib.suppress(CrashError), open_stage(config, "sft") as run:
        run.metrics.write(0, {"loss": 1})
        raise CrashError
    with open_stage(config, "sft") as run:
        assert run.resume_step == 0
        run.metrics.write(0, {"loss": 1})
    assert logged(config, "sft") == [0]


def test_time_at_work_is_carried_over_a_kill_and_idle_time_is_not(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
):
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with open_stage(config, "sft") as run:
        clock[0] += 30
        save(run, 1)
        clock[0] += 7
    clock[0] += 5000
    with open_stage(config, "sft") as run:
        clock[0] += 12
        run.finish({})
    assert read(config, "sft").seconds == 42


def test_a_crash_between_begin_and_seal_leaves_the_older_checkpoint(config: RunConfig):
    with contextlib.suppress(CrashError), open_stage(config, "sft") as run:
        save(run, 10)
        with run.checkpoint(20, keep=2) as folder:
            (folder / "weights").write_text("half")
            raise CrashError
    assert partial_path(checkpoint_path(config.run_dir / "sft", 20)).is_dir()
    with open_stage(config, "sft") as run:
        assert run.resume_step == 10


def test_older_checkpoints_go_when_newer_ones_stand(config: RunConfig):
    with open_stage(config, "sft") as run:
        for step in (10, 20, 30):
            save(run, step, keep=2)
        assert list_checkpoints(run.folder) == [20, 30]


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_a_damaged_checkpoint_is_refused_and_nothing_is_touched(config: RunConfig, damage: str):
    cut(config, "sft", 10, 20)
    weights = checkpoint_path(config.run_dir / "sft", 20) / "weights"
    if damage == "remove":
        weights.unlink()
    else:
        content = weights.read_bytes()
        weights.write_bytes(content[:4] if damage == "truncate" else content[:-1] + b"X")
    before = snapshot(config.run_dir / "sft")
    with pytest.raises(RunError) as caught, open_stage(config, "sft"):
        pytest.fail("the stage was opened")
    assert snapshot(config.run_dir / "sft") == before
    message = str(caught.value)
    assert "is damaged: weights" in message
    assert message.endswith(f"Remove {weights.parent} to resume sft from step 10.")
    assert "\n" not in message


def test_without_its_damaged_checkpoint_the_stage_resumes_from_the_one_before(config: RunConfig):
    cut(config, "sft", 10, 20)
    for file in checkpoint_path(config.run_dir / "sft", 20).iterdir():
        file.unlink()
    checkpoint_path(config.run_dir / "sft", 20).rmdir()
    with open_stage(config, "sft") as run:
        assert run.resume_step == 10


def test_what_is_no_checkpoint_by_its_name_is_none(config: RunConfig):
    cut(config, "sft", 10)
    (config.run_dir / "sft" / "checkpoints" / "step-00000099.bak").mkdir()
    assert list_checkpoints(config.run_dir / "sft") == [10]


def test_checkpoints_without_a_manifest_are_not_trusted(config: RunConfig):
    cut(config, "sft", 10)
    (config.run_dir / "sft" / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"has checkpoints and no manifest\.json"):
        open_stage(config, "sft").__enter__()
    with open_stage(config, "sft", force=True) as run:
        assert run.resume_step == 0


def test_another_configuration_is_refused_by_key_and_both_values(tmp_path: Path):
    complete(make_config(tmp_path, kl_coef=0.02), "ppo")
    before = snapshot(tmp_path / "ppo")
    with pytest.raises(RunError) as caught, open_stage(make_config(tmp_path, kl_coef=0.5), "ppo"):
        pytest.fail("the stage was opened")
    assert str(caught.value) == (
        f"{tmp_path / 'ppo'} was made from other inputs: ppo.kl_coef 0.02 -> 0.5. "
        "Run it with --force to overwrite it, or choose another run_dir."
    )
    assert snapshot(tmp_path / "ppo") == before


def test_a_cut_stage_with_checkpoints_is_not_overwritten_by_another_configuration(tmp_path: Path):
    cut(make_config(tmp_path), "ppo", 10)
    with (
        pytest.raises(RunError, match=r"seed 0 -> 1\. Run it with --force"),
        open_stage(make_config(tmp_path, seed=1), "ppo"),
    ):
        pytest.fail("the stage was opened")


def test_a_stage_that_holds_no_work_starts_again_with_another_configuration(tmp_path: Path):
    cut(make_config(tmp_path), "ppo")
    with open_stage(make_config(tmp_path, seed=1), "ppo") as run:
        assert run.resume_step == 0
        assert read(make_config(tmp_path), "ppo").seed == 1


def test_many_changes_are_three_and_a_number(tmp_path: Path):
    complete(make_config(tmp_path), "ppo")
    other = make_config(tmp_path, seed=1, kl_coef=1, gamma=0.5, gae_lambda=0.5, clip_range=1)
    with pytest.raises(RunError, match="and 2 more"), open_stage(other, "ppo"):
        pytest.fail("the stage was opened")


@pytest.mark.parametrize("content", [None, b"a: [", b"- a", b"\xff"])
def test_a_configuration_that_cannot_be_compared_is_said_to_differ(
    config: RunConfig, content: bytes | None
):
    complete(config, "sft")
    path = config.run_dir / "sft" / "config.yaml"
    path.unlink() if content is None else path.write_bytes(content)
    other = config.with_stage("sft", epochs=3.0)
    with (
        pytest.raises(RunError, match=r"made from other inputs: its configuration\. Run it with"),
        open_stage(other, "sft"),
    ):
        pytest.fail("the stage was opened")


def test_a_key_that_is_gone_is_named(tmp_path: Path):
    def with_options(**options: object) -> RunConfig:
        return make_config(tmp_path).with_stage("sft", trainer=options)

    complete(with_options(a=1, b=2), "sft")
    with pytest.raises(RunError, match=r"sft\.trainer\.b 2 -> None"):
        open_stage(with_options(a=1), "sft").__enter__()


def test_only_what_a_stage_depends_on_is_in_its_hash(tmp_path: Path):
    here, there = make_config(tmp_path / "a"), make_config(tmp_path / "b", kl_coef=1)
    assert config_hash(here, "sft") == config_hash(there, "sft")
    assert config_hash(here, "ppo") != config_hash(there, "ppo")
    assert config_hash(here, "sft") != config_hash(make_config(tmp_path, seed=1), "sft")


def test_a_field_that_came_later_is_in_the_hash_where_it_departs(tmp_path: Path):
    def with_precision(run_dir: str, **given: str) -> RunConfig:
        tree = {"run_dir": str(tmp_path / run_dir), "base": "b", "evaluate": {"limit": 3, **given}}
        return resolve(tree)

    def changed(first: RunConfig, then: RunConfig, *, forget: bool = False) -> str:
        complete(first, "evaluate")
        if forget:
            path = first.run_dir / "evaluate" / "config.yaml"
            known = yaml.safe_load(path.read_text())
            del known["evaluate"]["precision"]
            path.write_text(yaml.safe_dump(known))
        with pytest.raises(RunError) as caught:
            open_stage(then, "evaluate", grows=True).__enter__()
        return str(caught.value)

    # What the hash was made of before the field was there.
    plain = with_precision("a").to_plain("evaluate")
    del plain["run_dir"]
    for later in ("precision", "data", "max_tax", "best_of", "toxicity", "win_rates"):
        del plain["evaluate"][later]
    old = hash_text(json.dumps(plain, sort_keys=True))
    assert config_hash(with_precision("a"), "evaluate") == old
    assert config_hash(with_precision("a", precision="float32"), "evaluate") == old
    assert config_hash(with_precision("a", precision="bf16"), "evaluate") != old
    lower = {"precision": "bf16"}
    said = changed(with_precision("a"), with_precision("a", **lower), forget=True)
    assert "evaluate.precision 'float32' -> 'bf16'" in said
    said = changed(with_precision("b", **lower), with_precision("b"))
    assert "evaluate.precision 'bf16' -> 'float32'" in said


def test_changed_data_and_parents_are_named(config: RunConfig):
    complete(config, "sft")
    complete(config, "reward", parents=["sft"], sources={"a.jsonl": "1"})
    with (
        pytest.raises(RunError, match=r"data a\.jsonl has changed; data b\.jsonl is new\."),
        open_stage(config, "reward", parents=["sft"], sources={"a.jsonl": "2", "b.jsonl": "1"}),
    ):
        pytest.fail("the stage was opened")
    complete(config, "sft", force=True)
    with (
        pytest.raises(RunError, match="stage sft has changed"),
        open_stage(config, "reward", parents=["sft"], sources={"a.jsonl": "1"}),
    ):
        pytest.fail("the stage was opened")


def test_sources_that_are_known_late_are_recorded_and_do_not_make_the_stage_stale(
    config: RunConfig,
):
    with open_stage(config, "sft") as run:
        run.note_sources({"hub/data": "fingerprint"})
        run.finish({})
    assert dict(read(config, "sft").sources) == {"hub/data": "fingerprint"}
    with open_stage(config, "sft") as run:
        assert run.skip


def test_a_stage_before_its_parent_is_refused_with_the_command_to_run(config: RunConfig):
    with (
        pytest.raises(RunError, match=r"which ppo needs\. Run 'steerline sft CONFIG' first\."),
        open_stage(config, "ppo", parents=["sft"]),
    ):
        pytest.fail("the stage was opened")
    assert not config.run_dir.exists(), "it leaves nothing behind"


def test_a_parent_that_is_not_complete_is_refused(config: RunConfig):
    cut(config, "sft", 10)
    with pytest.raises(RunError, match="is running, and ppo needs it complete"):
        hash_parent(config, "ppo", "sft")


def test_lineage_is_the_hash_of_the_parents_manifest(config: RunConfig):
    complete(config, "sft")
    complete(config, "ppo", parents=["sft"])
    assert dict(read(config, "ppo").parents) == {"sft": hash_parent(config, "ppo", "sft")}


def test_a_fault_is_recorded_with_its_first_line_and_passes(config: RunConfig):
    with pytest.raises(CrashError), open_stage(config, "sft"):
        raise CrashError("something broke\nwith details")
    manifest = read(config, "sft")
    assert (manifest.status, manifest.error) == ("failed", "CrashError: something broke")


def test_a_fault_after_the_end_leaves_the_stage_complete(config: RunConfig):
    with contextlib.suppress(CrashError), open_stage(config, "sft") as run:
        run.finish({"loss": 1})
        raise CrashError
    assert read(config, "sft").status == "complete"


def test_a_failed_stage_is_resumed_like_a_cut_one(config: RunConfig):
    with contextlib.suppress(CrashError), open_stage(config, "sft") as run:
        save(run, 10)
        raise CrashError
    with open_stage(config, "sft") as run:
        assert run.resume_step == 10
        run.finish({})
    assert read(config, "sft").error == ""


def test_a_stage_that_grows_takes_new_parents_without_force_and_keeps_its_files(config: RunConfig):
    complete(config, "pretrain")
    complete(config, "sft")
    with open_stage(config, "evaluate", parents=["pretrain"], grows=True) as run:
        (run.folder / "results.json").write_text("{}")
        run.metrics.write(0, {"acc": 1})
        run.finish({})
    with open_stage(config, "evaluate", parents=["pretrain", "sft"], grows=True) as run:
        assert not run.skip
        assert (run.folder / "results.json").is_file()
        assert logged(config, "evaluate") == [0]
        run.finish({})
    with open_stage(config, "evaluate", parents=["pretrain", "sft"], grows=True) as run:
        assert run.skip


def test_a_stage_that_grows_takes_a_changed_parent_without_force(config: RunConfig):
    complete(config, "sft")
    complete(config, "evaluate", parents=["sft"], grows=True)
    (config.run_dir / "evaluate/kept.json").write_text("{}")
    complete(config, "sft", force=True)
    with open_stage(config, "evaluate", parents=["sft"], grows=True) as run:
        assert not run.skip
        assert (run.folder / "kept.json").is_file()


def test_a_finished_stage_takes_an_addition_without_force(tmp_path: Path):
    def open_evaluate(**best_of: object):
        asked = {"prompts": ["tiny:prompts"], **({"best_of": best_of} if best_of else {})}
        stages = {"sft@ppo_init": {}, "reward": {}, "evaluate": asked}
        grown = resolve({"run_dir": str(tmp_path), "base": "a-model", **stages})
        made_from = {"best_of": {"configuration": str(best_of)}} if best_of else {}
        return open_stage(grown, "evaluate", additions=made_from, grows=True)

    with open_evaluate() as run:
        run.finish({})
    with open_evaluate(n=[1, 2]) as run:
        assert not run.skip
        run.finish({})
    for asked in ({"n": [1, 2]}, {}):  # one that has more than is asked for is left as it is
        with open_evaluate(**asked) as run:
            assert run.skip
            assert run.manifest.additions == {"best_of": {"configuration": "{'n': [1, 2]}"}}
    with open_evaluate(n=[1, 4]) as run:
        assert not run.skip


def fail_after_force(config: RunConfig, message: str, *, checkpoint: bool):
    with open_stage(config, "sft", force=True) as run:
        assert not (run.folder / "result.txt").exists()
        if checkpoint:
            with run.checkpoint(1, keep=1) as folder:
                (folder / "weights").write_text("new")
        raise DataError(message)


def test_bad_input_after_force_brings_the_finished_stage_back(config: RunConfig):
    complete(config, "sft")
    (config.run_dir / "sft/result.txt").write_text("dear")
    before = (config.run_dir / "sft/manifest.json").read_bytes()
    with pytest.raises(DataError, match="malformed"):
        fail_after_force(config, "malformed", checkpoint=False)
    assert (config.run_dir / "sft/result.txt").read_text() == "dear"
    assert (config.run_dir / "sft/manifest.json").read_bytes() == before
    with open_stage(config, "sft") as run:
        assert run.skip


def test_once_there_is_a_checkpoint_the_forced_stage_stands_on_its_own(config: RunConfig):
    complete(config, "sft")
    with pytest.raises(DataError, match="late"):
        fail_after_force(config, "late", checkpoint=True)
    assert Manifest.read(config.run_dir / "sft").status == "failed"
    with open_stage(config, "sft") as run:
        assert run.resume_step == 1


def test_what_was_set_aside_goes_when_the_successor_is_complete(config: RunConfig):
    complete(config, "sft")
    complete(config, "sft", force=True)
    assert not (config.run_dir / "sft/.previous").exists()


@contextlib.contextmanager
def held_by_another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    code = (
        "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        try:
            yield other
        finally:
            other.kill()


def test_another_process_at_work_is_refused_and_its_death_frees_the_folder(config: RunConfig):
    folder = config.run_dir / "sft"
    assert not is_at_work(folder)
    with held_by_another_process(folder) as other:
        assert is_at_work(folder)
        with (
            pytest.raises(RunError, match="Another process is at work in"),
            open_stage(config, "sft", force=True),
        ):
            pytest.fail("the stage was opened")
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert not is_at_work(folder)
    with open_stage(config, "sft") as run:
        assert is_at_work(folder)
        run.finish({})


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"^Cannot write in .*Change run_dir\.$"),
        open_stage(make_config(tmp_path / "file"), "sft"),
    ):
        pytest.fail("the stage was opened")


@pytest.mark.parametrize("content", ["{", "[]", '{"stage": "sft", "colour": 1}', "\udcff"])
def test_a_manifest_that_cannot_be_read_is_refused_until_forced(config: RunConfig, content: str):
    complete(config, "sft")
    path = config.run_dir / "sft" / "manifest.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with (
        pytest.raises(RunError, match=r"is no manifest of this version"),
        open_stage(config, "sft"),
    ):
        pytest.fail("the stage was opened")
    complete(config, "sft", force=True)
    assert read(config, "sft").status == "complete"


def test_a_model_is_handed_out_verified(config: RunConfig):
    complete(config, "sft")
    path = model_of(config, "sft")
    assert path == config.run_dir / "sft" / "model"
    assert read(config, "sft").model_hash
    (path / "weights").write_text("other")
    with pytest.raises(RunError, match=r"Run 'steerline sft CONFIG --force' to make it again\.$"):
        model_of(config, "sft")
