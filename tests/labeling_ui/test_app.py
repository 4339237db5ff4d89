from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from labeling_ui import app as app_module
from labeling_ui.app import Parts, create_app, interface_version, largest_body
from labeling_ui.failing import Failure
from labeling_ui.settings import AppSettings
from pipeline.errors import DataError, StoreError
from pipeline.store import LabelStore
from tests.labeling_ui.browsers import SCRIPT, lab_page, label_page

ROOT = Path(__file__).parents[2]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    count: int


class OwnError(StoreError):
    pass


@pytest.fixture
def parts() -> Parts:
    router = APIRouter(prefix="/api/lab")

    @router.post("/take")
    def take(body: Body) -> dict[str, int]:
        return {"count": body.count}

    @router.post("/refuse")
    def refuse() -> None:
        raise StoreError("overlap must be 1 or more, got 0.\nAsk for one.")

    @router.post("/data")
    def data() -> None:
        raise DataError.at("labels.jsonl", 3, "not JSON")

    @router.post("/own")
    def own() -> None:
        raise OwnError("mine")

    def answer(request: Request, error: Exception) -> Response:
        return Failure(409, str(error)).response(request.scope, extra=1)

    return Parts(label_page, lab_page, (router,), {OwnError: answer})


@pytest.fixture
def lead(client: TestClient, sign_in: Callable) -> TestClient:
    sign_in(client, "ada")
    client.headers.update(SCRIPT)
    return client


def test_what_a_route_refuses_is_one_line_of_json(lead: TestClient) -> None:
    answer = lead.post("/api/lab/refuse", json={})
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "overlap must be 1 or more, got 0. Ask for one.",
        "code": "refused",
    }
    assert lead.post("/api/lab/data", json={}).json()["error"] == "labels.jsonl:3: not JSON"


def test_a_part_may_answer_errors_of_its_own(lead: TestClient) -> None:
    answer = lead.post("/api/lab/own", json={})
    assert (answer.status_code, answer.json()) == (
        409,
        {"error": "mine", "code": "stale", "extra": 1},
    )


MALFORMED = [
    ({"count": "1"}, "count: must be a valid integer"),
    ({"count": 1.5}, "count: must be a valid integer"),
    ({"count": True}, "count: must be a valid integer"),
    ({}, "count: field required"),
    ({"count": 1, "more": 2}, "more: extra inputs are not permitted"),
    ([], "The request: must be"),
    ({"count": 1, "a\nb": 2}, "a b: extra inputs are not permitted"),
    ({"count": 1, "x" * 999: 2}, "x" * 80 + ": extra inputs"),
]


def test_a_malformed_body_is_one_line_that_names_the_field(lead: TestClient) -> None:
    for body, field in MALFORMED:
        answer = lead.post("/api/lab/take", json=body)
        assert answer.status_code == 400
        told = answer.json()
        assert told["code"] == "refused"
        assert told["error"].startswith(field)
        assert "\n" not in told["error"]


NO_JSON = [
    (b"{", "application/json"),
    (b"", "application/json"),
    (b'{"count": 1}', "text/plain"),
    (b'{"count": 1}', "application/x-www-form-urlencoded"),
    (b'{"count": 1}', ""),
    (b"[" * 100_000, "application/json"),
    (b"\xff", "application/json"),
]


def test_what_is_no_json_is_refused(lead: TestClient) -> None:
    for content, kind in NO_JSON:
        answer = lead.post("/api/lab/take", content=content, headers={"content-type": kind})
        assert (content, answer.status_code) == (content, 400)
        assert answer.json()["code"] == "refused"


def test_a_good_body_is_taken(lead: TestClient) -> None:
    assert lead.post("/api/lab/take", json={"count": 3}).json() == {"count": 3}


def test_no_page_describes_the_api(lead: TestClient) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/lab/docs", "/label/openapi.json"):
        assert lead.get(path).status_code == 404


def test_gradio_is_mounted_without_what_it_adds_by_default(lead: TestClient) -> None:
    for path in ("/label/config", "/lab/config"):
        config = lead.get(path).json()
        assert config["footer_links"] == []
        assert config["show_error"] is False
        assert config.get("analytics_enabled") is False
        assert config.get("run_history") in (False, None)
        assert config.get("ssr_mode", False) in (False, None)
        assert not config.get("pwa")
        assert not config.get("mcp_server")


def test_browsers_find_an_icon_without_signing_in(client: TestClient) -> None:
    answer = client.get("/favicon.ico")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")


def test_a_large_file_is_refused(lead: TestClient) -> None:
    limit = AppSettings().lab_bytes
    files = {"files": ("x.jsonl", b"x" * (limit + 1))}
    assert lead.post("/lab/gradio_api/upload", files=files).status_code == 413


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/signin", "page_bytes"),
        ("/api/desk/draft", "desk_bytes"),
        ("/label/gradio_api/queue/join", "desk_bytes"),
        ("/api/lab/import", "lab_bytes"),
        ("/lab/gradio_api/upload", "lab_bytes"),
        ("/labels", "page_bytes"),
        ("/api/desktop", "page_bytes"),
    ],
)
def test_how_large_a_body_may_be(path: str, limit: str) -> None:
    settings = AppSettings()
    assert largest_body(settings, path) == getattr(settings, limit)


def test_the_version_of_the_page_changes_with_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "STATIC", tmp_path)
    (tmp_path / "board.js").write_text("one", encoding="utf-8")
    first = interface_version()
    assert interface_version() == first
    (tmp_path / "board.js").write_text("two", encoding="utf-8")
    second = interface_version()
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "lab.css").write_text("the lead's", encoding="utf-8")
    assert interface_version() == second
    (tmp_path / "board.js").rename(tmp_path / "bored.js")
    assert len({first, second, interface_version()}) == 3
    assert len(first) <= 32


def test_an_app_switches_gradios_analytics_off(
    store: LabelStore, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop("GRADIO_ANALYTICS_ENABLED", None)
    create_app(store, AppSettings(), parts)
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "True"
    create_app(store, AppSettings(), parts)
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "True"


def test_an_app_that_does_not_run_loads_nothing_heavy(tmp_path: Path) -> None:
    LabelStore.open(tmp_path / "labels.db").close()
    code = (
        "import json, sys\n"
        "from labeling_ui.app import AppSettings, create_app\n"
        "from pipeline.store import LabelStore\n"
        "store = LabelStore.open(sys.argv[1])\n"
        "create_app(store, AppSettings())\n"
        "heavy = ('gradio', 'pandas', 'scipy', 'torch', 'transformers', 'alembic')\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "labels.db")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(done.stdout) == []
