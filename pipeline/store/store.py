"""Keep prompts, sampled completions, labeling tasks and judgments: the one way to the labels.

People's judgments and simulated ones take the same path: ``lease_task``, then ``submit``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from pipeline.artifacts import write_text
from pipeline.closing import Closing
from pipeline.errors import DataError, StoreError
from pipeline.records import Prompt, Ranking, read_jsonl
from pipeline.store import candidates, catalog, exchange, leasing, submitting, tasking
from pipeline.store.candidates import Candidate
from pipeline.store.clock import SteadyClock, newest_time, utc_now
from pipeline.store.connect import connect, explain_outage, for_one_moment, for_writing
from pipeline.store.decisions import counts
from pipeline.store.importing import Importer
from pipeline.store.leasing import LEASE, LeaseRules
from pipeline.store.rows import JudgmentRecord, read_row, write_row
from pipeline.store.schema import (
    AssignmentRow,
    CompletionRow,
    JudgmentRow,
    LabelerRow,
    PromptRow,
    TaskRow,
)
from pipeline.store.showing import show_task
from pipeline.store.tasking import Overlap, Wanted
from pipeline.store.values import (
    SPLITS,
    Choice,
    Group,
    ImportCount,
    Judgment,
    Kind,
    Receipt,
    SampledCompletion,
    Split,
    StoredCompletion,
    Task,
    TaskKind,
    Written,
)


class LabelStore(Closing):
    """Hold an open label store; a context manager that closes it.

    A database that fails as it is used, full or gone, leaves the context as a ``StoreError``.

    Args:
        engine: an engine on a migrated database, as ``open`` makes it.
        clock: where the time comes from, aware.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    @classmethod
    def open(
        cls,
        url_or_path: str | Path,
        create: bool = True,
        *,
        clock: Callable[[], datetime] | None = None,
    ) -> LabelStore:
        """Open the store at a SQLAlchemy URL or in a SQLite file, and migrate it where it is older.

        Without a clock of the caller's, the time is a ``SteadyClock``'s.

        Raises:
            StoreError: if there is none and ``create`` is False, or it cannot be opened, is
                something else, or was written by a newer version.
        """
        engine = connect(url_or_path, create=create)
        if clock is None:
            with Session(engine) as session:
                clock = SteadyClock(newest_time(session))
        return cls(engine, clock)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; an outage of the database is told in words."""
        super().__exit__(kind, error, trace)
        told = explain_outage(self._engine, error) if isinstance(error, OperationalError) else None
        if told is not None:
            raise told from error

    def add_prompts(self, prompts: Iterable[Prompt], *, split: Split = "train") -> int:
        """Add prompts to a split and return how many were new.

        Raises:
            StoreError: if one is in the store in another split; none is added then.
        """
        with self.writing() as session:
            now = self.clock()
            return sum(catalog.add_prompt(session, prompt, split, now) for prompt in prompts)

    def prompts(self, split: Split | None = None) -> list[Prompt]:
        """Return the prompts of a split, or of all, by id."""
        query = select(PromptRow).where(PromptRow.split.in_(_splits(split))).order_by(PromptRow.id)
        with self.reading() as session:
            return [catalog.read_prompt(row) for row in session.scalars(query)]

    def add_completions(
        self, prompt_id: str, completions: Iterable[SampledCompletion]
    ) -> list[str]:
        """Add sampled completions of a prompt and return their ids, in order.

        Equal texts become one completion that keeps every provenance; their ids are equal.

        Raises:
            StoreError: if the prompt is unknown, or for a text that ``reason_to_refuse`` would
                name; none is added then.
        """
        with self.writing() as session:
            return catalog.add_completions(session, prompt_id, completions, self.clock())

    def completions(self, prompt_id: str) -> list[StoredCompletion]:
        """Return a prompt's distinct completions, by id."""
        with self.reading() as session:
            return catalog.read_completions(session, prompt_id)

    def create_ranking_tasks(
        self, overlap: int, split: Split | None = None, *, held_out: int = 0
    ) -> int:
        """Make a ranking task for each prompt with two or more completions; count the new ones.

        A task compares all completions that its prompt has now. Asked again, it makes only what is
        missing, and existing tasks take the new numbers of labelers.

        Args:
            overlap: labelers wanted a task.
            split: of the prompts, or None for all.
            held_out: held-out labelers wanted beside them.

        Raises:
            StoreError: if nobody is wanted.
        """
        with self.writing() as session:
            wanted = tasking.rankings_wanted(session, _splits(split))
            return self._create(session, "ranking", wanted, Overlap(overlap, held_out))

    def create_demonstration_tasks(self, overlap: int, split: Split | None = None) -> int:
        """Make a demonstration task for each prompt without a completion; count the new ones.

        Raises:
            StoreError: if nobody is wanted.
        """
        with self.writing() as session:
            wanted = tasking.demonstrations_wanted(session, _splits(split))
            return self._create(session, "demonstration", wanted, Overlap(overlap))

    def create_comparison_tasks(
        self, stages: tuple[str, str], overlap: int, split: Split | None = None
    ) -> int:
        """Make a blind comparison of two stages for each prompt that both answered differently.

        Raises:
            StoreError: if nobody is wanted.
        """
        with self.writing() as session:
            wanted = tasking.comparisons_wanted(session, stages, _splits(split))
            return self._create(session, "comparison", wanted, Overlap(overlap))

    def _create(
        self, session: Session, kind: TaskKind, wanted: Iterable[Wanted], overlap: Overlap
    ) -> int:
        return tasking.create_tasks(session, kind, list(wanted), overlap, self.clock())

    def unscored(self, checkpoint: str, split: Split | None = None) -> list[tuple[Prompt, Choice]]:
        """Return each completion that a reward model has not scored, with its prompt, by id."""
        with self.reading() as session:
            return candidates.unscored(session, checkpoint, _splits(split))

    def add_scores(self, stage: str, checkpoint: str, scores: Mapping[str, float]) -> None:
        """Keep a reward model's centred scores by completion id."""
        with self.writing() as session:
            candidates.add_scores(session, stage, checkpoint, scores, self.clock())

    def candidates(self, checkpoints: Sequence[str], split: Split | None = None) -> list[Candidate]:
        """Return the prompts that could be ranked and are no task yet, with their scores."""
        with self.reading() as session:
            return candidates.read_candidates(session, checkpoints, _splits(split))

    def create_selected_tasks(
        self, chosen: Iterable[tuple[Candidate, Mapping[str, Any]]], overlap: int
    ) -> int:
        """Make ranking tasks of chosen candidates, each with how it was chosen; count them."""
        with self.writing() as session:
            return candidates.add_selected(session, chosen, Overlap(overlap), self.clock())

    def add_labeler(self, name: str, *, kind: Kind = "human", group: Group = "train") -> int:
        """Add a labeler and return the id; the same labeler again has the same id.

        Raises:
            StoreError: if the name belongs to another kind or group, or lacks the
                ``SIMULATED_PREFIX`` of simulated labelers.
        """
        with self.writing() as session:
            return catalog.add_labeler(session, name, kind, group, self.clock()).id

    def lease_task(self, labeler_id: int, duration: timedelta = LEASE) -> Task | None:
        """Give a labeler the task they hold, or one with a free place, or None if there is none.

        Raises:
            StoreError: if there is no such labeler.
        """
        with self.writing() as session:
            assignment = leasing.lease(session, labeler_id, LeaseRules(duration), self.clock())
            return None if assignment is None else show_task(session, assignment)

    def submit(self, token: str, work: Judgment | Written, idempotency_key: str) -> Receipt:
        """Store a judgment or an answer durably; the same key again returns the same receipt.

        Raises:
            StoreError: if the token is unknown, or as ``submitting.submit`` says.
        """
        with self.writing() as session:
            assignment = submitting.find_leased(session, token)
            return submitting.submit(session, assignment, work, idempotency_key, self.clock())

    def rankings(
        self, split: Split | None = None, group: Group | None = None, *, adjudicated: bool = True
    ) -> list[Ranking]:
        """Return the latest judgment of each labeler on each task, in a fixed order.

        Completions come by id, which tells nothing of their rank. Simulated judgments are those
        whose labeler begins with ``SIMULATED_PREFIX``.

        Args:
            split: of the prompts, or None for all.
            group: of the labelers, or None for all.
            adjudicated: hear leads' decisions on disputed tasks; without, for measuring agreement,
                the labelers' own judgments come back.
        """
        with self.reading() as session:
            return exchange.read_rankings(session, split, group, adjudicated=adjudicated)

    def snapshot_hash(self) -> str:
        """Return the SHA-256 that names the judgments that count; see ``take_snapshot``."""
        with self.reading(still=True) as session:
            return exchange.take_snapshot(session).hash

    def counts(self) -> dict[str, int]:
        """Count what the store holds; ``places_*`` are labelers wanted, and those who are done."""
        done = (AssignmentRow.state == "done") & counts(AssignmentRow.labeler_id)
        held = (AssignmentRow.state == "leased") & (AssignmentRow.lease_expires > self.clock())
        queries = {
            "prompts": select(func.count()).select_from(PromptRow),
            "completions": select(func.count()).select_from(CompletionRow),
            "tasks": select(func.count()).select_from(TaskRow),
            "places_wanted": select(
                func.coalesce(func.sum(TaskRow.overlap + TaskRow.held_out_overlap), 0)
            ),
            "places_done": select(func.count()).where(done),
            "places_leased": select(func.count()).where(held),
            "labelers_human": select(func.count()).where(LabelerRow.kind == "human"),
            "labelers_simulated": select(func.count()).where(LabelerRow.kind == "simulated"),
            "judgments_human": select(func.count()).where(~JudgmentRow.simulated),
            "judgments_simulated": select(func.count()).where(JudgmentRow.simulated),
        }
        with self.reading() as session:
            return {name: int(session.scalars(query).one()) for name, query in queries.items()}

    def export_jsonl(self, path: Path | str) -> int:
        """Write one row a judgment, all revisions, in one step; return how many.

        Known answers of screening and gold tasks are rows too; excluded labelers' judgments are
        left out.
        """
        rows = self.export_rows()
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(Path(path), "".join(lines))
        return len(rows)

    def export_rows(self) -> list[dict[str, Any]]:
        """Return the rows of ``export_jsonl``."""
        with self.reading() as session:
            return [write_row(record) for record in exchange.iterate_records(session)]

    def import_jsonl(
        self, path: Path | str, *, split: Split = "train", source: str | None = None
    ) -> ImportCount:
        """Add the judgments of a ranking JSONL, all or none, and count those already here.

        Args:
            path: the file, in the format of ``pipeline.store.rows``.
            split: the split of prompts whose rows name none.
            source: the origin of what rows do not name; the file's name by default.

        Raises:
            DataError: naming the file and line that is malformed or contradicts the store.
        """
        source = source or Path(path).stem
        rows = ((line, lambda row=row: read_row(row, source)) for line, row in read_jsonl(path))
        return self._import(rows, str(path), source, split)

    def import_rankings(
        self,
        rankings: Iterable[Ranking],
        *,
        split: Split,
        source: str,
        simulated: bool = False,
    ) -> ImportCount:
        """Add plain rankings of another source, all or none; their ranks may have gaps.

        Where a labeler's name stands at two rankings of the same completions, the later one is
        kept as a repeat, which tells whether they agree with themselves, and is not trained on.

        Raises:
            DataError: naming the source and the 1-based ranking that is malformed or contradicts
                the store.
        """
        rows = (
            (
                number,
                lambda ranking=ranking: JudgmentRecord.from_ranking(
                    ranking, source, simulated=simulated
                ),
            )
            for number, ranking in enumerate(rankings, start=1)
        )
        return self._import(rows, source, source, split, revises=False)

    def _import(
        self,
        rows: Iterable[tuple[int, Callable[[], JudgmentRecord]]],
        where: str,
        source: str,
        split: Split,
        *,
        revises: bool = True,
    ) -> ImportCount:
        added = total = 0
        with self.writing() as session:
            importer = Importer(session, source, split, self.clock(), revises)
            for line, parse in rows:
                try:
                    added += importer.add(parse())
                except StoreError as error:
                    raise DataError.at(where, line, str(error)) from error
                total += 1
            importer.settle()
        return ImportCount(added, total - added)

    def clock(self) -> datetime:
        """Return the store's time, in UTC."""
        return self._clock()

    @contextmanager
    def reading(self, *, still: bool = False) -> Iterator[Session]:
        """Open a session that only reads; ``still``: the store as it is at one moment."""
        with Session(for_one_moment(self._engine) if still else self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Open a session that writes, all of it or nothing."""
        with Session(for_writing(self._engine)) as session, session.begin():
            yield session


def _splits(split: Split | None) -> tuple[str, ...]:
    return SPLITS if split is None else (split,)
