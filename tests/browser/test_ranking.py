"""Rate and rank with mouse, finger and keyboard: what is on the screen is what the store gets."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.desk import Desk
from tests.browser.pointer import drag, swipe
from tests.browser.running import Person, Server

RATINGS = {"A": 6, "B": 5, "C": 3, "D": 2}


def test_four_outputs_with_the_mouse(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    expect(desk.title).to_have_text("Rate and rank 4 outputs")
    desk.rate_all(RATINGS)
    page = desk.page
    drag(page, desk.card("A").locator(".handle"), page.locator(".order .hint"))
    drag(page, desk.card("D").locator(".handle"), page.locator(".tier").nth(0), "below")
    drag(page, desk.card("B").locator(".handle"), page.locator(".tier").nth(0), "below")
    drag(page, desk.card("C").locator(".handle"), page.locator(".tier").nth(1), "middle")
    assert desk.tiers() == [["A"], ["B", "C"], ["D"]]
    drag(page, desk.card("D").locator(".handle"), page.locator(".tier").nth(0), "above")
    assert desk.tiers() == [["D"], ["A"], ["B", "C"]]
    drag(page, desk.card("D").locator(".handle"), page.locator(".tray"))
    assert desk.tray() == ["D"]
    desk.card("D").get_by_role("button", name="Rank next: output D").click()
    order = ["A", "BC", "D"]
    ranks, ids = desk.ranks(order), desk.ids()
    desk.submit()
    (judgment,) = server.judgments(person)
    assert judgment.ranks == ranks
    assert judgment.ratings == {ids[letter]: rating for letter, rating in RATINGS.items()}
    assert judgment.flags == {}
    assert judgment.interface
    assert judgment.active_seconds is not None
    assert 0 < judgment.active_seconds < 120


def test_a_finger_ranks_nine_outputs(phone: Desk, server: Server, person: Person):
    server.add_ranking(9)
    phone.sign_in(person)
    assert phone.letters() == list("ABCDEFGHJ")
    phone.rate_by_key()
    page = phone.page
    for letter in "ABCDEFG":
        phone.card(letter).get_by_role("button", name=f"Rank next: output {letter}").tap()
    page.get_by_label("Rank of output H").select_option("7")
    page.get_by_label("Rank of output J").select_option("1")
    assert phone.tiers() == [["A", "J"], ["B"], ["C"], ["D"], ["E"], ["F"], ["G", "H"]]
    swipe(page, phone.card("C").locator(".handle"), phone.card("B"), "middle")
    assert phone.tiers()[1] == ["B", "C"]
    swipe(page, phone.card("D").locator(".handle"), page.locator(".tier").nth(1), "above")
    order = ["AJ", "D", "BC", "E", "F", "GH"]
    assert phone.tiers() == [list(tier) for tier in order]
    ranks = phone.ranks(order)
    phone.submit()
    (judgment,) = server.judgments(person)
    assert judgment.ranks == ranks


@pytest.mark.parametrize("k", [4, 9])
def test_the_keyboard_does_everything(desk: Desk, server: Server, person: Person, k: int):
    server.add_ranking(k)
    desk.sign_in(person)
    desk.rate_by_key(5)
    press = desk.page.keyboard.press
    for letter in desk.letters():
        press(letter.lower())
        press("9")
    assert desk.tiers() == [[letter] for letter in desk.letters()]
    press("b")
    press("Alt+ArrowUp")
    assert desk.tiers()[:2] == [["B"], ["A"]]
    press("Alt+ArrowDown")
    press("Alt+ArrowDown")
    assert desk.tiers()[:3] == [["A"], ["C"], ["B"]]
    press("=")
    assert desk.tiers()[1] == ["B", "C"]
    press("Shift+Digit1")
    assert desk.tiers()[0] == ["B"]
    press("0")
    assert desk.tray() == ["B"]
    press("2")
    assert desk.tiers()[1] == ["B", "C"]
    expect(desk.card("B")).to_be_focused()
    press("ArrowDown")
    expect(desk.card("C")).to_be_focused()
    tiers = desk.tiers()
    ranks = desk.ranks(["".join(tier) for tier in tiers])
    press("Control+Enter")
    expect(desk.notice("Thank you.")).to_be_visible()
    (judgment,) = server.judgments(person)
    assert judgment.ranks == ranks


def test_every_change_can_be_undone_and_done_again(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    desk.rate_all(RATINGS)
    desk.rank_by_key(["A", "BC", "D"])
    page = desk.page
    page.get_by_label("None is acceptable").check()
    page.get_by_text("About the prompt").click()
    page.get_by_label("Ambiguous").check()
    page.get_by_label("Comment (may stay empty)").fill("B and C say the same")
    page.get_by_role("heading", name="Ranking, best first").click()
    for _ in range(4):
        page.keyboard.press("Control+z")
    expect(page.get_by_label("None is acceptable")).not_to_be_checked()
    expect(page.get_by_label("Ambiguous")).not_to_be_checked()
    expect(page.get_by_label("Comment (may stay empty)")).to_have_value("")
    assert desk.tiers() == [["A"], ["B", "C"]]
    for _ in range(4):
        page.keyboard.press("Control+Shift+Z")
    expect(page.get_by_label("None is acceptable")).to_be_checked()
    expect(page.get_by_label("Comment (may stay empty)")).to_have_value("B and C say the same")
    assert desk.tiers() == [["A"], ["B", "C"], ["D"]]
    undo = page.get_by_role("button", name="Undo")
    while undo.is_enabled():
        undo.click()
    expect(page.locator(".rating")).to_be_visible()
    assert page.locator(".likert input:checked").count() == 0


def test_contradictions_are_told_and_may_stand(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    desk.rate_all(RATINGS)
    desk.rank_by_key(["D", "A", "BC"])
    page = desk.page
    page.get_by_label("None is acceptable").check()
    desk.main_button.click()
    dialog = page.get_by_role("dialog", name="5 things to check")
    told = dialog.get_by_role("listitem").all_inner_texts()
    assert told[0] == "You ranked D above A, but rated D 2 of 7 and A 6 of 7."
    assert told[-1] == "You marked that no output is acceptable, but rated B 5 of 7."
    dialog.get_by_role("button", name="Go back and check").click()
    expect(desk.main_button).to_be_focused()
    assert server.judgments(person) == []
    ranks = desk.ranks(["D", "A", "BC"])
    desk.submit(doubts=True)
    (judgment,) = server.judgments(person)
    assert judgment.ranks == ranks
    assert judgment.none_acceptable is True


def test_yes_no_fields_reach_the_store(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    page = desk.page
    page.get_by_role("button", name="Output B,").click()
    assert page.locator(".flags input").count() == 11
    page.get_by_label("Makes something up").check()
    page.get_by_label("Violent content").check()
    page.get_by_label("Violent content").uncheck()
    desk.rate_all(RATINGS)
    expect(desk.card("B")).to_contain_text("Makes something up")
    desk.rank_by_key(["A", "B", "C", "D"])
    page.get_by_text("About the prompt").click()
    page.get_by_label("Closed domain").check()
    page.get_by_label("Comment (may stay empty)").fill("Fine.")
    ids = desk.ids()
    desk.submit()
    (judgment,) = server.judgments(person)
    assert judgment.flags == {ids["B"]: {"hallucination": True}}
    assert judgment.prompt_flags == {"closed_domain": True}
    assert judgment.comment == "Fine."


def test_what_is_missing_is_named(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    page = desk.page
    page.get_by_role("button", name="Rank", exact=True).click(force=True)
    expect(desk.notice("Rate output A before you rank.")).to_be_visible()
    desk.rate_all(RATINGS)
    page.keyboard.press("a")
    page.keyboard.press("1")
    desk.main_button.click()
    expect(desk.notice("Rank B, C and D first.")).to_be_visible()
    assert server.judgments(person) == []


def test_the_order_is_the_servers_and_rating_changes_nothing(
    desk: Desk, server: Server, person: Person
):
    server.add_ranking(6)
    desk.sign_in(person)
    desk.rate_all({"A": 1, "B": 7, "C": 2, "D": 6, "E": 3, "F": 5})
    assert desk.tray() == list("ABCDEF")
    assert desk.tiers() == []


def test_long_outputs_can_be_read_in_full_while_ranking(desk: Desk, server: Server, person: Person):
    long = "\n".join(f"Line {i} of a long answer." for i in range(400))
    server.add_ranking(texts=["short", long, "shorter", "shortest"])
    desk.sign_in(person)
    desk.rate_by_key()
    card = desk.page.locator(".card", has=desk.page.get_by_text("Line 0 of a long answer."))
    expect(card).not_to_contain_text("Line 399 of a long answer.")
    card.get_by_role("button", name="Show all").click()
    expect(card).to_contain_text("Line 399 of a long answer.")
    card.focus()
    desk.page.keyboard.press("Enter")
    expect(card).not_to_contain_text("Line 399 of a long answer.")


def test_moves_are_announced(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    desk.rate_by_key()
    live = desk.page.locator("#board [aria-live=polite]")
    desk.rank_by_key(["A", "C"])
    desk.page.keyboard.press("=")
    expect(live).to_have_text("Output C: rank 1 of 1, tied with A")
    name = "Output C, rank 1 of 1, tied with A, rated 4 of 7"
    expect(desk.page.get_by_role("group", name=name)).to_be_focused()
