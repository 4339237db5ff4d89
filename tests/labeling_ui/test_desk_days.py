"""Hold the desk to the hours: a labeler's own day, and a system's clock that is set back."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from labeling_ui.app import Parts, create_app
from labeling_ui.settings import AppSettings
from pipeline.store import LabelStore
from pipeline.store.accounts import Accounts
from pipeline.store.clock import SteadyClock, utc_now
from tests.labeling_ui.boards import LEASE, Board, add_tasks, desk_parts, submission
from tests.labeling_ui.browsers import GOOD, HERE

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Machine:
    """A machine whose clock can be set, beside one that cannot."""

    def __init__(self) -> None:
        self.now, self.seconds = NOON, 1000.0

    def wait(self, **span: float) -> None:
        self.now += timedelta(**span)
        self.seconds += timedelta(**span).total_seconds()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def clock(machine: Machine) -> SteadyClock:
    return SteadyClock(wall=lambda: machine.now, monotonic=lambda: machine.seconds)


@pytest.fixture
def parts(store: LabelStore) -> Parts:
    return desk_parts(store)


def test_today_begins_when_the_labelers_day_did(
    bob: Board, fill: Callable, machine: Machine
) -> None:
    fill(prompts=3)
    evening = {"Steerline-Day": "2029-12-31T23:00:00.000Z"}
    assert bob.post("/submit", submission(bob.lease(), "one"), **evening)["today"] == 1
    machine.wait(hours=11)
    assert bob.post("/submit", submission(bob.lease(), "two"), **evening)["today"] == 2
    assert bob.get(**evening)["today"] == 2
    # In Berlin the next day begins at 23:00 UTC.
    machine.wait(minutes=30)
    morning = {"Steerline-Day": "2030-01-02T00:00:00+01:00"}
    assert bob.get(**morning)["today"] == 1
    assert bob.post("/submit", submission(bob.lease(), "three"), **morning)["today"] == 2
    assert bob.get(**{"Steerline-Day": "2030-01-01T23:15:00Z"})["today"] == 1
    assert bob.get()["today"] == 3, "without a word of the page, the day is UTC's"


def test_a_prompt_of_ones_own_counts_into_the_labelers_day(bob: Board, machine: Machine) -> None:
    messages = [{"role": "user", "content": "Name a tree."}]
    body = {"kind": "plain", "messages": messages, "text": "Oak.", "key": "own"}
    later = (machine.now + timedelta(minutes=1)).isoformat()
    assert bob.post("/prompt", body, **{"Steerline-Day": NOON.isoformat()})["today"] == 1
    assert bob.post("/prompt", body, **{"Steerline-Day": later})["today"] == 0


@pytest.mark.parametrize(
    "day",
    [
        "",
        "today",
        "2030-01-01",
        "2030-01-01T00:00:00",
        "2030-13-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1e400",
        "NaN",
    ],
)
def test_a_day_that_is_no_instant_is_refused_and_nothing_is_stored(
    day: str, bob: Board, fill: Callable, store: LabelStore
) -> None:
    fill()
    body = submission(bob.lease())
    headers = {"Steerline-Day": day}
    for answer in (
        bob.send("/submit", body, **headers),
        bob.client.get("/api/desk", headers=headers),
    ):
        told = answer.json()
        assert (answer.status_code, told["code"]) == (400, "refused")
        assert told["error"].startswith("Steerline-Day: ")
        assert "\n" not in told["error"]
    assert store.counts()["judgments_human"] == 0


def test_a_clock_set_back_while_serving_moves_no_lease_and_no_session(
    bob: Board, ada: Board, fill: Callable, machine: Machine
) -> None:
    fill(prompts=1)
    task = bob.lease()
    began = datetime.fromisoformat(task["lease_expires"]) - LEASE
    assert began == NOON
    machine.now -= timedelta(days=3)
    machine.wait(minutes=20)
    beat = bob.post("/heartbeat", {"token": task["token"]})
    assert datetime.fromisoformat(beat["lease_expires"]) == NOON + timedelta(minutes=20) + LEASE
    machine.wait(minutes=29)
    assert ada.lease() is None, "the lease has not ended early"
    machine.now -= timedelta(hours=1)
    machine.wait(minutes=2)
    theirs = ada.lease()
    assert theirs is not None, "the lease has ended"
    receipt = ada.submit(theirs)["receipt"]
    assert datetime.fromisoformat(receipt["created"]) == NOON + timedelta(minutes=51)
    assert bob.refused("/submit", submission(task, "late"), 410)["code"] == "gone"
    machine.wait(hours=11)
    assert bob.get()["today"] == 0
    machine.wait(minutes=10)
    assert bob.refused("/lease", {}, 401)["code"] == "signed_out"


def browse(store: LabelStore, lease: timedelta) -> TestClient:
    app = create_app(store, AppSettings(), desk_parts(store, lease))
    return TestClient(app, HERE, headers={"origin": HERE}, follow_redirects=False)


def test_a_clock_set_back_between_two_runs_moves_no_lease_and_no_time(
    tmp_path: Path, blank: Path, sign_in: Callable
) -> None:
    path = tmp_path / "ahead.db"
    path.write_bytes(blank.read_bytes())
    ahead = utc_now() + timedelta(days=400)
    lease = timedelta(seconds=1)
    with LabelStore.open(path, clock=lambda: ahead) as store:
        accounts = Accounts(store)
        for name in ("ada", "bob"):
            once = accounts.add(name, "lead")
            accounts.change_password(accounts.sign_in(name, once, HERE).account.id, once, GOOD)
        add_tasks(store)
        client = browse(store, lease)
        sign_in(client, "bob")
        held = Board(client).lease()
    with LabelStore.open(path) as store:
        one, other = browse(store, lease), browse(store, lease)
        sign_in(one, "bob")
        sign_in(other, "ada")
        bob, ada = Board(one), Board(other)
        assert ada.lease() is None
        assert bob.lease() == held
        time.sleep(lease.total_seconds() + 0.1)
        theirs = ada.lease()
        assert theirs is not None
        receipt = ada.submit(theirs)["receipt"]
        assert datetime.fromisoformat(receipt["created"]) > ahead
