"""Do what the board's script does, without a browser."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from starlette.testclient import TestClient

from labeling_ui.app import Parts
from labeling_ui.desk_routes import FAILURES, desk_routes
from pipeline.records import Prompt
from pipeline.store import LabelStore, Provenance, SampledCompletion
from pipeline.store.leasing import LeaseRules
from tests.labeling_ui.browsers import SCRIPT, lab_page, label_page

LEASE = timedelta(minutes=30)
MODEL, CHECKPOINT = "secret-model", "secret-checkpoint"


def desk_parts(store: LabelStore, lease: timedelta = LEASE) -> Parts:
    """Return the desk's routes over a store, beside two small pages."""
    router = desk_routes(store, rules=LeaseRules(duration=lease), goal=40, interface="page-1")
    return Parts(label_page, lab_page, (router,), FAILURES)


def add_tasks(store: LabelStore, prompts: int = 1, k: int = 4, overlap: int = 1) -> list[Prompt]:
    """Add prompts with K completions each, and their tasks."""
    added = [Prompt.from_text(f"question {number}?") for number in range(prompts)]
    store.add_prompts(added)
    for prompt in added:
        source = Provenance("sft", CHECKPOINT, MODEL, {"top_p": 0.9}, 7, 0)
        samples = [SampledCompletion(f"answer {number}", source) for number in range(k)]
        store.add_completions(prompt.id, samples)
    store.create_ranking_tasks(overlap)
    return added


class Board:
    """The board of somebody who is signed in."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def get(self, path: str = "", **headers: str) -> Any:
        answer = self.client.get(f"/api/desk{path}", headers={**SCRIPT, **headers})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: object, **headers: str) -> Any:
        answer = self.send(path, body, **headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, path: str, body: object, **headers: str):
        return self.client.post(f"/api/desk{path}", json=body, headers={**SCRIPT, **headers})

    def refused(self, path: str, body: object, status: int) -> dict[str, Any]:
        answer = self.send(path, body)
        assert answer.status_code == status, answer.text
        told = answer.json()
        assert "\n" not in told["error"]
        return told

    def lease(self) -> Any:
        return self.post("/lease", {})["task"]

    def submit(self, task: Any, key: str = "key", **changed: object) -> dict[str, Any]:
        return self.post("/submit", submission(task, key, **changed))


def judgment(task: Any, **changed: object) -> dict[str, Any]:
    ids = [choice["id"] for choice in task["completions"]]
    return {
        "ranks": {id_: rank for rank, id_ in enumerate(ids, start=1)},
        "ratings": {id_: max(1, 8 - rank) for rank, id_ in enumerate(ids, start=1)},
        "flags": {ids[0]: {"opinion": True}},
        "prompt_flags": {"ambiguous": True},
        "none_acceptable": False,
        "comment": "fine",
        "active_seconds": 12.5,
        **changed,
    }


def submission(task: Any, key: str = "key", **changed: object) -> dict[str, Any]:
    work = judgment(task, **changed)
    named = {"instructions": 0, "interface": "page-1"}
    return {"token": task["token"], "key": key, "judgment": work, **named}
