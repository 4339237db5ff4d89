"""Be the lead's side of the store: what they see of the labels, and what they decide about them.

What is read for training hears the decisions (``pipeline.store.exchange``,
``pipeline.store.answers``); judgments and answers stay as they were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError

from pipeline.artifacts import hash_file
from pipeline.errors import StoreError
from pipeline.records import Prompt, write_jsonl
from pipeline.store import deciding, standing
from pipeline.store.answers import Answer, answer_rows, read_answers
from pipeline.store.decisions import (
    Adjudication,
    KnownAnswer,
    newest_adjudications,
    read_known,
)
from pipeline.store.exchange import Labels, Snapshot, read_labels, take_snapshot
from pipeline.store.inbox import Dispute, InboxRules, find_disputes
from pipeline.store.judged import Judged, Output, count_changes, read_judged, read_task
from pipeline.store.schema_app import InstructionsRow, SnapshotRow
from pipeline.store.standing import Person, Queue, Report
from pipeline.store.store import LabelStore
from pipeline.store.values import Judgment


@dataclass(frozen=True)
class Instructions:
    """One version of what labelers are told."""

    version: int
    text: str
    author: str
    created: datetime


class Oversight:
    """Serve the leads out of the store; safe to share between threads.

    Args:
        store: the open store.
    """

    def __init__(self, store: LabelStore) -> None:
        self._store = store

    def instructions(self) -> Instructions | None:
        """Return the newest version, or None where none was published."""
        versions = self.instruction_versions()
        return versions[-1] if versions else None

    def instruction_versions(self) -> list[Instructions]:
        """Return every version, the oldest first."""
        query = select(InstructionsRow).order_by(InstructionsRow.version)
        with self._store.reading() as session:
            return [_read_instructions(row) for row in session.scalars(query)]

    def publish_instructions(self, text: str, author: str) -> Instructions:
        """Make a text the newest version; text that is unchanged makes none.

        Raises:
            StoreError: if there is no text, it cannot be stored, or another lead publishes too.
        """
        try:
            with self._store.writing() as session:
                row = deciding.publish(session, text, author, self._store.clock())
                return _read_instructions(row)
        except IntegrityError as error:
            raise StoreError(
                "Instructions must be published by one lead at a time, got two. "
                "Look at the newest version, then publish again."
            ) from error

    def gold(self) -> dict[str, KnownAnswer]:
        """Return the known answers of screening and gold tasks, by task."""
        with self._store.reading() as session:
            return read_known(session)

    def set_gold(
        self,
        task_id: str,
        ranks: Mapping[str, int],
        flags: Mapping[str, Mapping[str, bool]],
        author: str,
        purpose: str = "gold",
    ) -> None:
        """Say what is right about a ranking task; from then on it is no ordinary work.

        Args:
            task_id: the task.
            ranks: dense ranks by completion id.
            flags: by completion id, the yes/no questions to be settled, with their answers.
            author: who says so.
            purpose: ``gold`` (mixed into the work) or ``screening`` (before it).

        Raises:
            StoreError: as ``deciding.set_known`` says.
        """
        answer = Judgment(ranks=ranks, flags=flags)
        with self._store.writing() as session:
            deciding.set_known(session, task_id, answer, author, purpose, self._store.clock())

    def release_gold(self, task_id: str) -> None:
        """Forget a known answer and make its task ordinary work again.

        Raises:
            StoreError: if the task has no known answer.
        """
        with self._store.writing() as session:
            deciding.release_known(session, task_id)

    def answers(self, *where: ColumnElement[bool]) -> list[Answer]:
        """Return the newest revision of every written answer, with its review."""
        with self._store.reading() as session:
            return read_answers(session, *where)

    def review(
        self,
        demonstration_id: int,
        account_id: int,
        verdict: str,
        score: int | None = None,
        comment: str = "",
    ) -> None:
        """Accept, reject or return the newest revision of a written answer.

        Raises:
            StoreError: as ``deciding.review`` says.
        """
        with self._store.writing() as session:
            now = self._store.clock()
            deciding.review(session, demonstration_id, account_id, verdict, score, comment, now)

    def export_judgments(self, path: Path | str) -> int:
        """Write the judgments of labelers who are not excluded; return how many.

        The file's hash is noted as a snapshot, so that a model trained on it can be found when one
        of its labelers is removed.
        """
        count = self._store.export_jsonl(path)
        names = {judged.labeler for judged in self.judged() if not judged.excluded}
        self.note_snapshot(Snapshot(hash_file(Path(path)), tuple(sorted(names)), count))
        return count

    def export_demonstrations(self, path: Path | str) -> int:
        """Write the answers that may be trained on as ``messages`` rows; return how many.

        The file's hash is noted as a snapshot, so that a model trained on it can be found when one
        of its labelers is removed.
        """
        accepted = [answer for answer in self.answers() if answer.trainable]
        count = write_jsonl(path, answer_rows(accepted))
        names = tuple(sorted({answer.labeler for answer in accepted}))
        self.note_snapshot(Snapshot(hash_file(Path(path)), names, count))
        return count

    def inbox(
        self, rules: InboxRules | None = None, judged: Sequence[Judged] | None = None
    ) -> list[Dispute]:
        """Return the tasks whose judgments a lead should look at, with the reasons.

        Args:
            rules: what makes a task come.
            judged: the newest judgments, where they were read already.
        """
        with self._store.reading() as session:
            return find_disputes(
                read_judged(session) if judged is None else judged,
                standing.read_scores(session),
                newest_adjudications(session),
                rules or InboxRules(),
            )

    def adjudications(self) -> dict[str, Adjudication]:
        """Return the decision that counts on each task that has one, by task."""
        with self._store.reading() as session:
            return newest_adjudications(session)

    def adjudicate(
        self,
        task_id: str,
        account_id: int,
        verdict: str,
        ranks: Mapping[str, int] | None = None,
        comment: str = "",
    ) -> None:
        """Decide a disputed ranking.

        Args:
            task_id: the task.
            account_id: the lead's account.
            verdict: ``kept``, ``replaced`` or ``dropped``.
            ranks: dense ranks by completion id that take the judgments' place, for ``replaced``.
            comment: the reason.

        Raises:
            StoreError: as ``deciding.adjudicate`` says.
        """
        with self._store.writing() as session:
            now = self._store.clock()
            deciding.adjudicate(session, task_id, account_id, verdict, ranks, comment, now)

    def people(self) -> list[Person]:
        """Return every labeler, by name."""
        with self._store.reading() as session:
            return standing.read_people(session)

    def admit(self, labeler: str, *, admitted: bool = True) -> None:
        """Let a labeler do ordinary work, or send them back to the screening test.

        Raises:
            StoreError: if there is no such labeler.
        """
        with self._store.writing() as session:
            deciding.admit(session, labeler, admitted=admitted)

    def set_kinds(self, labeler: str, kinds: Sequence[str] | None) -> None:
        """Say which kinds of task a labeler may be given, None for all.

        Raises:
            StoreError: if there is no such labeler or kind, or none is left.
        """
        with self._store.writing() as session:
            deciding.set_kinds(session, labeler, kinds)

    def exclude(self, labeler: str, reason: str, author: str) -> None:
        """Take a labeler's judgments and answers out of all that is read for training.

        Their places on tasks are free for others, and they get no further task. No row is deleted:
        ``restore`` brings everything back. A second time changes nothing.

        Raises:
            StoreError: if there is no such labeler, or no reason.
        """
        with self._store.writing() as session:
            deciding.exclude(session, labeler, reason, author, self._store.clock())

    def restore(self, labeler: str) -> None:
        """Let a labeler's judgments and answers count again, and give them tasks again.

        Raises:
            StoreError: if there is no such labeler, or they are not excluded.
        """
        with self._store.writing() as session:
            deciding.restore(session, labeler)

    def judged(self, *where: ColumnElement[bool], newest: bool = True) -> list[Judged]:
        """Return judgments as plain records; see ``judged.read_judged``."""
        with self._store.reading() as session:
            return read_judged(session, *where, newest=newest)

    def changes(self) -> tuple[int, int, int]:
        """Return numbers that stay the same while ``judged`` would give the same."""
        with self._store.reading() as session:
            return count_changes(session)

    def queue(self) -> list[Queue]:
        """Count tasks and the labelers that they want, by kind, purpose and split."""
        with self._store.reading() as session:
            return standing.read_queue(session, self._store.clock())

    def skips(self) -> dict[str, int]:
        """Count skipped tasks by reason."""
        with self._store.reading() as session:
            return standing.read_skips(session)

    def reports(self) -> list[Report]:
        """Return what labelers reported of prompts: what waits first, then the newest."""
        with self._store.reading() as session:
            return standing.read_reports(session)

    def resolve_report(self, report_id: int) -> None:
        """Mark a report as dealt with.

        Raises:
            StoreError: if there is no such report.
        """
        with self._store.writing() as session:
            deciding.resolve(session, report_id)

    def snapshot(self) -> Snapshot:
        """Return the name of what a reward model would be trained on now."""
        with self._store.reading(still=True) as session:
            return take_snapshot(session)

    def task(self, task_id: str) -> tuple[Prompt, tuple[Output, ...]]:
        """Return a task's prompt and outputs, by id.

        Raises:
            StoreError: if there is no such task.
        """
        with self._store.reading() as session:
            return read_task(deciding.get_task(session, task_id))

    def record_snapshot(self) -> str:
        """Return the store's ``snapshot_hash``, and note whose judgments are behind it."""
        snapshot = self.snapshot()
        self.note_snapshot(snapshot)
        return snapshot.hash

    def take_labels(self) -> Labels:
        """Return what a reward model is trained on now, and note whose judgments are behind it.

        The rankings and their name are read at one moment: a judgment that comes meanwhile is in
        neither.
        """
        with self._store.reading(still=True) as session:
            labels = read_labels(session)
        self.note_snapshot(labels.snapshot)
        return labels

    def note_snapshot(self, snapshot: Snapshot) -> None:
        """Note whose judgments are behind a hash that a manifest may name; again, nothing."""
        with self._store.reading() as session:
            if session.get(SnapshotRow, snapshot.hash) is not None:
                return
        # Another process may note the same at this moment.
        with suppress(IntegrityError), self._store.writing() as session:
            session.add(
                SnapshotRow(
                    hash=snapshot.hash,
                    labelers=list(snapshot.labelers),
                    judgments=snapshot.judgments,
                    created=self._store.clock(),
                )
            )

    def snapshots(self) -> dict[str, frozenset[str]]:
        """Return the labelers behind every set of labels that was used, by its hash."""
        with self._store.reading() as session:
            rows = session.scalars(select(SnapshotRow))
            return {row.hash: frozenset(row.labelers) for row in rows}


def _read_instructions(row: InstructionsRow) -> Instructions:
    return Instructions(row.version, row.text, row.author, row.created)
