"""Let reward models score the label store, so that people rank where the models doubt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from pipeline.errors import RunError
from pipeline.judges import RewardJudge
from pipeline.records import Prompt
from pipeline.store import Choice, LabelStore
from pipeline.store.values import Split

PORTION = 256
"""Completions between two writes: what a cut run loses."""


def score_store(
    store: LabelStore, stage: str, checkpoint: str, model: Path, split: Split | None = None
) -> int:
    """Score every completion that a reward model has not scored yet, and return how many.

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
        return 0
    judge = RewardJudge(model)
    with tqdm(total=len(missing), desc=f"{stage} scores", unit="completion") as bar:
        for portion in _portions(missing):
            scores = judge([prompt for prompt, _ in portion], [item.text for _, item in portion])
            if not np.isfinite(scores).all():
                raise RunError(f"{model} gives scores that are no finite numbers. Train it again.")
            ids = (item.id for _, item in portion)
            store.add_scores(stage, checkpoint, dict(zip(ids, scores, strict=True)))
            bar.update(len(portion))
    return len(missing)


def _portions(
    rows: Sequence[tuple[Prompt, Choice]],
) -> Iterator[Sequence[tuple[Prompt, Choice]]]:
    for start in range(0, len(rows), PORTION):
        yield rows[start : start + PORTION]
