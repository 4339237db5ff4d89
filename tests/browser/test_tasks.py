"""What a labeler does beside ranking: skip, flag, edit, practise, read, write, compare, rest."""

from __future__ import annotations

from playwright.sync_api import expect
from sqlalchemy import select

from pipeline.store.oversight import Oversight
from pipeline.store.schema import PromptRow
from pipeline.store.schema_app import PromptReportRow, SkipRow
from tests.browser.desk import Desk
from tests.browser.running import Person, Server


def test_signing_in_leads_to_the_first_task_and_counts_the_day(
    desk: Desk, server: Server, person: Person
):
    server.add_ranking(4)
    desk.sign_in(person)
    server.add_ranking(5)
    expect(desk.page.locator(".progress")).to_contain_text("0 of 40 today")
    desk.rate_by_key()
    desk.rank_by_key(["ABCD"])
    desk.submit()
    expect(desk.page.locator(".progress")).to_contain_text("1 of 40 today")
    expect(desk.title).to_have_text("Rate and rank 5 outputs")
    expect(desk.title).to_be_focused()
    desk.menu("Sign out")
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_skip_with_a_reason(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    server.add_demonstration()
    page = desk.page
    page.get_by_role("button", name="Skip").click()
    dialog = page.get_by_role("dialog", name="Skip this task")
    dialog.get_by_role("button", name="Keep the task").click()
    expect(desk.title).to_have_text("Rate and rank 4 outputs")
    page.get_by_role("button", name="Skip").click()
    dialog.get_by_label("I lack the knowledge to judge").check()
    dialog.get_by_label("Comment").fill("It is about tax law.")
    dialog.get_by_role("button", name="Skip it").click()
    expect(desk.title).to_have_text("Write an answer")
    assert server.states(person) == ["skipped", "leased"]
    with server.store.reading() as session:
        skip = session.scalars(select(SkipRow).order_by(SkipRow.id.desc())).first()
    assert skip is not None
    assert (skip.reason, skip.comment) == ("no_knowledge", "It is about tax law.")


def test_flag_a_prompt(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    desk.page.get_by_role("button", name="Flag prompt").click()
    dialog = desk.page.get_by_role("dialog", name="Flag this prompt")
    dialog.get_by_label("What is wrong with the prompt?").fill("It names a private person.")
    dialog.get_by_role("button", name="Flag it").click()
    expect(desk.notice("Flagged.")).to_be_visible()
    with server.store.reading() as session:
        report = session.scalars(
            select(PromptReportRow).order_by(PromptReportRow.id.desc())
        ).first()
    assert report is not None
    assert report.labeler_id == person.labeler_id
    assert report.reason == "It names a private person."
    expect(desk.title).to_have_text("Rate and rank 4 outputs")


def test_edit_after_submit_makes_a_revision(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    desk.rate_by_key()
    desk.rank_by_key(["A", "BCD"])
    desk.submit()
    page = desk.page
    page.get_by_role("button", name="See my work").click()
    page.get_by_role("dialog", name="My work").get_by_role("button", name="Edit").click()
    expect(page.locator(".ranking")).to_be_visible()
    assert desk.tiers() == [["A"], ["B", "C", "D"]]
    page.keyboard.press("d")
    page.keyboard.press("Shift+Digit1")
    desk.wait_saved()
    page.get_by_role("button", name="Leave unchanged").click()
    expect(desk.title).to_have_text("All done")
    assert len(server.judgments(person)) == 1

    page.get_by_role("button", name="My work", exact=True).click()
    page.get_by_role("dialog", name="My work").get_by_role("button", name="Edit").click()
    expect(page.locator(".ranking")).to_be_visible()
    assert desk.tiers() == [["A"], ["B", "C", "D"]]
    page.keyboard.press("d")
    page.keyboard.press("Shift+Digit1")
    ranks = desk.ranks(["D", "A", "BC"])
    desk.main_button.click()
    expect(desk.notice("Thank you. Your change is stored.")).to_be_visible()
    first, second = server.judgments(person)
    assert (first.revision, second.revision) == (1, 2)
    assert second.ranks == ranks


def test_practice_stores_nothing_and_comments(desk: Desk, server: Server, person: Person):
    server.add_ranking(5)
    desk.sign_in(person)
    desk.menu("Practice")
    expect(desk.title).to_have_text("Practice")
    letters = desk.letters()
    desk.rate_by_key()
    desk.rank_by_key(["".join(letters)])
    desk.main_button.click()
    dialog = desk.page.get_by_role("dialog", name="How it went")
    expect(dialog).to_contain_text("Camels do not live in the sea")
    dialog.get_by_role("button", name="Back to work").click()
    expect(desk.title).to_have_text("Rate and rank 5 outputs")
    assert server.judgments(person) == []


def test_instructions_are_one_key_away_and_news_is_told(desk: Desk, server: Server, person: Person):
    oversight = Oversight(server.store)
    told = oversight.publish_instructions(
        "# Helpful first\n\n- Read all of it\n- Then rate", "lead"
    )
    server.add_ranking(4)
    desk.sign_in(person)
    expect(desk.notice("Welcome. Please read the instructions")).to_be_visible()
    page = desk.page
    desk.title.focus()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Instructions")
    expect(dialog.get_by_role("heading", name="Helpful first")).to_be_visible()
    expect(dialog.get_by_role("listitem").nth(1)).to_have_text("Then rate")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(desk.title).to_be_focused()
    expect(desk.notice("Welcome.")).to_be_hidden()
    page.keyboard.press("i")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Close").click()

    desk.rate_by_key()
    desk.rank_by_key(["ABCD"])
    oversight.publish_instructions("# Truth first", "lead")
    server.add_ranking(4)
    desk.submit()
    (judgment,) = server.judgments(person)
    assert judgment.instructions == told.version
    expect(
        desk.notice(f"The instructions have changed: version {told.version + 1}.")
    ).to_be_visible()


def test_single_keys_can_be_turned_off(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    page = desk.page
    page.keyboard.press("?")
    page.get_by_label("Single keys act").uncheck()
    page.get_by_role("button", name="Close", exact=True).click()
    page.keyboard.press("5")
    assert page.locator(".likert input:checked").count() == 0


def test_write_an_answer(desk: Desk, server: Server, person: Person):
    server.add_demonstration("Why is the sky blue?")
    desk.sign_in(person)
    page = desk.page
    expect(page.locator(".prompt")).to_contain_text("Why is the sky blue?")
    desk.main_button.click()
    expect(desk.notice("Write an answer first.")).to_be_visible()
    answer = page.get_by_label("Your answer")
    answer.fill("Air scatters blue light most.")
    expect(page.locator(".writing-area .count")).to_have_text("5 words · 29 characters")
    desk.wait_saved()
    page.reload()
    expect(answer).to_have_value("Air scatters blue light most.", timeout=20_000)
    page.get_by_label("Comment (may stay empty)").fill("short")
    desk.submit()
    (written,) = server.demonstrations(person)
    assert written.text == "Air scatters blue light most."
    assert written.comment == "short"


def test_write_a_prompt_of_ones_own(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.sign_in(person)
    desk.menu("Write a prompt")
    page = desk.page
    page.get_by_label("Few-shot").check()
    page.get_by_label("Instruction", exact=True).fill(f"Name the capital. ({person.name})")
    for example, (query, answer) in enumerate([("Peru", "Lima"), ("Chad", "N'Djamena")]):
        pair = page.get_by_role("group", name=f"Example {example + 1}")
        pair.get_by_label("Query").fill(query)
        pair.get_by_label("Answer").fill(answer)
    page.get_by_label("The query to answer").fill("Fiji")
    desk.main_button.click()
    expect(desk.notice("Write an answer first.")).to_be_visible()
    page.reload()
    desk.wait_for_task()
    desk.menu("Write a prompt")
    expect(page.get_by_label("The query to answer")).to_have_value("Fiji")
    page.get_by_label("Your answer to it").fill("Suva")
    desk.main_button.click()
    expect(desk.notice("The lead will read your prompt and answer.")).to_be_visible()
    (written,) = server.demonstrations(person)
    assert written.text == "Suva"
    with server.store.reading() as session:
        prompt = session.scalars(
            select(PromptRow).order_by(PromptRow.created.desc(), PromptRow.id)
        ).first()
    assert prompt is not None
    assert [turn["role"] for turn in prompt.messages] == ["user", "assistant"] * 2 + ["user"]


def test_compare_two_answers_blind(desk: Desk, server: Server, person: Person):
    server.add_comparison(("It is the left one.", "It is the right one."))
    server.add_comparison()
    desk.sign_in(person)
    page = desk.page
    expect(desk.title).to_have_text("Compare two answers")
    boxes = [page.locator(".answers article").nth(side).bounding_box() for side in (0, 1)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    desk.main_button.click()
    expect(desk.notice("Choose A, B or a tie first.")).to_be_visible()
    page.keyboard.press("b")
    expect(page.get_by_label("B is better")).to_be_checked()
    page.get_by_label("Both are bad").check()
    desk.submit()
    page.get_by_label("Tie", exact=True).check()
    desk.submit()
    decided, tied = server.judgments(person)
    assert sorted(decided.ranks.values()) == [1, 2]
    assert decided.none_acceptable
    assert decided.ratings is None
    assert set(tied.ranks.values()) == {1}


def test_an_empty_queue_thanks_and_looks_again(desk: Desk, server: Server, person: Person):
    desk.sign_in(person)
    page = desk.page
    expect(page.get_by_text("There is nothing to label right now.")).to_be_visible()
    server.add_ranking(4)
    page.get_by_role("button", name="Look again").click()
    expect(desk.title).to_have_text("Rate and rank 4 outputs")


def test_an_empty_queue_looks_again_by_itself(desk: Desk, server: Server, person: Person):
    desk.page.clock.install()
    desk.sign_in(person)
    expect(desk.title).to_have_text("All done")
    server.add_ranking(4)
    desk.page.clock.run_for(61_000)
    expect(desk.title).to_have_text("Rate and rank 4 outputs")


def test_the_lease_is_held_while_the_labeler_is_active(desk: Desk, server: Server, person: Person):
    server.add_ranking(4)
    desk.page.clock.install()
    desk.sign_in(person)
    beats: list[str] = []
    desk.page.on("request", lambda request: beats.append(request.url))
    desk.page.mouse.move(5, 5)
    desk.page.clock.run_for(50_000)
    desk.page.mouse.move(50, 50)
    with desk.page.expect_request("**/api/desk/heartbeat"):
        desk.page.clock.run_for(50_000)
    beats.clear()
    # Whoever does nothing for a minute is not at work: at most one more sign of life.
    desk.page.clock.run_for(300_000)
    desk.page.wait_for_timeout(500)
    assert len([url for url in beats if url.endswith("/api/desk/heartbeat")]) <= 1


def test_the_screening_test_counts_its_tasks(desk: Desk, server: Server):
    newcomer = server.add_person(admitted=False)
    server.add_screening(4)
    server.add_screening(4)
    server.add_ranking(9)
    desk.sign_in(newcomer)
    for number in (1, 2):
        expect(desk.page.locator(".progress")).to_have_text(f"Test task {number} of 2")
        assert len(desk.letters()) == 4
        desk.rate_by_key()
        desk.rank_by_key(["ABCD"])
        desk.submit()
    expect(desk.title).to_have_text("All done")
    expect(desk.page.get_by_text("The lead will look at it and let you in.")).to_be_visible()
    assert len(server.judgments(newcomer)) == 2
