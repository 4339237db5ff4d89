from __future__ import annotations

import functools
import itertools
import shutil
import threading

import pytest
import torch

from pipeline import serving_turns
from pipeline.cached_model import CachedModel
from pipeline.config.sampling import DecodingSection
from pipeline.judges import RewardJudge
from pipeline.records import Prompt
from pipeline.serving_memory import cache_bytes, room_for
from pipeline.serving_messages import (
    Distribution,
    DistributionRequest,
    Failed,
    GenerationRequest,
    Loading,
    Queued,
    Token,
)
from pipeline.serving_wire import Cancel, Done, ListModels, Models
from pipeline.streaming import Policy
from tests.pipeline.offices import LONG, MIDDLE, SHORT, SOME, Office, ask_of, fill, line_up

PROMPT = Prompt.from_text("Where does Tom live?")


@pytest.fixture(scope="module")
def policy(make_policy, tiny_formatter):
    return Policy("ours", make_policy(0, torch.float32), tiny_formatter)


def read(model, length):
    """Return the bytes of the keys and values after so many tokens."""
    reader = CachedModel(model)
    ids = torch.full((1, length), 5)
    for end in range(1, length + 1):
        reader.read(ids[:, :end], torch.ones(1, end, dtype=torch.bool))
    return sum(part.nbytes for layer in reader._cache.layers for part in (layer.keys, layer.values))


@pytest.mark.parametrize("shape", [{}, {"num_kv_heads": 4}, {"num_layers": 3}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_told_is_what_is_kept(make_policy, shape, dtype):
    model = make_policy(0, dtype, **shape)
    assert cache_bytes(model, 20) == read(model, 20)


def test_a_sliding_window_keeps_no_more_than_itself(make_policy):
    model = make_policy(0, torch.float32, sliding_window=8)
    kept = read(model, 20)
    assert kept <= cache_bytes(model, 20) <= kept * 8 / 7, "all of the window but the next token"
    assert cache_bytes(model, 5) == read(model, 5)


def asked(samples=1, tokens=12, **fields):
    decoding = DecodingSection(max_new_tokens=tokens)
    return GenerationRequest("ours", PROMPT.messages, decoding, samples, **fields)


def test_every_answer_of_policy_and_reference_counts_at_its_full_length(policy):
    length = len(policy.formatter.prompt_ids(PROMPT.messages)) + 12
    row = cache_bytes(policy.model, length)
    assert room_for(asked(), [policy]) == row
    assert room_for(asked(samples=3), [policy, policy]) == 6 * row


def test_the_judge_reads_one_answer_after_the_other(policy, reward_folder):
    judge = RewardJudge(reward_folder)
    length = len(policy.formatter.prompt_ids(PROMPT.messages)) + 12
    row = cache_bytes(policy.model, length)
    assert room_for(asked(samples=3), [policy, judge]) == 3 * row + cache_bytes(judge.model, length)


def test_a_look_reads_with_one_model_after_the_other(policy):
    prompt = len(policy.formatter.prompt_ids(PROMPT.messages))
    look = DistributionRequest("ours", PROMPT.messages, (5, 6, 7))
    assert room_for(look, [policy, policy]) == cache_bytes(policy.model, prompt + 3)


def test_what_is_refused_for_its_length_needs_no_memory(policy):
    assert room_for(asked(tokens=10**6), [policy]) == 0
    assert room_for(DistributionRequest("ours", PROMPT.messages, (5,) * 100), [policy]) == 0


@pytest.fixture
def ask(long_folder):
    return functools.partial(ask_of, long_folder)


@pytest.fixture
def two_folders(long_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(long_folder, other)
    return long_folder, other


@pytest.fixture
def impatient(monkeypatch):
    """Let whoever waits for memory have waited for too long."""
    monkeypatch.setattr(serving_turns, "PATIENCE", 0.0)
    monkeypatch.setattr(serving_turns, "LIMIT", 0.0)


def with_one_in_line(ask, other, memory_bytes):
    """Return an office where 1 answers at length, and 2 waits for what another model needs."""
    office = Office(memory_bytes=memory_bytes)
    fill(office, ask, 1, decoding=MIDDLE)
    line_up(office, ask, 2, model=other)
    return office


def test_what_does_not_fit_beside_the_others_waits_and_those_behind_it_do_not(
    ask, two_folders, memory_for
):
    first, other = two_folders
    office = with_one_in_line(ask, other, memory_for(MIDDLE, SHORT))
    office.desk.put(3, ask(model=first))
    office.answer(3)
    assert not office.about(1, Done)
    assert not office.about(2, Token)
    office.desk.put(1, Cancel())
    office.answer(2)
    office.desk.put(4, ListModels())
    office.answer(4)
    assert [model.path for model in office.about(4, Models)[0].models] == [str(other)]


def test_keys_and_values_that_do_not_fit_wait_until_there_is_room(ask, memory_for):
    office = Office(memory_bytes=memory_for(MIDDLE, SHORT))
    fill(office, ask, 1, decoding=MIDDLE)
    line_up(office, ask, 2, decoding=MIDDLE)
    office.desk.put(3, ask())
    office.answer(3)
    assert not office.about(2, Token)
    office.desk.put(1, Cancel())
    office.step_until(lambda: office.about(2, Token))
    assert len(office.about(2, Loading)) == 0, "the model was there"
    office.desk.put(2, Cancel())
    office.desk.put(4, ask(MIDDLE))
    office.answer(4)
    assert office.desk._models._room == 0


def test_keys_and_values_that_can_never_fit_are_refused_in_one_line(ask, long_folder, memory_for):
    office = Office(memory_bytes=memory_for(SHORT))
    office.desk.put(1, ask(LONG))
    office.desk.put(2, ask())
    office.answer(1, 2)
    (failed,) = office.about(1, Failed)
    assert failed.reason.startswith(f"{long_folder} needs ")
    assert "for keys and values" in failed.reason
    assert "\n" not in failed.reason
    assert office.about(2, Done)
    assert office.desk._models._room == 0


@pytest.mark.usefixtures("impatient")
def test_who_waited_for_long_is_passed_by_those_who_do_not_make_it_wait_longer(
    ask, two_folders, memory_for
):
    first, other = two_folders
    office = with_one_in_line(ask, other, memory_for(MIDDLE, SHORT))
    office.desk.put(3, ask(model=first))
    office.desk.put(4, DistributionRequest(str(first), PROMPT.messages))
    office.answer(3, 4)
    assert office.about(4, Distribution)
    assert not office.about(1, Done)
    assert not office.about(2, Token)


@pytest.mark.usefixtures("impatient")
def test_who_waits_is_passed_for_some_time_by_all_whose_models_are_read(
    ask, two_folders, memory_for, monkeypatch
):
    first, other = two_folders
    monkeypatch.setattr(serving_turns, "LIMIT", 60.0)
    office = with_one_in_line(ask, other, memory_for(MIDDLE, MIDDLE))
    fill(office, ask, 3, decoding=MIDDLE, model=first)
    assert not office.about(1, Done)
    assert not office.about(2, Token)


@pytest.mark.usefixtures("impatient")
def test_who_waited_for_long_is_passed_by_none_that_may_take_longer_than_those_at_work(
    ask, two_folders, memory_for
):
    first, other = two_folders
    office = with_one_in_line(ask, other, memory_for(MIDDLE, MIDDLE))
    line_up(office, ask, 3, decoding=MIDDLE, model=first)
    office.desk.put(1, Cancel())
    office.answer(2, 3)
    order = [number for number, message in office.said if message == Done()]
    assert order == [2, 3]


@pytest.mark.usefixtures("impatient")
def test_who_waits_for_memory_has_it_in_the_end_however_many_others_come(
    ask, two_folders, memory_for
):
    _, other = two_folders
    office = Office(memory_bytes=memory_for(SOME, SHORT, SHORT))
    fill(office, ask, 1, decoding=SOME, asker="a")
    line_up(office, ask, 2, model=other, asker="a")
    numbers = itertools.count(3)
    coming = []

    def go_on():
        coming[:] = [number for number in coming if not office.about(number, Done)]
        while len(coming) < 2:
            coming.append(next(numbers))
            office.desk.put(coming[-1], ask(seed=coming[-1], asker=f"b{coming[-1]}"))
        return office.about(2, Done)

    office.step_until(go_on)
    order = [number for number, message in office.said if message == Done()]
    assert order.index(1) > 1, "some passed while the first was at work"


@pytest.mark.usefixtures("impatient")
def test_one_that_waited_for_memory_holds_nobody_up_once_it_loads(
    ask, two_folders, memory_for, monkeypatch
):
    _, other = two_folders
    office = Office(memory_bytes=memory_for(MIDDLE))
    fill(office, ask, 1, decoding=MIDDLE)
    line_up(office, ask, 2, model=other)
    gate, load = threading.Event(), office.desk._models._load

    def load_late(*given):
        assert gate.wait(30)
        return load(*given)

    monkeypatch.setattr(office.desk._models, "_load", load_late)
    office.desk.put(1, Cancel())
    office.step_until(lambda: office.about(2, Loading))
    office.desk.put(3, ask(model=other))
    line = office.desk._line
    office.step_until(lambda: office.about(3, Queued) or any(job.lease for job in line[1:]))
    assert not office.about(3, Queued)
    gate.set()
    office.answer(2, 3)
