from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from labeling_ui.settings import AppSettings
from tests.labeling_ui.browsers import GOOD, HERE, PAGE, SCRIPT

PROXY, ELSEWHERE = "192.0.2.9", "198.51.100.7"
PUBLIC = "https://label.example.org"
TOLD = {
    "x-forwarded-proto": "https",
    "x-forwarded-host": "label.example.org",
    "x-forwarded-for": "203.0.113.5",
}


@pytest.fixture
def behind(make_client: Callable[..., TestClient]) -> Callable[..., TestClient]:
    """Return a function that makes a browser whose requests come from an address."""

    def make(address: str, **settings: object) -> TestClient:
        given = {"proxies": (PROXY,), **settings}
        browser = make_client(AppSettings(**given), "http://10.0.0.1:7860", client=(address, 40000))
        browser.headers["origin"] = PUBLIC
        return browser

    return make


def enter(browser: TestClient, **headers: str):
    return browser.post("/signin", data={"name": "bob", "password": GOOD}, headers=headers)


def test_a_trusted_proxy_says_scheme_host_and_client(behind: Callable) -> None:
    answer = enter(behind(PROXY), **TOLD)
    assert answer.status_code == 303
    assert answer.headers["set-cookie"].startswith("__Host-steerline=")
    assert "Secure" in answer.headers["set-cookie"]


def test_gradio_learns_the_address_that_people_see(behind: Callable) -> None:
    browser = behind(PROXY)
    token = enter(browser, **TOLD).headers["set-cookie"].split(";")[0]
    config = browser.get("/label/config", headers={**TOLD, "cookie": token}).json()
    assert config["root"] == f"{PUBLIC}/label"


@pytest.mark.parametrize("address", [ELSEWHERE, "testclient", ""])
def test_nobody_else_is_believed(address: str, behind: Callable) -> None:
    browser = behind(address)
    assert enter(browser, **TOLD).status_code == 403
    browser.headers["origin"] = "http://10.0.0.1:7860"
    answer = enter(browser, **TOLD)
    assert answer.status_code == 303
    assert "Secure" not in answer.headers["set-cookie"]
    spoofed = {"x-gradio-server": "https://evil.example", "forwarded": "host=evil.example"}
    config = browser.get("/label/config", headers={**TOLD, **spoofed}).json()
    assert config["root"] == "http://10.0.0.1:7860/label"


def test_a_made_up_address_does_not_escape_the_throttle(behind: Callable) -> None:
    browser = behind(PROXY)
    for number in range(20):
        told = {**TOLD, "x-forwarded-for": f"10.9.9.{number}, 203.0.113.5, {PROXY}"}
        form = {"name": f"name {number}", "password": "wrong"}
        assert browser.post("/signin", data=form, headers=told).status_code == 400
    assert enter(browser, **TOLD).status_code == 429
    assert enter(browser, **{**TOLD, "x-forwarded-for": "203.0.113.6"}).status_code == 303


def test_a_proxy_that_names_nobody_counts_itself(behind: Callable) -> None:
    browser = behind(PROXY)
    told = {**TOLD, "x-forwarded-for": ""}
    for number in range(20):
        form = {"name": f"name {number}", "password": "wrong"}
        assert browser.post("/signin", data=form, headers=told).status_code == 400
    assert enter(browser, **told).status_code == 429


def test_the_public_address_stands_for_every_requests(behind: Callable) -> None:
    browser = behind(PROXY, public_url=PUBLIC)
    answer = enter(browser, host="label.example.org")
    assert answer.status_code == 303
    token = answer.headers["set-cookie"].split(";")[0]
    assert token.startswith("__Host-steerline=")
    headers = {"host": "label.example.org", "cookie": token}
    assert browser.get("/label/config", headers=headers).json()["root"] == f"{PUBLIC}/label"
    assert enter(browser, host="10.0.0.1:7860").status_code == 400


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io"])
def test_a_name_that_is_not_the_apps_is_refused(host: str, client: TestClient) -> None:
    for path in ("/signin", "/label/", "/static/pages.css", "/api/desk"):
        answer = client.get(path, headers={"host": host, **SCRIPT})
        assert (answer.status_code, answer.json()["code"]) == (400, "refused")
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = client.get("/signin", headers={"host": host, **PAGE})
    assert page.status_code == 400
    assert "not known by this address" in page.text


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1:7860", "LOCALHOST", "[::1]:7860"])
def test_this_machines_names_are_the_apps(host: str, client: TestClient) -> None:
    assert client.get("/signin", headers={"host": host}).status_code == 200
    assert HERE.endswith("localhost:7860")
