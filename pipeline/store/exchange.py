"""Read what a store holds as rankings to train on, as rows to export, and as one hash.

What leads decided is heard here: the work of excluded labelers is left out, and on a disputed task
the newest decision stands. Only ordinary rankings reach training: screening, gold and repeated
tasks have other purposes, and comparisons measure stages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, selectinload

from pipeline.records import Ranking
from pipeline.store.catalog import read_prompt, read_sources
from pipeline.store.decisions import Adjudication, counts, newest_adjudications
from pipeline.store.rows import JudgmentRecord
from pipeline.store.schema import (
    AssignmentRow,
    CompletionRow,
    JudgmentRow,
    LabelerRow,
    PromptRow,
    TaskRow,
)
from pipeline.store.schema_app import GoldRow
from pipeline.store.values import SPLITS, Group, Provenance, Split

Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Snapshot:
    """A set of judgments as a model may be trained on it.

    Attributes:
        hash: SHA-256 that names it.
        labelers: whose judgments are in it, sorted.
        judgments: how many, every revision and every lead's ranking in others' place.
    """

    hash: str
    labelers: tuple[str, ...]
    judgments: int


@dataclass(frozen=True)
class Labels:
    """What a reward model may be trained on, and the name of it, as of one moment.

    Attributes:
        snapshot: names the judgments that the rankings come from.
        by_split: the latest judgments, by their prompts' split; leads' decisions are heard.
    """

    snapshot: Snapshot
    by_split: Mapping[str, Sequence[Ranking]]

    def rankings(self, split: Split, group: Group | None = None) -> list[Ranking]:
        """Return those of a split and of a group of labelers, None for all, in a fixed order."""
        return [one for one in self.by_split[split] if group in (None, one.group)]


def iterate_records(session: Session) -> Iterator[JudgmentRecord]:
    """Yield every judgment, all revisions, then the known answers of screening and gold tasks.

    Excluded labelers' are left out. The order does not depend on the judgments' arrival.
    """
    for row in _sorted(session, _with_sources(_judgments())):
        assignment, task = row.assignment, row.assignment.task
        ids = [completion.id for completion in task.completions]
        yield JudgmentRecord(
            prompt=read_prompt(task.prompt),
            completions=_read_completions(task),
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
            kind=task.kind,
            purpose=task.purpose,
            repeats=task.repeats,
            prompt_flags=row.prompt_flags,
            none_acceptable=row.none_acceptable,
            instructions=row.instructions,
            interface=row.interface,
        )
    known = select(GoldRow, TaskRow).join(TaskRow, TaskRow.id == GoldRow.task_id)
    for gold, task in session.execute(known.order_by(TaskRow.prompt_id, TaskRow.id)):
        ids = [completion.id for completion in task.completions]
        yield JudgmentRecord(
            prompt=read_prompt(task.prompt),
            completions=_read_completions(task),
            ranks=tuple(gold.ranks[id_] for id_ in ids),
            flags=tuple(gold.flags.get(id_, {}) for id_ in ids),
            split=task.prompt.split,
            labeler=gold.author,
            overlap=task.overlap,
            held_out_overlap=task.held_out_overlap,
            created=gold.created,
            kind=task.kind,
            purpose=task.purpose,
            known=True,
        )


def read_rankings(
    session: Session, split: str | None, group: str | None, *, adjudicated: bool = True
) -> list[Ranking]:
    """Return the latest judgment of each labeler on each task, for training.

    Args:
        session: any session.
        split: of the prompts, or None for all.
        group: of the labelers, or None for all; a lead's own ranking is of the train group.
        adjudicated: hear the leads' decisions on disputed tasks. Without, the labelers' own
            judgments come back, as agreement has to be measured: what was disputed is where they
            agree least.
    """
    last = (
        select(JudgmentRow.assignment_id, func.max(JudgmentRow.revision).label("revision"))
        .group_by(JudgmentRow.assignment_id)
        .subquery()
    )
    query = _with_texts(_work()).join(
        last,
        (JudgmentRow.assignment_id == last.c.assignment_id)
        & (JudgmentRow.revision == last.c.revision),
    )
    if split is not None:
        query = query.where(PromptRow.split == split)
    if group is not None:
        query = query.where(LabelerRow.group == group)
    decided = _decided(session) if adjudicated else {}
    found: list[tuple[Key, Ranking]] = []
    for row in _sorted(session, query):
        task, labeler = row.assignment.task, row.assignment.labeler
        if task.id not in decided:
            ranking = _rank(task, row.ranks, labeler.name, labeler.group, row.ratings)
            found.append((_key(row), ranking))
    if group in (None, "train"):
        found += [
            (key, _rank(task, decision.ranks or {}, decision.author, "train"))
            for key, task, decision in _replaced(session, decided)
            if split in (None, task.prompt.split)
        ]
    return [ranking for _, ranking in sorted(found, key=lambda item: item[0])]


def take_snapshot(session: Session) -> Snapshot:
    """Name the judgments that count: the SHA-256 over them as canonical JSON lines.

    Every revision counts, with its labeler and its prompt's split. Times, tokens, keys, presented
    orders and the versions of page and instructions do not: the same judgments made twice have the
    same hash.
    """
    decided = _decided(session)
    lines: list[tuple[Key, dict[str, Any]]] = []
    # Columns, because a store is hashed more often than it is read.
    query = _work().add_columns(
        TaskRow.id, TaskRow.prompt_id, PromptRow.split, LabelerRow.name, LabelerRow.group
    )
    for row, task_id, prompt_id, split, labeler, group in session.execute(query):
        if task_id in decided:
            continue
        canonical: dict[str, Any] = {
            "task": task_id,
            "prompt": prompt_id,
            "split": split,
            "labeler": labeler,
            "group": group,
            "simulated": row.simulated,
            "revision": row.revision,
            "ranks": row.ranks,
            "ratings": row.ratings,
            "flags": row.flags,
            "comment": row.comment,
        }
        # Only where they say something: judgments of before these questions keep their hash.
        if row.prompt_flags:
            canonical["prompt_flags"] = row.prompt_flags
        if row.none_acceptable:
            canonical["none_acceptable"] = True
        lines.append(((prompt_id, task_id, labeler, row.revision), canonical))
    for key, task, decision in _replaced(session, decided):
        canonical = {
            "task": task.id,
            "prompt": task.prompt_id,
            "split": task.prompt.split,
            "labeler": decision.author,
            "adjudicated": True,
            "ranks": decision.ranks,
        }
        lines.append((key, canonical))
    digest = hashlib.sha256()
    for _, line in sorted(lines, key=lambda item: item[0]):
        digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
    labelers = tuple(sorted({line["labeler"] for _, line in lines}))
    return Snapshot(digest.hexdigest(), labelers, len(lines))


def read_labels(session: Session) -> Labels:
    """Return what counts for training with its name.

    Args:
        session: one of ``LabelStore.reading(still=True)``; in another, a judgment that comes in
            between would be in the one and not in the other.
    """
    rankings = {split: read_rankings(session, split, None) for split in SPLITS}
    return Labels(take_snapshot(session), rankings)


def _decided(session: Session) -> dict[str, Adjudication]:
    """Return the decisions that take the labelers' judgments out, by task."""
    decisions = newest_adjudications(session)
    return {task: item for task, item in decisions.items() if item.verdict != "kept"}


def _replaced(
    session: Session, decided: Mapping[str, Adjudication]
) -> Iterator[tuple[Key, TaskRow, Adjudication]]:
    """Yield the tasks on which a lead's own ranking stands, with the place of it in the order."""
    replaced = {id_: item for id_, item in decided.items() if item.verdict == "replaced"}
    for id_, item in replaced.items():
        task = session.get_one(TaskRow, id_)
        if (task.purpose, task.kind) == ("work", "ranking"):
            yield (task.prompt_id, id_, item.author, 0), task, item


def _rank(
    task: TaskRow,
    ranks: Mapping[str, int],
    labeler: str,
    group: str,
    ratings: Mapping[str, int] | None = None,
) -> Ranking:
    ids = [completion.id for completion in task.completions]
    return Ranking(
        prompt=read_prompt(task.prompt),
        completions=tuple(completion.text for completion in task.completions),
        ranks=tuple(ranks[id_] for id_ in ids),
        ratings=None if ratings is None else tuple(ratings[id_] for id_ in ids),
        labeler=labeler,
        group=cast("Group", group),
    )


def _work() -> Select[JudgmentRow]:
    return _judgments().where(TaskRow.purpose == "work", TaskRow.kind == "ranking")


def _judgments() -> Select[JudgmentRow]:
    """Select what labelers judged whose work counts, joined with what it hangs on."""
    return (
        select(JudgmentRow)
        .join(JudgmentRow.assignment)
        .join(AssignmentRow.labeler)
        .join(AssignmentRow.task)
        .join(TaskRow.prompt)
        .where(counts(LabelerRow.id))
    )


def _with_texts(query: Select[JudgmentRow]) -> Select[JudgmentRow]:
    """Load prompts, completions and labelers along."""
    to_task = selectinload(JudgmentRow.assignment).selectinload(AssignmentRow.task)
    return query.options(
        selectinload(JudgmentRow.assignment).selectinload(AssignmentRow.labeler),
        to_task.selectinload(TaskRow.prompt),
        to_task.selectinload(TaskRow.completions),
    )


def _with_sources(query: Select[JudgmentRow]) -> Select[JudgmentRow]:
    """Load where the completions come from, too."""
    to_task = selectinload(JudgmentRow.assignment).selectinload(AssignmentRow.task)
    to_sources = to_task.selectinload(TaskRow.completions).selectinload(CompletionRow.sources)
    return _with_texts(query).options(to_sources)


def _sorted(session: Session, query: Select[JudgmentRow]) -> list[JudgmentRow]:
    # Sorted here, because databases collate names differently.
    return sorted(session.scalars(query), key=_key)


def _key(row: JudgmentRow) -> Key:
    assignment = row.assignment
    return assignment.task.prompt_id, assignment.task_id, assignment.labeler.name, row.revision


def _read_completions(task: TaskRow) -> tuple[tuple[str, tuple[Provenance, ...]], ...]:
    return tuple((text.text, read_sources(text)) for text in task.completions)


def _parallel(row: JudgmentRow, ids: list[str]) -> tuple[int, ...] | None:
    return None if row.ratings is None else tuple(row.ratings[id_] for id_ in ids)
