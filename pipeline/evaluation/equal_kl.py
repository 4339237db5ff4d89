"""Compare PPO's policies with best-of-n sampling that is as far from the start, in KL.

A policy's score says little alone: more KL buys more score. Best-of-n draws a curve of what can be
had for how much KL without training, and a policy is measured against the point of that curve at
its own KL, on a straight line between two neighbouring n. Both answered the same prompts, so the
difference is a mean of d_i over prompts i,

    d_i = v_i - c_i(K) - c'(K) (k_i - K),   K = mean k_i

with v_i the policy's value, c_i the curve's and c' the slope of its mean. The last term has mean 0:
it carries the uncertainty of K, to first order, into the interval (bootstrap over prompts).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.best_of import (
    Floats,
    beats,
    best_of_kl,
    best_weights,
    duel_weights,
    expect_win,
    interpolate,
    segment_of,
)
from pipeline.bootstrap import bootstrap_mean

MEASURES = ("score", "followed", "utility")
"""What a completion is worth: to the reward model, and to the tiny world's gold."""
WIN_RATE = "win_rate"
"""How often a completion beats one of the start's, ties half: by gold, else by the reward model."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Answers:
    """Hold one stage's completions of one prompt.

    Attributes:
        values: measure to one value a completion, [completions]; only what was judged.
        log_ratios: log pi - log pi_start of each, [completions]; None for the start itself.
    """

    values: Mapping[str, Floats]
    log_ratios: Floats | None

    @property
    def preference(self) -> Floats:
        """Return what a win is decided by."""
        return self.values.get("utility", self.values["score"])


@dataclass(frozen=True)
class Curve:
    """Hold what best-of-n gives for how much KL.

    Attributes:
        n: numbers of completions that the best is picked from, ascending.
        levels: KL of each, [n].
        values: measure to prompt to the expected value of each, [n].
    """

    n: Sequence[int]
    levels: Floats
    values: Mapping[str, Mapping[str, Floats]]


def compare(
    start: Iterable[Row], policies: Mapping[str, Iterable[Row]], n: Sequence[int], seed: int
) -> dict[str, Any]:
    """Return the figures of best-of-n, of each policy, and of both at equal KL.

    Args:
        start: rows of the start's completions, more than max(n) a prompt.
        policies: stage to the rows of its completions of the same prompts.
        n: numbers of completions that the best is picked from, ascending.
        seed: of the bootstrap.
    """
    drawn = read_answers(start)
    curve = make_curve(drawn, range(n[0], n[-1] + 1))
    distinct = [len(set(answers.values["score"])) for answers in drawn.values()]
    return {
        "prompts": len(drawn),
        "completions": len(next(iter(drawn.values())).values["score"]),
        "distinct_scores": float(np.mean(distinct)),
        "best_of": [describe_point(curve, count, seed) for count in n],
        "policies": {
            stage: describe_policy(drawn, read_answers(rows), curve, seed)
            for stage, rows in policies.items()
        },
    }


def read_answers(rows: Iterable[Row]) -> dict[str, Answers]:
    """Return each prompt's completions, by its id."""
    by_prompt: dict[str, list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    return {
        prompt: Answers(
            {
                name: np.array([row[name] for row in group], dtype=np.float64)
                for name in MEASURES
                if name in group[0]
            },
            np.array([row["log_ratio"] for row in group]) if "log_ratio" in group[0] else None,
        )
        for prompt, group in by_prompt.items()
    }


def make_curve(drawn: Mapping[str, Answers], n: Sequence[int]) -> Curve:
    """Return what best-of-n is expected to give on each prompt.

    Args:
        drawn: more than max(n) of the start's completions, by prompt.
        n: numbers of completions, ascending; those between two cost nothing to draw.
    """
    values: dict[str, dict[str, Floats]] = {name: {} for name in (*MEASURES, WIN_RATE)}
    for prompt, answers in drawn.items():
        scores = answers.values["score"]
        weights = np.array([best_weights(scores, count) for count in n])
        for name, worth in answers.values.items():
            values[name][prompt] = weights @ worth
        values[WIN_RATE][prompt] = np.array(
            [expect_win(duel_weights(scores, count), answers.preference) for count in n]
        )
    levels = np.array([best_of_kl(count) for count in n])
    return Curve(n, levels, {name: found for name, found in values.items() if found})


def describe_point(curve: Curve, n: int, seed: int) -> dict[str, Any]:
    """Return the figures of best-of-n for one n."""
    place = curve.n.index(n)
    figures = {
        name: _interval([values[place] for values in by_prompt.values()], seed)
        for name, by_prompt in curve.values.items()
    }
    return {"n": n, "kl": float(curve.levels[place]), **figures}


def describe_policy(
    drawn: Mapping[str, Answers], answers: Mapping[str, Answers], curve: Curve, seed: int
) -> dict[str, Any]:
    """Return a policy's KL and figures, and what it is ahead of best-of-n at that KL.

    ``between`` names the two n of that KL; it is null, and so is what is compared, where the KL
    lies outside those of all n.
    """
    kl = {prompt: float(_log_ratios(own).mean()) for prompt, own in answers.items()}
    left = segment_of(curve.levels, float(np.mean(list(kl.values()))))
    figures: dict[str, Any] = {
        "completions": len(_log_ratios(next(iter(answers.values())))),
        "kl": _interval(list(kl.values()), seed),
        "between": None if left is None else [curve.n[left], curve.n[left + 1]],
        "at_equal_kl": {},
    }
    for name, by_prompt in curve.values.items():
        own = {prompt: _value(name, answers[prompt], drawn[prompt]) for prompt in by_prompt}
        figures[name] = _interval(list(own.values()), seed)
        figures["at_equal_kl"][name] = compare_at(
            np.array([kl[prompt] for prompt in by_prompt]),
            np.array(list(own.values())),
            np.array(list(by_prompt.values())).T,
            curve.levels,
            seed,
        )
    return figures


def compare_at(
    kl: Floats, values: Floats, curve: Floats, levels: Floats, seed: int
) -> dict[str, float] | None:
    """Compare a policy's values with the curve's at the policy's KL; None outside the curve.

    Args:
        kl: the policy's KL samples, [prompts].
        values: what its completions are worth, [prompts].
        curve: what best-of-n's are worth, [n, prompts].
        levels: KL of each n, ascending, [n].
        seed: of the bootstrap.
    """
    level = float(kl.mean())
    left, rival = segment_of(levels, level), interpolate(curve, levels, level)
    if left is None or rival is None:
        return None
    rise, run = curve[left + 1].mean() - curve[left].mean(), levels[left + 1] - levels[left]
    ahead = bootstrap_mean(values - rival - rise / run * (kl - level), seed=seed)
    return {
        "best_of": float(rival.mean()),
        "difference": ahead.estimate,
        "low": ahead.low,
        "high": ahead.high,
    }


def flatten_figures(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the estimates by stage under flat keys, as they are logged."""
    names = ("kl", *MEASURES, WIN_RATE)
    flat: dict[str, dict[str, float]] = {found["stage"]: {}}
    for point in found["best_of"]:
        flat[found["stage"]] |= {
            f"best_of/{point['n']}/{name}": _estimate(point[name])
            for name in names
            if name in point
        }
    for stage, figures in found["policies"].items():
        flat[stage] = {
            f"best_of/{name}": _estimate(figures[name]) for name in names if name in figures
        }
        flat[stage] |= {
            f"best_of/ahead/{name}": ahead["difference"]
            for name, ahead in figures["at_equal_kl"].items()
            if ahead is not None
        }
    return flat


def _estimate(figure: float | Mapping[str, float]) -> float:
    return figure["estimate"] if isinstance(figure, Mapping) else figure


def _value(name: str, own: Answers, start: Answers) -> float:
    if name == WIN_RATE:
        return float(beats(own.preference, start.preference).mean())
    return float(own.values[name].mean())


def _log_ratios(answers: Answers) -> Floats:
    assert answers.log_ratios is not None, "a policy's rows carry their log ratios"
    return answers.log_ratios


def _interval(values: Sequence[float], seed: int) -> dict[str, float]:
    return bootstrap_mean(values, seed=seed)._asdict()
