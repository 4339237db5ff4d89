"""Configure the label store, the labeling app, and the simulated labelers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pipeline.config.schema import Problem, Section
from pipeline.config.source import Source


@dataclass(frozen=True)
class AppSection(Section):
    """Configure how the labeling app hands out work; no artifact of the stage depends on it."""

    lease_minutes: float = 30.0
    """Minutes that a task is held without a sign of life from its page."""
    gold_rate: float = 0.03
    """Share of tasks with a known answer, where a lead has set some."""
    repeat_rate: float = 0.03
    """Share of tasks that a labeler has judged before, to compare them with themselves."""
    daily_goal: int | None = None
    """Tasks a day that the page shows progress towards; null shows none."""
    session_hours: float = 12.0
    """Hours until a sign-in ends."""
    models_memory_gb: float | None = None
    """What models and answers of /lab/compare take, GB; null is half of the machine's memory."""
    model_threads: int = 1
    """CPU threads of the models at /lab/compare."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from self.not_positive("lease_minutes", "session_hours")
        yield from self.below(1, "model_threads")
        yield from self.outside_unit("gold_rate", "repeat_rate")
        if self.gold_rate + self.repeat_rate > 1:
            yield Problem("repeat_rate", "be at most 1 with gold_rate", "Lower one of them.")
        if self.models_memory_gb is not None and self.models_memory_gb <= 0:
            yield Problem("models_memory_gb", "be positive, or null", "Leave it out for half.")
        if self.daily_goal is not None and self.daily_goal < 1:
            yield Problem("daily_goal", "be 1 or more, or null", "Leave it out to show none.")


@dataclass(frozen=True)
class ComparisonSection(Section):
    """Compare two stages' completions of the same prompts, blind."""

    stages: list[str]
    """The two stages; ``sample.stages`` must have them both answer."""
    split: Literal["train", "validation", "test"] = "validation"
    """Split of the prompts."""
    overlap: int = 1
    """Labelers a comparison."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        if len(set(self.stages)) != 2 or len(self.stages) != 2:
            yield Problem("stages", "name two different stages", "Write [sft, ppo].")
        yield from self.below(1, "overlap")


@dataclass(frozen=True)
class LabelSection(Section):
    """Configure ``label``."""

    ASIDE: ClassVar[tuple[str, ...]] = ("app",)

    store: str | None = None
    """SQLAlchemy URL of the label store; null is SQLite in ``<run_dir>/labels.db``."""
    overlap: int = 1
    """Labelers a task (InstructGPT: mostly 1)."""
    validation_overlap: int = 3
    """Labelers a held-out task, so that their agreement can be measured."""
    held_out_overlap: int = 0
    """Held-out labelers a held-out task, beside the others."""
    tasks: Literal["all", "selected"] = "all"
    """Make a task of every prompt, or only of those that ``steerline labels select`` draws."""
    demonstration_overlap: int = 1
    """Labelers who answer a prompt that has no completion; 0 asks for no demonstrations."""
    comparisons: list[ComparisonSection] = field(default_factory=list)
    """Pairs of stages that people compare, for win rates."""
    completions: list[Source] = field(default_factory=list)
    """Prompts with completions made elsewhere, to be ranked; those without are to be answered."""
    app: AppSection = field(default_factory=AppSection)
    """How the labeling app hands out work."""
    simulated: int = 0
    """Simulated labelers who judge tiny-world tasks; 0 leaves the tasks to people."""
    simulated_held_out: int = 0
    """Further simulated labelers whose judgments are kept from training."""
    noise: float = 1.0
    """Scale of the simulated labelers' noise; 1 gives the paper's agreement of about 73 %."""
    imports: list[Source] = field(default_factory=list)
    """Human rankings and comparisons to bring into the store."""
    validation_fraction: float = 0.15
    """Share of the imported prompts that is held out from the reward model."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from self.below(1, "overlap", "validation_overlap")
        yield from self.below(0, "held_out_overlap", "demonstration_overlap")
        if self.simulated < 0 or self.simulated_held_out < 0:
            yield Problem("simulated", "be 0 or more", "0 leaves the tasks to people.")
        if self.noise < 0:
            yield Problem("noise", "be 0 or more", "1 is the default.")
        if not 0 <= self.validation_fraction < 1:
            yield Problem("validation_fraction", "lie in [0, 1)", "Use 0.15.")
