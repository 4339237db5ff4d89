"""Find whose answers win rates compare: finished stages, and the checkpoints of PPO on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import hash_file, hash_text, verify_folder
from pipeline.config.ppo import PpoSection
from pipeline.config.run import RunConfig, stage_of
from pipeline.config.schema import to_plain
from pipeline.config.win_rates import WinRatesSection
from pipeline.runs import Manifest, checkpoint_path, hash_parent, list_checkpoints, model_of


@dataclass(frozen=True)
class Contestant:
    """Name a model whose answers are compared.

    Attributes:
        name: the stage's, or ``ppo.40`` for a checkpoint after iteration 40 of ``ppo``.
        path: the model's folder.
        tokenizer: folder of its tokenizer; a checkpoint has none of its own.
        hash: of the model's files.
        start: stage that PPO started from, the reference of its KL; None for other stages, where
            that one is no longer complete, and for what is there as another's start alone.
        step: the checkpoint's iteration; None for a finished stage.
    """

    name: str
    path: Path
    tokenizer: Path
    hash: str
    start: str | None = None
    step: int | None = None

    @property
    def stage(self) -> str:
        """Return the stage whose model it is, finished or not."""
        return self.name if self.step is None else self.name.removesuffix(f".{self.step}")


def find_contestants(
    config: RunConfig, asked: WinRatesSection, models: Sequence[str], name: str
) -> list[Contestant]:
    """Return whose answers are compared, in the order of the line, checkpoints after all stages.

    What PPO started from is among them, for the chart of KL, also where it is not asked for.

    Args:
        config: the run's.
        asked: what to compare.
        models: stages that are complete and evaluated.
        name: the stage that compares.

    Raises:
        RunError: if a stage that is asked for by name is not complete, or a file is damaged.
    """
    named = [*asked.stages, *([asked.against] if asked.against else [])]
    for stage in named:
        hash_parent(config, name, stage)
    wanted = {*(named if asked.stages else models)}
    starts = {stage: _start_of(config, stage, models) for stage in wanted}
    shown = wanted | set(starts.values())
    found = [_finished(config, stage, starts.get(stage)) for stage in models if stage in shown]
    if asked.checkpoints:
        for stage in models:
            if start := starts.get(stage):
                found += _checkpoints(config, stage, start)
    return found


def hash_win_rates(
    config: RunConfig, asked: WinRatesSection, name: str, reward: str | None
) -> dict[str, str]:
    """Hash what win rates depend on beside the evaluated models: judges and checkpoints.

    Args:
        config: the run's.
        asked: what to compare.
        name: the stage that compares.
        reward: stage whose reward model judges, or None.
    """
    hashes = {"configuration": hash_text(json.dumps(to_plain(asked), sort_keys=True))}
    if reward is not None:
        hashes[f"stage {reward}"] = hash_parent(config, name, reward)
    if asked.judge is not None and asked.judge.template is not None:
        hashes["template"] = hash_file(Path(asked.judge.template).expanduser())
    if asked.checkpoints:
        for stage in config.stages:
            if stage_of(stage) == "ppo":
                steps = list_checkpoints(config.run_dir / stage)
                hashes |= {f"checkpoints {stage}": hash_text(str(steps))}
    return hashes


def _finished(config: RunConfig, stage: str, start: str | None) -> Contestant:
    manifest = Manifest.read(config.run_dir / stage)
    assert manifest is not None, f"{stage} was complete when the stage opened"
    path = model_of(config, stage)
    return Contestant(stage, path, path, manifest.model_hash, start)


def _checkpoints(config: RunConfig, stage: str, start: str) -> Iterator[Contestant]:
    """Yield the checkpoints that hold a whole policy; a hydra's hold adapters and are left out."""
    section = config.section(stage, PpoSection)
    part = "policy" if section.ema_decay is None else "average"
    tokenizer = model_of(config, stage)
    for step in list_checkpoints(config.run_dir / stage):
        checkpoint = checkpoint_path(config.run_dir / stage, step)
        # After the last iteration it is the finished stage once more.
        is_final = step == section.iterations and section.select == "last"
        if is_final or not (checkpoint / part / "config.json").is_file():
            continue
        made = verify_folder(checkpoint, f"Remove {checkpoint}.")
        yield Contestant(f"{stage}.{step}", checkpoint / part, tokenizer, made, start, step)


def _start_of(config: RunConfig, stage: str, models: Sequence[str]) -> str | None:
    start = config.section(stage, PpoSection).init if stage_of(stage) == "ppo" else None
    return start if start in models else None
