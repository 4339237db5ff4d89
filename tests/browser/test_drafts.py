"""Nothing is lost: reloads, other devices, restarts, lost networks, lost answers, lost leases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from playwright.sync_api import BrowserContext, Route, expect
from sqlalchemy import update

from pipeline.store.schema import AssignmentRow
from tests.browser.desk import Desk
from tests.browser.running import Person, Server

RATINGS = {"A": 6, "B": 5, "C": 3, "D": 2}


def begin(desk: Desk, server: Server, person: Person) -> None:
    """Sign in, rate everything, rank two, and comment."""
    server.add_ranking(4)
    desk.sign_in(person)
    desk.rate_all(RATINGS)
    desk.rank_by_key(["B", "D"])
    desk.page.get_by_label("Comment (may stay empty)").fill("half-way")


def is_half_way(desk: Desk) -> None:
    expect(desk.page.locator(".ranking")).to_be_visible(timeout=20_000)
    assert desk.tiers() == [["B"], ["D"]]
    expect(desk.page.get_by_label("Comment (may stay empty)")).to_have_value("half-way")
    expect(desk.card("A")).to_contain_text("6/7")


def test_a_reload_brings_back_what_was_just_typed(desk: Desk, server: Server, person: Person):
    begin(desk, server, person)
    desk.page.reload()
    is_half_way(desk)
    desk.wait_saved()
    desk.page.evaluate("localStorage.clear()")
    desk.page.reload()
    is_half_way(desk)


def test_another_device_goes_on_where_this_one_was(
    new_context: Callable[..., BrowserContext], desk: Desk, server: Server, person: Person
):
    begin(desk, server, person)
    desk.wait_saved()
    other = Desk(new_context().new_page(), server)
    other.sign_in(person)
    is_half_way(other)
    other.page.get_by_label("Comment (may stay empty)").fill("further")
    other.wait_saved()

    desk.page.get_by_label("Comment (may stay empty)").fill("half-way, and more")
    expect(desk.notice("You went on working on another page.")).to_be_visible()
    expect(desk.page.get_by_label("Comment (may stay empty)")).to_have_value("further")
    desk.page.get_by_role("button", name="Bring back what I had here").click()
    expect(desk.page.get_by_label("Comment (may stay empty)")).to_have_value("half-way, and more")
    desk.wait_saved()
    other.page.reload()
    expect(other.page.get_by_label("Comment (may stay empty)")).to_have_value(
        "half-way, and more", timeout=20_000
    )


def test_a_killed_server_loses_nothing(desk: Desk, server: Server, person: Person):
    begin(desk, server, person)
    server.kill()
    try:
        desk.page.get_by_label("Comment (may stay empty)").fill("typed while it was down")
        expect(desk.state).to_contain_text("Not saved: the server cannot be reached.")
    finally:
        server.start()
    desk.wait_saved()
    desk.page.reload()
    expect(desk.page.get_by_label("Comment (may stay empty)")).to_have_value(
        "typed while it was down", timeout=20_000
    )


def test_offline_says_so_and_saves_when_it_is_back(desk: Desk, server: Server, person: Person):
    begin(desk, server, person)
    desk.wait_saved()
    context = desk.page.context
    desk.lose_network()
    desk.page.get_by_label("Comment (may stay empty)").fill("in a tunnel")
    expect(desk.state).to_contain_text("Not saved: the server cannot be reached. Trying again in")
    desk.page.get_by_label("Comment (may stay empty)").fill("in a long tunnel")
    context.set_offline(False)
    desk.wait_saved()
    desk.page.evaluate("localStorage.clear()")
    desk.page.reload()
    expect(desk.page.get_by_label("Comment (may stay empty)")).to_have_value(
        "in a long tunnel", timeout=20_000
    )


def test_a_full_disk_is_told_and_the_draft_kept(desk: Desk, server: Server, person: Person):
    begin(desk, server, person)
    desk.wait_saved()
    refuse = '{"error": "disk full", "code": "not_saved"}'
    desk.page.route(
        "**/api/desk/draft",
        lambda route: route.fulfill(status=503, body=refuse, content_type="application/json"),
    )
    desk.page.get_by_label("Comment (may stay empty)").fill("kept all the same")
    expect(desk.state).to_contain_text("Not saved: the server cannot write at the moment.")
    desk.page.reload()
    expect(desk.page.get_by_label("Comment (may stay empty)")).to_have_value(
        "kept all the same", timeout=20_000
    )
    desk.page.unroute("**/api/desk/draft")
    desk.wait_saved()


def test_a_lost_answer_to_a_submit_makes_no_second_judgment(
    desk: Desk, server: Server, person: Person
):
    begin(desk, server, person)
    desk.rank_by_key(["B", "D", "A", "C"])
    lost = 0

    def lose_the_first_answer(route: Route) -> None:
        nonlocal lost
        if lost:
            route.continue_()
            return
        lost += 1
        route.fetch()
        route.abort()

    desk.page.route("**/api/desk/submit", lose_the_first_answer)
    desk.main_button.click()
    desk.page.get_by_role("button", name="Submit as it is").click()
    expect(desk.notice("Not submitted yet: the server cannot be reached.")).to_be_visible()
    expect(desk.notice("Thank you. That was number 1 today.")).to_be_visible()
    assert lost == 1
    assert len(server.judgments(person)) == 1


def test_a_submit_can_be_stopped_edited_and_sent(desk: Desk, server: Server, person: Person):
    begin(desk, server, person)
    desk.rank_by_key(["A", "B", "C", "D"])
    desk.lose_network()
    desk.main_button.click()
    desk.page.get_by_role("button", name="Stop and go on editing").click()
    desk.page.get_by_label("Comment (may stay empty)").fill("on second thought")
    desk.page.context.set_offline(False)
    desk.submit()
    (judgment,) = server.judgments(person)
    assert judgment.comment == "on second thought"


def test_a_lost_place_is_told_and_the_words_stay(
    desk: Desk, server: Server, person: Person, new_context: Callable[..., BrowserContext]
):
    begin(desk, server, person)
    desk.wait_saved()
    with server.store.writing() as session:
        past = server.store.clock() - timedelta(minutes=1)
        session.execute(
            update(AssignmentRow)
            .where(AssignmentRow.labeler_id == person.labeler_id)
            .values(lease_expires=past)
        )
    somebody = server.add_person()
    other = Desk(new_context().new_page(), server)
    other.sign_in(somebody)
    other.rate_by_key()
    other.rank_by_key(["ABCD"])
    other.submit()

    desk.page.get_by_label("Comment (may stay empty)").fill("too late")
    expect(desk.notice("Your time for this task ran out")).to_be_visible()
    expect(desk.page.get_by_label("Comment (may stay empty)")).to_have_value("too late")
    assert desk.tiers() == [["B"], ["D"]]
    server.add_demonstration()
    desk.page.get_by_role("button", name="Next task").click()
    expect(desk.title).to_have_text("Write an answer")


def test_signing_in_again_brings_back_the_draft(desk: Desk, server: Server, person: Person):
    begin(desk, server, person)
    desk.wait_saved()
    desk.page.context.clear_cookies()
    desk.page.get_by_label("Comment (may stay empty)").fill("after the session ended")
    expect(desk.notice("You are signed out.")).to_be_visible()
    desk.page.get_by_role("link", name="Sign in again").click()
    desk.page.get_by_label("Name").fill(person.name)
    desk.page.get_by_label("Password").fill(person.password)
    desk.page.get_by_role("button", name="Sign in").click()
    expect(desk.page.get_by_label("Comment (may stay empty)")).to_have_value(
        "after the session ended", timeout=20_000
    )
    desk.wait_saved()


def test_the_time_worked_goes_on_after_a_reload(desk: Desk, server: Server, person: Person):
    begin(desk, server, person)
    desk.page.wait_for_timeout(2500)
    desk.page.get_by_label("Comment (may stay empty)").fill("half-way")
    desk.wait_saved()
    desk.page.reload()
    is_half_way(desk)
    desk.rank_by_key(["B", "D", "AC"])
    desk.submit(doubts=True)
    (judgment,) = server.judgments(person)
    assert judgment.active_seconds is not None
    assert judgment.active_seconds >= 2
