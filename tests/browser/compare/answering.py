"""Answer the page of comparisons in the place of models, event by event."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.browser.compare.page import ComparePage


def token(column: int, text: str, **figures: float) -> dict[str, Any]:
    """Return an event as the routes tell a token."""
    event = {"type": "token", "column": column, "sample": 0, "text": text, "id": 5, "rank": 1}
    return {**event, "entropy": 0.5, "logprob": -0.1, "ref_logprob": None, "kl": None, **figures}


def finished(column: int, text: str, tokens: int) -> dict[str, Any]:
    """Return an event as the routes tell the end of an answer that was not measured."""
    event = {"type": "finished", "column": column, "sample": 0, "text": text, "tokens": tokens}
    unknown = {"kl": None, "log_ratio": None, "score": None}
    return {**event, "finish_reason": "length", "logprob": -0.2, **unknown}


def answer_with(lead: ComparePage, events: Sequence[Mapping[str, Any]]) -> None:
    """Have the page be answered with these events, whatever it asks."""
    body = "".join(json.dumps(event) + "\n" for event in [*events, {"type": "end"}])
    lead.page.route(
        "**/api/lab/compare/answers",
        lambda route: route.fulfill(content_type="application/x-ndjson", body=body),
    )
