"""Read what ``steerline report --models`` is given: names and places of models, and overrides.

    steerline report [CONFIG] --models a=PATH b=HF_NAME [key=value ...]

The words after ``--models`` are models unless their key is a configuration's: ``evaluate.tasks``,
``report.title``, ``seed``, ``run_dir``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.run import SECTIONS, RunConfig, configure, stage_of
from pipeline.config.schema import read_yaml
from pipeline.errors import ConfigError

TOP = ("run_dir", "seed")
"""Top-level keys that can be set among the models; ``base`` is a name that a model may have."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")


class Given(NamedTuple):
    """A model that is to be compared: its name on the page, and where it is."""

    name: str
    place: str


def read_models(words: Sequence[str]) -> tuple[list[Given], list[str]]:
    """Tell models and overrides apart.

    Args:
        words: what stands after ``--models``.
    Returns:
        The models in order, the first being the base of the comparison, and the overrides.

    Raises:
        ConfigError: for a word that is neither, a name twice, or fewer than two models.
    """
    models: list[Given] = []
    overrides: list[str] = []
    for word in words:
        name, equals, place = word.partition("=")
        if equals and (name in TOP or (stage_of(name.split(".")[0]) in SECTIONS and "." in name)):
            overrides.append(word)
            continue
        if not equals or not place or not NAME.fullmatch(name):
            raise ConfigError(
                f"--models must be followed by NAME=PATH or NAME=HUB_NAME, got {word!r}. "
                "Write e.g. base=runs/x/pretrain tuned=org/model; CONFIG stands before --models."
            )
        if name in {model.name for model in models}:
            raise ConfigError(
                f"--models must have different names, got {name!r} twice. Rename one."
            )
        models.append(Given(name, find_model(place)))
    if len(models) < 2:
        raise ConfigError(
            f"--models must name two models or more, got {len(models)}. "
            "The first is the base that the others are compared with."
        )
    return models, overrides


def find_model(place: str) -> str:
    """Return a stage's ``model/`` where the stage's folder is given, else the place as it is."""
    inside = Path(place).expanduser() / "model"
    return str(inside) if inside.is_dir() else place


def models_config(
    path: Path | None, models: Sequence[Given], overrides: Sequence[str]
) -> RunConfig:
    """Return the configuration of a comparison: what is asked, and a folder of its own.

    The folder is that of the names below the run's ``models/``, or below ``runs/`` without a YAML;
    so are title and notes the comparison's own. What compares a run's stages by their names is left
    out. Overrides go before all of it.

    Args:
        path: a YAML whose seed and ``evaluate`` are taken; None has the defaults alone.
        models: those that are compared.
        overrides: ``key=value``; ``run_dir`` names the comparison's folder.

    Raises:
        ConfigError: for whatever is wrong in the YAML or the overrides.
    """
    tree = {"run_dir": "runs", "base": models[0].place} if path is None else read_yaml(path)
    config = configure(tree, overrides)
    given = {override.partition("=")[0] for override in overrides}
    if "run_dir" not in given:
        above = Path(config.top.run_dir) / ("" if path is None else "models")
        folder = above / "-vs-".join(model.name for model in models)
        top = dataclasses.replace(config.top, run_dir=str(folder))
        config = dataclasses.replace(config, top=top)
    own: dict[str, Any] = {
        "title": f"{', '.join(model.name for model in models[1:])} against {models[0].name}",
        "notes": [],
    }
    own = {key: value for key, value in own.items() if f"report.{key}" not in given}
    config = config.with_stage("evaluate", best_of=None, win_rates=None)
    return config.with_stage("report", **own)
