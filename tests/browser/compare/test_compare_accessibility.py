"""The page of comparisons is for everybody: axe-core finds nothing; phones and keys reach it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.compare.conftest import PROMPT, CompareServer
from tests.browser.compare.page import READY, TABS, ComparePage
from tests.browser.conftest import PHONE, Violations
from tests.browser.pictures import Window
from tests.browser.running import Person


def everything(lead: ComparePage) -> Iterator[str]:
    """Open all that the page can show, and name each thing once it is there."""
    yield "Compare"
    lead.button("Ask").click()
    expect(lead.notice("Write a prompt first.")).to_be_visible()
    yield "a refusal"
    lead.choose("tiny/pretrain", "tiny/sft", "tiny/ppo")
    lead.draw(Answers_a_checkpoint=2)
    lead.ask(PROMPT, tokens=30)
    lead.finish("AB")
    yield "answers"
    lead.tokens("B").nth(1).click()
    expect(lead.side("B").locator(".next tbody tr").first).to_be_visible(timeout=READY)
    yield "what else could have come"
    for view in ("base", "words", "plain"):
        lead.field("Show").select_option(view)
        yield f"answers, {view}"
    lead.button("Save the prompt").click()
    expect(lead.notice("The prompt is saved")).to_be_visible()
    lead.open("Runs")
    lead.tick("tiny", "pretrain")
    lead.tick("second", "sft")
    lead.page.get_by_text("The same in words").click()
    yield "Runs"
    lead.open("Report")
    expect(lead.page.locator("iframe.report")).to_be_visible(timeout=READY)
    yield "Report"
    lead.open("Regression prompts")
    expect(lead.page.locator(".saved li")).to_have_count(1)
    yield "Regression prompts"


@pytest.mark.usefixtures("report")
def test_nothing_has_a_violation_or_is_wider_than_its_window(
    window: Window, server: CompareServer, lead_account: Person, violations: Violations
):
    lead = ComparePage(window.page, server)
    lead.sign_in(lead_account)
    width = window.page.viewport_size["width"]
    found, wide = {}, {}
    for name in everything(lead):
        found[name] = violations(window.page)
        wide[name] = window.page.evaluate("document.documentElement.scrollWidth")
        window.picture(f"compare-{name.lower().replace(', ', '-').replace(' ', '-')}", whole=True)
    assert set(TABS) <= set(found)
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
    assert {name: size for name, size in wide.items() if size > width} == {}


def test_the_page_follows_the_dark(
    new_context: Callable[..., BrowserContext],
    server: CompareServer,
    lead_account: Person,
    scheme: str,
):
    lead = ComparePage(new_context(color_scheme=scheme).new_page(), server)
    lead.sign_in(lead_account)
    colour = lead.page.locator("#compare").evaluate("one => getComputedStyle(one).backgroundColor")
    channels = [int(part) for part in colour.strip("rgb()").split(",")]
    assert (sum(channels) > 600) == (scheme == "light")


def test_tabs_are_reached_by_keys_and_kept_over_a_reload(lead: ComparePage):
    tabs = lead.page.get_by_role("tab")
    tabs.first.focus()
    lead.page.keyboard.press("ArrowRight")
    expect(tabs.nth(1)).to_be_focused()
    expect(tabs.nth(1)).to_have_attribute("aria-selected", "true")
    expect(lead.page.get_by_role("tabpanel")).to_have_accessible_name("Runs")
    lead.page.keyboard.press("ArrowLeft")
    lead.page.keyboard.press("ArrowLeft")
    expect(lead.page.get_by_role("tabpanel")).to_have_accessible_name("Regression prompts")
    lead.page.reload()
    panel = lead.page.get_by_role("tabpanel")
    expect(panel).to_have_accessible_name("Regression prompts", timeout=READY)


def test_targets_are_large_enough_for_a_finger(
    new_context: Callable[..., BrowserContext], server: CompareServer, lead_account: Person
):
    context = new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    lead = ComparePage(context.new_page(), server)
    lead.sign_in(lead_account)
    lead.page.wait_for_timeout(200)
    sizes = lead.page.locator(
        "#compare :is(button, select, summary, input, a):visible"
    ).evaluate_all(
        "found => found.map(one => [one.outerHTML.slice(0, 80),"
        " one.getBoundingClientRect().width, one.getBoundingClientRect().height])"
    )
    assert len(sizes) > 15
    # WCAG 2.2, 2.5.8: at least 24 by 24 CSS pixels.
    assert [name for name, width, height in sizes if width < 24 or height < 24] == []
