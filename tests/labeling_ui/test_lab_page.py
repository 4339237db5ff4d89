from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import pytest

from labeling_ui.lab_access import Lab
from labeling_ui.lab_agreement import build_agreement
from labeling_ui.lab_data import build_data
from labeling_ui.lab_explorer import build_explorer
from labeling_ui.lab_fill import Fill
from labeling_ui.lab_inbox import build_inbox
from labeling_ui.lab_instructions import build_instructions
from labeling_ui.lab_overview import build_overview, plot_counts
from labeling_ui.lab_page import build_lab_page
from labeling_ui.lab_people import build_people
from labeling_ui.lab_reviews import build_reviews
from labeling_ui.lab_tables import NONE
from pipeline.records import Prompt, Ranking
from pipeline.store import LabelStore, Written
from pipeline.store.accounts import Accounts
from pipeline.store.schema_app import PromptReportRow

Result = TypeVar("Result")

EVIL = "<img src=x onerror=alert(1)> **bold** ![x](https://evil.example/x.png)"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a store with leads, labelers and labels, which tests copy."""
    path = tmp_path_factory.mktemp("store") / "labels.db"
    with LabelStore.open(path) as store:
        made = Accounts(store)
        for name, role in (("lena", "lead"), ("ada", "labeler"), ("dora", "lead"), ("max", "lead")):
            password = made.add(name, role)
            if name != "max":
                account = made.sign_in(name, password, "here").account
                made.change_password(account.id, password, f"correct horse battery {name}")
        made.disable("dora")
        fill(store)
    return path


def fill(store: LabelStore) -> None:
    """Let ada and bob judge three prompts against each other, and ada write an answer."""
    rankings = [
        Ranking(Prompt.from_text(f"{EVIL} {i}"), ("x", EVIL, "z"), ranks, None, name)
        for i in range(3)
        for name, ranks in (("ada", (1, 2, 3)), ("bob", (3, 2, 1)))
    ]
    store.import_rankings(rankings, split="train", source="people")
    store.add_prompts([Prompt.from_text("Write.")])
    store.create_demonstration_tasks(1)
    task = store.lease_task(store.add_labeler("ada"))
    store.submit(task.token, Written(f"An answer. {EVIL}"), "written")
    with store.writing() as session:
        session.add(
            PromptReportRow(
                prompt_id=task.prompt.id, labeler_id=1, reason="rude", created=store.clock()
            )
        )


@pytest.fixture
def lab(filled: Path, tmp_path: Path) -> Iterator[Lab]:
    copy = tmp_path / "labels.db"
    copy.write_bytes(filled.read_bytes())
    with LabelStore.open(copy) as store:
        yield Lab.over(store, Accounts(store), tmp_path)


def in_loop(build: Callable[[], Result]) -> Result:
    """Build parts of Gradio's as the app does: outside of a loop each of its locks makes one."""

    async def work() -> Result:
        return build()

    return asyncio.run(work())


def build_page(lab: Lab) -> gr.Blocks:
    return in_loop(lambda: build_lab_page(lab.store, lab.accounts, lab.run_dir))


class Tab:
    """A tab that was built, whose handlers are called by their names."""

    def __init__(self, lab: Lab, build: Callable[[Lab], Fill]) -> None:
        def make() -> tuple[gr.Blocks, Fill]:
            with gr.Blocks() as blocks:
                fill = build(lab)
            return blocks, fill

        self.blocks, self.fill = in_loop(make)
        self.lead = next(one for one in lab.accounts.list() if one.name == "lena")

    def open(self) -> list[Any]:
        values = [component.value for component in self.fill.inputs]
        return self._list(self.fill.work(self.lead, *values))

    def call(self, name: str, *values: Any, who: str = "lena", nth: int = 0) -> list[Any]:
        found = [one.fn for one in self.blocks.fns.values() if one.fn and one.fn.__name__ == name]
        return self._list(found[nth](gr.Request(username=who), *values))

    @staticmethod
    def _list(value: Any) -> list[Any]:
        return list(value) if isinstance(value, tuple) else [value]


def handlers(blocks: gr.Blocks) -> list[Any]:
    return [one.fn for one in blocks.fns.values() if one.fn is not None]


def test_every_handler_of_the_page_asks_for_an_enabled_lead(lab: Lab) -> None:
    page = build_page(lab)
    found = handlers(page)
    assert len(found) > 30
    before = lab.store.export_rows(), lab.oversight.people(), lab.oversight.instructions()
    for handler in found:
        for name in (None, "nobody", "ada", "dora", "max"):
            with pytest.raises(gr.Error, match="Only leads may do this"):
                handler(gr.Request(username=name))
    assert (lab.store.export_rows(), lab.oversight.people(), lab.oversight.instructions()) == before


def test_no_handler_waits_for_another_or_is_named_in_the_interface(lab: Lab) -> None:
    page = build_page(lab)
    for one in page.fns.values():
        if one.fn is not None:
            assert one.concurrency_limit is None
            assert one.api_visibility == "private"


def test_the_page_holds_no_label_before_a_lead_opens_it(lab: Lab) -> None:
    page = build_page(lab)
    config = str(page.get_config_file())
    assert "evil.example" not in config
    assert "bob" not in config


def test_no_component_reads_text_as_markdown_or_html(lab: Lab) -> None:
    page = build_page(lab)
    kinds = {type(one) for one in page.blocks.values()}
    assert not kinds & {gr.Markdown, gr.Chatbot, gr.Dataframe}
    for one in page.blocks.values():
        if isinstance(one, gr.HTML):
            assert "${" not in one.html_template
            assert "{{" not in one.html_template
            assert "${" not in one.css_template
            assert "{{" not in one.css_template
            assert "innerHTML" not in (one.js_on_load or "")


def test_refusals_are_one_escaped_line(lab: Lab) -> None:
    def admit(lead: object) -> None:
        assert lead
        lab.oversight.admit("<b>x</b>")

    def build(lab: Lab) -> Fill:
        lab.bind(gr.Button().click, admit)
        return Fill(admit, ())

    (handler,) = handlers(Tab(lab, build).blocks)
    with pytest.raises(gr.Error) as caught:
        handler(gr.Request(username="lena"))
    assert "&lt;b&gt;x&lt;/b&gt;" in caught.value.message
    assert "<b>" not in caught.value.message


def test_the_overview_shows_work_queue_and_reports(lab: Lab) -> None:
    tab = Tab(lab, build_overview)
    days, hours, queue, skips, report, cards = tab.open()
    for plot, unit in ((days, "day"), (hours, "hour")):
        assert int(plot["value"]["done"].sum()) == 7
        assert plot["sort"] == list(dict.fromkeys(plot["value"][unit]))
    assert [row[:3] for row in queue] == [
        ["demonstration", "work", "train"],
        ["ranking", "work", "train"],
    ]
    assert (skips, cards) == ([], [])
    ((label, number),) = report["choices"]
    assert label == "ada: rude" or label.endswith(": rude")
    (shown,) = tab.call("show_report", number)
    assert [card["text"] for card in shown] == ["Write."]
    assert tab.call("resolve_report", number)[4]["choices"] == []


def test_plots_have_a_bar_for_each_of_the_last_days_and_hours() -> None:
    start = datetime(2026, 12, 20, tzinfo=UTC)
    counts = [(start, "ada", 1), (start + timedelta(days=30), "bob", 2)]
    days = plot_counts(counts, "day")
    assert (days["sort"][0], days["sort"][-1], len(days["sort"])) == ("30 Dec", "19 Jan", 21)
    assert days["value"].groupby("day")["done"].sum()["19 Jan"] == 2
    assert days["value"]["done"].sum() == 2
    hours = plot_counts([(start, "all", 3), (start + timedelta(hours=2), "all", 4)], "hour")
    assert hours["sort"] == ["00:00", "01:00", "02:00"]
    assert plot_counts([], "day")["value"] is None


def test_agreement_is_measured_over_the_chosen(lab: Lab) -> None:
    tab = Tab(lab, build_agreement)
    measures, flags, wins = tab.open()
    assert measures[0] == ["Pairwise agreement, a tie is half", "0.000", "0.000", "0.000", 3, 9]
    assert len(flags) == 11
    assert wins == []
    empty = tab.call("measure", ["test"], [], [])[0]
    assert empty[0][1] == "undefined"


def test_labelers_are_measured_and_managed(lab: Lab) -> None:
    tab = Tab(lab, build_people)
    rows, figures, screenings, chosen = tab.open()
    names = [row[0] for row in rows]
    assert names == ["ada", "bob", "dora", "lena", "max"]
    assert screenings == []
    assert [name for name, _ in chosen["choices"]] == names
    by_name = {row[0]: row for row in rows}
    assert by_name["dora"][2] == "lead, disabled"
    assert by_name["bob"][2] == "none"
    assert by_name["ada"][6:] == [3, 0, NONE]
    assert [row[:2] for row in figures] == [["ada", "0% (0% to 0%)"], ["bob", "0% (0% to 0%)"]]
    actions = {
        "back": 1,
        "disable": 2,
        "enable": 3,
        "kinds": 4,
        "remove": 5,
        "restore": 6,
        "admit": 0,
    }

    def act(name: str, *values: Any) -> dict[str, list[Any]]:
        return {row[0]: row for row in tab.call("work", *values, nth=actions[name])[0]}

    assert act("back", "ada")["ada"][3] == "no"
    assert act("admit", "ada")["ada"][3] == "yes"
    assert act("disable", "ada")["ada"][2] == "labeler, disabled"
    assert act("enable", "ada")["ada"][2] == "labeler"
    assert act("kinds", "ada", ["ranking"])["ada"][4] == "ranking"
    assert act("kinds", "ada", [])["ada"][4] == "all"
    assert act("remove", "bob", "clicks <b>")["bob"][5] == "clicks <b>"
    assert {one.labeler for one in lab.store.rankings()} == {"ada"}
    assert act("restore", "bob")["bob"][5] == NONE
    with pytest.raises(gr.Error, match="A labeler must be chosen"):
        act("admit", None)
    with pytest.raises(gr.Error, match="No account"):
        act("disable", "bob")


def test_the_last_lead_is_not_disabled(lab: Lab) -> None:
    tab = Tab(lab, build_people)
    lab.accounts.set_role("max", "labeler")
    with pytest.raises(gr.Error, match="The last lead must stay enabled"):
        tab.call("work", "lena", nth=2)
    lab.accounts.set_role("max", "lead")


def test_what_a_labelers_work_went_into_is_listed(lab: Lab, tmp_path: Path) -> None:
    from pipeline.runs import Manifest

    snapshot = lab.oversight.record_snapshot()
    folder = tmp_path / "reward"
    folder.mkdir()
    Manifest("reward", "complete", 0, "", sources={"store:": snapshot}).write(folder)
    tab = Tab(lab, build_people)
    (rows,) = tab.call("show", "bob")
    assert [row[:3] for row in rows] == [["reward", "complete", "yes"]]
    assert tab.call("show", "lena") == [[]]


def test_an_invitation_is_a_link_that_makes_one_account(lab: Lab) -> None:
    tab = Tab(lab, build_people)
    (link,) = tab.call("invite", "labeler", "held_out", False, 24)
    token = link["value"].removeprefix("/invite/")
    signed = lab.accounts.accept(token, "nina", "correct horse battery nina", "here")
    assert (signed.account.role, signed.account.group) == ("labeler", "held_out")
    with pytest.raises(gr.Error):
        tab.call("invite", "labeler", "held_out", False, None)


def test_a_disputed_task_is_shown_and_decided(lab: Lab) -> None:
    tab = Tab(lab, build_inbox)
    waiting, chosen, *first = tab.open()
    assert waiting == "3 tasks"
    task = chosen["choices"][0][1]
    assert chosen["value"] == task
    assert first == tab.call("show_task", task)
    reasons, cards, *_ = tab.call("show_task", task)
    assert reasons == "2 labelers agree on 0% of the pairs"
    texts = [card["text"] for card in cards]
    assert EVIL in texts
    notes = [note for card in cards for note in card["notes"]]
    assert "From people" in notes
    assert any(note.startswith("ada: rank ") for note in notes)
    with pytest.raises(gr.Error, match="must name each of A, B, C once"):
        tab.call("take_decision", task, "My order stands in their place", "A > B", "")
    with pytest.raises(gr.Error, match="A decision must be chosen"):
        tab.call("take_decision", task, None, "", "")
    done = tab.call("take_decision", task, "My order stands in their place", "A > B = C", "so")
    assert done[0] == "2 tasks"
    assert [one.labeler for one in lab.store.rankings()].count("lena") == 1
    assert lab.oversight.adjudications()[task].comment == "so"
    with pytest.raises(gr.Error, match="must wait in the inbox"):
        tab.call("show_task", task)


def test_an_answer_is_reviewed(lab: Lab) -> None:
    tab = Tab(lab, build_reviews)
    count, chosen, *first = tab.open()
    assert count == "1 waiting"
    number = chosen["choices"][0][1]
    assert chosen["value"] == number
    assert first == tab.call("show_answer", number)
    cards, verdict, score, comment = tab.call("show_answer", number)
    assert cards[-1]["text"] == f"An answer. {EVIL}"
    assert (verdict, score, comment) == (None, None, "")
    done = tab.call("save_review", "waiting", number, "accepted", "6", "good")
    assert done[0] == "0 waiting"
    assert lab.oversight.answers()[0].review.score == 6
    assert tab.call("show_list", "accepted")[0] == "1 accepted"
    with pytest.raises(gr.Error, match="A verdict must be chosen"):
        tab.call("save_review", "waiting", number, None, None, "")


def test_judgments_are_explored(lab: Lab) -> None:
    tab = Tab(lab, build_explorer)
    labelers, stages, number, found, rows, chosen, _ = tab.open()
    assert labelers["choices"] == ["ada", "bob"]
    assert stages["choices"] == ["people"]
    assert (number, found, len(rows)) == (1, "6 judgments, page 1 of 1", 6)
    assert rows[0][:4] == [1, rows[0][1], "bob", "train"]
    narrow = tab.call("explore", 1, ["ada"], [], [], [], [], [], "EVIL.example", False)
    assert narrow[1] == "3 judgments, page 1 of 1"
    none = tab.call("explore", 1, [], ["test"], None, None, None, None, None, True)
    assert none[1] == "0 judgments, page 1 of 1"
    (shown,) = tab.call("show_judgment", chosen["choices"][0][1])
    titles = [card["title"] for card in shown]
    assert titles[:2] == ["Prompt, user", "Revision 1"]
    assert "Shown in an unknown place" in shown[-1]["notes"]
    with pytest.raises(gr.Error, match="A judgment must be chosen"):
        tab.call("show_judgment", None)


def test_instructions_are_published_and_compared(lab: Lab) -> None:
    tab = Tab(lab, build_instructions)
    assert tab.open()[0] == "None was published."
    tab.call("publish_text", "Be helpful.\nBe kind.")
    state, text, before, after, changes = tab.call("publish_text", "Be helpful.\nBe truthful.")
    assert state.startswith("2, by lena on ")
    assert text == "Be helpful.\nBe truthful."
    assert (before["value"], after["value"]) == (1, 2)
    assert "-Be kind." in changes
    assert "+Be truthful." in changes
    assert tab.call("compare", 1, 1) == ["The two are the same."]
    tab.call("publish_text", "Be helpful.\nBe truthful.")
    assert len(lab.oversight.instruction_versions()) == 2
    with pytest.raises(gr.Error, match="must say something"):
        tab.call("publish_text", " ")


def test_known_answers_are_set_and_taken_back(lab: Lab) -> None:
    tab = Tab(lab, build_data)
    snapshot, known = tab.open()
    assert snapshot.startswith(lab.store.snapshot_hash())
    assert known == []
    task = next(
        one.task for one in lab.oversight.judged() if one.task not in lab.oversight.adjudications()
    )
    cards, purpose, order, answers = tab.call("open_task", f" {task} ")
    assert len(cards) == 4
    assert (purpose, order, answers) == ("gold", "", "")
    _, rows = tab.call("save_answer", task, "screening", "B > A = C", "B: violent=no")
    assert rows[0][:4] == [task, "screening", "B > A = C", "lena"]
    assert tab.call("open_task", task)[1:] == ["screening", "B > A = C", "B: violent=no"]
    with pytest.raises(gr.Error, match="must name each"):
        tab.call("save_answer", task, "gold", "A", "")
    assert tab.call("release_answer", task)[1] == []
    with pytest.raises(gr.Error, match="No task"):
        tab.call("open_task", "nothing")


def test_a_file_is_imported_from_the_page_and_not_kept(lab: Lab, tmp_path: Path) -> None:
    tab = Tab(lab, build_data)
    path = tmp_path / "votes.jsonl"
    row = '{"prompt": "Q?", "completions": ["a", "b"], "ranks": [1, 2], "labeler": "zed"}\n'
    path.write_text(row)
    assert tab.call("bring_in", str(path), "test") == [
        None,
        "1 judgments added, 0 were here already",
    ]
    assert not path.exists()
    path.write_text(row + "{")
    with pytest.raises(gr.Error, match=r"votes\.jsonl:2: not a JSON object") as caught:
        tab.call("bring_in", str(path), "test")
    assert str(tmp_path) not in caught.value.message
    assert not path.exists()
    with pytest.raises(gr.Error, match="A file must be chosen"):
        tab.call("bring_in", None, "test")
