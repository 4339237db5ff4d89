"""Let reward models score the label store, so that people rank where the models doubt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from pipeline.errors import RunError
from pipeline.judges import RewardJudge
from pipeline.records import Prompt
from pipeline.store import Choice, LabelStore
from pipeline.store.values import Split

PORTION = 256
"""Completions between two writes: what a cut run loses."""


class Scored(NamedTuple):
    """Count what a reward model was asked to score.

    Attributes:
        scored: completions that have a score now.
        too_long: those left without one: the model's context has no room for them.
    """

    scored: int
    too_long: int


def score_store(
    store: LabelStore, stage: str, checkpoint: str, model: Path, split: Split | None = None
) -> Scored:
    """Score every completion that a reward model has not scored yet.

    Args:
        store: the label store.
        stage: the reward stage's name.
        checkpoint: the hash that names its weights.
        model: its ``model/``.
        split: of the prompts, or None for all.

    Raises:
        RunError: if a score is no finite number.
    """
    missing = store.unscored(checkpoint, split)
    if not missing:
        return Scored(0, 0)
    judge, count = RewardJudge(model), 0
    with tqdm(total=len(missing), desc=f"{stage} scores", unit="completion") as bar:
        for portion in _portions(missing):
            fitting = [(prompt, item) for prompt, item in portion if judge.fits(prompt, item.text)]
            scores = judge([prompt for prompt, _ in fitting], [item.text for _, item in fitting])
            if not np.isfinite(scores).all():
                raise RunError(f"{model} gives scores that are no finite numbers. Train it again.")
            ids = (item.id for _, item in fitting)
            store.add_scores(stage, checkpoint, dict(zip(ids, scores, strict=True)))
            count += len(fitting)
            bar.update(len(portion))
    return Scored(count, len(missing) - count)


def _portions(
    rows: Sequence[tuple[Prompt, Choice]],
) -> Iterator[Sequence[tuple[Prompt, Choice]]]:
    for start in range(0, len(rows), PORTION):
        yield rows[start : start + PORTION]
