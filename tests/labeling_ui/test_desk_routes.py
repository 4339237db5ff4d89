from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from labeling_ui.app import Parts
from labeling_ui.practice import NOTHING
from pipeline.records import Prompt
from pipeline.store import LabelStore
from pipeline.store.oversight import Oversight
from pipeline.store.questions import OUTPUT_FLAGS, PROMPT_FLAGS, SKIP_REASONS
from pipeline.store.schema import LabelerRow
from tests.labeling_ui.boards import (
    CHECKPOINT,
    LEASE,
    MODEL,
    Board,
    desk_parts,
    judgment,
    submission,
)
from tests.labeling_ui.browsers import SCRIPT


@pytest.fixture
def parts(store: LabelStore) -> Parts:
    return desk_parts(store)


def test_the_overview_has_what_the_page_shows(bob: Board, fill: Callable) -> None:
    fill(prompts=3)
    told = bob.get()
    assert told.pop("flags") == [flag._asdict() for flag in OUTPUT_FLAGS]
    assert len(OUTPUT_FLAGS) == 11
    prompt_flags = [{"name": flag.name, "label": flag.label} for flag in PROMPT_FLAGS]
    assert told.pop("prompt_flags") == prompt_flags
    reasons = [{"name": flag.name, "label": flag.label} for flag in SKIP_REASONS]
    assert told.pop("skip_reasons") == reasons
    assert told == {
        "name": "bob",
        "role": "labeler",
        "today": 0,
        "waiting": 3,
        "goal": 40,
        "admitted": True,
        "screening": None,
        "instructions": {"version": 0, "text": ""},
        "interface": "page-1",
    }


def test_a_labeler_who_is_not_admitted_sees_how_far_they_are(bob: Board, store: LabelStore) -> None:

    with store.writing() as session:
        session.query(LabelerRow).where(LabelerRow.name == "bob").update({"admitted": False})
    told = bob.get()
    assert (told["admitted"], told["screening"]) == (False, {"done": 0, "of": 0})


def test_the_newest_instructions_come_with_their_version(bob: Board, store: LabelStore) -> None:
    leads = Oversight(store)
    leads.publish_instructions("Be kind.", "ada")
    leads.publish_instructions("Be kind & exact <b>", "ada")
    assert bob.get()["instructions"] == {"version": 2, "text": "Be kind & exact <b>"}


def test_a_task_has_texts_and_opaque_ids_and_nothing_else(bob: Board, fill: Callable) -> None:
    (prompt,) = fill()
    task = bob.lease()
    assert set(task) == {
        "token",
        "kind",
        "prompt",
        "completions",
        "lease_expires",
        "draft",
        "submitted",
    }
    assert task["kind"] == "ranking"
    assert task["prompt"] == list(prompt.messages)
    assert {choice["text"] for choice in task["completions"]} == {
        f"answer {number}" for number in range(4)
    }
    assert all(set(choice) == {"id", "text"} for choice in task["completions"])
    assert (task["draft"], task["submitted"]) == (None, None)
    text = json.dumps(task)
    for secret in (MODEL, CHECKPOINT, "sft", "top_p", "purpose", "gold"):
        assert secret not in text
    assert bob.lease() == task, "the task in hand comes again"


def test_there_is_no_task_where_there_is_nothing_to_do(bob: Board) -> None:
    assert bob.lease() is None


def test_a_draft_is_saved_and_comes_back_with_the_task(bob: Board, fill: Callable, clock) -> None:
    fill()
    task = bob.lease()
    clock.advance(10)
    content = {"tiers": [["a"], ["b"]], "note": "ü🙂", "nested": {"x": [1, None, 2.5]}}
    saved = bob.post("/draft", {"token": task["token"], "version": 0, "content": content})
    assert saved["version"] == 1
    assert datetime.fromisoformat(saved["saved"]) == clock.now
    assert datetime.fromisoformat(saved["lease_expires"]) == clock.now + LEASE
    assert bob.lease()["draft"] == {"version": 1, "content": content}
    again = bob.post("/draft", {"token": task["token"], "version": 1, "content": {}})
    assert again["version"] == 2


def test_a_draft_of_another_device_is_not_written_over(bob: Board, fill: Callable) -> None:
    fill()
    token = bob.lease()["token"]
    bob.post("/draft", {"token": token, "version": 0, "content": {"device": 1}})
    told = bob.refused("/draft", {"token": token, "version": 0, "content": {"device": 2}}, 409)
    assert told["code"] == "stale"
    assert told["draft"] == {"version": 1, "content": {"device": 1}}
    assert bob.lease()["draft"]["content"] == {"device": 1}


def test_a_draft_has_a_limit(bob: Board, fill: Callable) -> None:
    fill()
    token = bob.lease()["token"]
    fits = {"text": "x" * (250 * 1024)}
    bob.post("/draft", {"token": token, "version": 0, "content": fits})
    large = {"text": "x" * (300 * 1024)}
    told = bob.refused("/draft", {"token": token, "version": 1, "content": large}, 413)
    assert told["code"] == "too_large"
    assert bob.lease()["draft"]["content"] == fits


def test_a_sign_of_life_keeps_the_task(bob: Board, ada: Board, fill: Callable, clock) -> None:
    fill()
    token = bob.lease()["token"]
    for _ in range(5):
        clock.advance(20)
        expires = bob.post("/heartbeat", {"token": token})["lease_expires"]
        assert datetime.fromisoformat(expires) == clock.now + LEASE
    assert ada.lease() is None


def test_a_task_that_was_lost_to_somebody_else_is_gone(
    bob: Board, ada: Board, fill: Callable, clock
) -> None:
    fill()
    task = bob.lease()
    clock.advance(31)
    ada.submit(ada.lease())
    for path, body in (
        ("/heartbeat", {"token": task["token"]}),
        ("/draft", {"token": task["token"], "version": 0, "content": {}}),
        ("/submit", submission(task, "other key")),
    ):
        assert bob.refused(path, body, 410)["code"] == "gone"
    assert bob.get("/history")["done"] == []


def test_a_judgment_is_stored_with_all_that_was_said(
    bob: Board, fill: Callable, store: LabelStore, clock, tmp_path: Path
) -> None:
    fill()
    task = bob.lease()
    told = bob.submit(task, none_acceptable=True)
    assert told["today"] == 1
    assert told["receipt"]["revision"] == 1
    assert datetime.fromisoformat(told["receipt"]["created"]) == clock.now
    store.export_jsonl(tmp_path / "labels.jsonl")
    row = json.loads((tmp_path / "labels.jsonl").read_text(encoding="utf-8"))
    assert row["labeler"] == "bob"
    assert (row["comment"], row["active_seconds"]) == ("fine", 12.5)
    assert sorted(row["ranks"]) == [1, 2, 3, 4]
    assert {"opinion": True} in row["flags"]


def test_the_same_submission_again_changes_nothing(
    bob: Board, fill: Callable, store: LabelStore, clock
) -> None:
    fill(prompts=2)
    task = bob.lease()
    first = bob.submit(task)
    clock.advance(5)
    assert bob.submit(task) == first
    assert store.counts()["judgments_human"] == 1
    other = bob.refused("/submit", submission(task, comment="other"), 400)
    assert "must be new" in other["error"]
    assert store.counts()["judgments_human"] == 1


def test_work_is_opened_again_and_submitted_as_a_revision(bob: Board, fill: Callable) -> None:
    fill()
    task = bob.lease()
    bob.submit(task)
    (done,) = bob.get("/history")["done"]
    assert (done["kind"], done["excerpt"], done["revisions"]) == ("ranking", "question 0?", 1)
    opened = bob.post("/reopen", {"id": done["id"]})["task"]
    assert opened["submitted"] == judgment(task)
    assert opened["token"] == task["token"]
    again = bob.submit(opened, "second key", comment="better")
    assert (again["receipt"]["revision"], again["today"]) == (2, 1)
    assert bob.get("/history")["done"][0]["revisions"] == 2


def test_a_task_is_passed_over_with_a_reason(bob: Board, ada: Board, fill: Callable) -> None:
    fill()
    token = bob.lease()["token"]
    told = bob.refused("/skip", {"token": token, "reason": "bored", "comment": ""}, 400)
    assert "skip.reason must be one of" in told["error"]
    body = {"token": token, "reason": "upsetting", "comment": "no"}
    assert bob.post("/skip", body) == {"skipped": True}
    assert bob.lease() is None
    assert ada.lease() is not None


def test_a_prompt_is_reported(bob: Board, fill: Callable) -> None:
    fill()
    token = bob.lease()["token"]
    assert bob.post("/report", {"token": token, "reason": "personal data"}) == {"reported": True}
    assert bob.refused("/report", {"token": token, "reason": " "}, 400)["code"] == "refused"
    assert bob.lease()["token"] == token


def test_a_demonstration_is_written(bob: Board, store: LabelStore) -> None:
    store.add_prompts([Prompt.from_text("Say hello.")])
    store.create_demonstration_tasks(1)
    task = bob.lease()
    assert (task["kind"], task["completions"]) == ("demonstration", [])
    written = {"text": "Hello!", "comment": "", "prompt_flags": {}, "active_seconds": 3.0}
    body = {"token": task["token"], "key": "k", "judgment": written}
    assert bob.post("/submit", body)["today"] == 1
    (done,) = bob.get("/history")["done"]
    assert bob.post("/reopen", {"id": done["id"]})["task"]["submitted"] == written
    wrong = {**body, "key": "l", "judgment": {"ranks": {}}}
    assert bob.refused("/submit", wrong, 400)["code"] == "refused"


def test_a_prompt_of_ones_own_comes_with_its_answer(bob: Board, store: LabelStore) -> None:
    body = {
        "kind": "plain",
        "messages": [{"role": "user", "content": "Name a tree."}],
        "text": "Oak.",
        "comment": "",
        "key": "own",
    }
    first = bob.post("/prompt", body)
    assert first["receipt"]["revision"] == 1
    assert bob.post("/prompt", body) == first
    assert [prompt.messages[0]["content"] for prompt in store.prompts()] == ["Name a tree."]
    assert bob.refused("/prompt", {**body, "kind": "odd", "key": "x"}, 400)["code"] == "refused"


def test_practice_is_judged_and_stored_nowhere(bob: Board, store: LabelStore) -> None:
    before = store.counts()
    task = bob.get("/practice")["task"]
    assert (task["token"], len(task["completions"])) == ("practice", 4)
    work = judgment(task)
    feedback = bob.post("/practice", {"judgment": work})["feedback"]
    assert feedback
    assert NOTHING not in feedback
    assert bob.refused("/practice", {"judgment": {"ranks": {}}}, 400)["code"] == "refused"
    assert store.counts() == before


def broken(task: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield submissions that break a rule, and what the one line must name."""
    ids = [choice["id"] for choice in task["completions"]]
    ranks = judgment(task)["ranks"]
    for changed, named in (
        ({"ranks": {**ranks, ids[0]: 9}}, "judgment.ranks must be dense"),
        ({"ranks": {id_: rank for id_, rank in ranks.items() if rank > 1}}, "judgment.ranks must"),
        ({"ranks": {**ranks, "unknown": 5}}, "judgment.ranks must name"),
        ({"ranks": {**ranks, ids[0]: "1"}}, "judgment.ranks."),
        ({"ranks": {**ranks, ids[0]: 1.5}}, "judgment.ranks."),
        ({"ratings": dict.fromkeys(ids, 8)}, "judgment.ratings must lie from 1 to 7"),
        ({"ratings": dict.fromkeys(ids, True)}, "judgment.ratings."),
        ({"flags": {"unknown": {"opinion": True}}}, "judgment.flags must name completions"),
        ({"flags": {ids[0]: {"made_up": True}}}, "judgment.flags must name what is asked"),
        ({"flags": {ids[0]: {"opinion": "yes"}}}, "judgment.flags."),
        ({"prompt_flags": {"opinion": True}}, "judgment.prompt_flags must name what is asked"),
        ({"active_seconds": -1.0}, "judgment.active_seconds"),
        ({"comment": "x" * 10_001}, "judgment.comment"),
        ({"comment": "a\x00b"}, "judgment.comment"),
        ({"score": 1}, "judgment.score"),
    ):
        yield submission(task, **changed), named
    whole = submission(task)
    for changed, named in (
        ({"key": ""}, "key:"),
        ({"key": "x" * 201}, "key:"),
        ({"token": 7}, "token:"),
        ({"instructions": "1"}, "instructions:"),
        ({"interface": "x" * 33}, "interface:"),
        ({"labeler": "ada"}, "labeler:"),
    ):
        yield {**whole, **changed}, named


def test_a_broken_judgment_is_one_line_and_changes_nothing(
    bob: Board, fill: Callable, store: LabelStore
) -> None:
    fill()
    task = bob.lease()
    before = store.snapshot_hash()
    for body, named in broken(task):
        told = bob.refused("/submit", body, 400)
        assert told["error"].startswith(named), told["error"]
        assert told["code"] == "refused"
    assert store.snapshot_hash() == before
    bob.submit(task)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_a_time_that_is_no_number_is_refused(value: str, bob: Board, fill: Callable) -> None:
    fill()
    text = json.dumps(submission(bob.lease())).replace("12.5", value)
    headers = {**SCRIPT, "content-type": "application/json"}
    answer = bob.client.post("/api/desk/submit", content=text, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("judgment.active_seconds")


def test_anothers_token_changes_nothing(
    bob: Board, ada: Board, fill: Callable, store: LabelStore
) -> None:
    fill(prompts=2)
    task = bob.lease()
    token = task["token"]
    for path, body in (
        ("/draft", {"token": token, "version": 0, "content": {"mine": True}}),
        ("/heartbeat", {"token": token}),
        ("/submit", submission(task)),
        ("/skip", {"token": token, "reason": "other", "comment": ""}),
        ("/report", {"token": token, "reason": "x"}),
    ):
        theirs = ada.refused(path, body, 400)
        made_up = ada.refused(path, {**body, "token": "made-up"}, 400)
        assert theirs == made_up, "nothing tells that the token is somebody's"
    assert bob.lease() == task
    assert store.counts()["judgments_human"] == 0
    bob.submit(task)
    (done,) = bob.get("/history")["done"]
    assert ada.refused("/reopen", {"id": done["id"]}, 400)["code"] == "refused"
    assert ada.get("/history")["done"] == []


def test_nobody_sees_what_others_said(bob: Board, ada: Board, fill: Callable) -> None:
    fill(overlap=2)
    bob.submit(bob.lease(), comment="bob's own words")
    seen = json.dumps([ada.get(), ada.lease(), ada.get("/history")])
    assert "bob" not in seen


def test_every_route_needs_a_session_its_own_page_and_json(
    client: TestClient, sign_in: Callable
) -> None:
    reads = ("", "/history", "/practice")
    writes = (
        *("/lease", "/draft", "/heartbeat", "/submit", "/skip", "/report", "/reopen"),
        *("/practice", "/prompt"),
    )
    for path in reads:
        assert client.get(f"/api/desk{path}").status_code == 401
    for path in writes:
        assert client.post(f"/api/desk{path}", json={}).status_code == 401
    sign_in(client, "bob")
    for path in writes:
        foreign = {"origin": "https://evil.example"}
        assert client.post(f"/api/desk{path}", json={}, headers=foreign).status_code == 403
        plain = {"content-type": "text/plain"}
        refused = client.post(f"/api/desk{path}", content=b"{}", headers=plain)
        assert (refused.status_code, refused.json()["code"]) == (400, "refused")
    assert client.get("/api/desk/lease").status_code == 405
    assert client.get("/api/desk/nothing").status_code == 404


def test_an_account_disabled_meanwhile_saves_nothing_more(
    bob: Board, fill: Callable, accounts, store: LabelStore
) -> None:
    fill()
    task = bob.lease()
    accounts.disable("bob")
    assert bob.refused("/submit", submission(task), 401)["code"] == "signed_out"
    assert store.counts()["judgments_human"] == 0
