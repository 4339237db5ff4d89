"""Drive the labeler's page as a person would, and read what it shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from playwright.sync_api import Locator, Page, expect

from tests.browser.running import Person, Server

Tiers = list[list[str]]
READY = 20_000


class Desk:
    """The labeler's page in one browser window."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server

    def sign_in(self, person: Person) -> None:
        self.page.goto(f"{self.server.url}/signin?next=/label")
        self.page.get_by_label("Name").fill(person.name)
        self.page.get_by_label("Password").fill(person.password)
        self.page.get_by_role("button", name="Sign in").click()
        self.wait_for_task()

    def wait_for_task(self) -> None:
        heading = self.page.get_by_role("heading", level=1)
        expect(heading).not_to_have_text("Labeling", timeout=READY)

    @property
    def title(self) -> Locator:
        return self.page.get_by_role("heading", level=1)

    @property
    def state(self) -> Locator:
        return self.page.locator(".bar .state")

    @property
    def main_button(self) -> Locator:
        return self.page.locator(".bar button.main")

    def notice(self, words: str) -> Locator:
        return self.page.locator(".notice").filter(has_text=words)

    def menu(self, item: str) -> None:
        self.page.get_by_text("Menu", exact=True).click()
        self.page.locator(".sheet").get_by_text(item, exact=True).click()

    # Rating

    def rate(self, letter: str, rating: int) -> None:
        """Rate one output by the mouse."""
        self.page.get_by_role("button", name=f"Output {letter},").click()
        self.page.locator(".likert label").nth(rating - 1).click()

    def rate_all(self, ratings: Mapping[str, int]) -> None:
        """Rate the outputs and go on to the ranking."""
        for letter, rating in ratings.items():
            self.rate(letter, rating)
        self.main_button.click()
        expect(self.page.locator(".ranking")).to_be_visible()

    def letters(self) -> list[str]:
        return self.page.locator(".steps .step:not(.wide)").all_inner_texts()

    def rate_by_key(self, rating: int = 4) -> None:
        """Rate every output the same by the keyboard and go on to the ranking."""
        for _ in self.letters():
            self.page.keyboard.press(str(rating))
            self.page.keyboard.press("Control+Enter")
        expect(self.page.locator(".ranking")).to_be_visible()

    # Ranking

    def card(self, letter: str) -> Locator:
        return self.page.locator(f'.card[data-letter="{letter}"]')

    def tiers(self) -> Tiers:
        """Return the ranking as the page shows it, best first."""
        return self.page.locator(".tiers").evaluate(
            "list => [...list.children].map(tier =>"
            " [...tier.querySelectorAll('.card')].map(card => card.dataset.letter))"
        )

    def tray(self) -> list[str]:
        """Return the outputs that are not ranked, in the order of the page."""
        return self.page.locator(".tray .card").evaluate_all(
            "cards => cards.map(card => card.dataset.letter)"
        )

    def rank_by_key(self, order: Sequence[str]) -> None:
        """Rank by letters and digits: one string a rank, its letters are tied."""
        self.title.focus()
        for rank, letters in enumerate(order, start=1):
            for letter in letters:
                self.page.keyboard.press(letter.lower())
                self.page.keyboard.press(str(rank))
        assert self.tiers() == [sorted(letters) for letters in order]

    def ids(self) -> dict[str, str]:
        """Return the opaque id of each output by its letter."""
        pairs = self.page.locator(".card").evaluate_all(
            "cards => cards.map(card => [card.dataset.letter, card.dataset.id])"
        )
        return dict(pairs)

    def ranks(self, order: Sequence[str]) -> dict[str, int]:
        """Return what a judgment of this order holds."""
        ids = self.ids()
        return {ids[one]: rank for rank, tier in enumerate(order, start=1) for one in tier}

    # Saving and submitting

    def lose_network(self) -> None:
        """Take the network away, and wait until the browser's parts know that it is gone."""
        self.page.context.set_offline(True)
        lost = "() => fetch('/favicon.ico', { cache: 'no-store' }).then(() => false, () => true)"
        self.page.wait_for_function(lost)

    def wait_saved(self) -> None:
        expect(self.state).to_have_text(re.compile(r"^Saved \d"), timeout=10_000)

    def submit(self, *, doubts: bool = False) -> None:
        """Submit and wait for the answer; with doubts, stand by them in the dialog."""
        with self.page.expect_response("**/api/desk/submit") as answer:
            self.main_button.click()
            if doubts:
                self.page.get_by_role("button", name="Submit as it is").click()
        assert answer.value.ok
        expect(self.notice("Thank you.")).to_be_visible(timeout=10_000)
