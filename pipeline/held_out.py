"""Measure a policy during its training on prompts that it is not trained on, and keep the best.

Every evaluation answers the same prompts with the same random numbers, as does the policy that
training started from, the model of ``ppo.init``: what differs between two answers is the policy
alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from pipeline.episodes import EpisodeSampler
from pipeline.errors import ConfigError
from pipeline.judges import win_rate
from pipeline.records import Prompt
from pipeline.rollout import Episodes, Judged
from pipeline.rollout_figures import describe_answers


def leave_out(prompts: Sequence[Prompt], trained: Sequence[Prompt], least: int) -> list[Prompt]:
    """Return the prompts that are not trained on.

    Args:
        prompts: of the evaluations.
        trained: what is rolled out.
        least: how many there must be: every process answers one.

    Raises:
        ConfigError: if fewer are left.
    """
    known = {prompt.id for prompt in trained}
    kept = [prompt for prompt in prompts if prompt.id not in known]
    if len(kept) < least:
        raise ConfigError(
            f"ppo.eval_prompts must hold {least} or more that are not in ppo.prompts, got "
            f"{len(kept)} of {len(prompts)}. Name another split or file."
        )
    return kept


class HeldOut:
    """Answer held-out prompts, and compare the answers with the start's.

    Args:
        sampler: draws the completions.
        prompts: what to answer.
        room: tokens that a prompt may have.
        ask: lets the models judge episodes of a policy.

    Raises:
        DataError: if a prompt is longer.
    """

    def __init__(
        self,
        sampler: EpisodeSampler,
        prompts: Sequence[Prompt],
        room: int,
        ask: Callable[[Episodes, Any], Judged],
    ) -> None:
        self._sampler, self._prompts, self._ask = sampler, prompts, ask
        self._encoded = sampler.formatter.check_lengths(prompts, room, "ppo.eval_prompts")
        self._start: Tensor | None = None

    def measure(self, policy: Any, start: Any) -> dict[str, float]:
        """Return ``eval/...``: a policy's figures, and how often it beats the start.

        Args:
            policy: what to measure.
            start: what training started from; it is asked once.
        """
        judged = self._answer(policy)
        if self._start is None:
            self._start = self._answer(start).scores
        figures = {
            **describe_answers(judged),
            "win_rate": win_rate(judged.scores.tolist(), self._start.tolist()),
            "start_scores": float(self._start.mean()),
            "prompts": len(self._prompts),
        }
        return {f"eval/{name}": figure for name, figure in figures.items()}

    def _answer(self, policy: Any) -> Judged:
        return self._ask(self._sampler.roll_out(policy, self._prompts, self._encoded), policy)


@dataclass
class Selection:
    """Know which evaluation was the best, and how many have passed since.

    Attributes:
        best_scores: mean score of the best evaluation.
        best_iteration: after which iteration it was.
        misses: evaluations since that were no better.
    """

    best_scores: float = -math.inf
    best_iteration: int = 0
    misses: int = 0

    def note(self, iteration: int, scores: float) -> bool:
        """Take note of an evaluation, and tell whether it is the best so far."""
        if scores > self.best_scores:
            self.best_scores, self.best_iteration, self.misses = scores, iteration, 0
            return True
        self.misses += 1
        return False

    def is_over(self, patience: int) -> bool:
        """Tell whether ``patience`` evaluations in a row were no better; never with 0."""
        return 0 < patience <= self.misses

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed training needs."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        vars(self).update(state)
