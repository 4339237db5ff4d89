from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event, text

from pipeline.errors import StoreError
from pipeline.store import LabelStore

HAMMER = """
import sys
from pipeline.store import Judgment, LabelStore

path, process = sys.argv[1:]
with LabelStore.open(path, create=False) as store:
    labelers = [store.add_labeler(f"p{process}-{i}") for i in range(3)]
    open_ = set(labelers)
    while open_:
        for labeler in sorted(open_):
            task = store.lease_task(labeler)
            if task is None:
                open_.discard(labeler)
                continue
            ranks = {choice.id: i for i, choice in enumerate(task.completions, start=1)}
            store.submit(task.token, Judgment(ranks), f"{labeler}/{task.id}")
"""


def test_processes_at_once_fill_every_place_exactly_once(
    location: Path | str, fill: Callable
) -> None:
    tasks, overlap = 20, 3
    with LabelStore.open(location) as store:
        fill(store, prompts=tasks, k=2, overlap=overlap)
        processes = [
            subprocess.Popen([sys.executable, "-c", HAMMER, str(location), str(i)])
            for i in range(4)
        ]
        try:
            assert [process.wait(timeout=60) for process in processes] == [0, 0, 0, 0]
        finally:
            for process in processes:
                process.kill()
        counts = store.counts()
        assert counts["places_done"] == counts["judgments_human"] == tasks * overlap
        assert counts["places_leased"] == 0
        rankings = store.rankings()
    per_task = Counter(ranking.prompt.id for ranking in rankings)
    assert set(per_task.values()) == {overlap}
    twice = Counter((ranking.prompt.id, ranking.labeler) for ranking in rankings)
    assert max(twice.values()) == 1


def test_a_labeler_meets_each_task_once(
    store: LabelStore, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=5, overlap=2)
    labeler = store.add_labeler("ada")
    seen = []
    for _ in range(5):
        task = store.lease_task(labeler)
        seen.append(task.id)
        store.submit(task.token, by_text(task), f"{task.id}/{len(seen)}")
    assert len(set(seen)) == 5
    assert store.lease_task(labeler) is None


def test_no_more_leases_than_places(store: LabelStore, fill: Callable) -> None:
    fill(store, prompts=1, overlap=2)
    tasks = [store.lease_task(store.add_labeler(name)) for name in ("ada", "bob", "cyd")]
    assert [task is not None for task in tasks] == [True, True, False]
    assert tasks[0].token != tasks[1].token


def test_asking_again_gives_the_same_lease(store: LabelStore, fill: Callable) -> None:
    fill(store, prompts=3)
    labeler = store.add_labeler("ada")
    assert store.lease_task(labeler) == store.lease_task(labeler)
    assert store.counts()["places_leased"] == 1


def test_a_lease_that_ran_out_is_a_free_place(
    store: LabelStore, fill: Callable, by_text: Callable, clock: Callable
) -> None:
    fill(store, prompts=1)
    ada, bob = store.add_labeler("ada"), store.add_labeler("bob")
    late = store.lease_task(ada)
    assert store.lease_task(bob) is None
    clock.advance(minutes=31)
    assert store.counts()["places_leased"] == 0
    task = store.lease_task(bob)
    assert task.id == late.id
    assert store.lease_task(ada) is None
    with pytest.raises(StoreError, match=f"lease of task {late.id} ran out"):
        store.submit(late.token, by_text(late), "ada")
    store.submit(task.token, by_text(task), "bob")
    assert [ranking.labeler for ranking in store.rankings()] == ["bob"]


def test_slow_work_is_kept_while_its_place_is_free(
    store: LabelStore, fill: Callable, by_text: Callable, clock: Callable
) -> None:
    fill(store, prompts=1)
    task = store.lease_task(store.add_labeler("ada"))
    clock.advance(minutes=600)
    assert store.submit(task.token, by_text(task), "ada").revision == 1
    assert store.lease_task(store.add_labeler("bob")) is None


def test_a_labeler_may_take_up_a_lapsed_lease_again(
    store: LabelStore, fill: Callable, clock: Callable
) -> None:
    fill(store, prompts=1)
    labeler = store.add_labeler("ada")
    first = store.lease_task(labeler)
    clock.advance(minutes=31)
    again = store.lease_task(labeler)
    assert (again.id, again.token, again.completions) == (first.id, first.token, first.completions)
    assert again.lease_expires > first.lease_expires


def test_orders_differ_between_labelers_and_are_the_same_in_every_run(
    store: LabelStore, fill: Callable, tmp_path: Path
) -> None:
    def orders(target: LabelStore) -> list[list[str]]:
        fill(target, prompts=1, k=6, overlap=8)
        labelers = [target.add_labeler(f"labeler {i}") for i in range(8)]
        return [
            [choice.text for choice in target.lease_task(labeler).completions]
            for labeler in labelers
        ]

    first = orders(store)
    assert len({tuple(order) for order in first}) > 4
    assert {tuple(sorted(order)) for order in first} == {tuple(f"answer {j}" for j in range(6))}
    with LabelStore.open(tmp_path / "other.db") as other:
        assert orders(other) == first


def test_a_task_shows_nothing_of_the_models(store: LabelStore, fill: Callable) -> None:
    fill(store, prompts=1)
    task = store.lease_task(store.add_labeler("ada"))
    shown = json.dumps([vars(choice) for choice in task.completions])
    assert set(vars(task.completions[0])) == {"id", "text"}
    assert "sft" not in shown
    assert "tiny" not in shown


def test_an_unknown_labeler_gets_no_task(store: LabelStore) -> None:
    with pytest.raises(StoreError, match="No labeler 12"):
        store.lease_task(12)


def open_tasks(store: LabelStore) -> dict[str, bool]:
    """Return the mark of each task, and hold it against what the assignments say."""
    done = "(SELECT count(*) FROM assignments WHERE task_id = tasks.id AND state = 'done')"
    with store.reading() as session:
        rows = session.execute(text(f"SELECT id, open, overlap > {done} FROM tasks")).all()
    marked = {id_: bool(mark) for id_, mark, _ in rows}
    assert marked == {id_: bool(wanted) for id_, _, wanted in rows}
    return marked


def test_a_full_task_is_marked_and_more_overlap_opens_it_again(
    store: LabelStore, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=2, overlap=2)
    ada, ben = store.add_labeler("ada"), store.add_labeler("ben")
    first = store.lease_task(ada)
    store.submit(first.token, by_text(first), "ada")
    assert open_tasks(store)[first.id], "one of two labelers is done"
    again = store.lease_task(ben)
    assert again.id == first.id
    store.submit(again.token, by_text(again), "ben")
    assert open_tasks(store)[first.id] is False
    store.submit(again.token, by_text(again, comment="a revision takes no place"), "ben, again")
    assert sorted(open_tasks(store).values()) == [False, True]

    store.create_ranking_tasks(3, "train")
    assert all(open_tasks(store).values())
    store.create_ranking_tasks(1, "train")
    assert sorted(open_tasks(store).values()) == [False, True]


def test_an_import_fills_its_task(
    tmp_path: Path, store: LabelStore, fill: Callable, by_text: Callable
) -> None:
    fill(store, prompts=1)
    task = store.lease_task(store.add_labeler("ada"))
    store.submit(task.token, by_text(task), "key")
    store.export_jsonl(tmp_path / "labels.jsonl")
    with LabelStore.open(tmp_path / "other.db") as other:
        other.import_jsonl(tmp_path / "labels.jsonl")
        assert other.lease_task(other.add_labeler("ben")) is None
        assert list(open_tasks(other).values()) == [False]


def test_a_lease_reads_the_open_tasks_by_their_index(path: Path, blank: Path) -> None:
    shutil.copy(blank, path)
    store = LabelStore.open(path)
    labeler = store.add_labeler("ada")
    statements: list[tuple[str, object]] = []

    def note(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        statements.append((statement, parameters))

    event.listen(store._engine, "before_cursor_execute", note)
    assert store.lease_task(labeler) is None
    statement, parameters = next(pair for pair in statements if "tasks.overlap" in pair[0])
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    assert "USING INDEX ix_tasks_open_tasks_turn_tasks_id (open=?)" in plan[0][-1]
    assert not any("TEMP B-TREE" in row[-1] for row in plan), "the order comes from the index"
