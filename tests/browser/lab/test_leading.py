"""Leads add labelers, read figures, decide, review, and look through the labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from labeling_ui.lab_tables import interval, percent
from pipeline.agreement import Estimate, mean_kendall_tau, pairwise_agreement, rating_alpha
from pipeline.labeling_quality import for_agreement, measure_flags, measure_labelers, win_rates
from pipeline.store.judged import Judged
from pipeline.store.oversight import Oversight
from pipeline.store.questions import OUTPUT_FLAGS
from tests.browser.desk import Desk
from tests.browser.lab.labels import HABITS
from tests.browser.lab.page import TABS, LabPage
from tests.browser.running import Server

LINK = "Link, shown once; it makes one account"


@pytest.fixture
def oversight(server: Server) -> Oversight:
    return Oversight(server.store)


def test_labelers_are_refused_and_strangers_sent_to_sign_in(
    new_context: Callable[..., BrowserContext], server: Server
):
    stranger = new_context().new_page()
    stranger.goto(f"{server.url}/lab/")
    expect(stranger.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert stranger.url == f"{server.url}/signin?next=%2Flab%2F"
    server.add_ranking(4)
    desk = Desk(new_context().new_page(), server)
    desk.sign_in(server.add_person())
    for path in ("/lab", "/lab/", "/lab/?__theme=dark"):
        answer = desk.page.goto(server.url + path)
        assert answer is not None
        assert answer.status == 403
        expect(desk.title).to_have_text("This page is not for you")
        assert desk.page.get_by_role("tab").count() == 0
    for path in ("/lab/config", "/lab/gradio_api/info", "/api/lab/export/csv"):
        assert desk.page.request.get(server.url + path).status == 403


def test_every_tab_opens_with_what_it_is_for(lead: LabPage):
    expect(lead.page).to_have_title("Lab · Steerline")
    for number, (tab, words) in enumerate(TABS.items()):
        if number > 0:
            lead.open(tab)
        expect(lead.panel.get_by_text(words).first).to_be_visible()


def test_an_invited_person_makes_an_account_and_labels(
    lead: LabPage, server: Server, new_context: Callable[..., BrowserContext]
):
    lead.open("Labelers")
    lead.unfold("Invite somebody")
    lead.field("Admitted without a screening").check()
    lead.click("Make an invitation")
    expect(lead.field(LINK)).to_have_value(re.compile(f"^{re.escape(server.url)}/invite/.{{20}}"))
    link = lead.field(LINK).input_value()
    server.add_ranking(4)
    page = new_context().new_page()
    page.goto(link)
    page.get_by_label("Name").fill("nina")
    page.get_by_label("Password", exact=True).fill("correct horse battery")
    page.get_by_label("Password, once more").fill("correct horse battery")
    page.get_by_role("button", name="Begin").click()
    desk = Desk(page, server)
    desk.wait_for_task()
    desk.rate_by_key()
    desk.rank_by_key(["A", "BC", "D"])
    desk.submit()
    late = new_context().new_page()
    late.goto(link)
    expect(late.get_by_role("heading", level=1)).to_have_text("This invitation is closed")
    lead.open("Overview")
    lead.open("Labelers")
    row = next(line for line in lead.rows("Labelers") if line[0] == "nina")
    assert row[1:4] == ["train", "labeler", "yes"]
    assert row[6] == "1"


def test_agreement_shows_the_figures_of_the_labels(lead: LabPage, oversight: Oversight):
    lead.open("Agreement")
    judged = [one for one in oversight.judged() if not one.excluded]
    check_agreement(lead, judged)
    flags = measure_flags(judged, [question.name for question in OUTPUT_FLAGS])
    assert lead.rows("Yes/no questions") == [
        [
            question.label,
            percent(flags[question.name].prevalence),
            interval(flags[question.name].alpha),
            interval(flags[question.name].ac1),
            *counts(flags[question.name].prevalence),
        ]
        for question in OUTPUT_FLAGS
    ]
    assert lead.rows("Which stage was preferred") == [
        [rate.stage, rate.against, *figures(rate.share)] for rate in win_rates(judged)
    ]
    lead.tick("Groups of labelers", "train")
    trained = [one for one in judged if one.group == "train"]
    assert len(trained) < len(judged)
    check_agreement(lead, trained)


def check_agreement(lead: LabPage, judged: list[Judged]) -> None:
    """Compare the measures that are shown with those of the judgments."""
    rankings = for_agreement(judged)
    found = [
        pairwise_agreement(rankings, ties=True),
        pairwise_agreement(rankings, ties=False),
        mean_kendall_tau(rankings),
        rating_alpha(rankings),
        pairwise_agreement(for_agreement(judged, "comparison"), ties=True),
    ]
    shown = [figures(one) for one in found]
    lead.expect_rows("Agreement", lambda rows: [row[1:] for row in rows] == shown)


def figures(found: Estimate | None) -> list[str]:
    assert found is not None
    return [*(f"{end:.3f}" for end in (found.value, found.low, found.high)), *counts(found)]


def counts(found: Estimate | None) -> list[str]:
    return ["0", "0"] if found is None else [str(found.prompts), str(found.count)]


def test_labelers_are_measured_and_sorted_by_a_press(lead: LabPage, oversight: Oversight):
    lead.open("Labelers")
    found = {one.labeler: one for one in measure_labelers(oversight.judged(), oversight.gold())}
    rows = {row[0]: row for row in lead.rows("Quality")}
    for name in HABITS:
        # The ends of the intervals are drawn anew with fewer resamples; the value is the same.
        assert rows[name][1].startswith(f"{found[name].others.value:.0%} (")
        assert rows[name][2].startswith(f"{found[name].gold.value:.0%} (")
    table = lead.panel.get_by_role("table", name="Quality")
    head = table.get_by_role("button", name="Agrees with others")
    column = table.get_by_role("columnheader", name="Agrees with others")
    expect(column).to_have_attribute("aria-sort", "none")
    for order, reverse in (("ascending", False), ("descending", True)):
        head.click()
        expect(column).to_have_attribute("aria-sort", order)
        expect(head).to_be_focused()
        shares = [int(row[1].partition("%")[0]) for row in lead.rows("Quality") if row[1] != "-"]
        assert shares == sorted(shares, reverse=reverse)
    head.click()
    assert [row[0] for row in lead.rows("Quality")] == list(rows)


def test_a_labelers_work_is_taken_out_and_brought_back(lead: LabPage, server: Server):
    lead.open("Labelers")
    lead.unfold("Remove a labeler's work from training")
    lead.click("Remove from training")
    lead.told("A labeler must be chosen")
    lead.choose("Labeler", "bob", alone=True)
    lead.field("Reason").fill("clicks at random")
    lead.click("Remove from training")
    lead.told("Remove from training: bob")
    assert "bob" not in {one.labeler for one in server.store.rankings()}
    row = next(line for line in lead.rows("Labelers") if line[0] == "bob")
    assert row[5] == "clicks at random"
    lead.click("Restore")
    lead.told("Restore: bob")
    assert "bob" in {one.labeler for one in server.store.rankings()}


def test_a_disputed_task_is_decided(lead: LabPage, oversight: Oversight):
    disputes = oversight.inbox()
    lead.open("Inbox")
    expect(lead.field("Waiting")).to_have_value(f"{len(disputes)} tasks")
    task, others = disputes[0], len(disputes) - 1
    expect(lead.field("Why it is here")).to_have_value("\n".join(task.reasons))
    cards = lead.cards()
    assert cards["Prompt, user"] == task.judgments[0].prompt.messages[-1]["content"]
    assert cards["Output A"] == task.outputs[0].text
    lead.panel.get_by_label("My order stands in their place").check()
    lead.field("My order, best first").fill("B > A")
    lead.click("Decide")
    lead.told("must name each of A, B, C")
    order = " = ".join("ABCD"[: len(task.outputs)])
    lead.field("My order, best first").fill(order)
    lead.field("Reason of the decision").fill("all the same")
    lead.click("Decide")
    lead.told("The decision is taken.")
    expect(lead.field("Waiting")).to_have_value(f"{others} tasks")
    decided = oversight.adjudications()[task.task]
    assert (decided.verdict, decided.comment) == ("replaced", "all the same")
    assert set(decided.ranks.values()) == {1}


def test_an_answer_is_accepted_and_another_returned(lead: LabPage, oversight: Oversight):
    for verdict, score, comment in (("accepted", 6, ""), ("returned", None, "Say it shorter.")):
        lead.open("Inbox")
        lead.open("Reviews")
        waiting = [one for one in oversight.answers() if one.review is None]
        expect(lead.field("Answers")).to_have_value(f"{len(waiting)} waiting")
        expect(lead.panel.locator("article pre").last).to_have_text(waiting[0].text)
        lead.panel.get_by_role("radio", name=verdict).last.check()
        if score is not None:
            lead.panel.get_by_role("radio", name=str(score), exact=True).check()
        lead.field("What to change, or why").fill(comment)
        lead.click("Save the review")
        lead.told(f"The answer is {verdict}.")
        review = next(one for one in oversight.answers() if one.id == waiting[0].id).review
        assert (review.verdict, review.score, review.comment) == (verdict, score, comment)


def test_judgments_are_found_by_filters(lead: LabPage, oversight: Oversight):
    lead.open("Explorer")
    judged = oversight.judged()
    found = lead.field("Found")
    expect(found).to_have_value(re.compile(f"^{len(judged)} judgments, page 1 of "))
    lead.choose("Labelers", "cyd")
    own = [one for one in judged if one.labeler == "cyd"]
    expect(found).to_have_value(re.compile(f"^{len(own)} judgments"))
    lead.choose("Ticked", "fails_instruction")
    ticked = [one for one in own if any(flags.get("fails_instruction") for flags in one.flags)]
    assert 0 < len(ticked) < len(own)
    expect(found).to_have_value(re.compile(f"^{len(ticked)} judgments"))
    words = lead.field("Words in the prompt, an output or the comment")
    words.fill("LIGHTHOUSE keeper")
    words.press("Enter")
    about = [one for one in ticked if "lighthouse" in one.prompt.messages[-1]["content"].lower()]
    expect(found).to_have_value(f"{len(about)} judgments, page 1 of 1")
    words.fill("nobody has said this")
    words.press("Enter")
    expect(found).to_have_value("0 judgments, page 1 of 1")
    expect(lead.panel.get_by_text("Nothing yet.")).to_be_visible()


def test_a_judgment_is_shown_with_all_it_says(lead: LabPage, oversight: Oversight):
    lead.open("Explorer")
    newest = oversight.judged()[-1]
    lead.choose("Judgment", f"1: {newest.labeler}")
    expect(lead.panel.locator("article").first).to_be_visible()
    cards = lead.cards()
    assert cards["Prompt, user"] == newest.prompt.messages[-1]["content"]
    assert [cards[f"Output {'ABCD'[at]}"] for at in range(len(newest.outputs))] == [
        output.text for output in newest.outputs
    ]
    assert "Revision 1" in cards


def test_instructions_reach_the_labelers(
    lead: LabPage, server: Server, new_context: Callable[..., BrowserContext]
):
    lead.open("Instructions")
    text = lead.field("Instructions, as plain text")
    before = text.input_value()
    text.fill(before + "\nBe kind.")
    lead.click("Publish a new version")
    lead.told("is published.")
    expect(lead.field("What changed")).to_have_value(re.compile(r"\+Be kind\."))
    server.add_ranking(4)
    desk = Desk(new_context().new_page(), server)
    desk.sign_in(server.add_person())
    desk.page.keyboard.press("?")
    expect(desk.page.get_by_role("dialog")).to_contain_text("Be kind.")


def test_a_known_answer_is_set_and_a_file_imported(
    lead: LabPage, oversight: Oversight, tmp_path: Path
):
    lead.open("Data")
    task = next(
        one for one in oversight.judged() if one.purpose == "work" and one.kind == "ranking"
    )
    lead.unfold("Set a known answer")
    lead.field("Task, as the explorer names it").fill(task.task)
    lead.click("Open the task")
    expect(lead.panel.locator("article")).to_have_count(1 + len(task.outputs))
    lead.field("Right order, best first").fill(" > ".join("ABCD"[: len(task.outputs)]))
    lead.click("Save the known answer")
    lead.told("The answer is known.")
    lead.expect_rows("Known answers", lambda rows: task.task in [row[0] for row in rows])
    lead.click("Make it ordinary work again")
    lead.told("The task is ordinary work again.")
    assert task.task not in oversight.gold()
    lead.unfold("Import judgments")
    file = tmp_path / "votes.jsonl"
    row = '{"prompt": "Q?", "completions": ["a", "b"], "ranks": [1, 2], "labeler": "zed"}\n'
    for text, words in ((row + "{", "votes.jsonl:2"), (row, None)):
        file.write_text(text)
        lead.upload(file)
        lead.click("Import")
        if words:
            lead.told(words)
            assert "zed" not in {one.labeler for one in oversight.judged()}
    expect(lead.field("Result")).to_have_value("1 judgments added, 0 were here already")


def test_a_reported_prompt_is_shown_and_dealt_with(lead: LabPage, oversight: Oversight):
    waiting = [one for one in oversight.reports() if not one.resolved]
    assert waiting
    lead.choose("Reported prompts", waiting[0].labeler)
    expect(lead.panel.locator("article pre")).to_have_text(
        waiting[0].prompt.messages[-1]["content"]
    )
    lead.click("The report is dealt with")
    lead.told("The report is marked as dealt with.")
    assert len([one for one in oversight.reports() if not one.resolved]) == len(waiting) - 1
