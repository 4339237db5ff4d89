"""Add prompts, completions and labelers to a session, and read them back.

Everything is idempotent: content that is there already is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from pipeline.errors import StoreError
from pipeline.records import Message, Prompt
from pipeline.store.schema import CompletionRow, LabelerRow, PromptRow, SourceRow
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
