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
from pipeline.evaluation.loading import FAILURES
from pipeline.evaluation.questions import check_example

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
        DataError: if an example cannot be shown, or is the question that it stands before.
    """
    counts = [count for count in shots if count]
    if not counts or not hasattr(task, "fewshot_cfg"):
        return
    check_count(task, max(counts))
    sampler, shared = task.sampler, draws_from_questions(task)
    documents = list(itertools.islice(task.eval_docs, limit))
    texts = [text_of(task, document) for document in documents]
    known: dict[int, str | None] = {}
    for count in counts:
        task.set_fewshot_seed(seed)
        for place, document in enumerate(documents):
            for example in sampler.sample(n=count, eval_doc=document if shared else None):
                if id(example) not in known:
                    check_example(task, example)
                    known[id(example)] = _shown_text(task, example)
                if known[id(example)] == texts[place]:
                    raise _leak(task.task_name, texts[place], place)


def draws_from_questions(task: Any) -> bool:
    """Tell whether examples and questions come from one split: lm_eval shows no question itself."""
    shared: bool = task.fewshot_cfg.split == task.config.test_split
    return shared


def check_count(task: Any, asked: int) -> None:
    """Check that a task has as many examples for a question as are to be shown.

    Raises:
        ConfigError: if it has fewer.
    """
    sampler: Any = getattr(task, "sampler", None)
    available = 0 if sampler is None else len(sampler.fewshot_docs())
    if hasattr(task, "fewshot_cfg"):
        available = max(available - draws_from_questions(task), 0)
    if available < asked:
        raise ConfigError(
            f"evaluate.shots must be at most the examples of the task {task.task_name} "
            f"({available}), got {asked}. Lower it."
        )


def _shown_text(task: Any, example: Any) -> str | None:
    """Return an example as a question; None for one that a task's YAML writes in other columns."""
    try:
        return text_of(task, example)
    except FAILURES:
        return None


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
