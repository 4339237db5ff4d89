"""Texts that mean harm are shown to leads as they are: nothing runs, nothing is fetched.

The tests here also fail if any request leaves for another host (``new_context``).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import pytest
from playwright.sync_api import Request, expect

from pipeline.records import Prompt
from pipeline.store import Judgment, Provenance, SampledCompletion, Written
from pipeline.store.desk import Desk
from tests.browser.hostile import HANDLER, HOSTILE, LINK, OVERRIDE, REMOTE, SCRIPT, TEMPLATE
from tests.browser.lab.page import TABS, LabPage
from tests.browser.running import Server

NAME = f"zoe {HANDLER} {OVERRIDE}"
PROMPT = f"{SCRIPT} {HANDLER} {REMOTE} {LINK} {TEMPLATE} {OVERRIDE}"
FORMULA = '=HYPERLINK("https://evil.example";"a prize")'
OUTPUTS = [*HOSTILE, FORMULA]
ANSWER, NOTE, REASON = f"An answer. {PROMPT}", f"A note. {SCRIPT} {LINK}", f"It is rude. {PROMPT}"
ALIVE = (
    "[onerror], [onload], [href*='evil'], [href^='javascript'], [src*='evil'], img[src='x'], "
    "iframe, object, embed"
)


@pytest.fixture(scope="module", autouse=True)
def untrusted(server: Server) -> None:
    """Let somebody with such a name judge, write and report such texts."""
    store = server.store
    labeler = store.add_labeler(NAME)
    prompt = Prompt.from_text(PROMPT)
    store.add_prompts([prompt, Prompt.from_text(f"Write. {PROMPT}")])
    samples = [SampledCompletion(text, Provenance(f"base {HANDLER}")) for text in OUTPUTS]
    store.add_completions(prompt.id, samples)
    store.create_ranking_tasks(4)
    store.create_demonstration_tasks(1)
    desk = Desk(store)
    while (task := desk.lease(labeler)) is not None:
        desk.report(labeler, task.token, REASON)
        ranks = {one.id: rank for rank, one in enumerate(task.completions, start=1)}
        # What is ranked ahead is rated lower: that brings the task into the inbox.
        ratings = {id_: min(rank, 7) for id_, rank in ranks.items()}
        judgment = Judgment(ranks, ratings if task.kind == "ranking" else None, comment=NOTE)
        work = judgment if ranks else Written(ANSWER, NOTE)
        desk.submit(labeler, task.token, work, task.token)


@pytest.fixture
def watched(lead: LabPage) -> Iterator[LabPage]:
    """Return the page; in the end, nothing may have run, and nothing have been asked for."""
    asked: list[str] = []

    def note(request: Request) -> None:
        if request.resource_type in ("image", "media", "document"):
            asked.append(request.url)

    lead.page.on("request", note)
    yield lead
    assert lead.page.evaluate("window.stolen") is None
    assert lead.page.locator(ALIVE).count() == 0
    assert asked == []


def test_names_reasons_and_lists_are_words(watched: LabPage):
    expect(watched.panel.locator("svg.marks").get_by_text("zoe <img").first).to_be_visible()
    watched.choose("Reported prompts", NAME)
    expect(watched.panel.locator("article li")).to_contain_text(REASON)
    for tab in [*TABS][1:]:
        watched.open(tab)
        assert watched.page.locator(ALIVE).count() == 0
    watched.open("Labelers")
    assert NAME in [row[0] for row in watched.rows("Labelers")]
    cell = watched.panel.get_by_role("rowheader").filter(has_text="zoe").first
    assert cell.evaluate("one => getComputedStyle(one).unicodeBidi") == "isolate"
    watched.choose("Labeler", NAME, alone=True)
    watched.click("Back to the screening")
    watched.told(NAME.split(" <svg")[0])
    watched.unfold("Remove a labeler's work")
    watched.field("Reason").fill(REASON)
    watched.click("Remove from training")
    watched.told("Remove from training: zoe <img")
    row = next(line for line in watched.rows("Labelers") if line[0] == NAME)
    assert row[5] == REASON
    watched.click("Restore")
    watched.told("Restore: zoe <img")


def test_a_judgment_is_words(watched: LabPage):
    watched.open("Explorer")
    watched.choose("Labelers", NAME)
    words = watched.field("Words in the prompt, an output or the comment")
    with watched.working():
        words.fill(FORMULA)
        words.press("Enter")
    expect(watched.field("Found")).to_have_value("1 judgments, page 1 of 1")
    watched.choose("Judgment", "1: zoe")
    cards = watched.cards()
    assert cards["Prompt, user"] == PROMPT
    assert NOTE in cards["Revision 1"]
    assert sorted(text for title, text in cards.items() if title.startswith("Output")) == sorted(
        OUTPUTS
    )
    assert watched.panel.locator("article pre *").count() == 0


def test_a_dispute_and_a_refusal_are_words(watched: LabPage):
    watched.open("Inbox")
    watched.choose("Task", SCRIPT[:20])
    assert watched.cards()["Prompt, user"] == PROMPT
    watched.panel.get_by_label("My order stands in their place").check()
    watched.field("My order, best first").fill(f"A > {HANDLER}")
    watched.click("Decide")
    watched.told('got \'A > <img src=x onerror="window.stolen = 1">')


def test_an_answer_and_instructions_are_words(watched: LabPage):
    watched.open("Reviews")
    watched.choose("Answer", NAME)
    assert watched.cards() == {"Prompt, user": f"Write. {PROMPT}", "Answer": ANSWER}
    watched.open("Instructions")
    watched.field("Instructions, as plain text").fill(PROMPT)
    watched.click("Publish a new version")
    watched.told("is published.")
    assert watched.field("Instructions, as plain text").input_value() == PROMPT
    assert f"+{SCRIPT}" in watched.field("What changed").input_value()


def test_a_spreadsheet_holds_no_formula(watched: LabPage):
    watched.open("Data")
    table = watched.download("Spreadsheet (CSV)").read_text(encoding="utf-8-sig")
    texts = {row["text"] for row in csv.DictReader(io.StringIO(table))}
    assert f"'{FORMULA}" in texts
    assert FORMULA not in texts
