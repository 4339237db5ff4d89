"""Configure the evaluation after every stage, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from pipeline.config.best_of import BestOfSection
from pipeline.config.sampling import DecodingSection
from pipeline.config.schema import Problem, Section
from pipeline.config.source import Source
from pipeline.config.toxicity import ToxicitySection
from pipeline.config.training import Precision
from pipeline.config.win_rates import WinRatesSection


@dataclass(frozen=True)
class EvaluateSection(Section):
    """Configure ``evaluate``: the same examples in the same order for every stage."""

    ADDITIONS: ClassVar[tuple[str, ...]] = ("best_of", "toxicity", "win_rates")
    # What a folder holds is hashed, where it lies changes nothing; nor does what fails the run.
    ASIDE: ClassVar[tuple[str, ...]] = ("data", "max_tax")
    LATER: ClassVar[Mapping[str, Any]] = MappingProxyType({"precision": "float32"})

    tasks: list[str] = field(default_factory=list)
    """``tiny``, ``offline``, ``llama``, ``instructgpt``, ``bias``; paths; or lm_eval names."""
    data: str | None = None
    """Folder of ``offline`` and other presets' files; ``~`` and environment variables are read."""
    shots: list[int] = field(default_factory=lambda: [0, 1, 5])
    """Numbers of examples shown before a question; a preset's or a task's own take their place."""
    limit: int | None = None
    """Documents a task, the first ones; null is all."""
    batch_size: int = 32
    """Sequences a forward pass, where few-shot tasks do not pack theirs, and of all else."""
    precision: Precision = "float32"
    """``bf16`` computes few-shot tasks, perplexity and answers under autocast; best-of-n never."""
    perplexity: list[Source] = field(default_factory=list)
    """Held-out text."""
    perplexity_documents: int = 200
    """Documents of held-out text."""
    prompts: list[Source] = field(default_factory=list)
    """Held-out prompts that instruction following is measured on."""
    decoding: DecodingSection = field(default_factory=DecodingSection)
    """How the held-out prompts are answered."""
    calibration_bins: int = 10
    """Equal-mass bins of the expected calibration error."""
    toxicity: ToxicitySection | None = None
    """Score completions by a function of one's own; null does not."""
    max_tax: float | None = None
    """Fail (exit code 3) where a few-shot mean falls further below the base's; a fraction."""
    best_of: BestOfSection | None = None
    """Compare PPO with best-of-n sampling at equal KL; null does not."""
    win_rates: WinRatesSection | None = None
    """Compare stage with stage by every judge that there is; null does not."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from self.below(1, "batch_size", "perplexity_documents")
        if not self.shots or any(shots < 0 for shots in self.shots):
            yield Problem("shots", "be one number or more, 0 or more each", "Use [0, 1, 5].")
        if len(set(self.shots)) < len(self.shots):
            yield Problem("shots", "name each number once", "Remove the repetition.")
        if self.limit is not None and self.limit < 1:
            yield Problem("limit", "be 1 or more, or null", "Leave it out for all documents.")
        if self.calibration_bins < 2:
            yield Problem("calibration_bins", "be 2 or more", "Use 10.")
        if self.max_tax is not None and not 0 <= self.max_tax <= 1:
            yield Problem("max_tax", "lie in [0, 1], or be null", "Use 0.02 for 2 points.")
        if self.max_tax is not None and not self.tasks:
            yield Problem("max_tax", "stand beside tasks", "Name evaluate.tasks, or leave it out.")
        if self.best_of and not (self.best_of.prompts or self.prompts):
            yield Problem(
                "best_of.prompts",
                "name prompts where evaluate.prompts is empty",
                "Give them in either place.",
            )
        if self.win_rates and not self.prompts:
            yield Problem("prompts", "be given with win_rates", "Add the held-out prompts.")


@dataclass(frozen=True)
class ReportSection(Section):
    """Configure ``report``."""

    title: str = "Steerline run"
    """Heading of the page."""
    notes: list[str] = field(default_factory=list)
    """Sentences that the page states up front, e.g. where the base comes from."""
    samples: int = 12
    """Prompts shown with each stage's answer side by side."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from self.below(0, "samples")
