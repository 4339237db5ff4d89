"""Keep the labels: prompts, completions with provenance, tasks and judgments."""

from __future__ import annotations

from pipeline.store.store import LabelStore
from pipeline.store.values import (
    SIMULATED_PREFIX,
    Choice,
    ImportCount,
    Judgment,
    Provenance,
    Receipt,
    SampledCompletion,
    StoredCompletion,
    Task,
    Written,
    reason_to_refuse,
)

__all__ = [
    "SIMULATED_PREFIX",
    "Choice",
    "ImportCount",
    "Judgment",
    "LabelStore",
    "Provenance",
    "Receipt",
    "SampledCompletion",
    "StoredCompletion",
    "Task",
    "Written",
    "reason_to_refuse",
]
