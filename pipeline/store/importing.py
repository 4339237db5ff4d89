"""Bring whole judgments and known answers into a session.

An import is idempotent: a row's key (its idempotency key, or the hash of its content where it has
none) tells whether the store has it already. What records of one task in a row have in common, and
what all records ask, is asked of the database once: an import of thousands takes seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar, cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pipeline.errors import StoreError
from pipeline.store.catalog import add_completions, add_labeler, add_prompt
from pipeline.store.leasing import add_assignment, find_assignment
from pipeline.store.rows import JudgmentRecord, check_lengths
from pipeline.store.schema import AssignmentRow, JudgmentRow, LabelerRow, TaskRow
from pipeline.store.schema_app import GoldRow
from pipeline.store.submitting import append_judgment, same_judgment
from pipeline.store.tasking import Overlap, Wanted, add_task, link_completions, mark_open
from pipeline.store.values import (
    SIMULATED_PREFIX,
    Judgment,
    Split,
    TaskKind,
    check_judgment,
    completion_id,
    hash_content,
    task_id,
)

Value = TypeVar("Value")

PORTION = 500
"""Tasks that are marked in one statement."""


@dataclass
class Importer:
    """Add judgments of one source to a session.

    A source that names no labelers gets one a vote: the n-th unnamed judgment of a task is by
    ``<source>#n``, so that two people's votes are never taken for one person's change of mind.

    A named labeler may judge a task twice. Where ``revises``, the second is a revision, as in the
    store's own files. Otherwise (a data set that has a pair in several rows, each voted on) it is
    kept as a repeat of the one before: it tells whether the labeler agrees with themselves and does
    not reach training.

    Attributes:
        session: a writing session.
        source: the origin of what records do not name.
        split: of prompts whose records name none.
        now: the time of the import.
        revises: whether a labeler's second judgment of a task takes the first one's place.
        unnamed: votes without a name so far, by task.
        latest: the task of each labeler's newest judgment of a task's completions.
        keys: of every judgment in the store.
        labelers: met so far, by name, kind and group.
        touched: tasks whose mark of being open ``settle`` has to set.
    """

    session: Session
    source: str
    split: Split
    now: datetime
    revises: bool = True
    unnamed: Counter[str] = field(default_factory=Counter)
    latest: dict[tuple[str, str], str] = field(default_factory=dict)
    keys: set[str] = field(init=False)
    labelers: dict[tuple[str, str, str], LabelerRow] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Read what the store has already."""
        self.keys = set(self.session.scalars(select(JudgmentRow.idempotency_key)))
        self._content: object = None
        self._task: TaskRow | None = None

    def add(self, record: JudgmentRecord) -> bool:
        """Add one judgment or known answer and return whether it was new.

        Raises:
            StoreError: if it breaks a rule, or contradicts what the store has.
        """
        check_lengths(record)
        self._add_content(record)
        ids = [completion_id(record.prompt.id, text) for text, _ in record.completions]
        judgment = _read_judgment(record, ids)
        check_judgment(judgment, ids)
        if record.known:
            return self._add_known(record, ids, judgment)
        kind = "simulated" if record.simulated else "human"
        task = None if record.purpose == "repeat" else self._find_task(record, ids)
        name = record.labeler
        if name is None:
            if task is None:
                raise StoreError("'labeler' is missing in a repeated judgment. Add it.")
            name = self._name_labeler(task.id, simulated=record.simulated)
        labeler = self._find_labeler(name, kind, record.group)
        if task is None:
            task = self._find_repeat(record, ids, record.repeats, labeler)
        elif not self.revises:
            judged = task.id, name
            if judged in self.latest:
                task = self._find_repeat(record, ids, self.latest[judged], labeler)
            self.latest[judged] = task.id
        self._task = task  # held, so that the session still knows it when its next vote comes
        return self._add_judgment(record, judgment, task, labeler)

    def settle(self) -> None:
        """Note of each task whether it wants further labelers; once all records are added."""
        touched = sorted(self.touched)
        for start in range(0, len(touched), PORTION):
            mark_open(self.session, TaskRow.id.in_(touched[start : start + PORTION]))

    def _add_content(self, record: JudgmentRecord) -> None:
        """Add prompt and completions, unless the record before had the same."""
        content = record.prompt, record.split, record.completions
        if content == self._content:
            return
        add_prompt(self.session, record.prompt, record.split or self.split, self.now)
        add_completions(self.session, record.prompt.id, record.sampled, self.now)
        self._content = content

    def _find_labeler(self, name: str, kind: str, group: str) -> LabelerRow:
        who = name, kind, group
        if who not in self.labelers:
            self.labelers[who] = add_labeler(self.session, name, kind, group, self.now)
        return self.labelers[who]

    def _add_judgment(
        self, record: JudgmentRecord, judgment: Judgment, task: TaskRow, labeler: LabelerRow
    ) -> bool:
        session, ids = self.session, [*judgment.ranks]
        key = record.key or _content_key(task.id, labeler.name, judgment)
        if self._has(key, task.id, labeler.id, judgment):
            return False
        assignment = find_assignment(session, task.id, labeler.id)
        if assignment is None:
            order = range(len(ids)) if record.presented is None else record.presented
            presented = [ids[index] for index in order]
            assignment = add_assignment(session, task, labeler, presented, self.now)
        if record.revision is not None and self._has_revision(assignment, record.revision):
            raise StoreError(
                f"Labeler {labeler.name!r} must have one revision {record.revision} of a task, got "
                f"another for task {task.id}. Remove one of the two."
            )
        revision, time = record.revision, record.created or self.now
        if assignment.state != "done":
            # Done from the start, so that the task is marked by ``settle`` and not at each vote.
            assignment.state, revision = "done", revision or 1
            self.touched.add(task.id)
        append_judgment(session, assignment, judgment, key, time, revision)
        self.keys.add(key)
        return True

    def _find_task(self, record: JudgmentRecord, ids: list[str]) -> TaskRow:
        """Return the record's task, made where there is none.

        Raises:
            StoreError: if the record gives it another purpose than it has.
        """
        kind = cast("TaskKind", record.kind)
        wanted = Wanted(record.prompt.id, ids)
        task = self.session.get(TaskRow, task_id(record.prompt.id, ids, kind))
        if task is None:
            overlap = Overlap(record.overlap, record.held_out_overlap)
            task = add_task(self.session, wanted, overlap, self.now, kind)
            task.purpose = record.purpose
        elif record.purpose not in ("work", task.purpose):
            raise StoreError(
                f"Task {task.id} must stay {task.purpose!r}, got 'purpose' {record.purpose!r}. "
                "Change it on the lead's page, or remove the row."
            )
        return task

    def _find_repeat(
        self,
        record: JudgmentRecord,
        ids: list[str],
        original: str | None,
        labeler: LabelerRow,
    ) -> TaskRow:
        """Return the task that shows a labeler another one again, made where there is none."""
        if original is None:
            raise StoreError("'repeats' is missing in a repeated judgment. Name the first task.")
        row_id = hash_content("repeat", original, labeler.name)
        task = self.session.get(TaskRow, row_id)
        if task is None:
            task = TaskRow(
                id=row_id,
                prompt_id=record.prompt.id,
                kind=record.kind,
                purpose="repeat",
                overlap=1,
                repeats=original,
                reserved_for=labeler.id,
                created=self.now,
            )
            self.session.add(task)
            self.session.flush()
            link_completions(self.session, row_id, ids)
        elif {row.id for row in task.completions} != set(ids):
            raise StoreError(
                f"Task {row_id} must repeat one set of completions, got another. Remove the row."
            )
        return task

    def _add_known(self, record: JudgmentRecord, ids: list[str], judgment: Judgment) -> bool:
        if record.purpose not in ("gold", "screening"):
            raise StoreError(
                f"'purpose' of a known answer must be gold or screening, got {record.purpose!r}. "
                "Mend the row."
            )
        task = self._find_task(record, ids)
        row = self.session.get(GoldRow, task.id)
        if row is not None:
            if (row.ranks, row.flags) != (dict(judgment.ranks), stored_answers(judgment.flags)):
                raise StoreError(
                    f"Task {task.id} must have one known answer, got another. Remove one of them."
                )
            return False
        self.session.add(
            GoldRow(
                task_id=task.id,
                ranks=dict(judgment.ranks),
                flags=stored_answers(judgment.flags),
                author=record.labeler or self.source,
                created=record.created or self.now,
            )
        )
        return True

    def _name_labeler(self, task_id: str, *, simulated: bool) -> str:
        self.unnamed[task_id] += 1
        prefix = SIMULATED_PREFIX if simulated else ""
        return f"{prefix}{self.source}#{self.unnamed[task_id]}"

    def _has(self, key: str, task_id: str, labeler_id: int, judgment: Judgment) -> bool:
        if key not in self.keys:
            return False
        query = select(JudgmentRow).where(JudgmentRow.idempotency_key == key)
        row = self.session.scalars(query).one()
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


def stored_answers(flags: Mapping[str, Mapping[str, bool]]) -> dict[str, dict[str, bool]]:
    """Return flags by completion as rows hold them: without completions that have none."""
    return {id_: dict(said) for id_, said in flags.items() if said}


def _read_judgment(record: JudgmentRecord, ids: list[str]) -> Judgment:
    return Judgment(
        ranks=_by_id(ids, record.ranks),
        ratings=None if record.ratings is None else _by_id(ids, record.ratings),
        flags={} if record.flags is None else _by_id(ids, record.flags),
        comment=record.comment,
        prompt_flags=record.prompt_flags,
        none_acceptable=record.none_acceptable,
        instructions=record.instructions,
        interface=record.interface,
        active_seconds=record.active_seconds,
    )


def _by_id(ids: list[str], values: Sequence[Value]) -> dict[str, Value]:
    return dict(zip(ids, values, strict=True))


def _content_key(task_id: str, labeler: str, judgment: Judgment) -> str:
    content: list[Any] = [judgment.ranks, judgment.ratings, judgment.flags, judgment.comment]
    # Only where they say something: rows of before these questions keep their keys.
    if judgment.prompt_flags or judgment.none_acceptable:
        content += [judgment.prompt_flags, judgment.none_acceptable]
    return f"content-{hash_content(task_id, labeler, *content)}"
