"""Give labels out as files and take them in: ``/api/lab``.

Training reads files too: of those that hold labels to train on, the hash is noted with the labelers
behind it, so that what was made from them can be found when one is removed.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any

from anyio import open_file
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from labeling_ui.exports import csv_lines, json_lines, preference_rows
from labeling_ui.lab_importing import import_file
from labeling_ui.leading import require_lead
from pipeline.errors import DataError
from pipeline.store.account_rows import Account
from pipeline.store.answers import answer_rows
from pipeline.store.exchange import Snapshot
from pipeline.store.oversight import Oversight
from pipeline.store.store import LabelStore
from pipeline.store.values import Group, Split

Lead = Annotated[Account, Depends(require_lead)]

JSONL = "application/jsonl; charset=utf-8"
CHUNK = 1 << 16


def lab_routes(store: LabelStore) -> APIRouter:
    """Return the routes of ``/api/lab``."""
    routes = _LabRoutes(store)
    router = APIRouter(prefix="/api/lab")
    exports: dict[str, Callable[..., Response]] = {
        "rankings": routes.rankings,
        "preferences": routes.preferences,
        "dataset": routes.dataset,
        "demonstrations": routes.demonstrations,
        "csv": routes.table,
    }
    for name, handler in exports.items():
        router.get(f"/export/{name}", response_model=None)(handler)
    router.post("/import", response_model=None)(routes.take)
    return router


class _LabRoutes:
    def __init__(self, store: LabelStore) -> None:
        self._store, self._oversight = store, Oversight(store)

    def rankings(self, lead: Lead) -> Response:
        """Give out every judgment but those of removed labelers, and the known answers."""
        del lead
        return self._give("rankings.jsonl", self._store.export_rows())

    def preferences(self, lead: Lead, split: Split = "train", group: Group = "train") -> Response:
        """Give out the decided pairs of a split and a group of labelers, as TRL takes them."""
        del lead
        rows = list(preference_rows(self._store.rankings(split, group)))
        return self._give(f"preferences-{split}.jsonl", rows)

    def dataset(self, lead: Lead) -> Response:
        """Give out a data set of all splits, zipped."""
        del lead
        # Not at the top: PyArrow takes time to import, and the app is to open at once.
        from labeling_ui.dataset_export import dataset_files, folder_hash, zip_files

        files = dataset_files(self._store)
        snapshot = self._oversight.snapshot()
        self._oversight.note_snapshot(
            Snapshot(folder_hash(files), snapshot.labelers, snapshot.judgments)
        )
        return _attach("labels.zip", "application/zip", _chunks(zip_files(files)))

    def demonstrations(self, lead: Lead) -> Response:
        """Give out the answers that leads accepted."""
        del lead
        return self._give("demonstrations.jsonl", list(answer_rows(self._oversight.answers())))

    def table(self, lead: Lead) -> Response:
        """Give out a row a judgment and output, for spreadsheets."""
        del lead
        counted = [item for item in self._oversight.judged() if not item.excluded]
        return _attach("judgments.csv", "text/csv; charset=utf-8", csv_lines(counted))

    async def take(
        self, request: Request, lead: Lead, split: Split = "train", name: str = "import.jsonl"
    ) -> Response:
        """Take a ranking JSONL in, all of it or none; the body is the file."""
        del lead
        name = PurePath(name).name or "import.jsonl"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "upload.jsonl"
            async with await open_file(path, "wb") as out:
                async for chunk in request.stream():
                    await out.write(chunk)
            try:
                count = await run_sync(import_file, self._store, path, name, split)
            except DataError as error:
                line = " ".join(str(error).splitlines())
                return JSONResponse({"error": line, "code": "refused"}, 400)
        return JSONResponse({"added": count.added, "duplicates": count.duplicates})

    def _give(self, name: str, rows: list[Any]) -> Response:
        """Stream rows as JSONL, and note whose they are by the file's hash."""
        digest = hashlib.sha256()
        for line in json_lines(rows):
            digest.update(line.encode())
        names = tuple(sorted({row["labeler"] for row in rows if _is_work(row)}))
        self._oversight.note_snapshot(Snapshot(digest.hexdigest(), names, len(rows)))
        return _attach(name, JSONL, json_lines(rows))


def _is_work(row: Mapping[str, Any]) -> bool:
    return row.get("labeler") is not None and not row.get("known")


def _attach(name: str, kind: str, content: Iterable[str | bytes]) -> Response:
    """Stream a file that the browser saves; its type is its own and not to be guessed."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(content, media_type=kind, headers=headers)


def _chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), CHUNK):
        yield content[start : start + CHUNK]
