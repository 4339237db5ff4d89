"""Find the models that ``steerline compare`` is asked to compare, and those that measure them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.config.run import MAKE_A_MODEL, RunConfig, stage_of
from pipeline.errors import ConfigError, RunError, nearest
from pipeline.model_places import find_models, find_tokenizer
from pipeline.runs import finished_stages, model_of
from pipeline.serving_messages import Place

NONE = "none"


class Subject(NamedTuple):
    """A model to compare: what the column is called, and where the model is."""

    name: str
    place: Place

    @property
    def tokenizer(self) -> Path | None:
        """Return where the tokenizer of a checkpoint without one is."""
        return find_tokenizer(Path(self.place))


def find_subjects(config: RunConfig, stages: Sequence[str], models: Sequence[str]) -> list[Subject]:
    """Return the models to compare, those of the run first.

    Args:
        config: the run.
        stages: names, several in one with commas between; none with no models either means all
            finished ones.
        models: ``NAME=PLACE`` each.

    Raises:
        ConfigError: if there is no such stage, a name is given twice, or a model has no name.
        RunError: if a stage is not finished, or none is, or there is no such checkpoint.
    """
    names = [name.strip() for given in stages for name in given.split(",") if name.strip()]
    if not names and not models:
        names = finished_stages(config, *MAKE_A_MODEL)
        if not names:
            raise RunError(
                f"No model in {config.run_dir} to compare. Run 'steerline run CONFIG' first."
            )
    subjects = [Subject(name, _stage_model(config, "--stages", name)) for name in names]
    for model in models:
        name, equals, place = model.partition("=")
        if not (name and equals and place):
            raise ConfigError(
                f"--models must have the form NAME=PLACE, got {model!r}. Write e.g. mine=FOLDER."
            )
        subjects.append(Subject(name, place))
    called = [subject.name for subject in subjects]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"--stages and --models must name each model once, got {twice!r} twice. Call one of "
            "them otherwise."
        )
    return subjects


def find_beside(
    config: RunConfig, option: str, asked: str | None, default: str | None, kinds: Sequence[str]
) -> Place | None:
    """Return the model that scores, or that the KL is from; None for none.

    Args:
        config: the run.
        option: how the user asks for it.
        asked: a stage, a model's place, or ``none``; None takes the first finished stage.
        default: the only stage to take unasked; None allows any.
        kinds: stages that make such a model.

    Raises:
        ConfigError: if there is no such stage.
        RunError: if the stage is not finished, or there is no such checkpoint.
    """
    if asked == NONE:
        return None
    if asked is None:
        finished = finished_stages(config, *kinds)
        name = next((one for one in finished if default in (None, one)), None)
        return None if name is None else model_of(config, name)
    if asked not in config.stages and ("/" in asked or Path(asked).exists()):
        return asked
    return _stage_model(config, option, asked, kinds)


def _stage_model(
    config: RunConfig, option: str, name: str, kinds: Sequence[str] = MAKE_A_MODEL
) -> Path:
    valid = [stage for stage in config.stages if stage_of(stage) in kinds]
    stage, dot, step = name.rpartition(".")
    if dot and step.isdecimal() and stage in valid:
        return _checkpoint(config, stage, name)
    if name not in valid:
        raise ConfigError(
            f"{option} must name a {' or '.join(kinds)} stage of this run, got {name!r}."
            f"{nearest(name, valid)}"
        )
    return model_of(config, name)


def _checkpoint(config: RunConfig, stage: str, name: str) -> Path:
    found = {
        place.name: place.path
        for place in find_models(config.run_dir)
        if place.stage == stage and place.step is not None
    }
    if name not in found:
        there = nearest(name, found) if found else f" {stage} has none that can be asked."
        raise RunError(f"There is no checkpoint {name!r} in {config.run_dir}.{there}")
    return found[name]
