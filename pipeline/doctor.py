"""Watch PPO's figures, and say in a sentence what is wrong and which knob to turn.

Most illnesses show in the mean of the last few iterations, some only beside how training started;
the limits stand below, each with its reason. A finding is advice: it stops nothing. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.config.ppo import PpoSection

WINDOW = 5
"""Iterations that a figure is averaged over: one rollout's mean is noise, five are a tenth of a
short training. Beside the start stand the first five, from the tenth iteration on."""
PATIENT = 50
"""Iterations after which scores should have moved: a tenth of InstructGPT's 500 (inferred)."""
START_KL = 0.1
"""Nats a completion. Before the first update policy and reference are one model and the KL is 0;
only rounding may differ, and rounding is far below this."""
FAR_KL = 50.0
"""Nats. The 1B runs of Huang et al. 2024 that over-optimised stood at 50 to 85, and won less than a
fifth of their comparisons."""
ABOVE_TARGET = 3.0
"""Times kl_target. The controller answers an error of 20 % at most: this far off it has lost."""
NEGATIVE_KL = -0.1
"""Nats. The sampled KL is negative by chance, but its expectation is not: five rollouts in a row
below this were not drawn from the policy that is trained."""
KEPT_ENTROPY = 0.25
"""Share of the start's. Healthy runs keep most of it; with a quarter, rollouts are nearly greedy
and nothing new is tried."""
GROWN_ENTROPY = 2.0
"""Times the start's, and 0.5 nats more: optimising a score makes a policy sharper, not flatter."""
RATIO_ERROR = 0.1
"""The mean of pi / pi_old over pi_old's own samples is 1 whatever pi is: further off, the old
log-probabilities are not those of the sampling policy, or a few tokens have run away."""
CLIPPED = 0.3
"""Share of tokens outside the clip range. Such tokens pass no gradient in the direction that they
have moved: with so many the step is too large for the clip to bound."""
GROWN_LENGTH = 2.0
"""Times the start's: reward models pay for length before anything else (Singhal et al. 2023)."""
SHRUNK_LENGTH = 1 / 3
"""Share of the start's: the end comes before an answer does."""
LOST_ENDS = 0.3
"""Drop of the share of completions that end, since the start."""
FEW_ENDS = 0.1
"""Share of completions that end. Below it the penalty for a missing end is much the same for all,
and says nothing."""
REPEATED = 0.3
"""Share of repeated 4-grams, and 0.1 more than at the start: far above what people write, on the
way to the loops of degenerate text (Welleck et al. 2019)."""
KEPT_SPREAD = 0.1
"""Share of the start's standard deviation of the scores: with less, whitening blows up noise."""
FLAT = 0.1
"""Standard deviations of the start's scores that the mean should rise by in PATIENT iterations; the
noise of five rollouts of 80 is half of it."""

WATCHED = (
    *("objective/kl", "objective/scores", "objective/scores_std", "objective/length"),
    *("objective/eos_rate", "objective/repetition", "policy/entropy", "policy/ratio"),
    *("policy/clipfrac", "value/explained_variance"),
)
Figures = Mapping[str, float]


class Finding(NamedTuple):
    """What is wrong: a short name, and the sentence that says it."""

    name: str
    sentence: str


class Course(NamedTuple):
    """How long something has been wrong, by a training's log.

    Attributes:
        name: the finding's short name.
        sentence: as it was said last.
        first: iteration of the first such finding.
        last: iteration of the last.
        iterations: how many had it.
    """

    name: str
    sentence: str
    first: int
    last: int
    iterations: int


class Doctor:
    """Remember how a training started and how it has gone lately, and tell what is wrong.

    Args:
        section: the training's settings, for the advice.
    """

    def __init__(self, section: PpoSection) -> None:
        self._section = section
        self._count = 0
        self._start: list[dict[str, float]] = []
        self._recent: list[dict[str, float]] = []
        self._told: list[str] = []

    def examine(self, figures: Figures) -> dict[str, str]:
        """Take note of one iteration's figures, and return what is wrong by name."""
        noted = {name: figures[name] for name in WATCHED}
        self._count += 1
        self._start = [*self._start, noted][:WINDOW]
        self._recent = [*self._recent, noted][-WINDOW:]
        return dict(self._findings())

    def news(self, findings: Mapping[str, str]) -> list[str]:
        """Return the sentences of findings that were not told before in this training."""
        fresh = [name for name in findings if name not in self._told]
        self._told += fresh
        return [findings[name] for name in fresh]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        return {name: value for name, value in vars(self).items() if name != "_section"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        vars(self).update(state)

    def _findings(self) -> Iterator[Finding]:
        if self._count == 1:
            yield from _at_the_start(self._recent[0])
        if self._count < WINDOW:
            return
        now = _mean(self._recent)
        yield from _distance(self._section, now, self._recent)
        yield from _update(self._section, now)
        yield from _few_ends(self._section, now)
        if self._count < 2 * WINDOW:
            return
        start = _mean(self._start)
        if self._count >= self._section.warmup_iterations + 2 * WINDOW:
            # While rates warm up the value model has hardly learned yet.
            yield from _value(self._section, now)
        yield from _entropy(self._section, now, start)
        yield from _completions(self._section, now, start)
        yield from _scores(self._section, now, start, patient=self._count >= PATIENT)


def trace_findings(rows: Iterable[Mapping[str, Any]]) -> list[Course]:
    """Return the findings of a ``metrics.jsonl``, in the order in which they were first made.

    What has not the form of a finding is passed over: other stages log other things.
    """
    courses: dict[str, Course] = {}
    for row in rows:
        found, step = row.get("doctor"), row.get("step")
        if not isinstance(found, Mapping) or type(step) is not int:
            continue
        for name, sentence in found.items():
            before = courses.get(name, Course(name, "", step, step, 0))
            courses[name] = Course(name, str(sentence), before.first, step, before.iterations + 1)
    return list(courses.values())


def _mean(rows: Sequence[Figures]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in WATCHED}


def _at_the_start(now: Figures) -> Iterator[Finding]:
    kl = now["objective/kl"]
    if abs(kl) > START_KL:
        yield Finding(
            "start_kl",
            f"before the first update the KL to the reference must be 0 and is {kl:.2g} nats: "
            "policy and reference differ in weights or precision; let ppo.init name both.",
        )


def _distance(section: PpoSection, now: Figures, recent: Sequence[Figures]) -> Iterator[Finding]:
    kl, target = now["objective/kl"], section.kl_target
    limit = FAR_KL if target is None else ABOVE_TARGET * target
    if kl > limit:
        knob = "ppo.kl_coef" if target is None else "ppo.kl_coef or lower ppo.kl_horizon"
        yield Finding(
            "kl",
            f"the KL to the reference is {kl:.3g} nats, above {limit:g}: the policy is leaving the "
            f"text that the reward model knows; raise {knob}, or lower ppo.learning_rate.",
        )
    if max(row["objective/kl"] for row in recent) < 0 and kl < NEGATIVE_KL:
        yield Finding(
            "negative_kl",
            f"the KL to the reference stays negative ({kl:.3g} nats): completions are not drawn "
            "from the policy that is trained; sample at ppo.temperature, without truncation.",
        )


def _update(section: PpoSection, now: Figures) -> Iterator[Finding]:
    ratio, clipped = now["policy/ratio"], now["policy/clipfrac"]
    if abs(ratio - 1) > RATIO_ERROR or clipped > CLIPPED:
        knobs = "lower ppo.learning_rate"
        if section.num_ppo_epochs > 1:
            knobs += ", ppo.num_ppo_epochs, or set ppo.stop_approxkl"
        yield Finding(
            "ratio",
            f"one iteration moves the policy too far (mean ratio {ratio:.3g}, {clipped:.0%} of the "
            f"tokens clipped): {knobs}.",
        )


def _few_ends(section: PpoSection, now: Figures) -> Iterator[Finding]:
    rate = now["objective/eos_rate"]
    treated = (section.missing_eos_penalty, section.missing_eos_score) != (None, None)
    if rate < FEW_ENDS and treated:
        yield Finding(
            "few_ends",
            f"{1 - rate:.0%} of the completions are cut at {section.max_new_tokens} tokens, so "
            "what a missing end costs says nothing: raise ppo.max_new_tokens, or set "
            "ppo.missing_eos_penalty and ppo.missing_eos_score to null.",
        )


def _value(section: PpoSection, now: Figures) -> Iterator[Finding]:
    explained = now["value/explained_variance"]
    if explained < 0:
        scale = ", or set ppo.score_scaling: running" if section.score_scaling == "none" else ""
        yield Finding(
            "value",
            f"the value model predicts returns worse than their mean does (explained variance "
            f"{explained:.2g}): raise ppo.value_learning_rate{scale}.",
        )


def _entropy(section: PpoSection, now: Figures, start: Figures) -> Iterator[Finding]:
    entropy, before = now["policy/entropy"], start["policy/entropy"]
    said = f"the policy's entropy went from {before:.3g} to {entropy:.3g} nats"
    if entropy < KEPT_ENTROPY * before:
        yield Finding(
            "entropy_collapse",
            f"{said}, and little new is tried: raise ppo.kl_coef or ppo.entropy_coef, or lower "
            "ppo.learning_rate.",
        )
    if entropy > max(GROWN_ENTROPY * before, before + 0.5):
        knob = "lower ppo.entropy_coef" if section.entropy_coef else "lower ppo.learning_rate"
        yield Finding("entropy_growth", f"{said}: it forgets how to write; {knob}.")


def _completions(section: PpoSection, now: Figures, start: Figures) -> Iterator[Finding]:
    length, before = now["objective/length"], start["objective/length"]
    said = f"completions went from {before:.3g} to {length:.3g} tokens"
    if length > GROWN_LENGTH * before:
        yield Finding(
            "length_growth",
            f"{said}: the reward model may pay for length; compare it with the length floor in "
            "reward/accuracy.json, and raise ppo.kl_coef.",
        )
    if length < SHRUNK_LENGTH * before:
        knob = "set ppo.whiten_rewards: false" if section.whiten_rewards else "raise ppo.kl_coef"
        yield Finding("length_collapse", f"{said}, and hardly answer: {knob}.")
    ended, ended_before = now["objective/eos_rate"], start["objective/eos_rate"]
    if ended < ended_before - LOST_ENDS:
        yield Finding(
            "lost_ends",
            f"{ended:.0%} of the completions end by themselves, where {ended_before:.0%} did: "
            "raise ppo.missing_eos_penalty or ppo.max_new_tokens.",
        )
    repeated = now["objective/repetition"]
    if repeated > max(REPEATED, start["objective/repetition"] + 0.1):
        yield Finding(
            "repetition",
            f"{repeated:.0%} of the 4-grams in a completion repeat an earlier one, where "
            f"{start['objective/repetition']:.0%} did: the reward model does not mind loops; raise "
            "ppo.kl_coef, or rank such completions.",
        )


def _scores(
    section: PpoSection, now: Figures, start: Figures, *, patient: bool
) -> Iterator[Finding]:
    spread, before = now["objective/scores_std"], start["objective/scores_std"]
    rise = now["objective/scores"] - start["objective/scores"]
    if spread < KEPT_SPREAD * before or before == 0:
        yield Finding(
            "score_spread",
            f"the scores' standard deviation went from {before:.3g} to {spread:.3g}: completions "
            "score alike and the gradient is noise; raise ppo.kl_coef or ppo.entropy_coef.",
        )
    elif rise < -before:
        yield Finding(
            "score_fall",
            f"the mean score fell by {-rise:.3g}, more than a standard deviation: lower "
            "ppo.learning_rate, or raise ppo.warmup_iterations.",
        )
    elif patient and rise < FLAT * before:
        knobs = "raise ppo.learning_rate, or lower ppo.kl_coef"
        knobs += " or ppo.ptx_coef" if section.ptx_coef else ""
        yield Finding(
            "score_flat",
            f"the mean score has risen by no more than {rise:.2g} since the start: {knobs}.",
        )
