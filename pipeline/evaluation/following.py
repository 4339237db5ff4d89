"""Measure how a model follows instructions that it was not trained on.

Every stage answers the same prompts in the same chat format, with the same random numbers
(``pipeline.sampling``), so that stages are compared prompt by prompt. A tiny-world prompt is judged
by the world's gold; any other by the run's reward model where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.calibration import standard_error
from pipeline.formatting import Formatter
from pipeline.judges import Judge
from pipeline.preferences import prefer
from pipeline.records import Prompt
from pipeline.sampling import SampledText
from pipeline.world import World

Answer = dict[str, Any]


def is_judged_by_gold(prompt: Prompt) -> bool:
    """Tell whether the tiny world knows what the prompt asks for."""
    return "world" in prompt.meta


def record_answers(
    prompts: Sequence[Prompt], samples: Sequence[SampledText], formatter: Formatter
) -> list[Answer]:
    """Return one row a prompt: what was asked, what was answered, and how it ended."""
    return [
        {
            "prompt_id": prompt.id,
            **prompt.to_log(),
            "use_case": prompt.use_case,
            "completion": sample.text,
            "finish_reason": sample.finish_reason,
            "tokens": sum(token != formatter.end_id for token in sample.ids),
            "ids": list(sample.ids),
        }
        for prompt, sample in zip(prompts, samples, strict=True)
    ]


def judge_answers(
    prompts: Sequence[Prompt],
    answers: Sequence[Answer],
    world: World,
    reward: Judge | None,
) -> list[Answer]:
    """Return the rows with what the judges say.

    Args:
        prompts: what was asked.
        answers: rows of ``record_answers``, in the same order.
        world: judges its own prompts: ``followed`` (0 or 1), ``utility`` and its ``components``.
        reward: gives the others a ``score``, 0 for a demonstration on average; None gives none.
    """
    judged = [dict(answer) for answer in answers]
    others: list[int] = []
    for i, (prompt, answer) in enumerate(zip(prompts, judged, strict=True)):
        if is_judged_by_gold(prompt):
            verdict = world.gold(prompt, answer["completion"])
            answer["followed"] = int(verdict.followed)
            answer["utility"] = verdict.utility
            answer["components"] = verdict.components
        else:
            others.append(i)
    if others and reward is not None:
        texts = [judged[i]["completion"] for i in others]
        scores = reward([prompts[i] for i in others], texts)
        for i, score in zip(others, scores, strict=True):
            judged[i]["score"] = score
    return judged


def summarize_answers(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the means over prompts and their standard errors, of the judgments that there are."""
    figures: dict[str, Any] = {"prompts": len(answers)}
    for key, name in (
        ("followed", "instruction_following"),
        ("utility", "utility"),
        ("score", "reward_score"),
        ("tokens", "completion_tokens"),
    ):
        values = [answer[key] for answer in answers if key in answer]
        if values:
            figures[name] = float(np.mean(values))
            figures[f"{name}_stderr"] = standard_error(values)
    components = [answer["components"] for answer in answers if "components" in answer]
    if components:
        figures["components"] = {
            name: float(np.mean([row[name] for row in components])) for name in components[0]
        }
    cut = [answer["finish_reason"] == "length" for answer in answers]
    figures["cut_completions"] = float(np.mean(cut))
    return figures


def win_rate_against(ours: Sequence[Answer], theirs: Sequence[Answer]) -> Mapping[str, float]:
    """Return how often our answer is judged better than theirs to the same prompt, ties half.

    The judge is the gold utility where both have it, else the reward model's score; no figure where
    neither judged both. The same text ties with itself.
    """
    by_prompt = {answer["prompt_id"]: answer for answer in theirs}
    pairs = [(row, by_prompt[row["prompt_id"]]) for row in ours if row["prompt_id"] in by_prompt]
    for key in ("utility", "score"):
        wins = [
            prefer(one[key], other[key], same=one["completion"] == other["completion"])
            for one, other in pairs
            if key in one and key in other
        ]
        if wins:
            return {"win_rate": float(np.mean(wins)), "win_rate_stderr": standard_error(wins)}
    return {}
