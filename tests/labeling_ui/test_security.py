from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

import pytest
from fastapi import APIRouter, Request
from sqlalchemy.exc import OperationalError
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.testclient import TestClient
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from labeling_ui.app import Parts
from labeling_ui.policy import GRADIO_POLICY, OWN_POLICY
from labeling_ui.security import BodyLimit, SameOrigin, Shield
from tests.labeling_ui.browsers import HERE, PAGE, SCRIPT, broken_page, lab_page, label_page

TEXT = "what a labeler wrote"


@pytest.fixture
def parts() -> Parts:
    """Return parts with routes that fail in every way."""
    router = APIRouter(prefix="/api/lab")

    @router.get("/fault")
    def fault() -> Response:
        raise ZeroDivisionError(TEXT)

    @router.get("/away")
    def away() -> Response:
        raise OperationalError("INSERT", {"comment": TEXT}, OSError("disk full"), True)

    @router.get("/cut")
    def cut() -> Response:
        def lines() -> Iterator[bytes]:
            yield b"half"
            raise ZeroDivisionError

        return StreamingResponse(lines())

    @router.post("/echo")
    async def echo(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    return Parts(label_page, lab_page, (router,))


KINDS = [
    ("GET", "/", 303),
    ("GET", "/signin", 303),
    ("GET", "/password", 200),
    ("GET", "/invite/unknown", 400),
    ("POST", "/signin", 400),
    ("GET", "/static/pages.css", 200),
    ("GET", "/static/nothing.css", 404),
    ("GET", "/nothing", 404),
    ("DELETE", "/signin", 405),
    ("OPTIONS", "/label/", 405),
    ("GET", "/label", 307),
    ("GET", "/label/", 200),
    ("GET", "/label/config", 200),
    ("GET", "/label/theme.css", 200),
    ("GET", "/label/nothing", 404),
    ("GET", "/label/gradio_api/info", 200),
    ("GET", "/lab/", 200),
    ("GET", "/lab/gradio_api/file=/etc/passwd", 403),
    ("GET", "/api/lab/fault", 500),
    ("GET", "/api/lab/away", 503),
    ("GET", "/api/desk", 404),
]


@pytest.mark.parametrize("headers", [PAGE, SCRIPT], ids=["page", "script"])
def test_every_kind_of_response_has_the_headers(
    headers: dict[str, str], client: TestClient, sign_in: Callable
) -> None:
    sign_in(client, "ada")
    for method, path, status in KINDS:
        answer = client.request(method, path, headers=headers)
        assert (path, answer.status_code) == (path, status)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        stored = "no-cache" if path.startswith("/static/") else "no-store"
        assert answer.headers["cache-control"] == stored
        unwanted = {
            "server",
            "x-powered-by",
            "access-control-allow-origin",
            "access-control-allow-credentials",
        }
        assert not unwanted & set(answer.headers)


@pytest.mark.parametrize("path", ["/signin", "/nothing", "/api/lab/fault", "/static/pages.css"])
def test_our_own_answers_allow_nothing_unsafe(path: str, client: TestClient) -> None:
    policy = client.get(path).headers["content-security-policy"]
    assert policy == OWN_POLICY
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")


def test_refusals_at_gradios_paths_are_our_own_answers(
    client: TestClient, sign_in: Callable
) -> None:
    assert client.get("/lab/").headers["content-security-policy"] == OWN_POLICY
    sign_in(client, "bob")
    assert client.get("/lab/").headers["content-security-policy"] == OWN_POLICY
    policy = client.get("/label/config").headers["content-security-policy"]
    assert policy == GRADIO_POLICY.format(hashes="")


def test_a_fault_tells_nothing_of_itself(
    client: TestClient, sign_in: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    sign_in(client, "ada")
    answer = client.get("/api/lab/fault", headers=SCRIPT)
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "Something went wrong here, and it was written down. Try again.",
        "code": "fault",
    }
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_a_fault_in_a_gradio_page_tells_nothing_of_itself(
    make_client: Callable[..., TestClient], sign_in: Callable
) -> None:
    browser = make_client(with_parts=Parts(label_page, broken_page))
    sign_in(browser, "ada")
    body = {"data": [], "session_hash": "x"}
    answer = browser.post("/lab/gradio_api/run/fail", json=body)
    assert answer.status_code == 500
    assert "private" not in answer.text
    assert "ValueError" not in answer.text


def test_a_database_away_is_503_and_its_log_holds_no_labels(
    client: TestClient, sign_in: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    sign_in(client, "ada")
    answer = client.get("/api/lab/away", headers=SCRIPT)
    assert (answer.status_code, answer.json()["code"]) == (503, "not_saved")
    assert "\n" not in answer.json()["error"]
    assert "could not be used (OSError)" in caplog.text
    assert TEXT not in caplog.text
    assert "Traceback" not in caplog.text


def test_an_answer_that_broke_off_is_cut(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "ada")
    sent: list[Message] = []

    async def broken(scope: object, receive: object, send: Callable) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError

    async def ask() -> None:
        async def keep(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/", "method": "GET", "headers": []}
        await Shield(broken)(scope, nothing, keep)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(ask())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def test_web_sockets_are_refused(client: TestClient, sign_in: Callable) -> None:

    sign_in(client, "ada")
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/label/queue/join"):
        pass


FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "http://localhost:7861"},
    {"origin": "https://localhost:7860"},
    {"origin": "http://localhost:7860.evil.example"},
    {"origin": "http://localhost"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://"},
    {"origin": "evil"},
    {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {},
]


@pytest.mark.parametrize("path", ["/signout", "/password", "/label/gradio_api/run/who"])
def test_what_another_sites_page_sends_is_refused(
    path: str, client: TestClient, sign_in: Callable
) -> None:
    sign_in(client, "bob")
    del client.headers["origin"]
    for headers in FOREIGN:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            answer = client.request(method, path, headers={**SCRIPT, **headers})
            assert (headers, answer.status_code) == (headers, 403)
            assert answer.json()["code"] == "forbidden"
    assert client.get("/label/config").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": HERE},
        {"origin": "http://LOCALHOST:7860"},
        {"sec-fetch-site": "same-origin"},
    ],
)
def test_what_our_own_page_sends_passes(
    headers: dict[str, str], client: TestClient, sign_in: Callable
) -> None:
    sign_in(client, "bob")
    del client.headers["origin"]
    assert client.post("/signout", headers=headers).status_code == 303


def test_another_site_cannot_sign_a_browser_in(client: TestClient, sign_in: Callable) -> None:
    client.headers["origin"] = "https://evil.example"
    answer = sign_in(client, "bob")
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_client_that_is_no_browser_may_sign_in(client: TestClient, sign_in: Callable) -> None:
    del client.headers["origin"]
    assert sign_in(client, "bob").status_code == 303


def test_another_site_is_allowed_nothing(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "bob")
    asks = {
        "origin": "https://evil.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    for path in ("/label/config", "/label/gradio_api/run/who", "/api/desk/lease"):
        answer = client.options(path, headers=asks)
        assert answer.status_code == 400
        assert "access-control-allow-origin" not in answer.headers
        read = client.get(path, headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in read.headers


def test_a_body_that_says_it_is_too_large_is_refused_unread(client: TestClient) -> None:
    for path in ("/signin", "/nothing"):
        answer = client.post(path, content=b"x" * (16 * 1024 + 1), headers=SCRIPT)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert client.post("/signin", content=b"x" * (16 * 1024), headers=SCRIPT).status_code == 400


def test_a_body_that_turns_out_too_large_is_refused(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(17):
            yield b"x" * 1024

    form = {**SCRIPT, "content-type": "application/x-www-form-urlencoded"}
    answer = client.post("/signin", content=chunks(), headers=form)
    assert "content-length" not in answer.request.headers
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_leads_may_send_more(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "ada")
    assert client.post("/api/lab/echo", content=b"x" * 1_000_000).text == "1000000"
    assert client.post("/label/gradio_api/run/who", content=b"x" * 1_000_000).status_code == 413


@pytest.mark.parametrize("stated", ["-1", "1e3", "x", "٣"])
def test_a_length_that_is_no_number_is_refused(stated: str) -> None:
    sent: list[Message] = []

    async def ask() -> None:
        async def keep(message: Message) -> None:
            sent.append(message)

        async def unreachable(*given: object) -> None:
            raise AssertionError(given)

        headers = [(b"content-length", stated.encode())]
        scope = {"type": "http", "path": "/api/x", "method": "POST", "headers": headers}
        await BodyLimit(unreachable, lambda _path: 10)(scope, nothing, keep)

    asyncio.run(ask())
    assert sent[0]["status"] == 413


def test_streams_are_not_held() -> None:
    """Show that each part of an answer leaves before the next one is made."""
    log: list[str] = []

    async def stream(scope: object, receive: object, send: Callable) -> None:
        del scope, receive
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(3):
            log.append(f"made {number}")
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def keep(message: Message) -> None:
        if message.get("body"):
            log.append(f"sent {message['body'].decode()}")

    async def ask() -> None:
        app = Shield(BodyLimit(SameOrigin(stream), lambda _path: 10))
        scope = {"type": "http", "path": "/label/x", "method": "GET", "headers": []}
        await app(scope, nothing, keep)

    asyncio.run(ask())
    assert log == ["made 0", "sent 0", "made 1", "sent 1", "made 2", "sent 2"]
    assert logging.getLogger("labeling_ui").handlers == []
