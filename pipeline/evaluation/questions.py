"""Write out every question of a task, and every example, before a model is loaded.

lm_eval looks at the first row of a task. A later one that lacks a column, or has a number where a
text belongs, would stop an evaluation in the middle; one whose answer is missing would be shown as
an example without a word.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import DataError
from pipeline.evaluation.loading import FAILURES, describe
from pipeline.evaluation.tasks import settings_of

FAULTS = (*FAILURES, AssertionError)
"""What a row that is not as it should be makes of lm_eval's code; it asserts that texts are."""


def check_questions(task: Any, limit: int | None) -> list[int]:
    """Write out each question as an evaluation will.

    Args:
        task: lm_eval's.
        limit: documents that are asked, the first ones; None is all.
    Returns:
        The places of those whose answer is none of their choices: no model can be right there.

    Raises:
        DataError: if one cannot be asked, or its answer is missing.
    """
    if not hasattr(task, "fewshot_cfg"):
        return []
    lost = []
    for place, document in enumerate(itertools.islice(task.eval_docs, limit)):
        try:
            for text in _write_question(task, document, place):
                check_text(text)
            if _is_judged_by_choice(task) and not right_choices(
                task, document, task.doc_to_choice(document)
            ):
                lost.append(place)
        except FAULTS as error:
            raise _refuse(task, f"question {place}", "asked", document, error) from error
    return lost


def right_choices(task: Any, document: Any, choices: Sequence[str]) -> list[int]:
    """Return which choices are right, as lm_eval has it: none where the answer names none of them.

    Args:
        task: lm_eval's.
        document: the question.
        choices: what can be chosen there.

    Raises:
        ValueError: if there is no answer.
    """
    # Where contexts are chosen, the text names the right one.
    answer = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    if answer is None:
        raise ValueError("it has no answer")
    found = []
    for one in answer if isinstance(answer, list) else [answer]:
        if isinstance(one, str):
            one = choices.index(one) if one in choices else -1
        if 0 <= one < len(choices):
            found.append(int(one))
    return found


def check_example(task: Any, example: Any) -> None:
    """Write out an example as an evaluation will.

    Raises:
        DataError: if it cannot be shown, or its answer is missing.
    """
    try:
        check_text(_write_example(task, example))
    except FAULTS as error:
        pool = enumerate(task.sampler.fewshot_docs())
        place = next((str(at) for at, one in pool if one is example), "")
        raise _refuse(task, f"example {place}".rstrip(), "shown", example, error) from error


def check_text(value: Any) -> None:
    """Check that a value is text which a tokenizer can read.

    Raises:
        TypeError: if it is none.
        UnicodeEncodeError: if UTF-8 cannot write it.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    value.encode()


def _write_question(task: Any, document: Any, place: int) -> Iterator[Any]:
    """Yield what a model will be asked, and what its answers will be compared with."""
    context = task.fewshot_context(document, 0, gen_prefix=task.doc_to_prefix(document))
    named = (task.task_name, place, 1)
    built = task.construct_requests(document, context, metadata=named)
    for request in built if isinstance(built, list) else [built]:
        yield from (part for part in request.arguments if not isinstance(part, Mapping))
    if not _is_judged_by_choice(task):
        return
    yield from task.doc_to_choice(document)
    if "groups" in settings_of(task):
        yield str(document[settings_of(task)["groups"]])


def _is_judged_by_choice(task: Any) -> bool:
    return task.OUTPUT_TYPE == "multiple_choice" and not callable(task.config.process_results)


def _write_example(task: Any, example: Any) -> str:
    """Return an example with its answer, as ``fewshot_context`` has it."""
    form = task.fewshot_cfg
    question = task.doc_to_text(example, form.doc_to_text)
    choices: Any = None
    if form.doc_to_choice:
        choices = task.doc_to_choice(example, form.doc_to_choice)
    answer = task.doc_to_target(example, form.doc_to_target)
    if answer is None:
        raise ValueError("it has no answer")
    if task.multiple_input:
        question, choices = choices[question], None
    turn = task.build_qa_turn(
        q=question,
        c=choices,
        a=answer,
        gen_prefix=task.resolve_field(example, form.gen_prefix),
        tgt_delim=form.target_delimiter,
        few_delim=form.fewshot_delimiter,
    )
    return "".join(message.to_text() for message in turn)


def _refuse(task: Any, what: str, done: str, document: Any, error: Exception) -> DataError:
    columns = document.items() if isinstance(document, Mapping) else ()
    empty = ", ".join(str(name) for name, value in columns if value is None)
    return DataError(
        f"evaluate.tasks: each {what.split()[0]} of the task {task.task_name} must be one that can "
        f"be {done}, got {what}{f' without {empty}' if empty else ''} ({describe(error)}). "
        "Mend its row, or the YAML."
    )
