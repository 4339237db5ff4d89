"""A line that was killed without warning ends as if it had not been, bit for bit."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from tests.end_to_end.stages import STAGES, TRAINED, same

STEERED = ("ppo.kl_target=0.05", "ppo.kl_horizon=40")
DROPPING = {
    "ppo": ("ppo.attention_dropout=0.2", *STEERED),
    "ppo@hydra": (
        "ppo@hydra.hydra={lora: {rank: 4, dropout: 0.2}}",
        "ppo@hydra.ptx_coef=2.0",
        *STEERED,
    ),
}
"""Both modes with all that has a state: dropout, adaptive KL, the moving average, ptx."""


def cut(started, reached) -> None:
    """Kill a command without warning once it has reached something."""
    try:
        started.wait_until(reached)
    finally:
        started.kill()


def test_killed_in_every_stage_it_ends_as_if_it_had_not_been(finished, make_line, tmp_path):
    line = make_line(tmp_path / "run")

    def has_work(stage: str) -> bool:
        folder = line.run_dir / stage
        if stage in TRAINED:
            return bool(list(folder.glob("checkpoints/step-*")))
        return line.manifest(stage).get("status") == "running"

    for stage in STAGES:
        cut(line.start("run"), lambda stage=stage: has_work(stage))
    done = line.run("run")
    assert done.returncode == 0, done.stderr
    for stage in STAGES:
        ours, theirs = line.manifest(stage)["metrics"], finished.manifest(stage)["metrics"]
        assert same(ours, theirs), stage
    for stage in TRAINED:
        assert line.metrics(stage) == finished.metrics(stage), stage
        assert line.manifest(stage)["model_hash"]


def states(folder) -> dict[str, str]:
    """Return a hash of each file of weights or training state: models and last checkpoints."""
    files = [file for file in folder.rglob("*") if file.suffix in (".safetensors", ".pt")]
    kinds = {file.relative_to(folder).parts[:3] for file in files}
    assert {("model", "model.safetensors"), ("value", "model.safetensors")} < kinds
    last = ("checkpoints", "step-00000003")
    assert {(*last, part) for part in ("policy", "value", "average", "state.pt")} < kinds
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.distributed)])
@pytest.mark.parametrize("stage", DROPPING)
def test_ppo_that_drops_out_goes_on_after_a_kill(finished, make_line, tmp_path, stage, processes):
    whole, killed = (make_line(tmp_path / name / "run") for name in ("whole", "killed"))
    for line in (whole, killed):
        shutil.copytree(finished.run_dir, line.run_dir)
        shutil.rmtree(line.run_dir / stage)
    folder, overrides = killed.run_dir / stage, DROPPING[stage]

    cut(
        killed.start_together(stage, *overrides, processes=processes),
        lambda: (folder / "checkpoints/step-00000001").is_dir(),
    )
    assert killed.manifest(stage)["status"] == "running"
    assert not (folder / "checkpoints/step-00000003").exists()
    if processes == 1:
        done = killed.run(stage, *overrides)
    else:
        done = killed.launch(killed.script(stage, *overrides), processes)
    assert done.returncode == 0, done.stderr
    done = whole.start_together(stage, *overrides, processes=processes).wait()
    assert done.returncode == 0, done.stderr

    ours = killed.metrics(stage)
    assert ours == whole.metrics(stage)
    assert states(folder) == states(whole.run_dir / stage)
    for line in (whole, killed):
        manifest = line.manifest(stage)
        assert (manifest["status"], manifest["world_size"]) == ("complete", processes)
    assert len({row["objective/kl_coef"] for row in ours}) == len(ours) == 3
    assert all("loss/ptx" in row for row in ours)
