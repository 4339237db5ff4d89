"""Check what few-shot examples a task will show before a model is asked anything.

Two mistakes spoil a figure without a trace: an example that is itself the question asked (its
answer stands in the prompt), and fewer examples than were asked for. Both are looked for in the
examples that lm_eval's own sampler draws for every question, so that it holds for any task: local,
of a folder, or shipped with lm_eval.

Two documents are the same where the model reads the same text: question and choices, whatever
order the choices stand in, without regard to case, width or number of blanks.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from typing import Any

from pipeline.errors import ConfigError, DataError

SHOWN = 60
"""Characters of a question that an error shows."""


def check_examples(task: Any, shots: Sequence[int], limit: int | None, seed: int) -> None:
    """Draw each question's examples as an evaluation will, and look at them.

    Args:
        task: lm_eval's.
        shots: numbers of examples.
        limit: documents that are asked, the first ones; None is all.
        seed: of the draw.

    Raises:
        ConfigError: if there are fewer examples than are to be shown.
        DataError: if an example is the question that it stands before.
    """
    sampler: Any = getattr(task, "sampler", None)
    counts = [count for count in shots if count]
    if not counts or not hasattr(task, "fewshot_cfg"):
        return
    # lm_eval keeps a question out of its own examples where both come from one split.
    shared = task.fewshot_cfg.split == task.config.test_split
    pool = sampler.fewshot_docs() if sampler is not None else []
    _check_count(task.task_name, max(len(pool) - shared, 0), max(counts))
    documents = list(itertools.islice(task.eval_docs, limit))
    texts = [text_of(task, document) for document in documents]
    known: dict[int, str] = {}
    for count in counts:
        task.set_fewshot_seed(seed)
        for place, document in enumerate(documents):
            for example in sampler.sample(n=count, eval_doc=document if shared else None):
                if id(example) not in known:
                    known[id(example)] = text_of(task, example)
                if known[id(example)] == texts[place]:
                    raise _leak(task.task_name, known[id(example)], place)


def _check_count(name: str, available: int, asked: int) -> None:
    if available < asked:
        raise ConfigError(
            f"evaluate.shots must be at most the examples of the task {name} ({available}), got "
            f"{asked}. Lower it."
        )


def _leak(name: str, text: str, place: int) -> DataError:
    line = " ".join(text.split())
    shown = line if len(line) <= SHOWN else f"{line[:SHOWN]}..."
    return DataError(
        f"evaluate.tasks: no example of the task {name} must be the question that it stands "
        f"before, got question {place} among its own examples ({shown!r}). Remove it from the "
        "examples or from the questions."
    )


def text_of(task: Any, document: Any) -> str:
    """Return what a model reads of a document, so that equal documents give equal texts."""
    query = task.doc_to_text(document)
    parts = [normalize(query)] if isinstance(query, str) else []
    if task.config.doc_to_choice is not None:
        parts += sorted(normalize(str(choice)) for choice in task.doc_to_choice(document))
    if getattr(task, "multiple_input", 0) or not any(parts):
        parts.append(normalize(str(task.doc_to_target(document))))
    return "\n".join(parts)


def normalize(text: str) -> str:
    """Return a text without what two copies of it may differ in: case, width, blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
