"""Draw what stages compared with each other leave: win rates, and PPO beside best-of-n."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.evaluation.contests import describe_point, describe_start
from pipeline.evaluation.equal_kl import compare
from pipeline.preferences import Comparison
from pipeline.win_rates import describe_judge, to_rows

LINE = ["pretrain", "sft@ppo_init", "ppo"]
START, END = LINE[1:]
RATES = (
    ("ppo.20", 20, 1.0, 2.0, {"reward": 0.7, "gold": 0.65}),
    (END, None, 2.0, 6.0, {"reward": 0.95, "gold": 0.5}),
)
"""Of PPO and a checkpoint: name, step, lift of its score, KL, and how often it wins."""


def draw_win_rates() -> dict[str, Any]:
    """Return what ``win_rates.json`` holds."""
    judges = {"gold": _judge(0.55), "reward": _judge(0.9), "llm": _judge(0.6, places=True)}
    judges["people"] = _draw(END, START, 1.0)
    rows = {name: to_rows(describe_judge(own, LINE, seed=0)) for name, own in judges.items()}
    rows["llm"] |= {"model": "judge-1", "without_verdict": 2}
    way = [describe_start(START, _answers(0, 0), 0)]
    for name, step, lift, kl, rates in RATES:
        judgments = {key: _draw(END, START, own) for key, own in rates.items()}
        way.append(describe_point(name, step, _answers(lift, kl), judgments, 0))
    ways = [{"stage": END, "start": START, "points": to_rows(tuple(way))}]
    return {"stages": [*LINE], "judges": rows, "trajectories": ways}


def draw_best_of() -> dict[str, Any]:
    """Return what ``best_of.json`` holds."""
    policies = {"ppo": _draw_rows(4, 0.4, 0.9), "ppo@no_ptx": _draw_rows(4, 7.5, 0.2)}
    figures = compare(_draw_rows(9, None, 0), policies, [1, 2, 4, 8], seed=7)
    return {"stage": START, "reward": "reward", **figures}


def _draw(stage: str, against: str, rate: float, *, places: bool = False) -> list[Comparison]:
    random = np.random.default_rng(len(stage) + int(100 * rate))
    return [
        Comparison(
            str(i),
            stage,
            against,
            float(random.random() < rate),
            int(random.normal(10, 30)),
            (1.0, float(random.integers(2))) if places else (),
        )
        for i in range(60)
    ]


def _judge(rate: float, **options: bool) -> list[Comparison]:
    return [*_draw(START, LINE[0], 0.8, **options), *_draw(END, START, rate, **options)]


def _answers(lift: float, kl: float) -> dict[str, dict[str, float]]:
    random = np.random.default_rng(3)
    return {
        str(i): {"score": random.normal(lift), "log_ratio": random.normal(kl)} for i in range(60)
    }


def _draw_rows(count: int, kl: float | None, lift: float) -> list[dict[str, Any]]:
    draw = np.random.default_rng(5)
    return [
        {"prompt_id": str(i), "score": draw.normal() + lift, "utility": draw.random()}
        | {"followed": int(draw.random() < 0.6 + lift / 10)}
        | ({} if kl is None else {"log_ratio": kl + 0.1 * draw.normal()})
        for i in range(40)
        for _ in range(count)
    ]
