"""Say what PPO maximises: reward models and functions, each with a weight."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.config.schema import Problem, Section

DEFAULT_REWARD = "reward"
KINDS = ("stage", "model", "function")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_NAME = re.compile(r"[\w.@-]+", re.ASCII)


@dataclass(frozen=True)
class RewardSource(Section):
    """One reward of a weighted sum: a stage's model, another model, or a function."""

    stage: str | None = None
    """Reward stage of this run."""
    model: str | None = None
    """Reward model by folder or Hugging Face name: a sequence classifier with one label."""
    function: str | None = None
    """Python function as ``module:name``, called ``f(prompts, completions)``; gives floats."""
    weight: float = 1.0
    """Factor of its score in the sum; 0 only logs it, negative punishes."""
    name: str | None = None
    """Its name in ``reward/NAME``; null takes the stage's, the model's or the function's."""
    retokenize: bool = False
    """Let a model read the decoded text by its own tokenizer and chat template."""

    @property
    def kind(self) -> str:
        """Return the key that says what it is: ``stage``, ``model`` or ``function``."""
        return next((key for key in KINDS if getattr(self, key) is not None), KINDS[0])

    @property
    def label(self) -> str:
        """Return the name that figures and errors carry."""
        if self.name is not None:
            return self.name
        if self.function is not None:
            return self.function.rpartition(":")[2]
        parts = (self.stage or self.model or "").rstrip("/").split("/")
        # A stage's model lies in a folder that is called model, whatever the stage is.
        last = parts[-2] if parts[-1] == "model" and len(parts) > 1 else parts[-1]
        return re.sub(r"[^\w.@-]+", "-", last, flags=re.ASCII)

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        given = [key for key in KINDS if getattr(self, key) is not None]
        if len(given) > 1:
            rule = f"be left out where {given[0]} is given"
            yield Problem(given[1], rule, "Make it a source of its own.")
        if self.model is not None and not self.model.strip():
            yield Problem("model", "name a folder or a model", "Give its path.")
        if self.function is not None and not _FUNCTION.fullmatch(self.function):
            rule = "have the form module:name"
            yield Problem("function", rule, "Write my_package.rewards:length_penalty.")
        if self.function is not None and self.retokenize:
            yield Problem("retokenize", "be false for a function", "It is given text: leave out.")
        if self.name is not None and not _NAME.fullmatch(self.name):
            rule = "consist of letters, digits and . _ - @"
            yield Problem("name", rule, "It becomes part of a key in metrics.jsonl.")


def reward_problems(reward: str, rewards: Sequence[RewardSource]) -> Iterator[Problem]:
    """Yield the rules that several sources break together.

    Args:
        reward: ``ppo.reward``, the one stage where no sources are listed.
        rewards: ``ppo.rewards``.
    """
    if not rewards:
        return
    if reward != DEFAULT_REWARD:
        rule = "be left out where ppo.rewards is given"
        yield Problem("reward", rule, f"List {{stage: {reward}}} there.")
    for i, source in enumerate(rewards):
        if all(getattr(source, key) is None for key in KINDS):
            rule = "be given, or model or function"
            yield Problem(f"rewards[{i}].stage", rule, "Name what gives the score.")
    if not any(source.weight for source in rewards):
        rule = "not be 0 where all others are"
        yield Problem("rewards[0].weight", rule, "Give one of them a weight.")
    taken: set[str] = set()
    for i, source in enumerate(rewards):
        keys = set(metric_keys(source.label))
        if taken & keys:
            rule = f"keep {metric_keys(source.label)[0]} apart from the other rewards' keys"
            yield Problem(f"rewards[{i}].name", rule, "Give it a name of its own.")
        taken |= keys


def metric_keys(name: str) -> tuple[str, str]:
    """Return the keys that a reward's mean and standard deviation have in ``metrics.jsonl``."""
    return f"reward/{name}", f"reward/{name}_std"
