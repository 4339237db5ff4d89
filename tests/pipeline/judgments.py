"""Make plain records of judgments, for tests of what is computed from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

from pipeline.records import Prompt
from pipeline.store.judged import Judged, Output

START = datetime(2030, 1, 1, 9, tzinfo=UTC)
numbers = count(1)


def outputs(prompt: str, k: int, **stages: tuple[str, ...]) -> tuple[Output, ...]:
    """Return K outputs, ``prompt/0`` and so on, each longer than the one before."""
    return tuple(
        Output(f"{prompt}/{i}", f"{prompt} " + "x" * (10 * i + 10), stages.get(f"o{i}", ("sft",)))
        for i in range(k)
    )


def judged(labeler: str, ranks: tuple[int, ...], prompt: str = "p", **fields: object) -> Judged:
    """Return one judgment of a task named after the prompt."""
    number = next(numbers)
    defaults = {
        "assignment": number,
        "task": f"task {prompt}",
        "kind": "ranking",
        "purpose": "work",
        "repeats": None,
        "prompt": Prompt.from_text(prompt),
        "split": "train",
        "labeler": labeler,
        "group": "train",
        "simulated": False,
        "excluded": False,
        "outputs": outputs(prompt, len(ranks)),
        "ranks": ranks,
        "ratings": None,
        "flags": ({},) * len(ranks),
        "presented": tuple(range(len(ranks))),
        "prompt_flags": {},
        "none_acceptable": False,
        "comment": "",
        "active_seconds": None,
        "instructions": None,
        "interface": "1",
        "revision": 1,
        "submitted": START + timedelta(minutes=number),
        "created": START + timedelta(minutes=number),
    }
    return Judged(**{**defaults, **fields})
