"""Drive the page of comparisons as a person would, and read what it shows."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from tests.browser.running import Person, Server

READY, OPENING = 30_000, 90_000
TABS = ("Compare", "Runs", "Report", "Regression prompts")


class ComparePage:
    """The page of comparisons in one browser window."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page, self.server = page, server

    def sign_in(self, person: Person) -> None:
        self.page.goto(f"{self.server.url}/signin?next=/lab/compare")
        self.page.get_by_label("Name").fill(person.name)
        self.page.get_by_label("Password").fill(person.password)
        # The page is the last that the app makes once it runs.
        self.page.get_by_role("button", name="Sign in").click(timeout=OPENING)
        expect(self.page.get_by_role("heading", level=1)).to_have_text("Compare", timeout=READY)
        expect(self.page.get_by_label("Column A", exact=True)).to_be_visible(timeout=READY)

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def field(self, label: str) -> Locator:
        return self.page.get_by_label(label, exact=True)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def notice(self, words: str) -> Locator:
        return self.page.locator(".notices .notice").filter(has_text=words)

    @property
    def alert(self) -> Locator:
        """What is told screen readers at once."""
        return self.page.locator("#compare > [role=alert]")

    @property
    def status(self) -> Locator:
        """What is told screen readers when they have time."""
        return self.page.locator("#compare > [aria-live=polite]")

    # Comparing

    def choose(self, *models: str) -> None:
        """Choose a model for each column."""
        lists = self.page.locator(".checkpoint select")
        for _ in range(lists.count(), len(models)):
            self.button("Add a checkpoint").click()
        for _ in range(len(models), lists.count()):
            self.page.locator(".checkpoint button").last.click()
        for letter, model in zip("ABCD", models, strict=False):
            self.field(f"Column {letter}").select_option(model)

    def draw(self, **numbers: object) -> None:
        """Have tokens drawn at random; numbers are fields by their labels."""
        self.field("Tokens").select_option("draw")
        for label, value in numbers.items():
            self.field(label.replace("_", " ")).fill(str(value))

    def ask(self, prompt: str, tokens: int = 24) -> None:
        """Ask, and do not wait for the answers."""
        self.field("Your message").fill(prompt)
        self.field("Most tokens").fill(str(tokens))
        self.button("Ask").click()

    def side(self, letter: str) -> Locator:
        """Return a column of answers."""
        heading = self.page.get_by_role("heading", level=2, name=re.compile(f"^{letter} "))
        return self.page.locator(".side").filter(has=heading)

    def state(self, letter: str) -> Locator:
        return self.side(letter).locator(".state")

    def finish(self, letters: str = "AB") -> None:
        """Wait until columns have all their answers."""
        for letter in letters:
            expect(self.state(letter)).to_have_text("Done.", timeout=READY)

    def words(self, letter: str, answer: int = 0) -> Locator:
        return self.side(letter).locator(".words").nth(answer)

    def text(self, letter: str, answer: int = 0) -> str:
        """Return the words of an answer, without the mark of its end."""
        return str(self.words(letter, answer).text_content()).replace("∅", "")

    def figures(self, letter: str, answer: int = 0) -> dict[str, str]:
        """Return the figures of an answer by their names."""
        pairs = self.side(letter).locator(".figures").nth(answer).locator("div")
        return dict(
            pairs.evaluate_all("all => all.map(one => [...one.children].map(e => e.textContent))")
        )

    def tokens(self, letter: str) -> Locator:
        return self.side(letter).locator(".token")

    # Runs

    def tick(self, run: str, stage: str) -> None:
        """Draw a stage's curve."""
        group = self.page.locator(f'.stages details[data-run="{run}"]')
        if group.get_attribute("open") is None:
            group.locator("summary").click()
        group.get_by_label(stage, exact=True).check()

    def curves(self) -> dict[str, list[str]]:
        """Return what the table under the chart says of each curve."""
        rows = self.page.locator(".chart tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return {name: values for name, *values in rows}
