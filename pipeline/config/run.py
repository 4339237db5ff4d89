"""Load a run's configuration: one YAML, dotted overrides, and the variants of stages.

A variant is a section named ``stage@name`` that holds only its departures from ``stage``. The
string is its folder, its command and its key in ``results.json``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline.config.evaluate import EvaluateSection, ReportSection
from pipeline.config.label import LabelSection
from pipeline.config.ppo import PpoSection
from pipeline.config.pretrain import PretrainSection
from pipeline.config.reward import RewardSection
from pipeline.config.sampling import SampleSection
from pipeline.config.schema import (
    Problem,
    Section,
    build,
    parse_override,
    read_yaml,
    to_plain,
    type_at,
)
from pipeline.config.sft import SftSection
from pipeline.errors import ConfigError, nearest

MAKE_A_MODEL = ("pretrain", "sft", "ppo")
"""Stages whose model is a policy."""
SECTIONS: dict[str, type[Section]] = {
    "pretrain": PretrainSection,
    "sft": SftSection,
    "sample": SampleSection,
    "label": LabelSection,
    "reward": RewardSection,
    "ppo": PpoSection,
    "evaluate": EvaluateSection,
    "report": ReportSection,
}
"""The stages in the order of the line, with their sections."""

SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True)
class TopLevel(Section):
    """Hold the keys that stand outside the sections."""

    run_dir: str
    """Folder that the stages write their folders in."""
    seed: int = 0
    """Seed of everything random."""
    base: str | None = None
    """Base model: a Hugging Face name, a folder, or a .gguf file; null trains from scratch."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        if not 0 <= self.seed < 2**32:
            yield Problem("seed", "lie in [0, 2^32)", "NumPy takes no other.")
        if not self.run_dir.strip() or "\0" in self.run_dir:
            yield Problem("run_dir", "name a folder", "Use runs/NAME.")


@dataclass(frozen=True)
class RunConfig:
    """Hold a run's whole, resolved configuration.

    Attributes:
        top: run folder, seed and base.
        stages: stage or variant name to its section, in the order of the line; stages that the
            YAML leaves out stand here with their defaults.
        named: the stages and variants that the YAML names.
    """

    top: TopLevel
    stages: Mapping[str, Section]
    named: frozenset[str] = frozenset()

    @property
    def run_dir(self) -> Path:
        """Return the folder that holds the stages' folders."""
        return Path(self.top.run_dir).expanduser()

    @property
    def seed(self) -> int:
        """Return the run's seed."""
        return self.top.seed

    @property
    def line(self) -> list[str]:
        """Return what a whole run consists of, in order: the base, what the YAML names, the report.

        Stages that those start from belong to it too. Another that the YAML leaves out does not:
        data that has its preferences already needs no ``sample`` and no ``label``.
        """
        kept, open_ends = {"pretrain", "report"}, sorted(self.named)
        while open_ends:
            name = open_ends.pop()
            kept.add(name)
            open_ends += set(references(self.stages[name])) - kept
        return [name for name in self.stages if name in kept]

    def section(self, name: str, kind: type[SectionT]) -> SectionT:
        """Return the section of a stage or variant, checked to be of its kind.

        Raises:
            ConfigError: if the run has no such stage, or it is of another kind.
        """
        if name not in self.stages:
            raise ConfigError(f"This run has no stage '{name}'.{nearest(name, self.stages)}")
        section = self.stages[name]
        if not isinstance(section, kind):
            raise ConfigError(
                f"Stage '{name}' is a {stage_of(name)}, where a {kind.__name__} is asked for. "
                "Name a stage of that kind."
            )
        return section

    def with_stage(self, name: str, **changes: Any) -> RunConfig:
        """Return a copy with fields of one section replaced."""
        section: Section = dataclasses.replace(self.stages[name], **changes)  # type: ignore[type-var]
        return dataclasses.replace(self, stages={**self.stages, name: section})

    def to_plain(self, stage: str | None = None) -> dict[str, Any]:
        """Return plain values for YAML: everything, or what one stage depends on."""
        plain = to_plain(self.top)
        names = self.stages if stage is None else [stage]
        return {**plain, **{name: to_plain(self.stages[name]) for name in names}}

    def dump(self, stage: str | None = None) -> str:
        """Return the fully resolved configuration as YAML: the line's sections and ``stage``'s."""
        kept = {*self.line, stage}
        plain = to_plain(self.top)
        plain |= {name: to_plain(section) for name, section in self.stages.items() if name in kept}
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def references(section: Section) -> list[str]:
    """Return the stages whose models a section starts from."""
    if isinstance(section, PpoSection):
        return [section.init, *section.reward_stages]
    if isinstance(section, SftSection | RewardSection):
        return [section.init]
    if isinstance(section, EvaluateSection):
        found = [section.best_of.stage, section.best_of.reward] if section.best_of else []
        asked = section.win_rates
        if asked:
            found += [*asked.stages, *filter(None, (asked.against, asked.reward))]
        return found
    return list(section.stages) if isinstance(section, SampleSection) else []


def stage_of(name: str) -> str:
    """Return the stage that a variant departs from: ``ppo`` for ``ppo@no_ptx``."""
    return name.split("@", 1)[0]


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML and apply ``key=value`` overrides.

    Raises:
        ConfigError: one line for whatever is wrong, with the path, the value and the nearest name.
    """
    return configure(read_yaml(Path(path)), overrides)


def configure(tree: Mapping[str, Any], overrides: Sequence[str]) -> RunConfig:
    """Build the configuration from a parsed tree and ``key=value`` overrides.

    Raises:
        ConfigError: as ``load_config``.
    """
    # Plain copies: an override must not reach through a YAML alias into another section.
    plain: dict[str, Any] = to_plain(tree)
    for override in overrides:
        _override(plain, override)
    return resolve(plain)


def resolve(tree: Mapping[str, Any]) -> RunConfig:
    """Build the configuration from a parsed tree.

    Raises:
        ConfigError: for an unknown key, an ill-typed value, or a reference to a missing stage.
    """
    top_names = {field.name for field in dataclasses.fields(TopLevel)}
    for key in tree:
        stage, at, variant = str(key).partition("@")
        known = stage in SECTIONS and (not at or _is_name(variant))
        if not known and (at or key not in top_names):
            raise ConfigError(f"{key} is no known key.{nearest(str(key), {*top_names, *SECTIONS})}")
    top = build(TopLevel, {key: tree[key] for key in tree if key in top_names}, "")
    stages: dict[str, Section] = {}
    for stage, section in SECTIONS.items():
        shared = tree.get(stage)
        stages[stage] = build(section, shared, stage)
        for key in tree:
            if stage_of(str(key)) == stage and key != stage:
                own = {} if tree[key] is None else tree[key]
                merged = _merge(shared or {}, own, str(key))
                stages[str(key)] = build(section, merged, str(key))
    config = RunConfig(top, stages, frozenset(str(key) for key in tree) & frozenset(stages))
    _check_references(config)
    return config


def _is_name(text: str) -> bool:
    return bool(text) and all(letter.isalnum() or letter in "_-" for letter in text)


def _merge(shared: Mapping[str, Any], own: object, path: str) -> dict[str, Any]:
    if not isinstance(own, Mapping):
        raise ConfigError(f"{path} must be a mapping of departures, got {own!r}. Write keys below.")
    merged = dict(shared)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value, f"{path}.{key}") if both else value
    return merged


def _override(tree: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"Override '{override}' must have the form key=value. Mend it.")
    keys = dotted.split(".")
    hint = type_at(SECTIONS.get(stage_of(keys[0]), TopLevel), keys[stage_of(keys[0]) in SECTIONS :])
    value = parse_override(text, hint, f"override '{override}'")
    node: Any = tree
    for depth, key in enumerate(keys[:-1]):
        at = _key_in(node, key, ".".join(keys[:depth]), override)
        if isinstance(node, dict) and node.get(at) is None:
            node[at] = {}
        node = node[at]
    node[_key_in(node, keys[-1], ".".join(keys[:-1]), override)] = value


def _key_in(node: Any, key: str, path: str, override: str) -> Any:
    """Return what one part of a dotted path means in a mapping or, as a number, in a list."""
    if isinstance(node, dict):
        return key
    if not isinstance(node, list):
        raise ConfigError(f"{path} holds no keys, so '{override}' cannot be set. Mend the path.")
    if not key.isdigit() or int(key) >= len(node):
        raise ConfigError(
            f"{path} must be indexed by a number below {len(node)}, got {key!r}. Mend '{override}'."
        )
    return int(key)


def _check_references(config: RunConfig) -> None:
    """Check that every stage that a section names exists and is of the right kind."""
    for name, section in config.stages.items():
        # A stage that the YAML leaves out may refer to another that it leaves out as well.
        if isinstance(section, SftSection | RewardSection | PpoSection) and name in config.named:
            _check_reference(config, f"{name}.init", section.init, ("pretrain", "sft"))
            _check_start(config, name)
        if isinstance(section, PpoSection):
            for path, source in section.reward_paths(name):
                if source.stage is not None:
                    _check_reference(config, path, source.stage, ("reward",))
        if isinstance(section, SampleSection):
            for stage in section.stages:
                _check_reference(config, f"{name}.stages", stage, MAKE_A_MODEL)
        if isinstance(section, EvaluateSection):
            _check_compared(config, name, section)
        if isinstance(section, PretrainSection) and not (config.top.base or section.tokens):
            raise ConfigError(
                f"{name}.tokens must be positive when base is null, got 0. "
                "Set the tokens to train on, or name a base to load."
            )


def _check_compared(config: RunConfig, name: str, section: EvaluateSection) -> None:
    """Check the stages that an evaluation compares, and the judges."""
    if section.best_of:
        path = f"{name}.best_of"
        _check_reference(config, f"{path}.stage", section.best_of.stage, MAKE_A_MODEL)
        _check_reference(config, f"{path}.reward", section.best_of.reward, ("reward",))
    asked = section.win_rates
    if asked is None:
        return
    for i, stage in enumerate(asked.stages):
        _check_reference(config, f"{name}.win_rates.stages[{i}]", stage, MAKE_A_MODEL)
    if asked.against is not None:
        _check_reference(config, f"{name}.win_rates.against", asked.against, MAKE_A_MODEL)
    if asked.reward is not None:
        _check_reference(config, f"{name}.win_rates.reward", asked.reward, ("reward",))


def _check_start(config: RunConfig, name: str) -> None:
    """Check that the stages that a stage starts from end in a base and not in a circle."""
    seen = [name]
    while (init := getattr(config.stages.get(seen[-1]), "init", None)) is not None:
        if init in seen:
            raise ConfigError(
                f"{name}.init must lead to a base, got {' -> '.join([*seen, init])}. "
                "Let one of them start from pretrain."
            )
        seen.append(init)


def _check_reference(config: RunConfig, path: str, name: str, kinds: tuple[str, ...]) -> None:
    if name not in config.stages or stage_of(name) not in kinds:
        valid = [stage for stage in config.stages if stage_of(stage) in kinds]
        raise ConfigError(
            f"{path} must name a {' or '.join(kinds)} stage of this run, got {name!r}."
            f"{nearest(name, valid)}"
        )
