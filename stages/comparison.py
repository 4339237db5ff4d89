"""Measure models that no run made, or several did: ``steerline report --models a=PATH b=NAME``.

They are evaluated as a run's stages are, by the same code, and the report is the same; the first
stands where a run's base does. What was measured of a model is kept by its hash: another title or
another ``max_tax`` measures nothing anew, and another task, with ``--force``, only what is new.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import hash_text, write_json
from pipeline.config.evaluate import EvaluateSection
from pipeline.config.models import Given
from pipeline.config.run import RunConfig
from pipeline.distributed import Workers
from pipeline.errors import ConfigError
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.inputs import hash_inputs, hash_model
from pipeline.evaluation.toxicity import hash_toxicity
from pipeline.report.gate import check_tax
from pipeline.report.gather import EVALUATE, MODELS
from pipeline.runs import open_stage


def hold_to_tax(config: RunConfig) -> None:
    """Hold the models to ``evaluate.max_tax``, where one is set.

    Raises:
        RegressionError: if a model lost more.
    """
    max_tax = config.section(EVALUATE, EvaluateSection).max_tax
    if max_tax is not None:
        Workers().on_main(lambda: check_tax(config, max_tax))


def measure(config: RunConfig, models: Sequence[Given], *, force: bool) -> None:
    """Evaluate the models into the configuration's folder.

    Args:
        config: of the comparison.
        models: what is measured; the first is the base and the rival of the others.
        force: measure although the folder was made from other inputs.

    Raises:
        ConfigError: if nothing is asked.
        ModelError: if one of them is no model.
    """
    section = config.section(EVALUATE, EvaluateSection)
    if not (section.tasks or section.perplexity or section.prompts or section.toxicity):
        raise ConfigError(
            "evaluate must have tasks, perplexity or prompts, got none. "
            "Add what to measure, e.g. evaluate.tasks=[tiny], or name a CONFIG before --models."
        )
    workers = Workers(section.precision)
    names = [model.name for model in models]
    hashes = workers.on_main(lambda: {model.name: hash_model(model.place) for model in models})
    sources = {
        **{f"model {name}": found for name, found in hashes.items()},
        # Of a model that is left out nothing else tells, nor of another base.
        "list of models": hash_text(json.dumps(names)),
    }
    with open_stage(
        config,
        EVALUATE,
        sources={**hash_inputs(section, config.seed), **sources},
        additions=(
            {"toxicity": hash_toxicity(section.toxicity, config.seed)} if section.toxicity else {}
        ),
        crew=workers,
        force=force,
        grows=True,
    ) as stage:
        if stage.skip:
            return
        evaluator = Evaluator(section, config.seed, workers, stage.folder)
        for model in models:
            evaluator.evaluate(model.name, model.place, hashes[model.name])
        summary = workers.on_main(lambda: evaluator.merge(names, names[0]))
        facts = {
            model.name: {
                "place": model.place,
                "kind": _kind(model.place),
                "hash": hashes[model.name],
            }
            for model in models
        }
        workers.on_main(lambda: write_json(stage.folder / MODELS, facts))
        stage.metrics.rewind(0)
        for step, (name, figures) in enumerate(summary.items()):
            stage.metrics.write(step, {"stage": name, **figures})
        stage.finish({"models": len(models)})


def _kind(place: str) -> str:
    path = Path(place).expanduser()
    return "GGUF file" if path.is_file() else "folder" if path.is_dir() else "hub"
