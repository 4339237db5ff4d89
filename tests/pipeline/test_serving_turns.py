from __future__ import annotations

import functools
import itertools
import time
from concurrent.futures import Future

import pytest

from pipeline import serving_turns
from pipeline.config.sampling import DecodingSection
from pipeline.served_models import Lease
from pipeline.serving_messages import (
    Distribution,
    DistributionRequest,
    GenerationRequest,
    Queued,
    ServingSettings,
    Token,
)
from pipeline.serving_turns import Job, Rota, has_place, in_order
from pipeline.serving_wire import Done
from tests.pipeline.offices import LONG, MESSAGES, Office, ask_of, fill, line_up

LEASE = Lease((), (), 0, ())
numbers = itertools.count(1)


def answer(asker, **fields):
    request = GenerationRequest("ours", MESSAGES, DecodingSection(max_new_tokens=9), asker=asker)
    return Job(next(numbers), request, Future(), **fields)


def look(asker, **fields):
    return Job(
        next(numbers), DistributionRequest("ours", MESSAGES, asker=asker), Future(), **fields
    )


def give_turns(rota, count):
    """Give so many turns and return whose they were."""
    taken = []
    for _ in range(count):
        job = rota.take()
        taken.append(job)
        rota.add(job)
    return taken


def test_turns_go_from_asker_to_asker_however_many_requests_each_has():
    rota = Rota()
    first, second, third, other = answer("a"), answer("a"), answer("a"), answer("b")
    for job in (first, second, third, other):
        rota.add(job)
    assert len(rota) == 4
    assert set(rota) == {first, second, third, other}
    assert give_turns(rota, 8) == [first, other, second, other, third, other, first, other]


def test_a_look_goes_before_the_answers_of_its_asker_and_of_nobody_else():
    rota = Rota()
    first, other, asked = answer("a"), answer("b"), look("a")
    for job in (first, other, asked):
        rota.add(job)
    assert give_turns(rota, 4) == [asked, other, asked, other]
    rota.remove(asked)
    assert give_turns(rota, 2) == [first, other]


def test_what_is_taken_out_has_no_turn():
    rota = Rota()
    first, second = answer("a"), answer("b")
    rota.add(first)
    rota.add(second)
    rota.remove(first)
    assert give_turns(rota, 2) == [second, second]
    rota.remove(second)
    assert len(rota) == 0
    assert not list(rota)


def test_who_has_least_under_way_begins_first():
    at_work = [answer("a", lease=LEASE), answer("a", lease=LEASE), answer("b", lease=LEASE)]
    line = [answer("a"), answer("b"), answer("c"), answer("c"), answer("b")]
    ordered = in_order(line, at_work)
    assert [job.asker for job in ordered] == ["c", "b", "c", "a", "b"]
    assert ordered[0] is line[2], "of one asker's, the first to come is the first"
    assert in_order(line[:1], []) == line[:1]


def test_looks_and_what_loads_and_who_waited_for_long_come_before_all_answers():
    long_ago = time.monotonic() - serving_turns.PATIENCE - 1
    just_now = time.monotonic()
    line = [answer("b"), answer("a", waits_since=just_now), answer("a", waits_since=long_ago)]
    line += [answer("a", lease=LEASE), look("a")]
    ordered = in_order(line, [answer("a"), answer("a")])
    assert ordered == [line[2], line[3], line[4], line[0], line[1]]


@pytest.mark.parametrize(
    ("under_way", "job", "expected"),
    [
        ([], answer("a"), True),
        ([answer("a")] * 3, answer("a"), True),
        ([answer("a")] * 4, answer("a"), False),
        ([answer("a")] * 4, answer("b"), True),
        ([answer("a")] * 4 + [answer("b")] * 3, answer("b"), True),
        ([answer("a")] * 4 + [answer("b")] * 4, answer("b"), False),
        ([answer("a")] * 4 + [answer("b")] * 4, answer("c"), True),
        ([answer("a")] * 4 + [answer("b")] * 3 + [answer("c")], answer("c"), False),
        ([answer("a")] * 4 + [answer("b")] * 4, look("a"), True),
        ([look("a")], look("a"), False),
        ([look("a")], look("b"), True),
        ([look("a")] * 8, answer("a"), True),
    ],
)
def test_nobody_has_all_places_and_everybody_has_one(under_way, job, expected):
    assert has_place(job, under_way, ServingSettings(active=8)) is expected


def test_one_place_is_enough_for_everybody_to_have_one():
    settings = ServingSettings(active=1)
    assert settings.share == 1
    assert not has_place(answer("a"), [answer("a")], settings)
    assert has_place(answer("b"), [answer("a")], settings)


def test_turns_left_are_those_of_the_longest_answer_and_none_of_a_look():
    assert answer("a").turns_left == 9
    assert answer("a", turns=5).turns_left == 4
    assert answer("a", turns=12).turns_left == 0
    assert look("a").turns_left == 0


@pytest.fixture
def ask(long_folder):
    return functools.partial(ask_of, long_folder)


def test_one_asker_keeps_nobody_else_from_an_answer(ask):
    office = Office()
    fill(office, ask, 1, 2, 3, 4, asker="a")
    line_up(office, ask, 5, decoding=LONG, asker="a")
    office.desk.put(6, ask(asker="b"))
    office.answer(6)
    assert not office.about(6, Queued)
    assert not any(office.about(number, Done) for number in (1, 2, 3, 4))
    assert not office.about(5, Token)


def test_whoever_has_no_answer_at_work_begins_one_though_all_places_are_taken(ask):
    office = Office(active=2)
    fill(office, ask, 1, asker="a")
    fill(office, ask, 2, asker="b")
    office.desk.put(3, ask(asker="c"))
    office.answer(3)
    assert not office.about(1, Done)
    line_up(office, ask, 4, asker="a")


def test_turns_are_shared_between_askers_and_not_between_their_answers(ask):
    office = Office()
    fill(office, ask, 1, 2, 3, asker="a")
    fill(office, ask, 4, asker="b")
    before = len(office.said)
    for _ in range(12):
        office.desk.step()
    whose = [number == 4 for number, _ in office.said[before:]]
    assert len(whose) == 12, "a token each"
    assert whose[::2] == [whose[0]] * 6
    assert whose[1::2] == [not whose[0]] * 6


def test_a_look_waits_for_no_answer_whether_for_a_place_or_for_memory(ask, long_folder, memory_for):
    office = Office(active=1, memory_bytes=memory_for(LONG))
    fill(office, ask, 1, asker="a")
    line_up(office, ask, 2, asker="a")
    for number, asker in ((3, "a"), (4, "b")):
        office.desk.put(number, DistributionRequest(str(long_folder), MESSAGES, asker=asker))
    office.answer(3, 4)
    assert office.about(3, Distribution)
    assert office.about(4, Distribution)
    assert not office.about(1, Done)
