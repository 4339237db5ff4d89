"""Simulate labelers: the gold components, weighed by each one's leanings, seen through noise.

    u_l(x, y) = sum_c w_lc c(x, y) + a_l length(x, y) + sigma e_l(x, y),   e ~ Normal(0, 1)

``w_l`` are the gold weights, each times exp of a normal leaning, scaled back to the same sum;
``a_l`` says how far the labeler likes longer texts. The noise is keyed by (labeler, prompt,
completion): the same labeler judges the same text alike whenever and in whatever company it comes.
Judgments made here are simulated and are to be marked so wherever they appear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.records import Prompt
from pipeline.world.gold import WEIGHTS, GoldVerdict
from pipeline.world.keyed import keyed_random
from pipeline.world.lexicon import words_of

# Set so that two labelers agree on 73 % of pairs, as the paper's do (Ouyang et al. 2022, sec. 3.4).
USUAL_NOISE = 0.19


@dataclass(frozen=True)
class LabelerSettings:
    """How labelers differ from gold and from one another.

    Attributes:
        noise: standard deviation of the noise on a utility in [0, 1].
        leaning: standard deviation of the logarithm of each component's weight.
        length_leaning: standard deviation of the taste for longer texts.
        tie_threshold: utilities closer than this to the best of their group are ties.
        flag_error: share of the flags that are set wrongly.
    """

    noise: float = USUAL_NOISE
    leaning: float = 0.3
    length_leaning: float = 0.03
    tie_threshold: float = 0.05
    flag_error: float = 0.03


@dataclass(frozen=True)
class SimulatedJudgment:
    """One labeler's judgment of the K completions of a prompt.

    Attributes:
        ratings: 1 to 7 a completion, 7 the best.
        ranks: 1 the best; equal ranks are ties, and no rank is left out.
        flags: what the labeler ticked, a completion.
    """

    ratings: tuple[int, ...]
    ranks: tuple[int, ...]
    flags: tuple[dict[str, bool], ...]


@dataclass(frozen=True)
class SimulatedLabeler:
    """A labeler with leanings and noise of their own; judging is a pure function."""

    name: str
    group: Literal["train", "held_out"]
    seed: int
    settings: LabelerSettings
    weights: dict[str, float]
    length_taste: float
    gold: Callable[[Prompt, str], GoldVerdict]

    def perceive(self, prompt: Prompt, completion: str) -> float:
        """Return the utility that this labeler sees in a completion."""
        verdict = self.gold(prompt, completion)
        # A component's worth is what the utility loses without it, so that gold's own gating holds.
        earned = (1 + verdict.follows) / 2
        seen = {**verdict.components}
        seen["constraint"] *= earned
        seen["concise"] *= earned
        utility = sum(self.weights[name] * value for name, value in seen.items())
        excess = math.tanh(len(words_of(completion)) / 12 - 1)
        rng = keyed_random(self.seed, "noise", self.name, prompt.id, completion)
        return utility + self.length_taste * excess + self.settings.noise * rng.gauss(0, 1)

    def judge(self, prompt: Prompt, completions: Sequence[str]) -> SimulatedJudgment:
        """Rate, rank and flag the completions of one prompt."""
        seen = [self.perceive(prompt, completion) for completion in completions]
        ratings = tuple(min(7, max(1, 1 + round(6 * utility))) for utility in seen)
        ranks = [0] * len(seen)
        rank, best = 0, math.inf
        for index in sorted(range(len(seen)), key=lambda i: -seen[i]):
            if best - seen[index] > self.settings.tie_threshold:
                rank, best = rank + 1, seen[index]
            ranks[index] = rank
        flags = tuple(self._flags(prompt, completion) for completion in completions)
        return SimulatedJudgment(ratings, tuple(ranks), flags)

    def _flags(self, prompt: Prompt, completion: str) -> dict[str, bool]:
        verdict = self.gold(prompt, completion)
        true_flags = {
            "fails_instruction": verdict.follows < 1,
            "hallucination": verdict.truthful < 1,
            "violates_constraint": verdict.constraint < 1,
            "harmful": verdict.harmless < 1,
        }
        rng = keyed_random(self.seed, "flags", self.name, prompt.id, completion)
        error = self.settings.flag_error
        return {name: flag != (rng.random() < error) for name, flag in true_flags.items()}


def draw_labeler(
    gold: Callable[[Prompt, str], GoldVerdict],
    name: str,
    group: Literal["train", "held_out"],
    seed: int,
    settings: LabelerSettings,
) -> SimulatedLabeler:
    """Draw one labeler's leanings by name and seed."""
    rng = keyed_random(seed, "labeler", name)
    raw = {key: value * math.exp(rng.gauss(0, settings.leaning)) for key, value in WEIGHTS.items()}
    scale = sum(WEIGHTS.values()) / sum(raw.values())
    weights = {key: value * scale for key, value in raw.items()}
    taste = rng.gauss(0, settings.length_leaning)
    return SimulatedLabeler(name, group, seed, settings, weights, taste, gold)
