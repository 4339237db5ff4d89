"""The pages are for everybody: axe-core finds nothing, and they fit phones, keys and the dark."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.conftest import PHONE, Violations
from tests.browser.desk import Desk
from tests.browser.running import Person, Server


@pytest.fixture
def themed(new_context: Callable[..., BrowserContext], server: Server, scheme: str) -> Desk:
    """Return the page in a light and in a dark browser, nothing moving."""
    context = new_context(color_scheme=scheme, reduced_motion="reduce")
    return Desk(context.new_page(), server)


def test_signing_in_has_no_violation(themed: Desk, violations: Violations):
    themed.page.goto(f"{themed.server.url}/signin")
    assert violations(themed.page) == []


def test_ranking_has_no_violation(
    themed: Desk, server: Server, person: Person, violations: Violations
):
    server.add_ranking(9, prompt="A prompt of some length. " * 80)
    themed.sign_in(person)
    page = themed.page
    assert violations(page) == []
    page.keyboard.press("5")
    themed.rate_by_key(3)
    assert violations(page) == []
    themed.rank_by_key(["A", "BC", "D"])
    page.get_by_text("About the prompt").click()
    themed.main_button.click()
    expect(themed.notice("Rank E, F, G, H and J first.")).to_be_visible()
    assert violations(page) == []
    page.get_by_text("Menu", exact=True).click()
    assert violations(page) == []


def test_dialogs_have_no_violation(
    themed: Desk, server: Server, person: Person, violations: Violations
):
    server.add_ranking(4)
    server.add_ranking(4)
    themed.sign_in(person)
    page = themed.page
    for button in ("Instructions", "Skip", "Flag prompt"):
        page.get_by_role("button", name=button).click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert violations(page) == []
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
    themed.rate_all({"A": 1, "B": 7, "C": 4, "D": 4})
    themed.rank_by_key(["A", "B", "CD"])
    themed.main_button.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert violations(page) == []
    page.get_by_role("button", name="Submit as it is").click()
    page.get_by_role("button", name="See my work").click()
    expect(page.get_by_role("dialog", name="My work")).to_be_visible()
    assert violations(page) == []


def test_other_tasks_have_no_violation(
    themed: Desk, server: Server, person: Person, violations: Violations
):
    server.add_comparison()
    themed.sign_in(person)
    themed.page.keyboard.press("a")
    assert violations(themed.page) == []
    themed.submit()
    expect(themed.title).to_have_text("All done")
    assert violations(themed.page) == []
    server.add_demonstration()
    themed.page.get_by_role("button", name="Look again").click()
    expect(themed.title).to_have_text("Write an answer")
    assert violations(themed.page) == []
    themed.menu("Write a prompt")
    themed.page.get_by_label("Few-shot").check()
    assert violations(themed.page) == []


def test_the_board_follows_the_dark(themed: Desk, server: Server, person: Person, scheme: str):
    server.add_ranking(4)
    themed.sign_in(person)
    colour = themed.page.locator("#board").evaluate("one => getComputedStyle(one).backgroundColor")
    channels = [int(part) for part in colour.strip("rgb()").split(",")]
    assert (sum(channels) > 600) == (scheme == "light")


def test_nothing_is_wider_than_a_phone(phone: Desk, server: Server, person: Person):
    server.add_comparison()
    server.add_ranking(9, prompt="w" * 2000)
    phone.sign_in(person)
    page = phone.page
    wide = "document.documentElement.scrollWidth"
    if phone.title.inner_text() == "Compare two answers":
        assert page.evaluate(wide) <= PHONE["width"]
        page.get_by_label("Tie", exact=True).tap()
        phone.submit()
    assert page.evaluate(wide) <= PHONE["width"]
    phone.rate_by_key()
    phone.rank_by_key(["ABC", "D"])
    assert page.evaluate(wide) <= PHONE["width"]
    page.get_by_role("button", name="Instructions").tap()
    assert page.evaluate(wide) <= PHONE["width"]


def test_targets_are_large_enough_for_a_finger(phone: Desk, server: Server, person: Person):
    server.add_ranking(9)
    phone.sign_in(person)
    phone.rate_by_key()
    phone.rank_by_key(["AB", "C"])
    sizes = phone.page.locator(
        "#board :is(button, select, summary, .handle, label.choice):visible"
    ).evaluate_all(
        "found => found.map(one => [one.outerHTML.slice(0, 80),"
        " one.getBoundingClientRect().width, one.getBoundingClientRect().height])"
    )
    assert len(sizes) > 40
    # WCAG 2.2, 2.5.8: at least 24 by 24 CSS pixels.
    assert [name for name, width, height in sizes if width < 24 or height < 24] == []


def test_focus_stays_while_cards_move(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    desk.rate_by_key()
    desk.rank_by_key(["A", "B", "C", "D"])
    up = desk.card("D").get_by_role("button", name="Move output D up")
    up.focus()
    for _ in range(2):
        desk.page.keyboard.press("Enter")
        expect(up).to_be_focused()
    desk.page.keyboard.press("Enter")
    assert desk.tiers() == [["D"], ["A"], ["B"], ["C"]]
    expect(desk.card("D")).to_be_focused()


def test_one_tab_reaches_the_cards_and_the_next_their_buttons(
    desk: Desk, server: Server, person: Person
):
    server.add_ranking(4)
    desk.sign_in(person)
    desk.rate_by_key()
    stops = desk.page.locator('.card[tabindex="0"]')
    expect(stops).to_have_count(1)
    desk.page.keyboard.press("c")
    expect(desk.page.locator('.card[tabindex="0"]')).to_have_attribute("data-letter", "C")
    desk.page.keyboard.press("Tab")
    expect(
        desk.card("C").get_by_role("button", name="change the rating of output C")
    ).to_be_focused()
