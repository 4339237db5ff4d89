"""The lead's page is for everybody: axe-core finds nothing on any tab, and phones show it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.conftest import PHONE, Violations
from tests.browser.lab.page import TABS, LabPage
from tests.browser.running import Person, Server

# What Gradio 6.31 draws itself, out of reach of theme, styles and settings: rule, and where.
EXCUSED = {
    # ``gr.File`` shows two lines of words and has others as its name.
    ("label-content-name-mismatch", ".upload-container"),
    # A message folds by its head, which is a button around the one that closes it.
    ("nested-interactive", ".toast-header"),
}


@pytest.fixture
def themed(
    new_context: Callable[..., BrowserContext], server: Server, scheme: str, lead_account: Person
) -> LabPage:
    """Return the page in a light and in a dark browser, nothing moving."""
    context = new_context(color_scheme=scheme, reduced_motion="reduce")
    lab = LabPage(context.new_page(), server)
    lab.sign_in(lead_account)
    return lab


def everything(lead: LabPage) -> Iterator[str]:
    """Open all that the page can show, and name each thing once it is there."""
    yield "Overview"
    for tab in [*TABS][1:]:
        lead.open(tab)
        yield tab
        for part in lead.parts():
            lead.unfold(part)
            yield f"{tab}, {part}"
    lead.open("Explorer")
    lead.field("Labelers").click()
    expect(lead.page.get_by_role("option").first).to_be_visible()
    yield "a list to choose from"
    lead.page.keyboard.press("Escape")
    lead.choose("Judgment", "1: ")
    yield "a judgment"
    lead.open("Inbox")
    lead.click("Decide")
    expect(lead.page.get_by_test_id("toast-body")).to_be_visible()
    yield "a refusal"


def test_nothing_has_a_violation(themed: LabPage, violations: Violations):
    found = {name: violations(themed.page, EXCUSED) for name in everything(themed)}
    assert len(found) == len(TABS) + 7
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_the_page_follows_the_dark(themed: LabPage, scheme: str):
    colour = themed.page.evaluate("getComputedStyle(document.body).backgroundColor")
    channels = [int(part) for part in colour.strip("rgb()").split(",")]
    assert (sum(channels) > 600) == (scheme == "light")


def test_nothing_is_wider_than_a_phone(
    new_context: Callable[..., BrowserContext], server: Server, lead_account: Person
):
    context = new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    lead = LabPage(context.new_page(), server)
    lead.sign_in(lead_account)
    wide = "document.documentElement.scrollWidth"
    widths = {name: lead.page.evaluate(wide) for name in everything(lead)}
    assert {name: width for name, width in widths.items() if width > PHONE["width"]} == {}
