"""Texts that mean harm are shown as they are: nothing runs, nothing is fetched, nothing freezes.

Every test here also fails if any request leaves for another host (``new_context``).
"""

from __future__ import annotations

import time

from playwright.sync_api import expect

from tests.browser.desk import Desk
from tests.browser.hostile import ENDLESS, HANDLER, HOSTILE, LINK, OVERRIDE, REMOTE, SCRIPT
from tests.browser.running import Person, Server


def test_hostile_outputs_are_inert_everywhere(desk: Desk, server: Server, person: Person):
    server.add_ranking(texts=HOSTILE, prompt=f"{SCRIPT} {HANDLER} {REMOTE} {LINK}")
    desk.sign_in(person)
    page = desk.page
    expect(page.locator(".prompt .words")).to_contain_text("<script>window.stolen")
    seen = set()
    for letter in desk.letters():
        page.get_by_role("button", name=f"Output {letter},").click()
        seen.add(page.locator(".output .words").text_content())
        page.locator(".likert label").nth(3).click()
    assert {text for text in HOSTILE if text != ENDLESS} <= seen
    desk.main_button.click()
    desk.rank_by_key(["".join(desk.letters())])
    more = page.get_by_role("button", name="Show all")
    while more.count() > 0:
        more.first.click()
    cards = page.locator(".card .words").all_text_contents()
    assert sorted(cards) == sorted(HOSTILE)
    inside = page.locator(".words, .excerpt, .ghost")
    assert inside.locator("*").count() == 0
    assert page.evaluate("window.stolen") is None
    desk.submit()
    page.get_by_role("button", name="See my work").click()
    expect(page.locator(".excerpt")).to_contain_text("<script>")
    assert page.evaluate("window.stolen") is None
    assert page.locator("a[href*=evil], img[src*=evil]").count() == 0


def test_an_override_turns_nothing_outside_its_own_text(desk: Desk, server: Server, person: Person):
    server.add_ranking(texts=[OVERRIDE, "plain", "plainer", "plainest"])
    desk.sign_in(person)
    desk.rate_by_key()
    card = desk.page.locator(".card", has_text="Pay to")
    expect(card).to_contain_text("This text holds hidden marks that change its direction.")
    words = card.locator(".words")
    assert words.evaluate("one => getComputedStyle(one).unicodeBidi") == "isolate"
    remark = card.locator(".remark")
    assert remark.evaluate("one => getComputedStyle(one).direction") == "ltr"
    assert remark.inner_text().startswith("This text holds")


def test_right_to_left_words_start_on_the_right(desk: Desk, server: Server, person: Person):
    hebrew = "\u05e9\u05dc\u05d5\u05dd, this begins in Hebrew"
    server.add_ranking(texts=[hebrew, "one", "two", "three"])
    desk.sign_in(person)
    desk.rate_by_key()
    words = desk.page.locator(".words", has_text="this begins in Hebrew")
    assert words.evaluate("one => getComputedStyle(one).direction") == "rtl"


def test_a_line_of_100_kb_does_not_freeze_the_page(phone: Desk, server: Server, person: Person):
    server.add_ranking(texts=[ENDLESS, "y" * 100_000, "short", "shorter"])
    phone.sign_in(person)
    phone.rate_by_key()
    phone.rank_by_key(["ABCD"])
    page = phone.page
    more = page.get_by_role("button", name="Show all")
    while more.count() > 0:
        more.first.click()
    began = time.perf_counter()
    for letter in "abcdabcd":
        page.keyboard.press(letter)
        page.keyboard.press("Alt+ArrowUp")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    # Sixteen keys with 200 kB shown in full; a frozen page takes many seconds for each.
    assert time.perf_counter() - began < 8
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390


def test_a_draft_of_another_person_is_never_shown(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    server.add_ranking(4)
    desk.sign_in(person)
    desk.rate_by_key()
    desk.page.get_by_label("Comment (may stay empty)").fill("my own remark")
    desk.wait_saved()
    desk.menu("Sign out")
    second = server.add_person()
    desk.sign_in(second)
    expect(desk.page.locator(".rating")).to_be_visible()
    assert desk.page.locator(".likert input:checked").count() == 0
    kept = desk.page.evaluate("JSON.stringify(localStorage)")
    assert "my own remark" not in kept
