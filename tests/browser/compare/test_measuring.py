"""What cannot be measured, compared or told in time is said, and what is measured from what."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.compare.answering import answer_with, finished, token
from tests.browser.compare.conftest import PROMPT
from tests.browser.compare.page import READY, ComparePage


def test_an_answer_that_takes_too_long_is_told_from_a_server_that_is_gone(lead: ComparePage):
    lead.choose("tiny/sft")
    lead.ask(PROMPT, tokens=4)
    lead.finish("A")
    lead.page.route("**/api/lab/compare/next", lambda _: None)
    lead.page.evaluate(
        "() => { const real = AbortSignal.timeout.bind(AbortSignal);"
        " AbortSignal.timeout = () => real(100); }"
    )
    lead.tokens("A").first.click()
    panel = lead.side("A").locator(".next")
    expect(panel).to_contain_text("No answer within 60 seconds: the server or its models are busy.")
    lead.page.unroute("**/api/lab/compare/next")
    lead.page.route("**/api/lab/compare/next", lambda route: route.abort())
    lead.tokens("A").first.click()
    expect(panel).to_contain_text("The server cannot be reached.")


def test_the_reference_that_was_chosen_is_named(lead: ComparePage):
    lead.choose("tiny/sft")
    lead.field("KL to").select_option("tiny/sft")
    lead.ask(PROMPT, tokens=4)
    lead.finish("A")
    assert lead.figures("A")["KL to tiny/sft"].startswith("0 nats")
    lead.field("Show").select_option(label="Change from tiny/sft")
    expect(lead.tokens("A").first).to_have_attribute("title", re.compile(r"tiny/sft \d"))
    lead.tokens("A").first.click()
    heads = lead.side("A").locator(".next thead th")
    expect(heads.last).to_have_text("Under tiny/sft", timeout=READY)


def test_what_was_not_measured_does_not_look_alike(lead: ComparePage):
    measured = {"ref_logprob": -0.1, "kl": 0.0}
    events = [token(0, "a"), token(0, "b", **measured), finished(0, "ab", tokens=2)]
    answer_with(lead, events)
    lead.choose("tiny/sft")
    lead.ask(PROMPT)
    lead.finish("A")
    assert lead.figures("A")["KL to the base"] == "not measured"
    lead.field("Show").select_option("base")
    tokens = lead.tokens("A")
    looks = tokens.evaluate_all("all => all.map(one => one.className)")
    assert looks == ["token unmeasured", "token b0"]
    lines = tokens.evaluate_all("all => all.map(one => getComputedStyle(one).textDecorationLine)")
    assert lines == ["underline", "none"]
    expect(tokens.first).to_have_accessible_name(re.compile("the base not measured"))
    legend = dict(
        lead.page.locator(".shades li").evaluate_all(
            "all => all.map(one => [one.firstChild.className, one.textContent])"
        )
    )
    assert legend["shade unmeasured"].endswith("not measured")
    assert legend["shade b0"].endswith("alike")


def test_answers_that_are_too_long_to_compare_say_so(lead: ComparePage):
    texts = [" ".join(f"{letter}{at}" for at in range(35_000)) for letter in "ab"]
    events = []
    for column, text in enumerate(texts):
        events += [token(column, text), finished(column, text, tokens=1)]
    answer_with(lead, events)
    lead.choose("tiny/pretrain", "tiny/sft")
    lead.ask(PROMPT)
    lead.finish()
    lead.field("Show").select_option("words")
    assert lead.figures("B")["Words in common"] == "too long to compare"
    assert lead.text("B") == texts[1]
    assert lead.words("B").locator("ins, del").count() == 0
