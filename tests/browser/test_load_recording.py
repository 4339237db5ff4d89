"""Hold the load benchmark to what the page sends: its recording is compared, or made anew.

``STEERLINE_RECORD=1 pytest tests/browser/test_load_recording.py`` writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from playwright.sync_api import Request
from playwright.sync_api import expect as wait_for

from benchmarks.labeling_clients import RECORDING
from tests.browser.desk import Desk
from tests.browser.running import Person, Server

K = 4
DRAFTS = 5
ACTIONS = ("lease", "draft", "heartbeat", "submit")
OWN_HEADERS = {"content-type": "", "steerline-day": "{day}"}
"""Headers that the page sets itself, with placeholders for what differs between its days."""


def record_task(desk: Desk, server: Server, person: Person) -> dict[str, Any]:
    """Rate and rank four outputs with five saves and a sign of life; return what was sent."""
    server.add_ranking(K)
    requests: list[Request] = []
    desk.page.on("request", lambda request: requests.append(request))
    desk.page.clock.install()
    desk.sign_in(person)
    letters = desk.letters()
    for letter in letters:
        with desk.page.expect_response("**/api/desk/draft"):
            desk.rate(letter, 5)
            desk.page.clock.run_for(1_000)
    desk.main_button.click()
    wait_for(desk.page.locator(".stage > .ranking")).to_be_visible()
    ids = [desk.ids()[letter] for letter in letters]
    with desk.page.expect_response("**/api/desk/draft"):
        desk.rank_by_key(letters)
        desk.page.clock.run_for(1_000)
    while "heartbeat" not in map(action_of, requests):
        desk.page.mouse.move(20, 20)
        desk.page.mouse.move(60, 60)
        desk.page.clock.run_for(30_000)
    with desk.page.expect_response("**/api/desk/submit"):
        desk.main_button.click()
    sent = [request for request in requests if action_of(request) in ACTIONS]
    last = [action_of(request) for request in sent].index("submit")
    return {"completions": ids, "actions": [write_down(request) for request in sent[: last + 1]]}


def action_of(request: Request) -> str:
    return request.url.rpartition("/api/desk/")[2]


def write_down(request: Request) -> dict[str, Any]:
    """Return a request with placeholders for what is another one's in every task."""
    body = json.loads(request.post_data or "null")
    holes = {"token": "{token}", "key": "{key}", "version": "{version}"}
    body |= {name: hole for name, hole in holes.items() if name in body}
    assert datetime.fromisoformat(request.headers["steerline-day"]).tzinfo is not None
    return {
        "name": action_of(request),
        "method": request.method,
        "path": f"/api/desk/{action_of(request)}",
        "headers": {name: hole or request.headers[name] for name, hole in OWN_HEADERS.items()},
        "body": body,
    }


def shape(value: Any, ids: Mapping[str, str]) -> Any:
    """Return a value without what differs from one task to the next: ids, times, names of pages."""
    if isinstance(value, dict):
        return {ids.get(key, key): shape(item, ids) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item, ids) for item in value]
    return ids.get(value, type(value).__name__) if isinstance(value, str) else type(value).__name__


def shapes(recording: Mapping[str, Any]) -> Any:
    ids = {id_: f"output {number}" for number, id_ in enumerate(recording["completions"])}
    return [
        (item["name"], item["method"], item["path"], item["headers"], shape(item["body"], ids))
        for item in recording["actions"]
    ]


def test_the_benchmark_sends_what_the_page_sends(desk: Desk, server: Server, person: Person):
    found = record_task(desk, server, person)
    names = [item["name"] for item in found["actions"]]
    assert names == ["lease", *["draft"] * DRAFTS, "heartbeat", "submit"]
    if os.environ.get("STEERLINE_RECORD"):
        RECORDING.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    saved = json.loads(RECORDING.read_text(encoding="utf-8"))
    assert shapes(found) == shapes(saved)
