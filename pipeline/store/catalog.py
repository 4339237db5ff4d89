"""Add prompts, completions, labelers and tasks to a session, and read them back.

Everything is idempotent: content that is there already is left as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import groupby
from typing import cast

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session, selectinload

from pipeline.errors import StoreError
from pipeline.records import Message, Prompt
from pipeline.store.schema import (
    AssignmentRow,
    CompletionRow,
    LabelerRow,
    PromptRow,
    SourceRow,
    TaskCompletionRow,
    TaskRow,
)
from pipeline.store.values import (
    FINISH_REASONS,
    SPLITS,
    FinishReason,
    Provenance,
    SampledCompletion,
    StoredCompletion,
    check_choice,
    check_labeler,
    completion_id,
    provenance_fields,
    reason_to_refuse,
    source_id,
    task_id,
)


def add_prompt(session: Session, prompt: Prompt, split: str, now: datetime) -> bool:
    """Add a prompt and return whether it was new.

    Raises:
        StoreError: if the store has it in another split.
    """
    check_choice("split", split, SPLITS)
    row = session.get(PromptRow, prompt.id)
    if row is None:
        session.add(
            PromptRow(
                id=prompt.id,
                messages=[{"role": m["role"], "content": m["content"]} for m in prompt.messages],
                use_case=prompt.use_case,
                meta=dict(prompt.meta),
                split=split,
                created=now,
            )
        )
        return True
    if row.split != split:
        raise StoreError(
            f"Prompt {prompt.id} must stay in one split ({row.split}), got {split!r}. "
            "Remove it from one of them."
        )
    return False


def read_prompt(row: PromptRow) -> Prompt:
    """Return the record of a stored prompt."""
    messages = tuple(Message(role=m["role"], content=m["content"]) for m in row.messages)
    return Prompt(messages, row.use_case, row.meta)


def add_completions(
    session: Session, prompt_id: str, completions: Iterable[SampledCompletion], now: datetime
) -> list[str]:
    """Add completions of one prompt and return their ids; equal texts get the same id.

    Raises:
        StoreError: if the prompt is unknown or a text is refused.
    """
    if session.get(PromptRow, prompt_id) is None:
        raise StoreError(f"No prompt {prompt_id} in the label store. Add the prompt first.")
    sampled = list(completions)
    for text in (item.text for item in sampled):
        reason = reason_to_refuse(text)
        if reason is not None:
            raise StoreError(
                f"A completion of prompt {prompt_id} {reason}, got {text[:40]!r}. "
                "Sample it again or leave it out."
            )
    ids = [completion_id(prompt_id, item.text) for item in sampled]
    texts = dict(zip(ids, (item.text for item in sampled), strict=True))
    present = set(
        session.scalars(select(CompletionRow.id).where(CompletionRow.prompt_id == prompt_id))
    )
    session.add_all(
        CompletionRow(id=id_, prompt_id=prompt_id, text=text, created=now)
        for id_, text in texts.items()
        if id_ not in present
    )
    session.flush()
    _add_sources(
        session, [(id_, item.provenance) for id_, item in zip(ids, sampled, strict=True)], now
    )
    return ids


def _add_sources(session: Session, pairs: Iterable[tuple[str, Provenance]], now: datetime) -> None:
    rows = {}
    for completion, source in pairs:
        if source.finish_reason is not None:
            check_choice("finish_reason", source.finish_reason, FINISH_REASONS)
        row_id = source_id(completion, source)
        rows[row_id] = SourceRow(
            id=row_id, completion_id=completion, created=now, **provenance_fields(source)
        )
    present = set(session.scalars(select(SourceRow.id).where(SourceRow.id.in_(rows))))
    session.add_all(row for id_, row in rows.items() if id_ not in present)
    session.flush()


def read_completions(session: Session, prompt_id: str) -> list[StoredCompletion]:
    """Return a prompt's completions with their sources, by id."""
    rows = session.scalars(
        select(CompletionRow)
        .where(CompletionRow.prompt_id == prompt_id)
        .order_by(CompletionRow.id)
        .options(selectinload(CompletionRow.sources))
    )
    return [StoredCompletion(row.id, row.text, read_sources(row)) for row in rows]


def read_sources(row: CompletionRow) -> tuple[Provenance, ...]:
    """Return every provenance of a completion, by id."""
    return tuple(
        Provenance(
            stage=source.stage,
            checkpoint=source.checkpoint,
            model=source.model,
            sampling=source.sampling,
            seed=source.seed,
            sample_index=source.sample_index,
            finish_reason=cast("FinishReason | None", source.finish_reason),
        )
        for source in row.sources
    )


def add_labeler(session: Session, name: str, kind: str, group: str, now: datetime) -> LabelerRow:
    """Add a labeler, or return the one of that name.

    Raises:
        StoreError: if the name is taken by a labeler of another kind or group, or breaks a rule.
    """
    check_labeler(name, kind, group)
    row = session.scalar(select(LabelerRow).where(LabelerRow.name == name))
    if row is None:
        row = LabelerRow(name=name, kind=kind, group=group, created=now)
        session.add(row)
        session.flush()
    elif (row.kind, row.group) != (kind, group):
        raise StoreError(
            f"Labeler {name!r} must stay {row.kind} in group {row.group}, got {kind} in {group}. "
            "Use another name."
        )
    return row


def add_task(
    session: Session, prompt_id: str, completions: Collection[str], overlap: int, now: datetime
) -> TaskRow:
    """Add a ranking task over these completions, or return the one there is, unchanged."""
    row_id = task_id(prompt_id, completions)
    row = session.get(TaskRow, row_id)
    if row is None:
        row = TaskRow(id=row_id, prompt_id=prompt_id, kind="ranking", overlap=overlap, created=now)
        session.add(row)
        session.flush()
        session.add_all(
            TaskCompletionRow(task_id=row_id, completion_id=completion)
            for completion in sorted(set(completions))
        )
        session.flush()
    return row


def create_ranking_tasks(
    session: Session, overlap: int, splits: Sequence[str], now: datetime
) -> int:
    """Make one task of all completions of each prompt that has two or more.

    Return how many are new. A task that exists takes the given overlap.

    Raises:
        StoreError: if the overlap is below 1.
    """
    if overlap < 1:
        raise StoreError(
            f"overlap must be 1 or more, got {overlap!r}. Ask for at least one judgment."
        )
    known = {task.id: task for task in session.scalars(select(TaskRow))}
    rows = session.execute(
        select(CompletionRow.prompt_id, CompletionRow.id)
        .join(PromptRow, PromptRow.id == CompletionRow.prompt_id)
        .where(PromptRow.split.in_(splits))
        .order_by(CompletionRow.prompt_id, CompletionRow.id)
    ).all()
    created = 0
    for prompt_id, group in groupby(rows, key=lambda row: row[0]):
        completions = [row[1] for row in group]
        if len(completions) < 2:
            continue
        task = known.get(task_id(prompt_id, completions))
        if task is None:
            add_task(session, prompt_id, completions, overlap, now)
            created += 1
        else:
            task.overlap = overlap
    session.flush()
    mark_open(
        session, TaskRow.prompt_id.in_(select(PromptRow.id).where(PromptRow.split.in_(splits)))
    )
    return created


def mark_open(session: Session, which: ColumnElement[bool]) -> None:
    """Set ``open`` on the tasks that meet a condition: whether they want further labelers.

    One statement, so that the database itself reads the overlap and the count under the row's lock.
    """
    done = (
        select(func.count())
        .where(AssignmentRow.task_id == TaskRow.id, AssignmentRow.state == "done")
        .correlate(TaskRow)
        .scalar_subquery()
    )
    session.execute(
        update(TaskRow).where(which).values(open=done < TaskRow.overlap),
        execution_options={"synchronize_session": False},
    )
