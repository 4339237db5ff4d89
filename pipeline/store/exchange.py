"""Move whole judgments in and out of a session, and hash what the store holds.

An import is idempotent: a row's key (its idempotency key, or the hash of its content where it has
none) tells whether the store has it already.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar, cast

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, selectinload

from pipeline.errors import StoreError
from pipeline.records import Ranking
from pipeline.store.catalog import (
    add_completions,
    add_labeler,
    add_prompt,
    read_prompt,
    read_sources,
)
from pipeline.store.leasing import add_assignment, find_assignment
from pipeline.store.rows import JudgmentRecord, check_lengths
from pipeline.store.schema import (
    AssignmentRow,
    CompletionRow,
    JudgmentRow,
    LabelerRow,
    PromptRow,
    TaskRow,
)
from pipeline.store.submitting import append_judgment, same_judgment
from pipeline.store.tasking import Overlap, Wanted, add_task
from pipeline.store.values import (
    SIMULATED_PREFIX,
    Judgment,
    Split,
    check_judgment,
    completion_id,
    hash_content,
)

Value = TypeVar("Value")


@dataclass
class Importer:
    """Add judgments of one source to a session.

    A source that names no labelers gets one a vote: the n-th unnamed judgment of a task is by
    ``<source>#n``, so that two people's votes are never taken for one person's change of mind.
    """

    session: Session
    source: str
    split: Split
    now: datetime
    unnamed: Counter[str] = field(default_factory=Counter)

    def add(self, record: JudgmentRecord) -> bool:
        """Add one judgment and return whether it was new.

        Raises:
            StoreError: if it breaks a rule, or contradicts what the store has.
        """
        check_lengths(record)
        session, prompt_id = self.session, record.prompt.id
        add_prompt(session, record.prompt, record.split or self.split, self.now)
        add_completions(session, prompt_id, record.sampled, self.now)
        ids = [completion_id(prompt_id, text) for text, _ in record.completions]
        overlap = Overlap(record.overlap, record.held_out_overlap)
        task = add_task(session, Wanted(prompt_id, ids), overlap, self.now)
        kind = "simulated" if record.simulated else "human"
        name = record.labeler or self._name_labeler(task.id, simulated=record.simulated)
        labeler = add_labeler(session, name, kind, record.group, self.now)
        judgment = Judgment(
            ranks=_by_id(ids, record.ranks),
            ratings=None if record.ratings is None else _by_id(ids, record.ratings),
            flags={} if record.flags is None else _by_id(ids, record.flags),
            comment=record.comment,
            active_seconds=record.active_seconds,
        )
        check_judgment(judgment, ids)
        key = record.key or _content_key(task.id, name, judgment)
        if self._has(key, task.id, labeler.id, judgment):
            return False
        assignment = find_assignment(session, task.id, labeler.id)
        if assignment is None:
            order = range(len(ids)) if record.presented is None else record.presented
            presented = [ids[index] for index in order]
            assignment = add_assignment(session, task, labeler, presented, self.now)
            session.flush()
        if record.revision is not None and self._has_revision(assignment, record.revision):
            raise StoreError(
                f"Labeler {name!r} must have one revision {record.revision} of a task, got another "
                f"for task {task.id}. Remove one of the two."
            )
        time = record.created or self.now
        append_judgment(session, assignment, judgment, key, time, record.revision)
        return True

    def _name_labeler(self, task_id: str, *, simulated: bool) -> str:
        self.unnamed[task_id] += 1
        prefix = SIMULATED_PREFIX if simulated else ""
        return f"{prefix}{self.source}#{self.unnamed[task_id]}"

    def _has(self, key: str, task_id: str, labeler_id: int, judgment: Judgment) -> bool:
        row = self.session.scalar(select(JudgmentRow).where(JudgmentRow.idempotency_key == key))
        if row is None:
            return False
        owner = (row.assignment.task_id, row.assignment.labeler_id)
        if owner != (task_id, labeler_id) or not same_judgment(row, judgment):
            raise StoreError(
                f"'key' must name one judgment, got {key!r} for another one than the store has. "
                "Remove the row or give it a key of its own."
            )
        return True

    def _has_revision(self, assignment: AssignmentRow, revision: int) -> bool:
        query = select(func.count()).where(
            JudgmentRow.assignment_id == assignment.id, JudgmentRow.revision == revision
        )
        return self.session.scalars(query).one() > 0


def iterate_records(session: Session) -> Iterator[JudgmentRecord]:
    """Yield every judgment, all revisions, in an order that does not depend on their arrival."""
    for row in _sorted(session, _all_judgments()):
        assignment, task = row.assignment, row.assignment.task
        ids = [completion.id for completion in task.completions]
        yield JudgmentRecord(
            prompt=read_prompt(task.prompt),
            completions=tuple((text.text, read_sources(text)) for text in task.completions),
            ranks=tuple(row.ranks[id_] for id_ in ids),
            ratings=_parallel(row, ids),
            flags=tuple(row.flags.get(id_, {}) for id_ in ids),
            split=task.prompt.split,
            labeler=assignment.labeler.name,
            group=assignment.labeler.group,
            simulated=row.simulated,
            comment=row.comment,
            active_seconds=row.active_seconds,
            presented=tuple(ids.index(id_) for id_ in assignment.presented),
            overlap=task.overlap,
            held_out_overlap=task.held_out_overlap,
            revision=row.revision,
            key=row.idempotency_key,
            created=row.created,
        )


def read_rankings(session: Session, split: str | None, group: str | None) -> list[Ranking]:
    """Return the latest judgment of each labeler on each task."""
    last = (
        select(JudgmentRow.assignment_id, func.max(JudgmentRow.revision).label("revision"))
        .group_by(JudgmentRow.assignment_id)
        .subquery()
    )
    query = _all_judgments().join(
        last,
        (JudgmentRow.assignment_id == last.c.assignment_id)
        & (JudgmentRow.revision == last.c.revision),
    )
    if split is not None:
        query = query.where(PromptRow.split == split)
    if group is not None:
        query = query.where(LabelerRow.group == group)
    rankings = []
    for row in _sorted(session, query):
        task, labeler = row.assignment.task, row.assignment.labeler
        ids = [completion.id for completion in task.completions]
        rankings.append(
            Ranking(
                prompt=read_prompt(task.prompt),
                completions=tuple(completion.text for completion in task.completions),
                ranks=tuple(row.ranks[id_] for id_ in ids),
                ratings=_parallel(row, ids),
                labeler=labeler.name,
                group=cast("Literal['train', 'held_out']", labeler.group),
            )
        )
    return rankings


def hash_judgments(session: Session) -> str:
    """Return the SHA-256 over all judgments as canonical JSON lines.

    Every revision counts, with its labeler and its prompt's split. Times, tokens, keys and
    presented orders do not: the same judgments made twice have the same hash.
    """
    digest = hashlib.sha256()
    for row in _sorted(session, _all_judgments()):
        labeler = row.assignment.labeler
        canonical: dict[str, Any] = {
            "task": row.assignment.task_id,
            "prompt": row.assignment.task.prompt_id,
            "split": row.assignment.task.prompt.split,
            "labeler": labeler.name,
            "group": labeler.group,
            "simulated": row.simulated,
            "revision": row.revision,
            "ranks": row.ranks,
            "ratings": row.ratings,
            "flags": row.flags,
            "comment": row.comment,
        }
        digest.update(json.dumps(canonical, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _all_judgments() -> Select[JudgmentRow]:
    to_task = selectinload(JudgmentRow.assignment).selectinload(AssignmentRow.task)
    return (
        select(JudgmentRow)
        .join(JudgmentRow.assignment)
        .join(AssignmentRow.labeler)
        .join(AssignmentRow.task)
        .join(TaskRow.prompt)
        .options(
            selectinload(JudgmentRow.assignment).selectinload(AssignmentRow.labeler),
            to_task.selectinload(TaskRow.prompt),
            to_task.selectinload(TaskRow.completions).selectinload(CompletionRow.sources),
        )
    )


def _by_id(ids: list[str], values: Sequence[Value]) -> dict[str, Value]:
    return dict(zip(ids, values, strict=True))


def _sorted(session: Session, query: Select[JudgmentRow]) -> list[JudgmentRow]:
    # Sorted here, because databases collate names differently.
    return sorted(
        session.scalars(query),
        key=lambda row: (
            row.assignment.task.prompt_id,
            row.assignment.task_id,
            row.assignment.labeler.name,
            row.revision,
        ),
    )


def _parallel(row: JudgmentRow, ids: list[str]) -> tuple[int, ...] | None:
    return None if row.ratings is None else tuple(row.ratings[id_] for id_ in ids)


def _content_key(task_id: str, labeler: str, judgment: Judgment) -> str:
    content = (judgment.ranks, judgment.ratings, judgment.flags, judgment.comment)
    return f"content-{hash_content(task_id, labeler, *content)}"
