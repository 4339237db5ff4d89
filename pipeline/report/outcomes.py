"""Put together what the stages achieved: instructions followed, text predicted, judgments met.

Figures are taken as the stages wrote them; differences are computed from the single prompts and
texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.bootstrap import Interval, bootstrap_mean
from pipeline.config.run import RunConfig
from pipeline.preferences import prefer
from pipeline.report.calibrating import describe
from pipeline.report.gather import Cell, RunRecord
from pipeline.report.statistics import Change, adjust, bootstrap_interval, compare, pair
from pipeline.report.tax import MEAN, NO_PTX, PTX, Recovery, TaxCell, ptx_start
from pipeline.report.values import number, read_interval

SFT = "sft"
NEXT_TOKEN = ("token_accuracy", "token_overconfidence", "token_ece")


@dataclass(frozen=True)
class Following:
    """Hold one stage's answers to the held-out prompts.

    Attributes:
        rate: share of prompts whose instruction was followed, with its 95 % interval.
        against_base: change of that rate against the base.
        against_sft: change of that rate against SFT (the rival); None where that is the base.
        score: mean score from the reward model, where that is the judge.
        wins: share of prompts on which the judge prefers this stage to its rival, ties half, with
            its interval and n; the change is against 1/2.
    """

    stage: str
    rate: float | None
    stderr: float | None
    spread: Interval | None
    utility: float | None
    n: int
    against_base: Change | None
    against_sft: Change | None
    score: float | None
    score_against_sft: Change | None
    win_rate: float | None
    wins: Change | None


def following_table(run: RunRecord, seed: int) -> list[Following]:
    """Return how each stage follows the instructions of the held-out prompts."""
    rows = []
    followed = {stage: judged(run, stage, "followed") for stage in run.evaluated}
    # A rival that is the base has its column already.
    fixed = set(run.evaluated) if run.rival == run.base else {run.base, run.rival}
    for stage in run.evaluated:
        own = followed[stage]
        rate = run.figure(stage, "instruction_following")
        scores, score = judged(run, stage, "score"), run.figure(stage, "reward_score")
        if rate is None and score is None and not own and not scores:
            continue
        rows.append(
            Following(
                stage=stage,
                rate=rate if rate is not None or not own else float(np.mean(list(own.values()))),
                stderr=run.figure(stage, "instruction_following_stderr"),
                spread=bootstrap_mean([own[name] for name in sorted(own)], seed=seed)
                if own
                else None,
                utility=run.figure(stage, "utility"),
                n=len(run.completions.get(stage, {})),
                against_base=_against(own, followed.get(run.base, {}), seed, stage != run.base),
                against_sft=_against(own, followed.get(run.rival, {}), seed, stage not in fixed),
                score=score,
                score_against_sft=_against(
                    scores, _rival_scores(run, stage), seed, stage not in fixed
                ),
                win_rate=run.figure(stage, f"win_rate_vs_{run.rival}"),
                wins=_wins(run, stage, seed),
            )
        )
    return rows


def judged(run: RunRecord, stage: str, key: str) -> dict[str, float]:
    """Return one judgment of a stage's completions, by prompt."""
    rows = run.completions.get(stage, {})
    return {
        name: value for name, row in rows.items() if (value := number(row.get(key))) is not None
    }


def _against(
    later: Mapping[str, float], earlier: Mapping[str, float], seed: int, wanted: bool
) -> Change | None:
    return compare([pair(later, earlier)], seed) if wanted and earlier else None


def _same_answers(run: RunRecord, stage: str, other: str) -> set[str]:
    """Return the prompts to which two stages gave the same text."""
    ours, theirs = run.completions.get(stage, {}), run.completions.get(other, {})
    texts = {prompt: (ours[prompt], theirs[prompt]) for prompt in ours.keys() & theirs.keys()}
    return {
        prompt
        for prompt, rows in texts.items()
        if all("completion" in row for row in rows)
        and rows[0]["completion"] == rows[1]["completion"]
    }


def _rival_scores(run: RunRecord, stage: str) -> dict[str, float]:
    """Return the rival's scores; a text that is the stage's own has the score that it has there."""
    own, other = judged(run, stage, "score"), judged(run, run.rival, "score")
    alike = _same_answers(run, stage, run.rival) & own.keys() & other.keys()
    return other | {prompt: own[prompt] for prompt in alike}


def _wins(run: RunRecord, stage: str, seed: int) -> Change | None:
    """Compare utility with the rival's, prompt by prompt: +1/2 a win, 0 a tie, -1/2 a loss."""
    if stage == run.rival:
        return None
    alike = _same_answers(run, stage, run.rival)
    for key in ("utility", "score"):
        own, other = judged(run, stage, key), judged(run, run.rival, key)
        if own and other:
            won = [
                prefer(own[prompt], other[prompt], same=prompt in alike) - 0.5
                for prompt in sorted(own.keys() & other.keys())
            ]
            return compare([np.array(won)], seed)
    return None


def glance_table(run: RunRecord, tax: Mapping[Cell, TaxCell]) -> list[dict[str, Any]]:
    """Return a row an evaluated stage: what it gained and what it cost, as fractions."""
    rows = []
    for stage in run.evaluated:
        mean = tax.get(Cell(stage, MEAN, None))
        rows.append(
            {
                "stage": stage,
                "instruction_following": run.figure(stage, "instruction_following"),
                "reward_score": run.figure(stage, "reward_score"),
                "win_rate": run.figure(stage, f"win_rate_vs_{run.rival}"),
                "fewshot": mean.score if mean else None,
                "change": mean.change if mean else None,
                "perplexity": run.figure(stage, "perplexity"),
                "bits_per_byte": run.figure(stage, "bits_per_byte"),
            }
        )
    return rows


def language_table(run: RunRecord, seed: int) -> list[dict[str, Any]]:
    """Return how well each stage predicts held-out text.

    ``same_tokens`` tells whether the stage reads the texts in as many tokens as the base: where it
    does not, a perplexity is of other predictions, and only bits per byte compare. ``change`` is
    the perplexity's relative change to the base and ``overconfidence_change`` the paired change of
    the next token's overconfidence, both where the tokens are the same; ``against_base`` is the
    paired change in bits per byte over texts, adjusted by Holm over the stages.
    """
    compared = {stage: text_change(run, stage, run.base, seed) for stage in run.evaluated}
    changes = adjust({key: row for key, row in compared.items() if row and key != run.base})
    rows = []
    for stage in run.evaluated:
        own = run.figure(stage, "perplexity")
        bits = run.figure(stage, "bits_per_byte")
        if own is not None or bits is not None:
            rows.append(
                {
                    "stage": stage,
                    "perplexity": own,
                    "same_tokens": reads_alike(run, stage),
                    "change": _relative_change(run, stage),
                    "bits_per_byte": bits,
                    "against_base": changes.get(stage),
                    **{key: run.figure(stage, key) for key in NEXT_TOKEN},
                    "overconfidence_change": token_change(run, stage, seed),
                    "token_reliability": run.summary[stage].get("token_reliability", []),
                }
            )
    return rows


def _relative_change(run: RunRecord, stage: str) -> float | None:
    own, before = (run.figure(name, "perplexity") for name in (stage, run.base))
    if not own or not before or stage == run.base or not reads_alike(run, stage):
        return None
    return own / before - 1


def reads_alike(run: RunRecord, stage: str) -> bool:
    """Tell whether each text that a stage and the base read has as many tokens for both."""
    ours, theirs = run.texts.get(stage, {}), run.texts.get(run.base, {})
    return all(ours[name].tokens == theirs[name].tokens for name in ours.keys() & theirs.keys())


def text_change(run: RunRecord, later: str, earlier: str, seed: int) -> Change | None:
    """Compare two stages in bits per byte of held-out text; more is worse.

        D = sum_d (nll_d - nll'_d) / (log 2 * sum_d bytes_d)

    The bytes in all are a constant of the evaluation, so D is a mean over texts.
    """
    ours, theirs = run.texts.get(later, {}), run.texts.get(earlier, {})
    both = ours.keys() & theirs.keys()
    if not both:
        return None
    unit = math.log(2) * sum(ours[name].size for name in both) / len(both)
    losses = [{name: side[name].nll / unit for name in both} for side in (ours, theirs)]
    return compare([pair(*losses)], seed)


def token_change(run: RunRecord, stage: str, seed: int) -> dict[str, float] | None:
    """Compare the next token's overconfidence with the base's: a mean over all tokens.

    Returns:
        Difference and 95 % interval; None for the base, and where the two read the texts in other
        tokens.
    """
    ours, theirs = run.texts.get(stage, {}), run.texts.get(run.base, {})
    both = sorted(ours.keys() & theirs.keys())
    tokens = sum(ours[name].tokens for name in both)
    if stage == run.base or not tokens or not reads_alike(run, stage):
        return None
    unit = tokens / len(both)
    gaps = np.array([(ours[name].surplus - theirs[name].surplus) / unit for name in both])
    return describe(Interval(float(gaps.mean()), *bootstrap_interval([gaps], seed)))


def text_recovery(run: RunRecord, config: RunConfig, seed: int) -> Recovery | None:
    """Return how much of plain PPO's loss on held-out text ptx brings back, in bits per byte."""
    start = ptx_start(run, config)
    if start is None:
        return None
    fall, gain = text_change(run, start, NO_PTX, seed), text_change(run, NO_PTX, PTX, seed)
    before = run.figure(start, "bits_per_byte")
    if fall is None or gain is None or before is None:
        return None
    return Recovery("bits per byte", None, before, fall, gain)


def reward_table(run: RunRecord) -> list[dict[str, Any]]:
    """Return who agrees with the held-out judgments how often.

    The reward model first, then the labelers among themselves, the ceiling that the tiny world's
    truth sets, and the floors.
    """
    own = run.accuracy.get("reward_model") or {"accuracy": run.stage("reward").metric("accuracy")}
    groups = own.get("by_group", {})
    floors = run.accuracy.get("floors", {})
    label = run.stage("label")
    metrics = label.manifest.metrics if label.manifest else {}
    low, high = metrics.get("labeler_agreement_interval") or (None, None)
    who = "simulated labelers" if run.simulated else "labelers"
    rows = [
        _judge("reward model", own),
        _judge(f"reward model, on held-out {who}", groups.get("held_out", {})),
        _judge(
            f"{who} among themselves",
            {
                "accuracy": metrics.get("labeler_agreement"),
                "low": low,
                "high": high,
                "n": metrics.get("labeler_agreement_comparisons"),
            },
        ),
        _judge(
            "gold utility (ceiling)",
            {"accuracy": metrics.get("gold_accuracy"), "n": metrics.get("gold_pairs")},
        ),
        *(_judge(f"{name.replace('_', ' ')} (floor)", row) for name, row in floors.items()),
    ]
    return [row for row in rows if row["accuracy"] is not None] if rows[0]["accuracy"] else []


def _judge(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "judge": name,
        "accuracy": number(figures.get("accuracy")),
        "low": number(figures.get("low")),
        "high": number(figures.get("high")),
        "n": number(figures.get("n")),
        "ahead": read_ahead(figures),
    }


def read_ahead(floor: Mapping[str, Any]) -> Interval | None:
    """Return by how much the reward model is ahead of a floor, where that was measured."""
    return read_interval(floor.get("ahead"), "difference")
