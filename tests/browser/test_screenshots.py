"""Take a picture of every page, on a desk and on a phone, light and dark, for people to look at."""

from __future__ import annotations

from playwright.sync_api import expect

from pipeline.store.oversight import Oversight
from tests.browser.desk import Desk
from tests.browser.pictures import Window
from tests.browser.running import Person, Server

PROMPT = (
    "My daughter is seven and asked me why the moon follows our car when we drive at night.\n\n"
    'Explain it to her in at most three sentences. Do not use the word "parallax".'
)
OUTPUTS = [
    "The moon is so very far away that it looks the same from everywhere on our drive. Trees and "
    "houses are close, so they rush past the window. The moon stays where it is, and that makes it "
    "look as if it came along with us!",
    "The moon does not follow the car.",
    "Great question! The phenomenon you are describing is called parallax. When an observer moves, "
    "nearby objects shift against the background much more than distant objects do.\n\nSince the "
    "moon is about 384,400 km away, its apparent position barely changes:\n\n1. Near objects move "
    "fast.\n2. Far objects move slowly.\n3. The moon does not seem to move at all.\n\nThis is why "
    "your daughter has the impression that it follows your car. You could show it to her with a "
    "thumb held before one eye and then the other.",
    "The moon loves your car and wants to drive along with you every night.",
    "Because it is magic. Ask your teacher.",
]
LONG = "Moonlight is sunlight that comes back to us from grey dust and rock. " * 30


def test_pictures(window: Window, server: Server, person: Person):
    desk, picture = Desk(window.page, server), window.picture
    page = desk.page
    Oversight(server.store).publish_instructions(
        "# What we look for\n\nHelpful first, then true, then harmless.\n\n"
        "- Read the prompt twice.\n- Rate each output for itself.\n- Ties are welcome.",
        "lead",
    )
    page.goto(f"{server.url}/signin")
    picture("sign-in")
    server.add_ranking(texts=[*OUTPUTS, LONG], prompt=PROMPT)
    desk.sign_in(person)
    picture("rate")
    page.keyboard.press("?")
    picture("instructions")
    page.keyboard.press("Escape")
    page.keyboard.press("6")
    page.get_by_label("Makes something up").check()
    page.locator(".flags").scroll_into_view_if_needed()
    picture("rate-flags")
    desk.rate_by_key(3)
    desk.rank_by_key(["B", "CD"])
    desk.wait_saved()
    page.evaluate("window.scrollTo(0, 0)")
    picture("rank")
    desk.card("C").scroll_into_view_if_needed()
    picture("rank-tie")
    for letter in "aef":
        page.keyboard.press(letter)
        page.keyboard.press("9")
    desk.wait_saved()
    page.evaluate("window.scrollTo(0, 0)")
    picture("rank-complete")
    page.get_by_text("About the prompt").click()
    page.get_by_text("About the prompt").scroll_into_view_if_needed()
    picture("rank-notes")
    page.get_by_role("button", name="Skip").click()
    picture("skip")
    page.keyboard.press("Escape")
    page.get_by_text("Menu", exact=True).click()
    picture("menu")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Back", exact=True).click()
    desk.rate("B", 1)
    page.get_by_role("button", name="Rank", exact=True).click()
    desk.main_button.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    picture("doubts")
    server.add_comparison((OUTPUTS[0], OUTPUTS[2]), PROMPT + " (Compare.)")
    page.get_by_role("button", name="Submit as it is").click()
    expect(desk.title).to_have_text("Compare two answers")
    page.keyboard.press("a")
    picture("compare")
    server.add_demonstration(PROMPT + " (Write.)")
    desk.submit()
    expect(desk.title).to_have_text("Write an answer")
    page.get_by_label("Your answer").fill(OUTPUTS[0])
    desk.wait_saved()
    picture("write")
    desk.submit()
    picture("all-done")
    page.get_by_role("button", name="My work", exact=True).click()
    expect(page.get_by_role("dialog", name="My work")).to_be_visible()
    picture("my-work")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Write a prompt").click()
    page.get_by_label("Few-shot").check()
    picture("own-prompt")
