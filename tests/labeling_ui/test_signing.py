from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from starlette.testclient import TestClient

from labeling_ui.settings import AppSettings
from labeling_ui.signing import own_path
from pipeline.store.accounts import Accounts
from tests.labeling_ui.browsers import GOOD, HERE, PAGE, SCRIPT

NEW = "another horse battery"


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client(gradio=False)


def change(client: TestClient, old: str = GOOD, new: str = NEW, again: str = NEW):
    return client.post("/password", data={"old": old, "new": new, "again": again})


def accept(client: TestClient, token: str, name: str = "cyd", new: str = GOOD, again: str = GOOD):
    return client.post(f"/invite/{token}", data={"name": name, "new": new, "again": again})


def test_signing_in_leads_to_the_page_of_the_role(
    make_client: Callable[..., TestClient], sign_in: Callable
) -> None:
    client = make_client()
    assert client.get("/").headers["location"] == "/signin"
    for name, page in (("ada", "/lab/"), ("bob", "/label/")):
        answer = sign_in(client, name)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert client.get("/").headers["location"] == page
        assert client.get(page, headers=PAGE).status_code == 200
        assert client.get("/signin").headers["location"] == "/"


def test_signing_in_leads_back_to_where_one_wanted_to_go(
    client: TestClient, sign_in: Callable
) -> None:
    there = client.get("/label/?__theme=dark", headers=PAGE).headers["location"]
    assert there == "/signin?next=%2Flabel%2F%3F__theme%3Ddark"
    page = client.get(there).text
    assert 'name="next" value="/label/?__theme=dark"' in page
    answer = sign_in(client, "bob", next="/label/?__theme=dark")
    assert answer.headers["location"] == "/label/?__theme=dark"


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/label/",
        "//evil.example/label/",
        "/\\evil.example",
        "\\\\evil.example/label",
        "https:evil.example",
        "https:///evil.example",
        "javascript:alert(1)",
        "/label/\r\nLocation: https://evil.example",
        "/label\t/../..//evil.example\x00",
        "//[evil",
        "/signout",
        "/labelled",
        "label/",
        "",
    ],
)
def test_no_other_site_can_be_gone_to(wanted: str, client: TestClient, sign_in: Callable) -> None:
    assert own_path(wanted) == "/"
    assert sign_in(client, "bob", next=wanted).headers["location"] == "/"
    assert client.get("/signin", params={"next": wanted}).headers["location"] == "/"


@pytest.mark.parametrize(
    "wanted", ["/label", "/label/", "/lab/", "/lab/?page=2&sort=a%20b", "/label/%C3%BC%0Ax"]
)
def test_the_apps_own_pages_can_be_gone_to(wanted: str) -> None:
    assert own_path(wanted) == wanted


def test_the_cookie_is_for_this_host_and_no_script(client: TestClient, sign_in: Callable) -> None:
    cookie = sign_in(client, "bob").headers["set-cookie"]
    token, *attributes = cookie.split("; ")
    assert re.fullmatch(r"steerline=[\w-]{43}", token)
    assert {part.lower() for part in attributes} == {
        "httponly",
        "max-age=43200",
        "path=/",
        "samesite=lax",
    }


def test_under_https_the_cookie_never_goes_over_http(
    make_client: Callable[..., TestClient], sign_in: Callable
) -> None:
    browser = make_client(AppSettings(https=True), "https://localhost:7860", gradio=False)
    cookie = sign_in(browser, "bob").headers["set-cookie"]
    assert cookie.startswith("__Host-steerline=")
    attributes = {part.strip().lower() for part in cookie.split(";")}
    assert {"secure", "path=/", "httponly", "samesite=lax"} <= attributes
    assert "domain" not in cookie.lower()
    assert browser.get("/password", headers=PAGE).status_code == 200


def test_the_hours_of_a_session_are_the_cookies_too(
    make_client: Callable[..., TestClient], sign_in: Callable, clock
) -> None:

    browser = make_client(AppSettings(session=timedelta(hours=1)), gradio=False)
    assert "Max-Age=3600" in sign_in(browser, "bob").headers["set-cookie"]
    clock.advance(59)
    assert browser.get("/password", headers=SCRIPT).status_code == 200
    clock.advance(1)
    assert browser.get("/password", headers=SCRIPT).status_code == 401


def test_a_wrong_password_says_so_and_keeps_the_name(client: TestClient, sign_in: Callable) -> None:
    answers = [sign_in(client, "bob", "wrong"), sign_in(client, "nobody", "wrong")]
    for answer in answers:
        assert answer.status_code == 400
        assert "Name or password is wrong" in answer.text
        assert "set-cookie" not in answer.headers
    assert answers[0].text.replace("bob", "nobody") == answers[1].text
    assert 'value="bob"' in answers[0].text
    assert client.get("/label/", headers=SCRIPT).status_code == 401


def test_what_is_typed_is_never_markup(client: TestClient, sign_in: Callable) -> None:
    page = sign_in(client, '"><script>alert(1)</script>', "wrong").text
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"name=bob&password=%ff", "application/x-www-form-urlencoded"),
        (b"&".join([b"name=bob"] * 50), "application/x-www-form-urlencoded"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b'{"name": "bob"}', "application/json"),
        (b"", "multipart/form-data; boundary=x"),
        (b"", ""),
    ],
)
def test_what_is_no_form_signs_nobody_in(body: bytes, kind: str, client: TestClient) -> None:
    answer = client.post("/signin", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert "Name or password is wrong" in answer.text


def test_guessing_a_name_is_slowed_down_and_the_window_passes(
    client: TestClient, sign_in: Callable, clock
) -> None:
    for _ in range(5):
        assert sign_in(client, "bob", "wrong").status_code == 400
    shut = sign_in(client, "bob", GOOD)
    assert (shut.status_code, shut.headers["retry-after"]) == (429, "900")
    assert "Too many attempts. Wait 15 minutes" in shut.text
    assert sign_in(client, "ada").status_code == 303
    clock.advance(15)
    assert sign_in(client, "bob").status_code == 303


def test_guessing_from_an_address_is_slowed_down(
    make_client: Callable[..., TestClient], sign_in: Callable
) -> None:
    one = make_client(gradio=False, client=("192.0.2.1", 50000))
    other = make_client(gradio=False, client=("192.0.2.2", 50000))
    for number in range(20):
        assert sign_in(one, f"name {number}", "wrong").status_code == 400
    assert sign_in(one, "bob").status_code == 429
    assert sign_in(other, "bob").status_code == 303


def test_signing_out_ends_the_session_and_forgets_the_cookie(
    client: TestClient, sign_in: Callable
) -> None:
    sign_in(client, "bob")
    token = client.cookies["steerline"]
    answer = client.post("/signout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/signin")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert "steerline" not in client.cookies
    client.cookies["steerline"] = token
    assert client.get("/label/", headers=SCRIPT).status_code == 401


def test_signing_in_as_somebody_else_ends_the_first_session(
    client: TestClient, sign_in: Callable
) -> None:
    sign_in(client, "ada")
    first = client.cookies["steerline"]
    sign_in(client, "bob")
    client.cookies.clear()
    client.cookies["steerline"] = first
    assert client.get("/lab/", headers=SCRIPT).status_code == 401


def test_signing_out_takes_more_than_a_link(client: TestClient, sign_in: Callable) -> None:
    sign_in(client, "bob")
    assert client.get("/signout", headers=PAGE).status_code == 405
    assert client.get("/password", headers=SCRIPT).status_code == 200


def test_a_disabled_account_is_out_at_once(
    client: TestClient, sign_in: Callable, accounts: Accounts
) -> None:
    sign_in(client, "bob")
    assert client.get("/password", headers=SCRIPT).status_code == 200
    accounts.disable("bob")
    assert client.get("/password", headers=SCRIPT).status_code == 401
    assert sign_in(client, "bob").status_code == 400


def test_a_printed_password_opens_nothing_but_the_choice_of_another(
    make_client: Callable[..., TestClient], sign_in: Callable, accounts: Accounts
) -> None:
    client = make_client()
    once = accounts.add("cyd", "lead")
    answer = sign_in(client, "cyd", once, next="/lab/")
    assert answer.headers["location"] == "/password"
    for path in ("/label/", "/lab/", "/lab/config"):
        assert client.get(path, headers=PAGE).headers["location"] == "/password"
        refused = client.get(path, headers=SCRIPT)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert client.post("/api/desk/lease", json={}).status_code == 403
    assert "is good for this once" in client.get("/password").text
    assert change(client, once).headers["location"] == "/"
    assert client.get("/lab/", headers=PAGE).status_code == 200


def test_changing_the_password_signs_out_everywhere_else(
    make_client: Callable[..., TestClient], sign_in: Callable
) -> None:
    here, there = make_client(gradio=False), make_client(gradio=False)
    sign_in(here, "bob")
    sign_in(there, "bob")
    assert change(here).status_code == 303
    assert here.get("/password", headers=SCRIPT).status_code == 200
    assert there.get("/password", headers=SCRIPT).status_code == 401
    assert sign_in(there, "bob").status_code == 400
    assert sign_in(there, "bob", NEW).status_code == 303


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ({"old": "wrong"}, "The old password is wrong"),
        ({"again": "other horse battery"}, "must be the same"),
        ({"new": "short", "again": "short"}, "must have 12 to 200 characters"),
        ({"new": GOOD, "again": GOOD}, "must differ from the old"),
        ({"new": "", "again": ""}, "must have 12 to 200 characters"),
    ],
)
def test_a_password_that_cannot_be_changed_stays(
    form: dict[str, str], line: str, client: TestClient, sign_in: Callable
) -> None:
    sign_in(client, "bob")
    answer = change(client, **form)
    assert answer.status_code == 400
    assert line in answer.text
    assert 'role="alert"' in answer.text
    assert client.get("/password", headers=SCRIPT).status_code == 200
    assert sign_in(client, "bob").status_code == 303


def test_the_password_page_is_for_the_signed_in(client: TestClient) -> None:
    assert client.get("/password", headers=PAGE).headers["location"].startswith("/signin?next=")
    assert change(client).status_code == 401


def test_an_invitation_makes_an_account_and_signs_in(
    client: TestClient, accounts: Accounts
) -> None:
    token = accounts.invite("labeler", "train", True, 24)
    assert "You were invited" in client.get(f"/invite/{token}").text
    answer = accept(client, token)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert client.get("/").headers["location"] == "/label/"
    for again in (client.get(f"/invite/{token}"), accept(client, token, "dan")):
        assert again.status_code == 400
        assert "unknown, used up or expired" in again.text
    assert [account.name for account in accounts.list()] == ["ada", "bob", "cyd"]


def test_an_invitation_expires(client: TestClient, accounts: Accounts, clock) -> None:
    token = accounts.invite("labeler", "train", True, 24)
    clock.advance(24 * 60)
    assert client.get(f"/invite/{token}").status_code == 400
    assert accept(client, token).status_code == 400
    assert len(accounts.list()) == 2


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ({"name": "ada"}, "is taken"),
        ({"name": ""}, "must have 1 to 200 characters"),
        ({"name": "simulated-9"}, "must begin with"),
        ({"new": "short", "again": "short"}, "must have 12 to 200 characters"),
        ({"again": "other horse battery"}, "must be the same"),
    ],
)
def test_what_an_invited_person_gets_wrong_can_be_mended(
    form: dict[str, str], line: str, client: TestClient, accounts: Accounts
) -> None:
    token = accounts.invite("labeler", "train", True, 24)
    answer = accept(client, token, **form)
    assert answer.status_code == 400
    assert line in answer.text
    assert "set-cookie" not in answer.headers
    assert accept(client, token).status_code == 303


def test_guessing_invitations_is_slowed_down(client: TestClient, accounts: Accounts) -> None:
    token = accounts.invite("lead", "train", True, 24)
    codes = [client.get(f"/invite/{number}").status_code for number in range(21)]
    assert codes == [400] * 20 + [429]
    assert accept(client, token).status_code == 429
    assert len(accounts.list()) == 2


class Forms(HTMLParser):
    """Collect the fields of a page and what describes them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fields: list[dict[str, str | None]] = []
        self.labels: set[str | None] = set()
        self.ids: list[str | None] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "label":
            self.labels.add(given["for"])
        if tag == "input" and given.get("type") != "hidden" and "hidden" not in given:
            self.fields.append(given)


def test_every_page_can_be_read_and_filled_in_without_script(
    client: TestClient, sign_in: Callable, accounts: Accounts
) -> None:
    token = accounts.invite("labeler", "train", True, 24)
    pages = [client.get("/signin"), sign_in(client, "bob", "wrong"), client.get(f"/invite/{token}")]
    pages.append(accept(client, token, again="other"))
    sign_in(client, "bob")
    pages += [client.get("/password"), change(client, "wrong"), client.get("/nix", headers=PAGE)]
    for page in pages:
        text = page.text
        assert text.startswith("<!doctype html>")
        assert '<html lang="en">' in text
        assert "<title>" in text
        forms = Forms(text)
        assert forms.tags.count("h1") == 1
        assert forms.tags.count("main") == 1
        assert "script" not in forms.tags
        assert "style=" not in text
        assert len(forms.ids) == len(set(forms.ids))
        for field in forms.fields:
            assert field["id"] in forms.labels
            assert field["autocomplete"] in ("username", "current-password", "new-password")
            described = (field.get("aria-describedby") or "").split()
            assert set(described) <= set(forms.ids)
            assert ("error" in described) == ("aria-invalid" in field) == ('role="alert"' in text)
        for link in re.findall(r'(?:href|src|action)="([^"]*)"', text):
            assert link.startswith("/")
            assert not link.startswith("//")
    assert all("Max-Age" not in page.headers.get("set-cookie", "") for page in pages)


def test_no_request_of_the_pages_is_refused_by_their_own_rules(client: TestClient) -> None:
    page = client.get("/signin").text
    for path in re.findall(r'<link[^>]*href="([^"]*)"', page):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["content-type"].split(";")[0] in ("text/css", "image/svg+xml")
        assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert HERE not in page
