"""Measure every finished model of the run: ``steerline evaluate CONFIG``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import hash_text, write_json
from pipeline.config.evaluate import EvaluateSection
from pipeline.config.label import LabelSection
from pipeline.config.ppo import PpoSection
from pipeline.config.run import MAKE_A_MODEL, RunConfig
from pipeline.config.schema import to_plain
from pipeline.data import hash_sources, read_prompts
from pipeline.distributed import Workers
from pipeline.errors import ConfigError, RunError
from pipeline.evaluation.answers import AnswerMeter
from pipeline.evaluation.best_of import BEST_OF, BestOfEvaluator, Subject
from pipeline.evaluation.contestants import find_contestants, hash_win_rates
from pipeline.evaluation.equal_kl import flatten_figures
from pipeline.evaluation.evaluator import Evaluator, needs_reward
from pipeline.evaluation.inputs import hash_inputs
from pipeline.evaluation.people import (
    PEOPLE,
    figures_against,
    hash_comparisons,
    measure_preferences,
    read_comparisons,
)
from pipeline.evaluation.toxicity import hash_toxicity
from pipeline.evaluation.wins import WIN_RATES, WinRateEvaluator
from pipeline.labeling import open_store
from pipeline.llm_judge import read_key, read_template
from pipeline.report.gate import check_tax
from pipeline.report.gather import EVALUATE
from pipeline.runs import Manifest, finished_stages, hash_parent, model_of, open_stage
from pipeline.store.judged import Judged
from stages.entry import run_stage_module

RIVAL = "sft"
"""The stage that the others' answers are compared with."""


def run(config: RunConfig, name: str, *, force: bool = False) -> None:
    """Measure the complete stages' models, and hold them to ``max_tax``.

    Models measured before are left as they are, and are held to it all the same.

    Raises:
        RegressionError: if one lost more; what was measured stays, and the stage is complete.
        ConfigError: if a variant has a ``max_tax``: nothing would be held to it.
    """
    section = config.section(name, EvaluateSection)
    max_tax = section.max_tax
    if max_tax is not None and name != EVALUATE:
        raise ConfigError(
            f"{name}.max_tax must be null, got {max_tax}: what '{EVALUATE}' measured is held to "
            f"{EVALUATE}.max_tax, what a variant did is not. Write {name}.max_tax: null."
        )
    workers = Workers(section.precision)
    _measure(config, name, workers, force=force)
    if max_tax is not None:
        workers.on_main(lambda: check_tax(config, max_tax))


def _measure(config: RunConfig, name: str, workers: Workers, *, force: bool) -> None:
    section = config.section(name, EvaluateSection)
    asked = (section.tasks, section.perplexity, section.prompts, section.toxicity, section.best_of)
    if not any(asked):
        raise ConfigError(
            f"{name} must have tasks, perplexity or prompts, got none. Add what to measure."
        )
    _check_judge(name, section)
    models = workers.on_main(lambda: finished_stages(config, *MAKE_A_MODEL))
    if not models:
        raise RunError(
            f"No model in {config.run_dir}, which {name} needs. "
            "Run 'steerline pretrain CONFIG' first."
        )
    reward = None
    if needs_reward(read_prompts(section.prompts, config.seed)):
        reward = workers.on_main(lambda: next(iter(finished_stages(config, "reward")), None))
    comparisons = workers.on_main(lambda: _ask_labelers(config))
    scorer = workers.on_main(lambda: _find_scorer(config, section))
    with open_stage(
        config,
        name,
        parents=[*models, *([reward] if reward else [])],
        sources=hash_inputs(section, config.seed),
        additions=workers.on_main(
            lambda: {
                **_hash_additions(config, name, section, comparisons),
                **_hash_win_rates(config, name, section, scorer),
            }
        ),
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
        summary = workers.on_main(lambda: evaluator.merge(models, RIVAL))
        compared = _compare_with_best_of(config, section, workers, stage.folder)
        preferred = workers.on_main(lambda: _write_preferences(comparisons, stage.folder))
        won = _compare_stages(
            config, name, section, models, workers, stage.folder, comparisons, scorer
        )
        summary = {
            model: {**summary[model], **_join(model, compared, preferred, won)} for model in models
        }
        stage.metrics.rewind(0)
        for step, (model, figures) in enumerate(summary.items()):
            stage.metrics.write(step, {"stage": model, **figures})
        stage.finish(_flatten(summary))


def _ask_labelers(config: RunConfig) -> list[Judged] | None:
    """Return how labelers compared stages; None where they are not asked, or not yet."""
    label = Manifest.read(config.run_dir / "label")
    asked = config.section("label", LabelSection).comparisons
    if not asked or label is None or label.status != "complete":
        return None
    with open_store(config, create=False) as store:
        return read_comparisons(store)


def _write_preferences(
    comparisons: Sequence[Judged] | None, folder: Path
) -> Mapping[str, Mapping[str, float]]:
    """Write which stages labelers prefer; return each one's figures against the rival."""
    if comparisons is None:
        (folder / PEOPLE).unlink(missing_ok=True)
        return {}
    rows = measure_preferences(comparisons)
    write_json(folder / PEOPLE, {"preferences": rows})
    return figures_against(rows, RIVAL)


def _compare_with_best_of(
    config: RunConfig, section: EvaluateSection, workers: Workers, folder: Path
) -> Mapping[str, Mapping[str, float]]:
    """Compare every complete policy with best-of-n from its start; return figures by stage."""
    asked = section.best_of
    if asked is None:
        # The models may not be those that an earlier comparison was of.
        workers.on_main(lambda: (folder / BEST_OF).unlink(missing_ok=True))
        return {}
    evaluator = BestOfEvaluator(
        asked,
        read_prompts(asked.prompts or section.prompts, config.seed),
        section.decoding.max_new_tokens,
        config.seed,
        workers,
        folder,
        start=_subject(config, asked.stage),
        reward=_subject(config, asked.reward),
        batch_size=section.batch_size,
    )
    policies = [
        policy
        for policy in workers.on_main(lambda: finished_stages(config, "ppo"))
        if config.section(policy, PpoSection).init == asked.stage
    ]
    return flatten_figures(evaluator.evaluate([_subject(config, policy) for policy in policies]))


def _compare_stages(
    config: RunConfig,
    name: str,
    section: EvaluateSection,
    models: Sequence[str],
    workers: Workers,
    folder: Path,
    comparisons: Sequence[Judged] | None,
    scorer: str | None,
) -> Mapping[str, Mapping[str, float]]:
    """Compare the stages' answers by every judge; return figures against the rival by stage."""
    asked = section.win_rates
    contestants = (
        workers.on_main(lambda: find_contestants(config, asked, models, name)) if asked else []
    )
    if asked is None or len(contestants) < 2:
        workers.on_main(lambda: (folder / WIN_RATES).unlink(missing_ok=True))
        return {}
    meter = AnswerMeter(
        read_prompts(section.prompts, config.seed),
        section.decoding,
        config.seed,
        workers,
        folder,
        reward=None if scorer is None else _subject(config, scorer),
        batch_size=section.batch_size,
    )
    evaluator = WinRateEvaluator(asked, f"{name}.win_rates", meter, folder)
    return evaluator.evaluate(contestants, comparisons, RIVAL)


def _check_judge(name: str, section: EvaluateSection) -> None:
    """Refuse a judge that cannot be asked, before anything is measured."""
    judge = section.win_rates and section.win_rates.judge
    if judge:
        read_template(judge.template, f"{name}.win_rates.judge")
        read_key(judge.api_key_env, f"{name}.win_rates.judge")


def _find_scorer(config: RunConfig, section: EvaluateSection) -> str | None:
    """Return the stage whose reward model judges: as named, else the first complete, else none."""
    asked = section.win_rates
    if asked is None:
        return None
    return asked.reward or next(iter(finished_stages(config, "reward")), None)


def _hash_win_rates(
    config: RunConfig, name: str, section: EvaluateSection, scorer: str | None
) -> dict[str, dict[str, str]]:
    asked = section.win_rates
    return {"win_rates": hash_win_rates(config, asked, name, scorer)} if asked else {}


def _join(model: str, *parts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return one stage's figures of several parts."""
    return {key: value for part in parts for key, value in part.get(model, {}).items()}


def _subject(config: RunConfig, name: str) -> Subject:
    return Subject(name, model_of(config, name), _model_hash(config, name))


def _hash_additions(
    config: RunConfig,
    name: str,
    section: EvaluateSection,
    comparisons: Sequence[Judged] | None,
) -> dict[str, dict[str, str]]:
    """Hash what labelers said, and what toxicity and best-of-n rest on, where asked for."""
    said = {} if comparisons is None else {"labels": {"comparisons": hash_comparisons(comparisons)}}
    if section.toxicity is not None:
        said["toxicity"] = hash_toxicity(section.toxicity, config.seed)
    return said | _hash_best_of(config, name, section)


def _hash_best_of(
    config: RunConfig, name: str, section: EvaluateSection
) -> dict[str, dict[str, str]]:
    asked = section.best_of
    if asked is None:
        return {}
    plain = json.dumps(to_plain(asked), sort_keys=True)
    stages = (asked.stage, asked.reward)
    return {
        "best_of": {
            "configuration": hash_text(plain),
            **{f"stage {stage}": hash_parent(config, name, stage) for stage in stages},
            **{
                f"data {path}": found
                for path, found in hash_sources(asked.prompts, config.seed).items()
            },
        }
    }


def _model_hash(config: RunConfig, name: str) -> str:
    manifest = Manifest.read(config.run_dir / name)
    assert manifest is not None, f"{name} was complete when the stage opened"
    return manifest.model_hash


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
