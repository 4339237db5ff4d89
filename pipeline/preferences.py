"""Explain preferences between stages by two models: at equal lengths, and by strengths.

A comparison is one judge's preference between two stages' answers to one prompt. Intervals are
percentiles over resampled prompts, for comparisons on one prompt are not independent.

Departures from the literature:
1. A tie is half a win for either side, in the models too: a likelihood takes fractions. Davidson
   (1970) gives ties a parameter of their own. Half wins need none, and keep the order.
2. Each coefficient has a normal prior of standard deviation ``PRIOR_SD``. It moves an estimate from
   a hundred comparisons in its third digit at most, and keeps one finite where every comparison was
   won (``separated`` says so: the data alone put it at infinity).
3. The length model is one of a pair of stages. AlpacaEval fits the difficulty of each instruction
   as well, over many models; with one comparison a prompt it cannot be told from chance.
4. Equal answers say nothing of length: they stay ties, and the length model is one of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from pipeline.bootstrap import Interval, resample

Floats = NDArray[np.float64]

PRIOR_SD = 10.0
"""Of each coefficient, in log odds: e^10 to 1 is no surprise to it."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Comparison:
    """One judged pair of answers to a prompt.

    Attributes:
        prompt: the prompt's id.
        stage: whose answer was compared.
        against: whose answer it was compared with.
        preference: 1 where the stage's answer was preferred, 0 where the other's, 1/2 a tie.
        longer: characters of the stage's answer less those of the other's.
        first: for each time that the pair was shown, 1 where the answer shown first was preferred,
            0 where the second, 1/2 neither; empty where the judge sees no order.
        same: whether the two answers are the same text.
    """

    prompt: str
    stage: str
    against: str
    preference: float
    longer: int
    first: tuple[float, ...] = ()
    same: bool = False

    @property
    def reversed(self) -> Comparison:
        """Return the same comparison from the other side."""
        return replace(
            self,
            stage=self.against,
            against=self.stage,
            preference=1.0 - self.preference,
            longer=-self.longer,
        )


@dataclass(frozen=True)
class LengthControlled:
    """Hold what is left of a win rate at equal lengths.

    Attributes:
        win_rate: expected share of wins where both answers are equally long.
        coefficient: log odds of a win per unit of tanh(difference / its standard deviation);
            positive where the judge prefers the longer.
        separated: whether length and stage alone decide every comparison, so that the data do not
            tell one from the other.
    """

    win_rate: Interval
    coefficient: float
    separated: bool


@dataclass(frozen=True)
class Strength:
    """Hold a stage's Bradley-Terry strength, 0 for the base.

    Attributes:
        strength: log odds that its answer is preferred to the base's.
        beats_base: the same as a probability.
        comparisons: those that the stage was in.
        separated: whether the data alone put it at infinity: no chain of wins leads from the stage
            to the base, or none back.
    """

    stage: str
    strength: Interval
    beats_base: Interval
    comparisons: int
    separated: bool


def prefer(ours: float, theirs: float, *, same: bool) -> float:
    """Return 1 where the first of two answers is worth more, 0 where the second is, 1/2 for a tie.

    The same text ties with itself: a reward model scores it otherwise by a rounding where it stands
    in a batch of other lengths.

    Args:
        ours: what the first is worth.
        theirs: what the second is worth.
        same: whether both are the same text.
    """
    return 0.5 if same else 0.5 + 0.5 * float(np.sign(ours - theirs))


def control_length(
    comparisons: Sequence[Comparison], *, seed: int, samples: int = RESAMPLES
) -> LengthControlled | None:
    """Return the win rate that one stage has over another at equal lengths.

        P(win) = sigmoid(theta + phi * tanh(d / sd(d))),   win rate = q / 2 + (1 - q) sigmoid(theta)

    with d the stage's length less the other's where the answers differ, and q the share of equal
    ones. Dubois et al. 2024, without their term of the instruction's difficulty.

    Returns:
        The figures, or None where all d are equal: nothing tells length from stage.
    """
    differ = np.array([not one.same for one in comparisons])
    differences = np.array([one.longer for one in comparisons], dtype=np.float64)[differ]
    spread = float(differences.std()) if differences.size else 0.0
    if spread == 0:
        return None
    feature = np.tanh(differences / spread)
    design = np.stack([np.ones_like(feature), feature], axis=1)
    won = np.array([one.preference for one in comparisons])[differ]

    def fit(weights: Floats) -> Floats:
        own = weights[:, differ]
        return fit_logistic(design, own * won, own)

    def rate(weights: Floats) -> Floats:
        kept = weights[:, differ].sum(axis=1) / weights.sum(axis=1)
        return np.asarray(0.5 * (1.0 - kept) + kept * expit(fit(weights)[:, 0]))

    whole = np.ones((1, len(comparisons)))
    rates = resample([one.prompt for one in comparisons], rate, seed=seed, samples=samples)
    return LengthControlled(
        win_rate=_interval(float(rate(whole)[0]), rates),
        coefficient=float(fit(whole)[0, 1]),
        separated=is_separated(feature, won),
    )


def rate_strengths(
    comparisons: Sequence[Comparison],
    order: Sequence[str],
    *,
    seed: int,
    samples: int = RESAMPLES,
) -> list[Strength]:
    """Return each stage's Bradley-Terry strength, the base's being 0.

        P(i preferred to j) = sigmoid(s_i - s_j),   s_base = 0

    Bradley & Terry 1952, a tie half a win of either side. Stages that no chain of comparisons
    connects with the base have no strength beside it and are left out.

    Args:
        comparisons: of any pairs of stages, at least one.
        order: all stages; the first that was compared is the base.
        seed: of the resampling.
        samples: how many resamples.
    """
    named = {name for one in comparisons for name in (one.stage, one.against)}
    present = [name for name in order if name in named]
    met = {(one.stage, one.against) for one in comparisons}
    connected = _reach(present[0], {*met, *((b, a) for a, b in met)})
    stages = [name for name in present if name in connected]
    place = {name: i for i, name in enumerate(stages)}
    kept = [one for one in comparisons if one.stage in place]
    pairs = sorted({(one.stage, one.against) for one in kept}, key=lambda p: [place[n] for n in p])
    design = np.zeros((len(pairs), len(stages)))
    for row, (stage, against) in enumerate(pairs):
        design[row, place[stage]], design[row, place[against]] = 1.0, -1.0
    # Many comparisons of a pair are as good as their sum: one row a pair, whatever their number.
    columns = np.zeros((len(kept), len(pairs)))
    columns[np.arange(len(kept)), [pairs.index((one.stage, one.against)) for one in kept]] = 1.0
    won = np.array([one.preference for one in kept])

    def fit(weights: Floats) -> Floats:
        return fit_logistic(design[:, 1:], (weights * won) @ columns, weights @ columns)

    estimate = fit(np.ones((1, len(kept))))[0]
    drawn = resample([one.prompt for one in kept], fit, seed=seed, samples=samples)
    intervals = [Interval(0.0, 0.0, 0.0)]
    intervals += [_interval(value, drawn[:, i]) for i, value in enumerate(estimate)]
    beaten = {(one.stage, one.against) for one in kept if one.preference > 0}
    beaten |= {(one.against, one.stage) for one in kept if one.preference < 1}
    finite = _reach(stages[0], beaten) & _reach(stages[0], {(b, a) for a, b in beaten})
    return [
        Strength(
            stage=name,
            strength=interval,
            beats_base=Interval(*(float(expit(end)) for end in interval)),
            comparisons=sum(name in (one.stage, one.against) for one in kept),
            separated=name not in finite,
        )
        for name, interval in zip(stages, intervals, strict=True)
    ]


def fit_logistic(design: Floats, won: Floats, trials: Floats, prior_sd: float = PRIOR_SD) -> Floats:
    """Fit logistic models to shares of wins, many at a time, by Newton's method.

        L(b) = sum_i won_i log sigmoid(x_i b) + (trials_i - won_i) log sigmoid(-x_i b)
               - |b|^2 / (2 prior_sd^2)

    L is concave; a step that would lower it is halved until it does not.

    Args:
        design: x, [rows, coefficients].
        won: wins a row, fractions allowed, [..., rows].
        trials: comparisons a row, fractions allowed, [..., rows].
        prior_sd: of every coefficient; infinity is no prior, where the maximum is finite.
    Returns:
        b at the maximum, [..., coefficients].
    """
    rows, width = design.shape
    batch = won.shape[:-1]
    won, trials = won.reshape(-1, rows), trials.reshape(-1, rows)
    products = (design[:, :, None] * design[:, None, :]).reshape(rows, width * width)
    ridge = prior_sd**-2

    def objective(b: Floats) -> Floats:
        eta = b @ design.T
        fitted = (won * eta - trials * np.logaddexp(0.0, eta)).sum(axis=1)
        return np.asarray(fitted - 0.5 * ridge * (b**2).sum(axis=1))

    b = np.zeros((len(won), width))
    value = objective(b)
    enough = 1e-10 * (1.0 + trials.sum(axis=1))
    for _ in range(100):
        share = expit(b @ design.T)
        gradient = (won - trials * share) @ design - ridge * b
        if (np.abs(gradient).max(axis=1, initial=0.0) <= enough).all():
            break
        curvature = (trials * share * (1.0 - share)) @ products
        curvature = curvature.reshape(-1, width, width) + ridge * np.eye(width)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        scale = np.ones((len(b), 1))
        for _ in range(40):
            moved = objective(b + scale * step)
            worse = moved < value - 1e-12 * (1.0 + np.abs(value))
            if not worse.any():
                break
            scale[worse] /= 2
        b = b + scale * step
        value = moved
    return b.reshape(*batch, width)


def is_separated(feature: Floats, won: Floats) -> bool:
    """Tell whether a line in one feature puts all wins on one side and all losses on the other.

    A logistic model with an intercept then has no finite maximum (Albert & Anderson 1984). Ties
    stand on both sides.
    """
    above, below = feature[won > 0], feature[won < 1]
    if not above.size or not below.size:
        return True
    return bool(below.max() <= above.min() or above.max() <= below.min())


def _interval(estimate: float, drawn: Floats) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(estimate), float(low), float(high))


def _reach(start: str, edges: Iterable[tuple[str, str]]) -> set[str]:
    """Return what can be reached from a node along directed edges, itself included."""
    following: dict[str, set[str]] = {}
    for source, target in edges:
        following.setdefault(source, set()).add(target)
    found, open_ends = {start}, [start]
    while open_ends:
        fresh = following.get(open_ends.pop(), set()) - found
        found |= fresh
        open_ends += fresh
    return found
