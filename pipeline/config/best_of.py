"""Configure best-of-n sampling, the baseline that PPO is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from pipeline.config.schema import Problem, Section
from pipeline.config.source import Source


@dataclass(frozen=True)
class BestOfSection(Section):
    """Configure ``evaluate.best_of``: PPO against best-of-n sampling from where it started."""

    stage: str = "sft@ppo_init"
    """Stage that the n completions come from; every ``ppo`` stage that starts there is compared."""
    reward: str = "reward"
    """Stage whose reward model picks the best."""
    n: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    """Numbers of completions that the best is picked from, ascending."""
    samples: int = 4
    """Completions a prompt from each ``ppo`` policy."""
    prompts: list[Source] = field(default_factory=list)
    """Held-out prompts; empty takes evaluate.prompts."""
    limit: int | None = None
    """Prompts at most, evenly spaced through the list; null takes all."""
    temperature: float = 1.0
    """Divide the logits by this, in sampling and in the KL; 1 is what PPO trains."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        ascending = all(small < large for small, large in pairwise(self.n))
        if not self.n or self.n[0] < 1 or not ascending:
            yield Problem("n", "be ascending positive integers", "Use [1, 2, 4, 8, 16].")
        yield from self.below(1, "samples")
        if self.limit is not None and self.limit < 1:
            yield Problem("limit", "be 1 or more, or null", "Leave it out for all prompts.")
        # Greedy decoding has no distribution to be a KL away from.
        yield from self.not_positive("temperature")
