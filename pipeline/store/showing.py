"""Show a labeler the task in their hands, and nothing of where its completions come from."""

from __future__ import annotations

from typing import cast

from sqlalchemy.orm import Session

from pipeline.store.catalog import read_prompt
from pipeline.store.schema import AssignmentRow
from pipeline.store.schema_app import DraftRow
from pipeline.store.submitting import read_judgment, read_written
from pipeline.store.values import Choice, Judgment, SavedDraft, Task, TaskKind, Written


def show_task(session: Session, assignment: AssignmentRow) -> Task:
    """Return the task of an assignment, with its draft and what was submitted before."""
    task = assignment.task
    texts = {row.id: row.text for row in task.completions}
    draft = session.get(DraftRow, assignment.id)
    submitted: Judgment | Written | None = None
    # Only finished work has something submitted: a lease saves two queries.
    if assignment.state == "done" and assignment.judgments:
        submitted = read_judgment(assignment.judgments[-1])
    elif assignment.state == "done" and assignment.demonstrations:
        submitted = read_written(assignment.demonstrations[-1])
    return Task(
        id=task.id,
        token=assignment.token,
        kind=cast("TaskKind", task.kind),
        prompt=read_prompt(task.prompt),
        completions=tuple(Choice(id_, texts[id_]) for id_ in assignment.presented),
        lease_expires=assignment.lease_expires,
        draft=None if draft is None else read_draft(draft),
        submitted=submitted,
    )


def read_draft(row: DraftRow) -> SavedDraft:
    """Return the draft of a stored row."""
    return SavedDraft(row.version, row.content, row.saved)
