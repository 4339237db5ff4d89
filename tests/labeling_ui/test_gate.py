from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from labeling_ui.gate import _is_served
from pipeline.store.accounts import Accounts
from tests.labeling_ui.browsers import GOOD, HERE, PAGE, SCRIPT, SECRET

LABS = [
    "/lab",
    "/lab/",
    "/lab/config",
    "/lab/theme.css",
    "/lab/assets/index.js",
    "/lab/static/js/iframeResizer.contentWindow.min.js",
    "/lab/favicon.ico",
    "/lab/manifest.json",
    "/lab/nothing",
    "/lab/login",
    "/lab/monitoring",
    "/lab/gradio_api/info",
    "/lab/gradio_api/app_id",
    "/lab/gradio_api/startup-events",
    "/lab/gradio_api/heartbeat/x",
    "/lab/gradio_api/queue/data?session_hash=x",
    "/lab/gradio_api/file=/etc/passwd",
    "/api/lab/export/labels.jsonl",
    "/lab/compare",
    "/lab/compare/",
    "/lab/compare/config",
    "/lab/compare/gradio_api/info",
    "/api/lab/compare/runs",
    "/api/lab/compare/report.html?run=x",
]
CALLS = [
    "/lab/gradio_api/run/tell",
    "/lab/gradio_api/call/tell",
    "/lab/gradio_api/queue/join",
    "/lab/gradio_api/upload",
    "/lab/gradio_api/component_server",
    "/lab/gradio_api/reset",
    "/lab/gradio_api/cancel",
    "/lab/login",
    "/api/lab/import",
    "/lab/compare/gradio_api/queue/join",
    "/api/lab/compare/answers",
    "/api/lab/compare/prompts",
]


def test_without_a_session_a_browser_is_sent_to_sign_in_and_a_script_told(
    client: TestClient,
) -> None:
    for path in (*LABS, "/label/", "/label/config", "/api/desk"):
        script = client.get(path, headers=SCRIPT)
        assert (path, script.status_code, script.json()["code"]) == (path, 401, "signed_out")
        page = client.get(path, headers=PAGE)
        if path.startswith("/api/"):
            assert page.status_code == 401
        else:
            assert page.status_code == 303
            assert page.headers["location"].startswith("/signin?next=%2Flab")


def test_a_labeler_reads_nothing_of_the_lab(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "bob")
    for path in LABS:
        script = client.get(path, headers=SCRIPT)
        assert (path, script.status_code, script.json()["code"]) == (path, 403, "forbidden")
        page = client.get(path, headers=PAGE)
        assert page.status_code == 403
        assert SECRET not in script.text + page.text
        assert client.head(path).status_code == 403


def test_a_labeler_does_nothing_in_the_lab(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "bob")
    body = {"data": [], "fn_index": 0, "session_hash": "x"}
    for path in CALLS:
        answer = client.post(path, json=body)
        assert (path, answer.status_code) == (path, 403)
        assert SECRET not in answer.text


def test_there_is_no_way_round(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "bob")
    for path in ("/label/../lab/config", "//lab/config", "/label//lab/config", "/LAB/config"):
        answer = client.get(f"{HERE}{path}")
        assert SECRET not in answer.text
    assert client.get("/%6cab/config").status_code == 403


def test_a_lead_reads_and_does_both(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "ada")
    assert SECRET in client.get("/lab/config").text
    body = {"data": [], "session_hash": "x"}
    assert client.post("/lab/gradio_api/run/tell", json=body).json()["data"] == [SECRET]
    assert client.post("/label/gradio_api/run/who", json=body).json()["data"] == ["ada"]


def test_a_handler_learns_who_calls(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "bob")
    body = {"data": [], "session_hash": "x"}
    assert client.post("/label/gradio_api/run/who", json=body).json()["data"] == ["bob"]


def test_a_page_of_one_mount_says_nothing_of_the_other(
    client: TestClient, sign_in: Callable
) -> None:
    sign_in(client, "bob")
    for path in ("/label/", "/label/config", "/label/gradio_api/info"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert SECRET not in answer.text
        assert "/tell" not in answer.text


def test_a_role_that_is_taken_away_counts_at_once(
    client: TestClient, sign_in: Callable, accounts: Accounts
) -> None:
    sign_in(client, "ada")
    accounts.set_role("bob", "lead")
    assert client.get("/lab/config").status_code == 200
    accounts.set_role("ada", "labeler")
    assert client.get("/lab/config").status_code == 403


def test_a_session_that_is_made_up_opens_nothing(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "bob")
    token = client.cookies["steerline"]
    for made_up in ("x", token[:-1], token + "x", "é", "a" * 5000, ""):
        client.cookies.clear()
        answer = client.get(
            "/label/config", headers={**SCRIPT, "cookie": f"steerline={made_up}".encode("latin-1")}
        )
        assert answer.status_code == 401
    kept = {**SCRIPT, "cookie": f"steerline={token}"}
    assert client.get("/label/config", headers=kept).status_code == 200
    renamed = {**SCRIPT, "cookie": f"__Host-steerline={token}"}
    assert client.get("/label/config", headers=renamed).status_code == 401


UNNEEDED = [
    "/label/gradio_api/upload",
    "/label/gradio_api/file=/etc/passwd",
    "/label/gradio_api/proxy=https://evil.example",
    "/lab/gradio_api/proxy=https://evil.example",
    "/lab/gradio_api/stream/x",
    "/lab/gradio_api/vibe-edit",
    "/lab/gradio_api/deep_link",
    "/lab/gradio_api/process_recording",
    "/lab/gradio_api/runs",
    "/lab/gradio_api/openapi.json",
    "/lab/gradio_api/token",
    "/lab/monitoring",
    "/lab/login",
    "/lab/logout",
    "/lab/docs",
    "/docs",
    "/redoc",
    "/openapi.json",
]


def test_what_the_pages_do_not_need_is_not_served(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "ada")
    for path in UNNEEDED:
        for answer in (client.get(path, headers=SCRIPT), client.post(path, json={})):
            assert answer.status_code in (404, 405)
            assert answer.json()["code"] == "unknown"


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/label", True),
        ("/label/assets/index-x.js", True),
        ("/label/gradio_api/queue/join", True),
        ("/label/gradio_api/upload", False),
        ("/lab/gradio_api/upload", True),
        ("/lab/gradio_api/upload_progress", True),
        ("/lab/gradio_api", False),
        ("/lab/gradio_api/", False),
        ("/lab/svelte/x", False),
        ("/lab/compare", True),
        ("/lab/compare/", True),
        ("/lab/compare/config", True),
        ("/lab/compare/assets/index-x.js", True),
        ("/lab/compare/gradio_api/queue/join", True),
        ("/lab/compare/gradio_api/upload", False),
        ("/lab/compare/gradio_api/file=/etc/passwd", False),
        ("/lab/compare/monitoring", False),
        ("/lab/comparer", False),
    ],
)
def test_the_routes_of_gradios_that_are_served(path: str, served: bool) -> None:
    assert _is_served(path) == served


def test_the_password_is_in_no_answer(client: TestClient, sign_in: Callable) -> None:
    answer = sign_in(client, "bob")
    told = json.dumps(dict(answer.headers)) + answer.text + client.get("/label/").text
    assert GOOD not in told
    token = client.cookies["steerline"]
    assert token not in client.get("/label/").text
