"""Hold the scripted people to what the board sends."""

from __future__ import annotations

from typing import Any

from benchmarks.labeling_clients import Recording
from tests.labeling_ui.scripted import Work, think


def test_scripted_people_send_what_a_browser_was_recorded_to_send() -> None:
    recording = Recording.read()
    ids = recording.completions
    work = Work(ratings=dict.fromkeys(ids, 5), tiers=[[id_] for id_ in ids])
    sent = [action.body for action in recording.actions if action.name == "draft"]
    for number, body in enumerate(sent, start=1):
        ranked = number > len(ids)
        content = body["content"]
        page, seconds = content["page"], content["active_seconds"]
        rated = min(number, len(ids))
        assert work.draft(page, seconds, rated=rated, ranked=ranked) == content
    (body,) = [action.body for action in recording.actions if action.name == "submit"]
    assert work.submission(body["judgment"]["active_seconds"]) == body["judgment"]
    assert set(body) == {"token", "key", "judgment", "instructions", "interface"}


def make_task(kind: str = "ranking", k: int = 6) -> dict[str, Any]:
    completions = [{"id": f"c{i}", "text": f"answer {i}"} for i in range(k)]
    prompt = [{"role": "user", "content": "Why?"}]
    return {"kind": kind, "prompt": prompt, "completions": completions}


def test_opinions_are_complete_consistent_and_of_their_own() -> None:
    task = make_task()
    work = think("ada", task)
    ids = {choice["id"] for choice in task["completions"]}
    assert set(work.ratings) == ids == {id_ for tier in work.tiers for id_ in tier}
    assert all(1 <= rating <= 7 for rating in work.ratings.values())
    for better, worse in zip(work.tiers, work.tiers[1:], strict=False):
        assert min(work.ratings[id_] for id_ in better) >= max(work.ratings[id_] for id_ in worse)
    assert think("ada", task) == work
    assert think("bob", task) != work
    assert think("ada", make_task("demonstration", 0)).submission(1)["text"].startswith("ada would")
