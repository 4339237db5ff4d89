from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.store import Judgment, LabelStore
from pipeline.store.clock import SteadyClock, newest_time, utc_now

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Machine:
    """A machine whose clock can be set, beside one that cannot."""

    def __init__(self) -> None:
        self.now, self.seconds = NOON, 1000.0

    def wall(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.seconds += seconds

    def clock(self, newest: datetime | None = None) -> SteadyClock:
        return SteadyClock(newest, wall=self.wall, monotonic=self.monotonic)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_it_tells_the_systems_time(machine: Machine) -> None:
    clock = machine.clock()
    assert clock() == NOON
    machine.wait(90)
    assert clock() == NOON + timedelta(seconds=90)
    machine.now += timedelta(hours=1)
    assert clock() == NOON + timedelta(hours=1, seconds=90)


def test_stepped_back_it_goes_on_at_the_same_pace_and_says_so_once(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    clock = machine.clock()
    assert clock() == NOON
    machine.now -= timedelta(hours=3)
    assert clock() == NOON
    machine.wait(600)
    assert clock() == NOON + timedelta(minutes=10)
    machine.now -= timedelta(hours=1)
    machine.wait(60)
    assert clock() == NOON + timedelta(minutes=11)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "3:00:00 behind the time it told before" in caplog.text


def test_set_right_again_it_follows_the_system(machine: Machine) -> None:
    clock = machine.clock()
    machine.now -= timedelta(hours=3)
    clock()
    machine.now += timedelta(hours=5)
    assert clock() == NOON + timedelta(hours=2)


def test_a_correction_of_a_second_is_no_step(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    clock = machine.clock()
    for _ in range(100):
        machine.wait(60)
        machine.now -= timedelta(seconds=1)
        clock()
    assert caplog.records == []


def test_it_starts_no_earlier_than_the_newest_time(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    newest = NOON + timedelta(days=1)
    clock = machine.clock(newest)
    assert clock() == newest
    machine.wait(5)
    assert clock() == newest + timedelta(seconds=5)
    assert caplog.text.count("1 day, 0:00:00 behind the newest time in the label store") == 1
    assert machine.clock(NOON - timedelta(days=1))() == NOON + timedelta(seconds=5)


def test_many_threads_never_see_it_go_back(machine: Machine) -> None:
    clock = machine.clock()
    backwards: list[bool] = []

    def read() -> None:
        last = clock()
        for _ in range(300):
            now = clock()
            backwards.append(now < last)
            last = now

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for step in range(300):
        machine.now += timedelta(seconds=1 if step % 3 else -2)
        machine.seconds += 0.001
    for thread in threads:
        thread.join()
    assert len(backwards) == 1200
    assert not any(backwards)


def test_the_newest_time_is_the_last_that_was_written(store: LabelStore, clock, fill) -> None:
    def newest() -> datetime | None:
        with store.reading() as session:
            return newest_time(session)

    assert newest() is None
    fill(store)
    assert newest() == clock.now
    clock.advance(10)
    labeler = store.add_labeler("ada")
    assert newest() == clock.now
    clock.advance(10)
    task = store.lease_task(labeler)
    assert task is not None
    assert newest() == clock.now, "the end of a lease lies in the future and does not count"
    clock.advance(10)
    ranks = {choice.id: 1 for choice in task.completions}
    store.submit(task.token, Judgment(ranks), "key")
    assert newest() == clock.now


def test_an_imported_time_of_the_future_does_not_count(
    store: LabelStore, clock, tmp_path: Path
) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(
        '{"prompt": "hi", "completions": ["a", "b"], "ranks": [1, 2], '
        '"created": "2099-01-01T00:00:00Z"}\n',
        encoding="utf-8",
    )
    store.import_jsonl(file)
    with store.reading() as session:
        assert newest_time(session) == clock.now


def test_a_store_opened_again_goes_on_from_what_it_holds(path: Path, blank: Path) -> None:
    ahead = utc_now() + timedelta(days=400)
    with LabelStore.open(path, clock=lambda: ahead) as store:
        store.add_labeler("ada")
        assert store.clock() == ahead
    with LabelStore.open(path) as store:
        assert store.clock() >= ahead
    with LabelStore.open(blank) as store:
        assert abs(store.clock() - utc_now()) < timedelta(minutes=1)
