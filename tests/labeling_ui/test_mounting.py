from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaitingError

import gradio as gr
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from labeling_ui.app import Parts, create_app
from labeling_ui.mounting import Broken, log_broken
from labeling_ui.settings import AppSettings
from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts
from tests.labeling_ui.browsers import HERE, PAGE, SCRIPT, lab_page, label_page

SECONDS = 60


@pytest.fixture
def make_app(store: LabelStore, accounts: Accounts) -> Callable[..., FastAPI]:
    """Return a function that makes an app of two pages."""
    del accounts

    def make(
        label: Callable[[], gr.Blocks] = label_page,
        lab: Callable[[], gr.Blocks] = lab_page,
        broken: Broken = log_broken,
    ) -> FastAPI:
        return create_app(store, AppSettings(), Parts(label, lab), broken=broken)

    return make


def browse(app: FastAPI) -> TestClient:
    return TestClient(
        app, HERE, headers={"origin": HERE}, follow_redirects=False, raise_server_exceptions=False
    )


class Slow:
    """A page that is made when it is told to be."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self) -> gr.Blocks:
        self.begun.set()
        assert self.go.wait(SECONDS)
        return label_page()


def test_the_app_answers_while_its_pages_are_made(make_app: Callable, sign_in: Callable) -> None:
    slow = Slow()
    with browse(make_app(slow)) as client, ThreadPoolExecutor(2) as pool:
        assert slow.begun.wait(SECONDS)
        assert client.get("/signin").status_code == 200
        assert sign_in(client, "ada").status_code == 303
        assert client.get("/static/board.js").status_code == 200
        early = [pool.submit(client.get, path, headers=PAGE) for path in ("/label/", "/lab/")]
        for answer in early:
            with pytest.raises(StillWaitingError):
                answer.result(timeout=0.2)
        slow.go.set()
        assert [answer.result(SECONDS).status_code for answer in early] == [200, 200]
        assert "window.gradio_config" in early[0].result().text


def fail() -> gr.Blocks:
    raise ValueError("private")


@pytest.mark.parametrize("pages", [{"label": fail}, {"lab": fail}], ids=["label", "lab"])
def test_a_page_that_cannot_be_made_is_told_once_and_none_is_served(
    pages: dict[str, Callable], make_app: Callable, sign_in: Callable
) -> None:
    errors: list[Exception] = []
    with browse(make_app(**pages, broken=errors.append)) as client:
        sign_in(client, "ada")
        for path in ("/lab/", "/label/"):
            answer = client.get(path, headers=SCRIPT)
            assert (answer.status_code, answer.json()["code"]) == (500, "fault")
            assert "private" not in answer.text
        assert "could not be opened" in client.get("/lab/", headers=PAGE).text
        assert client.get("/", headers=PAGE).status_code == 303
    assert [str(error) for error in errors] == ["private"]


def test_unless_somebody_is_told_what_broke_is_written_down(
    make_app: Callable, sign_in: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with browse(make_app(fail)) as client:
        sign_in(client, "bob")
        assert client.get("/label/").status_code == 500
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "The pages could not be made." in caplog.text


def test_an_app_that_ends_meanwhile_makes_no_further_page(make_app: Callable) -> None:
    slow, made = Slow(), []

    def lab() -> gr.Blocks:
        made.append("lab")
        return lab_page()

    with browse(make_app(slow, lab)):
        assert slow.begun.wait(SECONDS)
        threading.Timer(0.5, slow.go.set).start()
    assert slow.go.is_set(), "the end waits for the page that is being made"
    assert made == []


def test_an_app_can_be_served_again(make_app: Callable, sign_in: Callable) -> None:
    app = make_app()
    for _ in range(2):
        with browse(app) as client:
            sign_in(client, "bob")
            assert client.get("/label/", headers=PAGE).status_code == 200


def test_apps_may_open_their_pages_at_once(make_app: Callable, sign_in: Callable) -> None:
    with browse(make_app()) as one, browse(make_app()) as other:
        for client in (one, other):
            sign_in(client, "ada")
            paths = [f"{mount}/config" for mount in ("/label", "/lab")]
            kinds = [
                [part["type"] for part in client.get(path).json()["components"]] for path in paths
            ]
            assert kinds == [["textbox", "form"]] * 2
