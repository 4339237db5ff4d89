"""The benchmark's counts notice damage, and a short run of it does none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from benchmarks.labeling_clients import Outcome
from benchmarks.labeling_load import Size, check_store, measure
from pipeline.records import Prompt
from pipeline.store import Judgment, LabelStore, Provenance, SampledCompletion
from pipeline.store.schema import TaskRow

CLEAN = {"lost": 0, "double": 0, "over_assigned": 0, "stuck": 0}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return a store with two tasks of two places: one is done by two people, one is leased."""
    url = f"sqlite:///{tmp_path}/labels.db"
    with LabelStore.open(url) as store:
        for number in range(2):
            prompt = Prompt.from_text(f"Question {number}?")
            store.add_prompts([prompt])
            samples = [SampledCompletion(text, Provenance("sft")) for text in ("yes", "no")]
            store.add_completions(prompt.id, samples)
        store.create_ranking_tasks(2)
        for name in ("ada", "bob"):
            task = store.lease_task(store.add_labeler(name))
            assert task is not None
            ranks = {choice.id: 1 for choice in task.completions}
            store.submit(task.token, Judgment(ranks), name)
        store.lease_task(store.add_labeler("ada"))
    return url


SENT = Outcome(acknowledged=["ada", "bob"], tried=["ada", "bob"])


def test_a_sound_store_has_no_damage(url: str) -> None:
    assert check_store(url, SENT) == CLEAN


@pytest.mark.parametrize(
    ("outcome", "counted"),
    [
        (replace(SENT, acknowledged=["ada", "bob", "max"]), "lost"),
        (replace(SENT, drafts={"a token": 1}), "lost"),
        (replace(SENT, tried=["ada"]), "double"),
    ],
    ids=["a submit is lost", "a draft is lost", "nobody sent it"],
)
def test_what_was_sent_is_compared(url: str, outcome: Outcome, counted: str) -> None:
    assert check_store(url, outcome) == {**CLEAN, counted: 1}


@pytest.mark.parametrize(
    ("values", "counted"),
    [({"overlap": 1}, "over_assigned"), ({"open": False}, "stuck")],
)
def test_what_was_given_out_is_counted(url: str, values: dict[str, object], counted: str) -> None:
    with LabelStore.open(url) as store, store.writing() as session:
        session.execute(update(TaskRow).values(**values))
    assert check_store(url, SENT) == {**CLEAN, counted: 1}


def test_people_lose_nothing_when_the_server_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.labeling_clients.PAUSE", (0.02, 0.1))
    size = Size(labelers=5, seconds=4.0, least=100, crashes=1, tasks=60)
    figures = measure("sqlite", size, tmp_path)
    assert {name: figures[name] for name in CLEAN} == CLEAN
    assert figures["requests_measured"] >= 100
    for run, starts in (("load", 1), ("crash", 2)):
        assert figures[run]["judgments"] > 5
        assert figures[run]["refused"] == {}
        assert len(figures[run]["start_seconds"]) == starts
    assert figures["crash"]["retries"] > 0
