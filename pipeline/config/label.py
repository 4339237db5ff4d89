"""Configure the label store and the simulated labelers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.config.schema import Problem, Section
from pipeline.config.source import Source


@dataclass(frozen=True)
class LabelSection(Section):
    """Configure ``label``."""

    store: str | None = None
    """SQLAlchemy URL of the label store; null is SQLite in ``<run_dir>/labels.db``."""
    overlap: int = 1
    """Labelers a task (InstructGPT: mostly 1)."""
    validation_overlap: int = 3
    """Labelers a held-out task, so that their agreement can be measured."""
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
        if self.simulated < 0 or self.simulated_held_out < 0:
            yield Problem("simulated", "be 0 or more", "0 leaves the tasks to people.")
        if self.noise < 0:
            yield Problem("noise", "be 0 or more", "1 is the default.")
        if not 0 <= self.validation_fraction < 1:
            yield Problem("validation_fraction", "lie in [0, 1)", "Use 0.15.")
