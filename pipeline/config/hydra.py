"""Configure PPO's models on one frozen backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.schema import Problem, Section
from pipeline.config.training import LoraSection


@dataclass(frozen=True)
class HydraSection(Section):
    """Keep policy, reference, value and reward model on one backbone (Santacroce et al. 2023).

    The reward model shares it where the reward stage trained adapters (``reward.lora``) on the
    stage that PPO starts from; any other is loaded beside it.
    """

    lora: LoraSection = field(default_factory=LoraSection)
    """Adapters of the policy, and of the value model that starts from no reward model's."""
    value: Literal["adapter", "trunk"] = "adapter"
    """Give values by an adapter of their own, or by a head on the policy: one pass for both."""
    value_coef: float = 0.1
    """Weight of the value loss, with ``value: trunk`` (TRL: 0.1); apart it changes nothing."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from self.not_positive("value_coef")
