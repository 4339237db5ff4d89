from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from labeling_ui.failing import ANSWERED, failed
from labeling_ui.gate import Gate
from labeling_ui.lab_routes import lab_routes
from pipeline.records import Prompt, Ranking
from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts
from pipeline.store.oversight import Oversight

EXPORTS = ("rankings", "preferences", "dataset", "demonstrations", "csv")
ROW = {"prompt": "Which?", "completions": ["a", "b"], "ranks": [1, 2], "labeler": "cyd"}


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a store with a lead's and a labeler's session, which tests copy."""
    path = tmp_path_factory.mktemp("store") / "labels.db"
    with LabelStore.open(path) as store:
        accounts, tokens = Accounts(store), {}
        for name, role in (("lena", "lead"), ("ada", "labeler")):
            password = accounts.add(name, role)
            account = accounts.sign_in(name, password, "here").account
            new = f"correct horse battery {name}"
            tokens[name] = accounts.change_password(account.id, password, new).token
        tokens["new lead"] = accounts.sign_in("max", accounts.add("max", "lead"), "here").token
    return path, tokens


@pytest.fixture
def store(blank: tuple[Path, dict[str, str]], tmp_path: Path) -> Iterator[LabelStore]:
    copy = tmp_path / "labels.db"
    copy.write_bytes(blank[0].read_bytes())
    with LabelStore.open(copy) as opened:
        opened.import_rankings(
            [
                Ranking(Prompt.from_text(text), ("x", "y"), ranks, None, labeler, group)
                for text, ranks, labeler, group in (
                    ("One?", (1, 2), "ada", "train"),
                    ("One?", (2, 1), "bob", "train"),
                    ("One?", (2, 1), "hugo", "held_out"),
                )
            ],
            split="train",
            source="people",
        )
        yield opened


@pytest.fixture
def client(store: LabelStore, blank: tuple[Path, dict[str, str]]) -> Iterator[TestClient]:
    """Return a lead's client."""
    with TestClient(app_over(store), cookies={"steerline": blank[1]["lena"]}) as made:
        yield made


def app_over(store: LabelStore) -> FastAPI:
    app = FastAPI(
        middleware=[Middleware(Gate, accounts=Accounts(store))],
        exception_handlers=dict.fromkeys(ANSWERED, failed),
    )
    app.include_router(lab_routes(store))
    return app


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_a_file_to_save(client: TestClient, name: str) -> None:
    answer = client.get(f"/api/lab/export/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith('attachment; filename="')


@pytest.mark.parametrize(
    ("who", "status", "code"),
    [(None, 401, "signed_out"), ("ada", 403, "forbidden"), ("new lead", 403, "forbidden")],
)
def test_nobody_but_a_lead_with_a_password_of_their_own_gets_in(
    store: LabelStore, blank: tuple, who: str | None, status: int, code: str
) -> None:
    cookies = {"steerline": blank[1][who]} if who else {}
    before = store.export_rows()
    with TestClient(app_over(store), cookies=cookies) as client:
        answers = [client.get(f"/api/lab/export/{name}") for name in EXPORTS]
        answers.append(client.post("/api/lab/import", content=json.dumps(ROW)))
    assert [answer.status_code for answer in answers] == [status] * 6
    assert {answer.json()["code"] for answer in answers} == {code}
    assert store.export_rows() == before


def test_the_routes_are_closed_even_without_the_gate(store: LabelStore) -> None:
    app = FastAPI(exception_handlers=dict.fromkeys(ANSWERED, failed))
    app.include_router(lab_routes(store))
    with TestClient(app) as client:
        assert client.get("/api/lab/export/csv").status_code == 401


def test_rankings_are_all_but_removed_labelers_and_their_file_is_known(
    client: TestClient, store: LabelStore
) -> None:
    oversight = Oversight(store)
    oversight.exclude("bob", "left", "lena")
    answer = client.get("/api/lab/export/rankings")
    assert lines(answer.text) == json.loads(json.dumps(store.export_rows()))
    assert {row["labeler"] for row in lines(answer.text)} == {"ada", "hugo"}
    digest = hashlib.sha256(answer.content).hexdigest()
    assert oversight.snapshots() == {digest: {"ada", "hugo"}}


def test_preferences_leave_held_out_labelers_out(client: TestClient, store: LabelStore) -> None:
    answer = client.get("/api/lab/export/preferences")
    assert [row["labeler"] for row in lines(answer.text)] == ["ada", "bob"]
    digest = hashlib.sha256(answer.content).hexdigest()
    assert Oversight(store).snapshots()[digest] == {"ada", "bob"}
    held_out = client.get("/api/lab/export/preferences?group=held_out")
    assert [row["labeler"] for row in lines(held_out.text)] == ["hugo"]
    assert client.get("/api/lab/export/preferences?split=test").text == ""
    wrong = client.get("/api/lab/export/preferences?split=dev")
    assert (wrong.status_code, wrong.json()["code"]) == (400, "refused")


def test_the_data_set_and_the_table_open(client: TestClient) -> None:
    archive = zipfile.ZipFile(io.BytesIO(client.get("/api/lab/export/dataset").content))
    assert set(archive.namelist()) == {
        "README.md",
        "preferences/train.parquet",
        "rankings/train.parquet",
    }
    text = client.get("/api/lab/export/csv").content.decode("utf-8-sig")
    assert len(list(csv.DictReader(io.StringIO(text)))) == 3 * 2


def test_an_import_adds_all_and_counts_what_is_there(client: TestClient, store: LabelStore) -> None:
    body = "".join(json.dumps({**ROW, "labeler": name}) + "\n" for name in ("cyd", "eve"))
    first = client.post("/api/lab/import?split=test&name=votes.jsonl", content=body)
    assert first.json() == {"added": 2, "duplicates": 0}
    again = client.post("/api/lab/import?split=test&name=votes.jsonl", content=body)
    assert again.json() == {"added": 0, "duplicates": 2}
    assert {one.labeler for one in store.rankings("test")} == {"cyd", "eve"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (json.dumps(ROW) + "\nnot json\n", "votes.jsonl:2: not a JSON object"),
        (
            json.dumps(ROW) + "\n" + json.dumps({**ROW, "ranks": [1]}),
            "votes.jsonl:2: 'ranks' must have one entry a completion",
        ),
        ("\xff\xfe", "votes.jsonl:1: not a JSON object"),
    ],
)
def test_a_half_valid_import_names_the_line_and_changes_nothing(
    client: TestClient, store: LabelStore, body: str, message: str
) -> None:
    before = store.export_rows()
    answer = client.post("/api/lab/import?name=..%2Fvotes.jsonl", content=body.encode("latin-1"))
    assert answer.status_code == 400
    assert answer.json()["code"] == "refused"
    assert answer.json()["error"].startswith(message)
    assert "\n" not in answer.json()["error"]
    assert store.export_rows() == before


def test_what_was_exported_is_imported_elsewhere(
    client: TestClient, store: LabelStore, tmp_path: Path
) -> None:
    path = tmp_path / "all.jsonl"
    path.write_bytes(client.get("/api/lab/export/rankings").content)
    with LabelStore.open(tmp_path / "other.db") as other:
        assert other.import_jsonl(path).added == 3
        assert other.snapshot_hash() == store.snapshot_hash()
