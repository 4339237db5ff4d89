"""Scale and clip the scores before they are rewarded."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.config.ppo import PpoSection

EPSILON = 1e-8
"""Added to the variance of a batch, as whitening does (N details, 18); below it all are equal."""


class RunningVariance:
    """Keep the population variance of all numbers seen (Chan et al. 1979, pairwise update)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Take note of some numbers."""
        values = values.double()
        count, mean = float(values.numel()), float(values.mean())
        change, total = mean - self.mean, self.count + count
        self.squares += float(((values - mean) ** 2).sum())
        self.squares += change**2 * self.count * count / total
        self.mean += change * count / total
        self.count = total

    @property
    def variance(self) -> float:
        """Return the variance of what was seen, 0 of nothing."""
        return self.squares / self.count if self.count else 0.0


class ScoreScaler:
    """Turn scores into what is rewarded at a completion's last token.

        none:    s
        running: s / sqrt(Var), Var of all scores so far, these included; s where all are equal
        batch:   (s - mean) / sqrt(Var + 1e-8), mean and variance of the rollout

    and then clip to +- ``score_clip``. ``running`` keeps the meaning of 0, where demonstrations
    score; ``batch`` is the whitening of Llama 2 (Touvron et al. 2023, section 3.2.3).

    Args:
        section: ``score_scaling`` and ``score_clip``.
    """

    def __init__(self, section: PpoSection) -> None:
        self._scaling, self._clip = section.score_scaling, section.score_clip
        self._seen = RunningVariance()

    def scale(self, scores: Tensor) -> Tensor:
        """Return the scores of one rollout as they are rewarded, [batch]."""
        if self._scaling == "running":
            self._seen.add(scores)
            if self._seen.variance > EPSILON:
                scores = scores / self._seen.variance**0.5
        elif self._scaling == "batch":
            variance = scores.var(correction=0)
            scores = (scores - scores.mean()) * torch.rsqrt(variance + EPSILON)
        return scores if self._clip is None else scores.clamp(-self._clip, self._clip)

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed training needs."""
        return dict(vars(self._seen))

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        vars(self._seen).update(state)
