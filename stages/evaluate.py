"""Measure every finished model of the run: ``steerline evaluate CONFIG``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_file, hash_text
from pipeline.config.evaluate import EvaluateSection
from pipeline.config.run import RunConfig, stage_of
from pipeline.data import hash_sources, read_prompts
from pipeline.data.tiny import hash_world
from pipeline.distributed import Workers
from pipeline.errors import ConfigError, RunError
from pipeline.evaluation.catalogue import TINY
from pipeline.evaluation.evaluator import Evaluator, needs_reward
from pipeline.runs import Manifest, model_of, open_stage
from stages.entry import run_stage_module

MAKE_A_MODEL = ("pretrain", "sft", "ppo")
RIVAL = "sft"
"""The stage that the others' answers are compared with."""


def run(config: RunConfig, name: str, *, force: bool = False) -> None:
    """Measure the complete stages' models; those measured before are left as they are."""
    section = config.section(name, EvaluateSection)
    if not (section.tasks or section.perplexity or section.prompts):
        raise ConfigError(
            f"{name} must have tasks, perplexity or prompts, got none. Add what to measure."
        )
    workers = Workers()
    models = workers.on_main(lambda: _complete(config, *MAKE_A_MODEL))
    if not models:
        raise RunError(
            f"No model in {config.run_dir}, which {name} needs. "
            "Run 'steerline pretrain CONFIG' first."
        )
    reward = None
    if needs_reward(read_prompts(section.prompts, config.seed)):
        reward = workers.on_main(lambda: next(iter(_complete(config, "reward")), None))
    with open_stage(
        config,
        name,
        parents=[*models, *([reward] if reward else [])],
        sources=_hash_inputs(config, section),
        crew=workers,
        force=force,
        grows=True,
    ) as stage:
        if stage.skip:
            return
        evaluator = Evaluator(
            section,
            config.seed,
            workers,
            stage.folder,
            reward=model_of(config, reward) if reward else None,
            reward_hash=_model_hash(config, reward) if reward else "",
        )
        for model in models:
            evaluator.evaluate(model, model_of(config, model), _model_hash(config, model))
        summary = workers.on_main(lambda: evaluator.store.merge(models, RIVAL))
        stage.metrics.rewind(0)
        for step, (model, figures) in enumerate(summary.items()):
            stage.metrics.write(step, {"stage": model, **figures})
        stage.finish(_flatten(summary))


def _complete(config: RunConfig, *kinds: str) -> list[str]:
    """Return the run's stages of these kinds that are complete, in the order of the line."""
    found = []
    for name in config.stages:
        manifest = Manifest.read(config.run_dir / name) if stage_of(name) in kinds else None
        if manifest is not None and manifest.status == "complete":
            found.append(name)
    return found


def _model_hash(config: RunConfig, name: str) -> str:
    manifest = Manifest.read(config.run_dir / name)
    assert manifest is not None, f"{name} was complete when the stage opened"
    return manifest.model_hash


def _hash_inputs(config: RunConfig, section: EvaluateSection) -> dict[str, str]:
    """Hash the data and the local task files; lm_eval's own tasks are known by its version."""
    hashes = hash_sources([*section.perplexity, *section.prompts], config.seed)
    for task in section.tasks:
        path = Path(task).expanduser()
        if task == TINY:
            hashes["tasks of tiny"] = hash_text(f"{config.seed}\0{hash_world()}")
        elif path.is_file():
            hashes[task] = hash_file(path)
        elif path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            hashes[task] = hash_text("".join(f"{file} {hash_file(file)}\n" for file in files))
    return hashes


def _flatten(summary: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        f"{model}/{key}": value
        for model, figures in summary.items()
        for key, value in figures.items()
        if isinstance(value, int | float)
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage as a command."""
    return run_stage_module("evaluate", run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
