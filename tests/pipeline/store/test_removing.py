"""What becomes of tasks when a labeler's work is taken out of training, and comes back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from pipeline.records import Prompt
from pipeline.store import LabelStore, submitting
from pipeline.store.desk import Desk
from pipeline.store.leasing import LeaseRules
from pipeline.store.oversight import Oversight
from tests.pipeline.store.people import judge_all, write_all


@pytest.fixture
def oversight(store: LabelStore) -> Oversight:
    return Oversight(store)


def open_tasks(oversight: Oversight) -> int:
    return sum(one.open for one in oversight.queue())


def labelers_of(store: LabelStore) -> dict[str, list[str]]:
    """Return whose judgments count, by prompt."""
    found: dict[str, list[str]] = {}
    for ranking in store.rankings():
        found.setdefault(ranking.prompt.id, []).append(ranking.labeler)
    return found


def test_the_places_of_a_removed_labeler_go_to_others_up_to_the_overlap(
    store: LabelStore, oversight: Oversight, fill: Callable
) -> None:
    fill(store, prompts=3, overlap=2)
    for name in ("ada", "bob"):
        assert len(judge_all(store, name)) == 3
    assert judge_all(store, "cyd") == []
    oversight.exclude("bob", "clicks through", "lena")
    assert open_tasks(oversight) == 3
    assert store.counts()["places_done"] == 3
    assert len(judge_all(store, "cyd")) == 3
    assert judge_all(store, "dan") == []
    assert open_tasks(oversight) == 0
    assert {tuple(names) for names in labelers_of(store).values()} == {("ada", "cyd")}
    assert store.counts()["places_done"] == store.counts()["places_wanted"] == 6


def test_who_comes_back_closes_the_tasks_that_nobody_has_taken_up(
    store: LabelStore, oversight: Oversight, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=3)
    assert len(judge_all(store, "ada")) == 3
    oversight.exclude("ada", "by mistake", "lena")
    desk, bob = Desk(store), store.add_labeler("bob")
    done = desk.lease(bob)
    desk.submit(bob, done.token, by_text(done), "done")
    held = desk.lease(bob)
    oversight.restore("ada")
    assert open_tasks(oversight) == 0
    assert judge_all(store, "cyd") == []
    desk.submit(bob, held.token, by_text(held), "held")
    assert desk.lease(bob) is None
    # What was in somebody's hands is not thrown away.
    assert Counter(map(len, labelers_of(store).values())) == {1: 1, 2: 2}


def test_a_removed_labeler_finishes_what_they_hold_and_gets_nothing_more(
    store: LabelStore, oversight: Oversight, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=2)
    desk, ada = Desk(store, LeaseRules(repeat_rate=0.9)), store.add_labeler("ada")
    task = desk.lease(ada)
    oversight.exclude("ada", "left", "lena")
    assert desk.overview(ada).waiting == 0
    assert desk.lease(ada).id == task.id, "theirs until they are done"
    assert len(judge_all(store, "bob")) == 2, "and free for others all the same"
    assert desk.submit(ada, task.token, by_text(task), "key").revision == 1
    assert desk.lease(ada) is None
    fill(store, prompts=9, split="validation")
    assert desk.lease(ada) is None
    oversight.restore("ada")
    assert desk.lease(ada).id != task.id
    assert desk.overview(ada).waiting == 9


def test_a_removed_labeler_is_shown_no_test_and_no_repeat(
    store: LabelStore, oversight: Oversight, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=9)
    desk, ada = Desk(store, LeaseRules(gold_rate=0.0, repeat_rate=1.0)), store.add_labeler("ada")
    for number in range(8):
        task = desk.lease(ada)
        desk.submit(ada, task.token, by_text(task), f"{number}")
    assert {one.purpose for one in oversight.judged()} == {"work", "repeat"}
    oversight.exclude("ada", "left", "lena")
    assert desk.lease(ada) is None
    oversight.admit("ada", admitted=False)
    oversight.set_gold(task.id, {choice.id: 1 for choice in task.completions}, {}, "lena")
    assert desk.lease(ada) is None


def test_places_are_counted_by_group(
    store: LabelStore, oversight: Oversight, fill: Callable
) -> None:
    fill(store, prompts=2, split="validation", held_out=1)
    judge_all(store, "ada")
    judge_all(store, "hugo", group="held_out")
    oversight.exclude("hugo", "left", "lena")
    assert judge_all(store, "bob") == []
    assert len(judge_all(store, "hanna", group="held_out")) == 2


def test_an_answer_is_written_again(store: LabelStore, oversight: Oversight) -> None:
    store.add_prompts([Prompt.from_text("One?")])
    store.create_demonstration_tasks(1)
    assert len(write_all(store, "ada", "Mine.")) == 1
    assert write_all(store, "bob", "Mine, too.") == []
    oversight.exclude("ada", "left", "lena")
    assert len(write_all(store, "bob", "Mine, too.")) == 1
    oversight.exclude("bob", "left", "lena")
    assert open_tasks(oversight) == 1


def test_a_skipped_task_stays_open(store: LabelStore, oversight: Oversight, fill: Callable) -> None:
    fill(store, prompts=1)
    desk, ada = Desk(store), store.add_labeler("ada")
    desk.skip(ada, desk.lease(ada).token, "other", "")
    oversight.exclude("ada", "left", "lena")
    oversight.restore("ada")
    assert open_tasks(oversight) == 1
    assert desk.lease(ada) is None, "what they skipped does not come back"


def test_work_that_is_just_being_submitted_is_counted(
    store: LabelStore, oversight: Oversight, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=1, overlap=2)
    judge_all(store, "ada")
    judge_all(store, "bob")
    oversight.exclude("ada", "perhaps", "lena")
    task = store.lease_task(store.add_labeler("cyd"))
    oversight.restore("ada")
    lead = threading.Thread(target=oversight.exclude, args=("ada", "after all", "lena"))
    with store.writing() as session:
        assignment = submitting.find_leased(session, task.token)
        submitting.submit(session, assignment, by_text(task), "cyd", store.clock())
        lead.start()
        lead.join(0.3)
        assert lead.is_alive(), "the lead waits for what is being stored"
    lead.join()
    assert [one.excluded is not None for one in oversight.people()] == [True, False, False]
    assert open_tasks(oversight) == 0, "bob and cyd have done it"


def test_marks_are_true_while_people_work_and_a_lead_changes_their_mind(
    location: Path | str, fill: Callable
) -> None:
    with LabelStore.open(location) as store:
        fill(store, prompts=16, k=2, overlap=2)
        store.add_labeler("bob")
        names = ("ada", "bob", "cyd", "dan")
        people = [threading.Thread(target=judge_all, args=(store, name, "0>1")) for name in names]
        for person in people:
            person.start()
        changes = 0
        while any(person.is_alive() for person in people) or changes < 4:
            Oversight(store).exclude("bob", "perhaps", "lena")
            Oversight(store).restore("bob")
            changes += 1
        for person in people:
            person.join()
        done = "(SELECT count(*) FROM assignments WHERE task_id = tasks.id AND state = 'done')"
        with store.reading() as session:
            rows = session.execute(text(f"SELECT open, {done}, overlap FROM tasks")).all()
        assert all(bool(is_open) == (count < overlap) for is_open, count, overlap in rows)
        judged = [(one.task, one.labeler) for one in Oversight(store).judged()]
        assert len(judged) == len(set(judged)) == sum(count for _, count, _ in rows)
        for name in names:
            judge_all(store, name, "0>1")
        assert open_tasks(Oversight(store)) == 0
