"""Answer the board's script: what a labeler's page asks and saves, as JSON.

These are plain routes, not Gradio events: Gradio's queue took 898 ms at the 95th percentile for 20
users where saving a draft must take less than 500 for 50. Handlers are synchronous, and run in
threads: each is one short transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from labeling_ui.desk_bodies import (
    Day,
    DraftBody,
    Held,
    Nothing,
    PracticeBody,
    PromptBody,
    ReopenBody,
    ReportBody,
    SkipBody,
    SubmitBody,
    read_work,
)
from labeling_ui.failing import Failure
from labeling_ui.gate import signed_in
from labeling_ui.practice import PRACTICE, comment_on
from pipeline.errors import LeaseLostError
from pipeline.store.desk import Desk, StaleDraftError
from pipeline.store.leasing import LeaseRules
from pipeline.store.oversight import Oversight
from pipeline.store.questions import OUTPUT_FLAGS, PROMPT_FLAGS, SKIP_REASONS, Question
from pipeline.store.store import LabelStore
from pipeline.store.values import Judgment, Receipt, SavedDraft, Task, Written


def desk_routes(
    store: LabelStore, *, rules: LeaseRules | None, goal: int | None, interface: str
) -> APIRouter:
    """Return the routes of ``/api/desk``.

    Args:
        store: the open store.
        rules: how tasks are handed out; None for the defaults.
        goal: tasks a day that the board counts towards, or None.
        interface: the version of the page.
    """
    routes = _DeskRoutes(Desk(store, rules), Oversight(store), goal, interface)
    router = APIRouter(prefix="/api/desk")
    for path, handler in routes.read().items():
        router.get(path, response_model=None)(handler)
    for path, handler in routes.write().items():
        router.post(path, response_model=None)(handler)
    return router


class _DeskRoutes:
    def __init__(self, desk: Desk, oversight: Oversight, goal: int | None, interface: str) -> None:
        self._desk, self._oversight = desk, oversight
        self._goal, self._interface = goal, interface

    def read(self) -> dict[str, Callable[..., Response]]:
        return {"": self.overview, "/history": self.history, "/practice": self.practice}

    def write(self) -> dict[str, Callable[..., Response]]:
        return {
            "/lease": self.lease,
            "/draft": self.save_draft,
            "/heartbeat": self.renew,
            "/submit": self.submit,
            "/skip": self.skip,
            "/report": self.report,
            "/reopen": self.reopen,
            "/practice": self.check_practice,
            "/prompt": self.write_prompt,
        }

    def overview(self, request: Request, day: Day = None) -> Response:
        account = signed_in(request)
        overview = self._desk.overview(account.labeler_id, day)
        told = self._oversight.instructions()
        screening = overview.screening
        return JSONResponse(
            {
                "name": account.name,
                "role": account.role,
                "today": overview.today,
                "waiting": overview.waiting,
                "goal": self._goal,
                "admitted": overview.admitted,
                "screening": None if screening is None else vars(screening),
                "instructions": {
                    "version": 0 if told is None else told.version,
                    "text": "" if told is None else told.text,
                },
                "flags": _questions(OUTPUT_FLAGS, "name", "label", "help"),
                "prompt_flags": _questions(PROMPT_FLAGS, "name", "label"),
                "skip_reasons": _questions(SKIP_REASONS, "name", "label"),
                "interface": self._interface,
            }
        )

    def lease(self, request: Request, body: Nothing) -> Response:
        del body
        task = self._desk.lease(signed_in(request).labeler_id)
        return JSONResponse({"task": None if task is None else show_task(task)})

    def save_draft(self, request: Request, body: DraftBody) -> Response:
        labeler = signed_in(request).labeler_id
        saved, expires = self._desk.save_draft(labeler, body.token, body.version, body.content)
        return JSONResponse(
            {
                "version": saved.version,
                "saved": saved.saved.isoformat(),
                "lease_expires": expires.isoformat(),
            }
        )

    def renew(self, request: Request, body: Held) -> Response:
        expires = self._desk.renew(signed_in(request).labeler_id, body.token)
        return JSONResponse({"lease_expires": expires.isoformat()})

    def submit(self, request: Request, body: SubmitBody, day: Day = None) -> Response:
        labeler = signed_in(request).labeler_id
        receipt = self._desk.submit(labeler, body.token, read_work(body), body.key)
        return self._acknowledge(labeler, receipt, day)

    def skip(self, request: Request, body: SkipBody) -> Response:
        labeler = signed_in(request).labeler_id
        self._desk.skip(labeler, body.token, body.reason, body.comment)
        return JSONResponse({"skipped": True})

    def report(self, request: Request, body: ReportBody) -> Response:
        self._desk.report(signed_in(request).labeler_id, body.token, body.reason)
        return JSONResponse({"reported": True})

    def history(self, request: Request) -> Response:
        done = self._desk.history(signed_in(request).labeler_id)
        rows = [{**vars(item), "submitted": item.submitted.isoformat()} for item in done]
        return JSONResponse({"done": rows})

    def reopen(self, request: Request, body: ReopenBody) -> Response:
        task = self._desk.reopen(signed_in(request).labeler_id, body.id)
        return JSONResponse({"task": show_task(task)})

    def practice(self) -> Response:
        return JSONResponse({"task": show_task(PRACTICE)})

    def check_practice(self, body: PracticeBody) -> Response:
        return JSONResponse({"feedback": comment_on(body.judgment)})

    def write_prompt(self, request: Request, body: PromptBody, day: Day = None) -> Response:
        labeler = signed_in(request).labeler_id
        written = Written(body.text, body.comment, interface=self._interface)
        receipt = self._desk.write_prompt(
            labeler, body.read_messages(), body.kind, written, body.key
        )
        return self._acknowledge(labeler, receipt, day)

    def _acknowledge(self, labeler: int, receipt: Receipt, day: datetime | None) -> Response:
        """Say that work is stored, and how much it is today."""
        stored = {"revision": receipt.revision, "created": receipt.created.isoformat()}
        today = self._desk.overview(labeler, day).today
        return JSONResponse({"receipt": stored, "today": today})


def show_task(task: Task) -> dict[str, Any]:
    """Return a task as the labeler's browser may see it: opaque ids and texts."""
    return {
        "token": task.token,
        "kind": task.kind,
        "prompt": [
            {"role": turn["role"], "content": turn["content"]} for turn in task.prompt.messages
        ],
        "completions": [{"id": choice.id, "text": choice.text} for choice in task.completions],
        "lease_expires": task.lease_expires.isoformat(),
        "draft": None if task.draft is None else _show_draft(task.draft),
        "submitted": None if task.submitted is None else _show_work(task.submitted),
    }


def _show_draft(draft: SavedDraft) -> dict[str, Any]:
    return {"version": draft.version, "content": draft.content}


def _show_work(work: Judgment | Written) -> dict[str, Any]:
    shown = dict(vars(work))
    del shown["instructions"], shown["interface"]
    return shown


def _questions(questions: Sequence[Question], *fields: str) -> list[dict[str, str]]:
    return [{field: getattr(question, field) for field in fields} for question in questions]


def _stale(request: Request, error: Exception) -> Response:
    assert isinstance(error, StaleDraftError)
    failure = Failure(409, str(error))
    return failure.response(request.scope, draft=_show_draft(error.draft))


def _lost(request: Request, error: Exception) -> Response:
    return Failure(410, str(error)).response(request.scope)


FAILURES: Mapping[type[Exception], Callable[[Request, Exception], Response]] = {
    StaleDraftError: _stale,
    LeaseLostError: _lost,
}
"""What the board is told of the desk's own errors; ``failing`` has the rest."""
