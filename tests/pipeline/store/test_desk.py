from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select

from pipeline.errors import LeaseLostError, StoreError
from pipeline.records import Prompt
from pipeline.store import LabelStore, Written
from pipeline.store.desk import MAX_DRAFT, Desk, StaleDraftError
from pipeline.store.leasing import REPEAT_AFTER, LeaseRules
from pipeline.store.schema import JudgmentRow, LabelerRow, TaskRow
from pipeline.store.schema_app import PromptReportRow, SkipRow


@pytest.fixture
def desk(store: LabelStore) -> Desk:
    return Desk(store)


@pytest.fixture
def ada(store: LabelStore) -> int:
    return store.add_labeler("ada")


def set_purpose(store: LabelStore, purpose: str, *, keep: int = 0) -> list[str]:
    """Give all tasks but the first ``keep`` a purpose, and return their ids."""
    with store.writing() as session:
        rows = session.scalars(select(TaskRow).order_by(TaskRow.id)).all()[keep:]
        for row in rows:
            row.purpose = purpose
        return [row.id for row in rows]


def purposes(store: LabelStore) -> Counter[str]:
    with store.reading() as session:
        return Counter(session.scalars(select(TaskRow.purpose)))


def test_a_draft_comes_back_with_its_task(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, clock: Callable
) -> None:
    fill(store, prompts=1)
    task = desk.lease(ada)
    assert task.draft is None
    clock.advance(minutes=20)
    draft, expires = desk.save_draft(ada, task.token, 0, {"ratings": {"a": 3}, "ü": [1, None]})
    assert (draft.version, draft.saved) == (1, clock())
    assert expires == clock() + timedelta(minutes=30), "work on a task holds it"
    again = desk.lease(ada)
    assert again.draft == draft
    assert again.token == task.token
    second, _ = desk.save_draft(ada, task.token, 1, {"ratings": {"a": 4}})
    assert desk.lease(ada).draft == second
    assert second.version == 2


def test_another_pages_newer_draft_is_not_overwritten(
    store: LabelStore, desk: Desk, ada: int, fill: Callable
) -> None:
    fill(store, prompts=1)
    task = desk.lease(ada)
    kept, _ = desk.save_draft(ada, task.token, 0, {"at": "the phone"})
    with pytest.raises(StaleDraftError, match="Another page has saved since") as caught:
        desk.save_draft(ada, task.token, 0, {"at": "the desk"})
    assert caught.value.draft == kept
    assert desk.lease(ada).draft == kept


def test_a_draft_has_a_size(store: LabelStore, desk: Desk, ada: int, fill: Callable) -> None:
    fill(store, prompts=1)
    task = desk.lease(ada)
    with pytest.raises(StoreError, match=f"at most {MAX_DRAFT} bytes"):
        desk.save_draft(ada, task.token, 0, {"comment": "ü" * (MAX_DRAFT // 2)})
    assert desk.lease(ada).draft is None


def test_submitting_ends_the_draft(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=1)
    task = desk.lease(ada)
    desk.save_draft(ada, task.token, 0, {"x": 1})
    judgment = by_text(
        task,
        prompt_flags={"ambiguous": True},
        none_acceptable=True,
        instructions=3,
        interface="7",
        active_seconds=4.5,
    )
    receipt = desk.submit(ada, task.token, judgment, "key")
    assert receipt.revision == 1
    (done,) = desk.history(ada)
    again = desk.reopen(ada, done.id)
    assert again.draft is None
    assert again.submitted == judgment
    assert (done.kind, done.excerpt, done.revisions) == ("ranking", "train question 0", 1)
    with store.reading() as session:
        row = session.scalars(select(JudgmentRow)).one()
        assert (row.instructions, row.interface, row.none_acceptable) == (3, "7", True)


def test_an_edit_is_a_revision_of_the_same_place(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=1)
    task = desk.lease(ada)
    desk.submit(ada, task.token, by_text(task), "first")
    again = desk.reopen(ada, desk.history(ada)[0].id)
    desk.save_draft(ada, again.token, 0, {"second": "thoughts"})
    better = by_text(again, comment="second thoughts")
    assert desk.submit(ada, again.token, better, "second").revision == 2
    assert desk.submit(ada, again.token, better, "second").revision == 2, "a replay adds none"
    assert desk.reopen(ada, desk.history(ada)[0].id).submitted == better
    assert desk.overview(ada).today == 1
    assert store.counts()["places_done"] == 1


def test_nobody_reaches_anothers_work(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=1, overlap=2)
    ben = store.add_labeler("ben")
    task = desk.lease(ada)
    before = store.counts(), store.snapshot_hash()
    for attempt in (
        lambda: desk.submit(ben, task.token, by_text(task), "key"),
        lambda: desk.save_draft(ben, task.token, 0, {}),
        lambda: desk.renew(ben, task.token),
        lambda: desk.skip(ben, task.token, "other", ""),
        lambda: desk.report(ben, task.token, "wrong"),
    ):
        with pytest.raises(StoreError, match="Token must be of a leased task, got an unknown one"):
            attempt()
    desk.submit(ada, task.token, by_text(task), "key")
    with pytest.raises(StoreError, match="No finished task"):
        desk.reopen(ben, desk.history(ada)[0].id)
    assert desk.history(ben) == []
    assert before[0]["places_leased"] == 1
    assert desk.lease(ada) is None


def test_a_renewed_lease_lasts_and_a_lost_one_says_so(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, clock: Callable
) -> None:
    fill(store, prompts=1)
    ben = store.add_labeler("ben")
    task = desk.lease(ada)
    clock.advance(minutes=29)
    assert desk.renew(ada, task.token) == clock() + timedelta(minutes=30)
    clock.advance(minutes=29)
    assert desk.lease(ben) is None
    clock.advance(minutes=2)
    assert desk.renew(ada, task.token) == clock() + timedelta(minutes=30), "the place was free"
    clock.advance(minutes=31)
    assert desk.lease(ben) is not None
    for attempt in (
        lambda: desk.renew(ada, task.token),
        lambda: desk.save_draft(ada, task.token, 0, {}),
    ):
        with pytest.raises(LeaseLostError, match="ran out and others have filled it"):
            attempt()


def test_a_skipped_task_goes_to_somebody_else(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=2)
    task = desk.lease(ada)
    desk.skip(ada, task.token, "no_knowledge", "chess")
    desk.skip(ada, task.token, "no_knowledge", "chess")
    other = desk.lease(ada)
    assert other.id != task.id
    desk.submit(ada, other.token, by_text(other), "other")
    assert desk.lease(ada) is None, "a skipped task does not come back"
    assert desk.lease(store.add_labeler("ben")).id == task.id
    with pytest.raises(StoreError, match="must not have been skipped"):
        desk.submit(ada, task.token, by_text(task), "late")
    with store.reading() as session:
        (skip,) = session.scalars(select(SkipRow))
        assert (skip.reason, skip.comment) == ("no_knowledge", "chess")


def test_a_skip_needs_a_known_reason_and_an_unfinished_task(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=1)
    task = desk.lease(ada)
    with pytest.raises(StoreError, match=r"skip\.reason must be one of"):
        desk.skip(ada, task.token, "lazy", "")
    with pytest.raises(StoreError, match=r"skip\.comment must be plain text, but it holds a NUL"):
        desk.skip(ada, task.token, "other", "\x00")
    desk.submit(ada, task.token, by_text(task), "key")
    with pytest.raises(StoreError, match="must not be done to be skipped"):
        desk.skip(ada, task.token, "other", "")


def test_a_report_reaches_the_lead(store: LabelStore, desk: Desk, ada: int, fill: Callable) -> None:
    (prompt,) = fill(store, prompts=1)
    task = desk.lease(ada)
    desk.report(ada, task.token, "names a real person")
    with pytest.raises(StoreError, match=r"report\.reason must say what is wrong"):
        desk.report(ada, task.token, "  ")
    with store.reading() as session:
        (report,) = session.scalars(select(PromptReportRow))
        assert (report.prompt_id, report.reason) == (prompt.id, "names a real person")
        assert not report.resolved


def test_an_answer_is_written_to_a_prompt_without_completions(
    store: LabelStore, desk: Desk, ada: int
) -> None:
    prompt = Prompt.from_text("Write a haiku.")
    store.add_prompts([prompt])
    assert store.create_demonstration_tasks(1) == 1
    assert store.create_demonstration_tasks(1) == 0
    task = desk.lease(ada)
    assert (task.kind, task.prompt, task.completions) == ("demonstration", prompt, ())
    written = Written("Leaves fall", comment="hm", active_seconds=60.0, instructions=1)
    desk.save_draft(ada, task.token, 0, {"text": "Leaves"})
    assert desk.submit(ada, task.token, written, "key").revision == 1
    assert desk.submit(ada, task.token, written, "key").revision == 1
    done = desk.history(ada)[0]
    assert desk.reopen(ada, done.id).submitted == written
    assert desk.submit(ada, task.token, Written("Leaves fall down"), "again").revision == 2
    assert desk.overview(ada).today == 1
    assert desk.lease(store.add_labeler("ben")) is None


def test_an_answer_needs_words_and_the_right_task(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=1)
    ranking = desk.lease(ada)
    with pytest.raises(StoreError, match="must get a judgment, got the other"):
        desk.submit(ada, ranking.token, Written("words"), "key")
    desk.submit(ada, ranking.token, by_text(ranking), "key")
    store.add_prompts([Prompt.from_text("Write a haiku.")])
    store.create_demonstration_tasks(1)
    task = desk.lease(ada)
    with pytest.raises(StoreError, match="must get a written answer, got the other"):
        desk.submit(ada, task.token, by_text(ranking), "other")
    with pytest.raises(StoreError, match=r"demonstration\.text must be an answer, but it is empty"):
        desk.submit(ada, task.token, Written(" \n"), "other")
    with pytest.raises(StoreError, match="idempotency_key must be new"):
        desk.submit(ada, task.token, Written("words"), "key")


@pytest.mark.parametrize("kind", ["plain", "few_shot", "user_based"])
def test_a_labelers_own_prompt_is_a_finished_demonstration(
    store: LabelStore, desk: Desk, ada: int, kind: str
) -> None:
    messages = [{"role": "user", "content": "Name a river."}]
    receipt = desk.write_prompt(ada, messages, kind, Written("The Inn."), "key")
    assert desk.write_prompt(ada, messages, kind, Written("The Inn."), "key") == receipt
    (prompt,) = store.prompts()
    assert prompt.meta == {"written_by": "ada", "prompt_kind": kind}
    assert desk.overview(ada).today == 1
    ben = store.add_labeler("ben")
    assert desk.lease(ben) is None
    with pytest.raises(StoreError, match="in the store already"):
        desk.write_prompt(ben, messages, kind, Written("The Po."), "other")


@pytest.mark.parametrize(
    ("messages", "kind", "message"),
    [
        ([], "plain", "must end with the user's words"),
        ([{"role": "assistant", "content": "Hi"}], "plain", "must end with the user's words"),
        ([{"role": "user", "content": " "}], "plain", "must end with the user's words"),
        ([{"role": "user", "content": "Hi"}], "poem", r"prompt\.kind must be one of"),
    ],
)
def test_a_prompt_of_ones_own_needs_words(
    store: LabelStore, desk: Desk, ada: int, messages: list, kind: str, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        desk.write_prompt(ada, messages, kind, Written("answer"), "key")
    assert store.prompts() == []


def test_a_new_labeler_meets_only_the_screening(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=5)
    tests = set_purpose(store, "screening", keep=2)
    with store.writing() as session:
        session.get(LabelerRow, ada).admitted = False
    met = []
    while (task := desk.lease(ada)) is not None:
        met.append(task.id)
        assert desk.overview(ada).screening.done == len(met) - 1
        desk.submit(ada, task.token, by_text(task), task.id)
    assert sorted(met) == sorted(tests)
    overview = desk.overview(ada)
    assert (overview.screening.done, overview.screening.of) == (3, 3)
    ben = store.add_labeler("ben")
    assert desk.lease(ben).id not in tests, "the admitted do the work"
    assert store.rankings() == [], "tests are no data"
    with store.writing() as session:
        session.get(LabelerRow, ada).admitted = True
    assert desk.lease(ada).id not in tests
    assert desk.overview(ada).screening is None


def test_everyone_meets_each_gold_task_once_among_the_others(
    store: LabelStore, ada: int, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=12, overlap=3)
    gold = set(set_purpose(store, "gold", keep=9))
    desk = Desk(store, LeaseRules(gold_rate=0.5))
    for labeler in (ada, store.add_labeler("ben")):
        met = []
        while (task := desk.lease(labeler)) is not None:
            met.append(task.id)
            desk.submit(labeler, task.token, by_text(task), f"{labeler}/{task.id}")
        assert len(set(met)) == len(met)
        assert gold <= set(met)
        assert set(met[:3]) - gold, "gold tasks stand among the others"
    assert len(store.rankings()) == 2 * 9


def test_a_hidden_repeat_looks_like_any_task_and_is_no_data(
    store: LabelStore, ada: int, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=30)
    desk = Desk(store, LeaseRules(repeat_rate=0.3))
    shown: list[tuple[str, str]] = []
    while (task := desk.lease(ada)) is not None:
        assert set(vars(task)) == set(vars(desk.lease(ada)))
        shown.append((task.prompt.id, task.id))
        desk.submit(ada, task.token, by_text(task), task.id)
    times = Counter(prompt for prompt, _ in shown)
    again = purposes(store)["repeat"]
    assert 1 <= again == len(shown) - 30
    assert set(times.values()) == {1, 2}
    assert len({task for _, task in shown}) == len(shown)
    for prompt in (prompt for prompt, count in times.items() if count == 2):
        first, second = (at for at, (id_, _) in enumerate(shown) if id_ == prompt)
        assert second - first > REPEAT_AFTER
    assert len(store.rankings()) == 30
    assert desk.lease(store.add_labeler("ben")) is None, "a repeat is for nobody else"


def test_held_out_labelers_have_places_of_their_own(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=2, split="validation", held_out=1)
    held_out = [store.add_labeler(name, group="held_out") for name in ("hal", "hedy")]
    fill(store, prompts=1, split="train")
    seen = Counter()
    for labeler in (ada, *held_out):
        while (task := desk.lease(labeler)) is not None:
            seen[labeler] += 1
            desk.submit(labeler, task.token, by_text(task), f"{labeler}/{task.id}")
    assert seen == {ada: 3, held_out[0]: 2}
    assert len(store.rankings(group="held_out")) == 2
    assert store.rankings("train", "held_out") == []


def test_tasks_of_an_earlier_turn_come_first(
    store: LabelStore, desk: Desk, ada: int, fill: Callable
) -> None:
    fill(store, prompts=6)
    with store.writing() as session:
        last = session.scalars(select(TaskRow).order_by(TaskRow.id.desc())).first()
        last.turn = -1
        wanted = last.id
    assert desk.lease(ada).id == wanted


def test_a_labeler_gets_only_the_kinds_that_they_do(
    store: LabelStore, desk: Desk, ada: int, fill: Callable
) -> None:
    fill(store, prompts=2)
    store.add_prompts([Prompt.from_text("Write a haiku.")])
    store.create_demonstration_tasks(1)
    with store.writing() as session:
        session.get(LabelerRow, ada).kinds = ["demonstration"]
    assert desk.lease(ada).kind == "demonstration"
    assert desk.overview(ada).waiting == 1


def test_the_overview_counts_from_the_given_time(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, by_text: Callable, clock: Callable
) -> None:
    fill(store, prompts=4)
    task = desk.lease(ada)
    desk.submit(ada, task.token, by_text(task), "first")
    clock.advance(minutes=25 * 60)
    task = desk.lease(ada)
    desk.submit(ada, task.token, by_text(task), "second")
    assert desk.overview(ada).today == 1
    assert desk.overview(ada, clock() - timedelta(days=3)).today == 2
    assert desk.overview(ada).waiting == 2
    with pytest.raises(StoreError, match="No labeler 99"):
        desk.overview(99)


def test_an_edit_that_is_given_up_leaves_no_draft(
    store: LabelStore, desk: Desk, ada: int, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=1)
    task = desk.lease(ada)
    desk.submit(ada, task.token, by_text(task), "first")
    desk.save_draft(ada, task.token, 0, {"second": "thoughts"})
    given_up = {"page": "p", "discarded": True}
    with pytest.raises(StaleDraftError):
        desk.save_draft(ada, task.token, 0, given_up)
    told, _ = desk.save_draft(ada, task.token, 1, given_up)
    assert (told.version, told.content) == (2, given_up)
    again = desk.reopen(ada, desk.history(ada)[0].id)
    assert again.draft is None
    assert again.submitted == by_text(task)
    assert desk.save_draft(ada, task.token, 1, given_up)[0].version == 2, "said once more"
    assert desk.save_draft(ada, task.token, 0, {"third": "thoughts"})[0].version == 1
