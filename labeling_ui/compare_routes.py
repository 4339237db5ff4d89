"""Answer the page of comparisons: ``/api/lab/compare``; for leads alone.

Answers of models stream as JSON lines, those of all columns over one connection, of which a browser
has few. A stream takes threads of its own, so that nobody else waits for one. Nothing that comes of
a model or a prompt is ever sent as HTML; the run's report is, under a policy that runs nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from labeling_ui.compare_bench import Bench, BusyError, default_place
from labeling_ui.compare_bodies import AskBody, CurvesBody, LookBody, SaveBody
from labeling_ui.failing import Failure
from labeling_ui.leading import require_lead
from pipeline.artifacts import as_json
from pipeline.errors import DataError
from pipeline.records import Prompt
from pipeline.run_index import StageState
from pipeline.store.account_rows import Account

if TYPE_CHECKING:
    from pipeline.serving import Stream
    from pipeline.serving_messages import Event

Lead = Annotated[Account, Depends(require_lead)]

PREFIX = "/api/lab/compare"
LINES = "application/x-ndjson; charset=utf-8"
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Of the report, which has its styles and pictures in it and no script."""
WAIT, BATCH = 0.5, 64
"""Seconds without an event until a sign of life is sent, and events that are sent together."""
THREADS = 64


def compare_routes(bench: Bench) -> APIRouter:
    """Return the routes of ``/api/lab/compare``."""
    routes = _CompareRoutes(bench)
    router = APIRouter(prefix=PREFIX)
    router.get("/runs", response_model=None)(routes.runs)
    router.get("/models", response_model=None)(routes.models)
    router.get("/prompts", response_model=None)(routes.prompts)
    router.post("/prompts", response_model=None)(routes.save)
    router.post("/answers", response_model=None)(routes.answers)
    router.post("/next", response_model=None)(routes.next_token)
    router.post("/metrics", response_model=None)(routes.metrics)
    router.get("/report", response_model=None)(routes.report)
    router.get("/report.html", response_model=None)(routes.report_page)
    return router


def answer_busy(request: Request, error: Exception) -> Response:
    """Tell who has too much under way to wait."""
    return Failure(429, str(error)).response(request.scope)


COMPARE_FAILURES: dict[type[Exception], Any] = {BusyError: answer_busy}


class _CompareRoutes:
    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        # Made when first used: it belongs to the loop that runs then.
        self._threads: CapacityLimiter | None = None

    def runs(self, lead: Lead) -> Response:
        """Tell all runs with their stages."""
        del lead
        index = self._bench.index
        told = [
            {"name": run, "stages": [describe_stage(stage) for stage in index.stages(run)]}
            for run in index.runs()
        ]
        return JSONResponse({"own": index.own.name, "runs": told})

    def models(self, lead: Lead) -> Response:
        """Tell what can be asked, and which are the base and the reward model of each run."""
        del lead
        places = self._bench.index.models()
        defaults = {}
        for run in dict.fromkeys(place.run for place in places):
            own = [place for place in places if place.run == run]
            base, reward = default_place(own, "policy"), default_place(own, "reward")
            defaults[run] = {
                "reference": base and base.label,
                "reward": reward and reward.label,
            }
        told = [
            {"id": place.id, "run": place.run, "label": place.label, "kind": place.kind}
            for place in places
        ]
        own_run = self._bench.index.own.name
        running = self._bench.models is not None
        return JSONResponse(
            {"own": own_run, "models": told, "defaults": defaults, "running": running}
        )

    def prompts(self, lead: Lead, run: str = "") -> Response:
        """Tell the saved prompts, and some that a run's stages were asked, by default the app's."""
        del lead
        bench = self._bench
        saved = [list(prompt.messages) for prompt in bench.regression.prompts()]
        runs = bench.index.runs()
        # Before its first stage the app's own run is none yet.
        name = run or next((one for one in (bench.index.own.name, *runs) if one in runs), "")
        return JSONResponse(
            {
                "saved": saved,
                "examples": bench.examples(name) if name else [],
                "run": name,
                "runs": runs,
                "file": str(bench.regression.path),
            }
        )

    def save(self, body: SaveBody, lead: Lead) -> Response:
        """Save a prompt; it is on disk when the answer comes."""
        del lead
        added = self._bench.regression.add(Prompt(tuple(body.messages)))
        return JSONResponse({"added": added, "count": len(self._bench.regression.prompts())})

    async def answers(self, body: AskBody, lead: Lead) -> Response:
        """Stream the answers of models, an event a line, until all are whole or the page goes."""
        requests = await run_sync(self._bench.requests, body, name_asker(lead))
        server = self._bench.server
        names = await run_sync(self._bench.names)
        with ExitStack() as open_ends:
            open_ends.enter_context(self._bench.turns.held(lead.id))
            # In the thread, so that a request that is given up meanwhile leaves nothing open.
            stream = await run_sync(lambda: open_ends.enter_context(server.generate_all(requests)))
            return _Streamed(self._lines(stream, names), open_ends.pop_all())

    async def _lines(self, stream: Stream, names: Mapping[str, str]) -> AsyncIterator[str]:
        while (events := await self._in_thread(take_events, stream)) is not None:
            lines = [describe_event(column, event, names) for column, event in events]
            # An empty line shows whether the page is still there.
            yield "".join(write_line(line) for line in lines) or "\n"
        yield write_line({"type": "end"})

    async def next_token(self, body: LookBody, lead: Lead) -> Response:
        """Tell what a model would say next."""
        request = await run_sync(self._bench.distribution, body, name_asker(lead))
        with self._bench.looks.held(lead.id):
            found = await self._in_thread(self._bench.server.distribution, request)
        return JSONResponse(as_json(found))

    def metrics(self, body: CurvesBody, lead: Lead) -> Response:
        """Tell what stages have logged since the page asked last."""
        del lead
        told = []
        for curve in body.curves:
            part = self._bench.index.read_metrics(curve.run, curve.stage, curve.cursor)
            told.append(dataclasses.asdict(part))
        return JSONResponse({"curves": told})

    def report(self, lead: Lead, run: str) -> Response:
        """Tell whether a run has a report, and which."""
        del lead
        path = self._report(run)
        if path is None:
            return JSONResponse({"version": None})
        status = path.stat()
        return JSONResponse({"version": f"{status.st_mtime_ns}-{status.st_size}"})

    def report_page(self, lead: Lead, run: str) -> Response:
        """Give out a run's report."""
        del lead
        path = self._report(run)
        if path is None:
            raise DataError(f"Run '{run}' has no report yet. Run 'steerline report' first.")
        page = path.read_text(encoding="utf-8")
        return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})

    def _report(self, run: str) -> Path | None:
        path = self._bench.index.folder(run) / "report" / "report.html"
        return path if path.is_file() else None

    async def _in_thread(self, work: Any, *values: Any) -> Any:
        if self._threads is None:
            self._threads = CapacityLimiter(THREADS)
        return await run_sync(work, *values, limiter=self._threads)


class _Streamed(StreamingResponse):
    """Send lines, and close what they come from however that ends."""

    def __init__(self, lines: AsyncIterator[str], open_ends: ExitStack) -> None:
        super().__init__(lines, media_type=LINES)
        self._open_ends = open_ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._open_ends:
            await super().__call__(scope, receive, send)


def name_asker(lead: Account) -> str:
    """Return what the models know an account by: its answers share turns with nobody else's."""
    return f"account {lead.id}"


def describe_stage(stage: StageState) -> dict[str, Any]:
    """Return what the page is told of a stage."""
    return {**dataclasses.asdict(stage), "checkpoints": list(stage.checkpoints)}


def take_events(stream: Stream) -> Sequence[tuple[int, Event]] | None:
    """Return the events that are there, waiting a moment for the first; None when all is said."""
    events: list[tuple[int, Event]] = []
    try:
        event = stream.poll(WAIT)
        while event is not None:
            events.append(event)
            event = stream.poll(0) if len(events) < BATCH else None
    except StopIteration:
        return events or None
    return events


def describe_event(column: int, event: Event, names: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page is told of an event; models are named as the page names them."""
    told = {"column": column, "type": type(event).__name__.lower(), **dataclasses.asdict(event)}
    if "path" in told:
        told["path"] = names.get(told["path"], Path(told["path"]).name)
    return told


def write_line(values: Mapping[str, Any]) -> str:
    """Return one line of JSON; what is no finite number is null there."""
    return json.dumps(as_json(values), ensure_ascii=False, allow_nan=False) + "\n"
