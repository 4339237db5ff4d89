"""Configure the reward model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.schema import Problem
from pipeline.config.source import Source
from pipeline.config.training import LoraSection, TrainingSection


@dataclass(frozen=True)
class RewardSection(TrainingSection):
    """Configure ``reward``; the defaults are InstructGPT's (Ouyang et al. 2022, C.2)."""

    init: str = "sft"
    """Stage whose model to start from (InstructGPT: SFT and GPT-3 do alike)."""
    data: list[Source] = field(default_factory=lambda: [Source("store:")])
    """Rankings: the label store, or files with ``prompt``/``chosen``/``rejected``."""
    validation: list[Source] = field(default_factory=lambda: [Source("store:", split="validation")])
    """Held-out rankings; no prompt of these may be in ``data``."""
    demonstrations: list[Source] = field(default_factory=list)
    """Demonstrations whose mean score becomes 0; empty takes those of ``sft.data``."""
    demonstration_limit: int = 256
    """How many demonstrations the offset is measured on."""
    epochs: float = 1.0
    """Passes over the data; more overfits quickly (InstructGPT C.2)."""
    batch_size: int = 64
    """Prompts an optimizer step, each with all its pairs (InstructGPT: 64)."""
    micro_batch_size: int = 8
    """Prompts a forward pass on one process."""
    learning_rate: float = 9e-6
    """Peak learning rate (InstructGPT: 9e-6)."""
    ties: Literal["drop", "half"] = "drop"
    """``drop`` leaves tied pairs out (InstructGPT); ``half`` trains them towards 0.5."""
    margin: Literal["none", "rating"] = "none"
    """``rating`` asks for a gap of 1/3 a rating point, at most 1 (Llama 2's small margins)."""
    max_length: int = 2048
    """Tokens of prompt and completion together; longer ones are refused."""
    lora: LoraSection | None = None
    """Train adapters and merge them at the end; null trains all weights."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from super().problems()
        yield from self.below(1, "max_length")
        if self.epochs <= 0:
            yield Problem("epochs", "be positive", "The paper trains 1.")
        if not self.data:
            yield Problem("data", "list at least one source", "Use [store:].")
        if self.demonstration_limit < 1:
            yield Problem("demonstration_limit", "be 1 or more", "Use 256.")
