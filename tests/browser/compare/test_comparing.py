"""Checkpoints answer side by side, as they are asked, and to each lead by themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.compare.answering import answer_with, token
from tests.browser.compare.conftest import PROMPT, CompareServer
from tests.browser.compare.page import READY, ComparePage
from tests.browser.hostile import HANDLER, HOSTILE, OVERRIDE, SCRIPT
from tests.browser.running import Person

BOTH = ("tiny/pretrain", "tiny/sft")


def test_two_checkpoints_answer_one_prompt_as_a_stream(lead: ComparePage):
    lead.choose(*BOTH)
    lead.ask(PROMPT, tokens=500)
    expect(lead.tokens("A").first).to_be_visible(timeout=READY)
    expect(lead.tokens("B").first).to_be_visible(timeout=READY)
    assert "Done." not in lead.page.locator(".state").all_inner_texts(), "both are still written"
    first = lead.tokens("B").count()
    lead.page.wait_for_function(
        "seen => document.querySelectorAll('.side:nth-child(2) .token').length > seen", arg=first
    )
    lead.finish()
    assert lead.text("A") != lead.text("B")
    for letter in "AB":
        figures = lead.figures(letter)
        assert set(figures) == {"Score", "Length", "KL to the base", "Mean probability"}
        assert math.isfinite(float(figures["Score"]))
        assert figures["Length"].endswith(("tokens, cut at the limit", "tokens, ended itself"))
    assert lead.figures("A")["KL to the base"].startswith("0 nats"), "it is the base"
    assert float(lead.figures("B")["KL to the base"].split()[0]) > 0
    shades = lead.tokens("B").evaluate_all("all => all.map(one => one.className.split(' ')[1])")
    assert set(shades) <= {f"p{step}" for step in range(7)}
    assert len(set(shades)) > 1
    lead.field("Show").select_option("base")
    assert set(lead.tokens("A").evaluate_all("all => all.map(one => one.className)")) == {
        "token b0"
    }


def test_greedy_answers_are_the_same_again_by_key(lead: ComparePage):
    lead.choose(*BOTH)
    lead.ask(PROMPT)
    lead.finish()
    first = lead.text("A"), lead.text("B")
    lead.field("Your message").press("Control+Enter")
    lead.finish()
    assert (lead.text("A"), lead.text("B")) == first
    assert all(first)


def test_the_words_that_differ_are_marked(lead: ComparePage):
    lead.choose(*BOTH)
    lead.ask(PROMPT)
    lead.finish()
    lead.field("Show").select_option("plain")
    base, text = lead.text("A"), lead.text("B")
    lead.field("Show").select_option("words")
    assert lead.text("A") == base
    parts = lead.words("B").evaluate(
        "one => [...one.childNodes].map(part => [part.nodeName.toLowerCase(), part.textContent])"
    )
    assert "".join(words for name, words in parts if name != "del") == text
    assert "".join(words for name, words in parts if name != "ins") == base
    assert {"ins", "del"} <= {name for name, _ in parts}
    assert lead.figures("B")["Words in common"].endswith("%")
    lead.field("Compared with").select_option("1")
    assert lead.text("B") == text
    assert lead.words("A").locator("del").count() > 0


def test_a_token_tells_what_else_could_have_come(lead: ComparePage):
    lead.choose(*BOTH)
    lead.ask(PROMPT)
    lead.finish()
    tokens = lead.tokens("B")
    tokens.nth(2).click()
    panel = lead.side("B").locator(".next")
    rows = panel.locator("tbody tr")
    expect(rows).to_have_count(12, timeout=READY)
    expect(panel).to_be_focused()
    chosen = panel.locator("tr.chosen")
    expect(chosen.locator("td").first).to_have_text("1")
    told = tokens.nth(2).get_attribute("aria-label")
    probability = chosen.locator(".share").inner_text().strip()
    assert told is not None
    assert probability in told
    heads = panel.locator("thead th").all_inner_texts()
    assert heads == ["Rank", "Token", "Probability", "Under the base"]
    lead.page.keyboard.press("Escape")
    expect(panel).to_have_count(0)
    expect(tokens.nth(2)).to_be_focused()
    lead.page.keyboard.press("ArrowRight")
    expect(tokens.nth(3)).to_be_focused()
    lead.page.keyboard.press("Enter")
    expect(panel.locator("tbody tr").first).to_be_visible(timeout=READY)
    expect(lead.side("B").locator(".next")).to_have_count(1)
    lead.field("Show").select_option("plain")
    lead.button("Close").click()
    expect(panel).to_have_count(0)
    expect(lead.side("B").locator(".answer")).to_be_focused()


def test_the_focus_stays_on_its_token_when_the_answer_is_whole(lead: ComparePage):
    lead.choose("tiny/sft")
    lead.ask(PROMPT, tokens=500)
    tokens = lead.tokens("A")
    expect(tokens.nth(5)).to_be_visible(timeout=READY)
    tokens.first.focus()
    for _ in range(3):
        lead.page.keyboard.press("ArrowRight")
    assert lead.state("A").inner_text() == "Writing…"
    expect(tokens.nth(3)).to_be_focused()
    lead.finish("A")
    expect(tokens.nth(3)).to_be_focused()
    for view in ("base", "plain", "probability"):
        lead.field("Show").select_option(view)
    reached = lead.side("A").locator('.token[tabindex="0"]')
    expect(reached).to_have_count(1)
    expect(reached).to_have_attribute("data-at", "3")


def test_several_answers_are_drawn_and_a_seed_draws_them_again(lead: ComparePage):
    lead.choose("tiny/sft")
    lead.draw(Temperature=1.3, Answers_a_checkpoint=3, Seed=7)
    lead.ask(PROMPT)
    lead.finish("A")
    first = [lead.text("A", at) for at in range(3)]
    assert len(set(first)) == 3
    expect(lead.side("A").locator(".means")).to_contain_text("Means of 3 answers")
    lead.button("Ask").click()
    lead.finish("A")
    assert [lead.text("A", at) for at in range(3)] == first
    lead.field("Seed").fill("8")
    lead.button("Ask").click()
    lead.finish("A")
    assert [lead.text("A", at) for at in range(3)] != first


def test_answers_can_be_stopped_and_others_asked_for(lead: ComparePage):
    lead.choose(*BOTH)
    lead.draw(Answers_a_checkpoint=8)
    lead.ask(PROMPT, tokens=900)
    expect(lead.tokens("A").first).to_be_visible(timeout=READY)
    lead.button("Stop").click()
    for letter in "AB":
        expect(lead.state(letter)).to_have_text("Stopped.")
    count = lead.tokens("A").count()
    assert "stopped" in lead.side("A").locator(".figures").first.inner_text()
    expect(lead.button("Stop")).to_be_disabled()
    lead.page.wait_for_timeout(300)
    assert lead.tokens("A").count() == count
    lead.field("Answers a checkpoint").fill("1")
    lead.ask(PROMPT, tokens=8)
    lead.finish()


def test_a_prompt_is_saved_once_and_asked_again(lead: ComparePage, run_dir: Path):
    lead.field("Your message").fill(PROMPT)
    lead.button("Save the prompt").click()
    expect(lead.notice("The prompt is saved: the regression set has 1.")).to_be_visible()
    lead.button("Save the prompt").click()
    expect(lead.notice("The prompt was saved before")).to_be_visible()
    (line,) = (run_dir / "regression.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["messages"] == [{"role": "user", "content": PROMPT}]
    lead.page.reload()
    expect(lead.field("Take a prompt").locator("option")).to_have_count(3, timeout=READY)
    lead.open("Regression prompts")
    expect(lead.page.locator(".saved li")).to_have_count(1)
    expect(lead.page.locator(".where pre")).to_contain_text("regression.jsonl")
    lead.button("Ask this").click()
    expect(lead.field("Your message")).to_have_value(PROMPT)
    expect(lead.field("Your message")).to_be_focused()


def test_a_prompt_of_the_run_can_be_taken(lead: ComparePage):
    lead.field("Take a prompt").select_option(label="What does a pig say?")
    expect(lead.field("Your message")).to_have_value("What does a pig say?")


def test_a_prompt_of_another_run_can_be_taken_whole(lead: ComparePage):
    lead.field("Prompts of the run").select_option("second")
    lead.field("Take a prompt").select_option(label="What is red? (2 turns)")
    expect(lead.field("Your message")).to_have_value("What is red?")
    expect(lead.field("System message")).to_have_value("Be brief.")


def test_what_is_missing_is_said(lead: ComparePage):
    lead.field("Your message").fill("   ")
    lead.button("Ask").click()
    expect(lead.notice("Write a prompt first.")).to_be_visible()
    lead.button("Save the prompt").click()
    expect(lead.notice("Write a prompt first.")).to_be_visible()
    lead.field("Your message").fill(PROMPT)
    lead.field("Most tokens").fill("0")
    lead.button("Ask").click()
    expect(lead.notice("Most tokens: ")).to_be_visible()


def test_a_model_that_cannot_be_loaded_fails_alone_in_one_line(lead: ComparePage):
    lead.choose("tiny/ppo", "tiny/sft")
    lead.ask(PROMPT, tokens=8)
    expect(lead.state("A")).to_have_text("Failed.", timeout=READY)
    reason = lead.side("A").locator(".notice.bad")
    expect(reason).to_have_count(1)
    assert "\n" not in reason.inner_text()
    expect(lead.alert).to_have_text(f"Column A failed: {reason.inner_text()}")
    lead.finish("B")
    expect(lead.status).to_have_text("Column A failed. The other answers are whole.")


def test_a_prompt_that_means_harm_is_text(lead: ComparePage, run_dir: Path):
    texts = [text for text in HOSTILE if len(text) < 1000]
    rows = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (run_dir / "regression.jsonl").write_text(lines, encoding="utf-8")
    lead.page.reload()
    lead.open("Regression prompts")
    items = lead.page.locator(".saved .words")
    expect(items).to_have_count(len(texts))
    assert items.evaluate_all("all => all.map(one => one.textContent)") == texts
    assert lead.page.locator(".saved :is(script, img, svg, b, .words a)").count() == 0
    assert lead.page.evaluate("window.stolen") is None


def test_an_answer_that_means_harm_is_text(lead: ComparePage):
    events = [token(0, text) for text in (SCRIPT, HANDLER, OVERRIDE)]
    events.append({"type": "notice", "column": 0, "text": HANDLER})
    events.append({"type": "failed", "column": 0, "reason": SCRIPT})
    answer_with(lead, events)
    lead.choose("tiny/sft")
    lead.ask(PROMPT)
    expect(lead.state("A")).to_have_text("Failed.")
    assert lead.text("A") == SCRIPT + HANDLER + OVERRIDE
    lead.field("Show").select_option("plain")
    assert lead.text("A") == SCRIPT + HANDLER + OVERRIDE
    assert lead.side("A").locator("script, img, svg, b").count() == 0
    assert lead.side("A").locator(".notice").all_text_contents() == [HANDLER, SCRIPT]
    expect(lead.alert).to_have_text(f"Column A failed: {SCRIPT}")
    expect(lead.status).to_have_text("Column A failed.")
    assert lead.page.evaluate("window.stolen") is None


def test_a_connection_that_breaks_is_said(lead: ComparePage):
    event = {"type": "queued", "column": 0, "position": 1}
    lead.page.route(
        "**/api/lab/compare/answers",
        lambda route: route.fulfill(status=200, body=json.dumps(event) + "\n"),
    )
    lead.choose("tiny/sft")
    lead.ask(PROMPT)
    expect(lead.notice("The connection broke before the answers were whole.")).to_be_visible()
    expect(lead.state("A")).to_have_text("Stopped.")
    lead.page.unroute("**/api/lab/compare/answers")
    lead.page.context.clear_cookies()
    lead.button("Ask").click()
    expect(lead.notice("You are signed out.")).to_be_visible()


def test_a_labeler_gets_403(
    new_context: Callable[..., BrowserContext], server: CompareServer, person: Person
):
    page = new_context().new_page()
    page.goto(f"{server.url}/signin")
    page.get_by_label("Name").fill(person.name)
    page.get_by_label("Password").fill(person.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/label/")
    answer = page.goto(f"{server.url}/lab/compare")
    assert answer is not None
    assert answer.status == 403
    asked = page.request.post(
        f"{server.url}/api/lab/compare/answers", data={}, headers={"Origin": server.url}
    )
    assert asked.status == 403


def test_two_leads_are_answered_at_once(
    lead: ComparePage, new_context: Callable[..., BrowserContext], server: CompareServer
):
    other = ComparePage(new_context().new_page(), server)
    other.sign_in(server.add_person("lead"))
    other.choose("tiny/pretrain")
    lead.choose(*BOTH)
    lead.draw(Answers_a_checkpoint=8)
    lead.ask(PROMPT, tokens=900)
    expect(lead.tokens("A").first).to_be_visible(timeout=READY)
    other.ask(PROMPT, tokens=8)
    other.finish("A")
    assert lead.state("A").inner_text() == "Writing…", "the other's long answers go on meanwhile"
    assert other.tokens("A").count() <= 9
    lead.button("Stop").click()


def test_a_checkpoint_without_a_tokenizer_can_be_chosen(lead: ComparePage):
    lead.choose("tiny/sft", "tiny/ppo, step 40")
    lead.ask(PROMPT, tokens=12)
    lead.finish()
    assert lead.text("A") == lead.text("B") != "", "the weights are the same"
    assert float(lead.figures("B")["KL to the base"].split()[0]) > 0


@pytest.mark.parametrize("count", [1, 4])
def test_one_to_four_checkpoints_can_be_compared(count: int, lead: ComparePage):
    lead.choose(*(BOTH * 2)[:count])
    assert lead.button("Add a checkpoint").is_visible() == (count < 4)
    lead.ask(PROMPT, tokens=4)
    lead.finish("ABCD"[:count])
    assert lead.page.locator(".side").count() == count
