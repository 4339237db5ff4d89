from __future__ import annotations

import shutil
import time

import pytest
import torch

from pipeline import serving_worker
from pipeline.config.sampling import DecodingSection
from pipeline.models import save_model
from pipeline.records import Prompt
from pipeline.served_models import find_model
from pipeline.serving_messages import (
    Distribution,
    DistributionRequest,
    Failed,
    Finished,
    GenerationRequest,
    Loading,
    Queued,
    ServingSettings,
    Token,
)
from pipeline.serving_wire import Cancel, Done, ListModels, Models
from pipeline.serving_worker import Desk

MESSAGES = Prompt.from_text("Where does Tom live?").messages
LONG = DecodingSection(max_new_tokens=400, min_new_tokens=400)
"""What is still at work when others are answered; it is cancelled, and never finished."""
SOME = DecodingSection(max_new_tokens=30, min_new_tokens=30)
SHORT = DecodingSection(max_new_tokens=4, min_new_tokens=4)


class Office:
    """A desk, and what it has said."""

    def __init__(self, **settings):
        self.said = []
        self.desk = Desk(
            ServingSettings(**{"device": "cpu", **settings}),
            lambda number, message: self.said.append((number, message)),
        )

    def about(self, number, kind=object):
        return [message for to, message in self.said if to == number and isinstance(message, kind)]

    def step_until(self, holds):
        end = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < end, self.said
            self.desk.step()

    def answer(self, *numbers):
        ends = (Done, Failed, Models)
        self.step_until(lambda: all(self.about(number, ends) for number in numbers))


@pytest.fixture(scope="module")
def model_folder(make_policy, tiny_tokenizer, tmp_path_factory):
    """Return a policy with room for long answers."""
    folder = tmp_path_factory.mktemp("long") / "model"
    model = make_policy(0, torch.float32, context=512)
    save_model(folder, model, tiny_tokenizer, "# For tests\n")
    return folder


@pytest.fixture
def ask(model_folder):
    def make(decoding=SHORT, model=model_folder, **fields):
        return GenerationRequest(str(model), MESSAGES, decoding, **fields)

    return make


def test_an_answer_is_loading_tokens_the_end_and_done(ask, model_folder, reward_folder):
    office = Office()
    request = ask(reference=str(model_folder), reward=str(reward_folder), samples=2)
    office.desk.put(1, request)
    office.answer(1)
    kinds = [type(message).__name__ for message in office.about(1)]
    assert kinds == ["Loading"] * 2 + ["Token"] * 8 + ["Finished"] * 2 + ["Done"]
    paths = [message.path for message in office.about(1, Loading)]
    assert paths == [str(model_folder), str(reward_folder)]
    end = office.about(1, Finished)[0]
    assert end.kl == pytest.approx(0, abs=1e-6), "the reference is the policy"
    assert end.score is not None


def test_what_is_loaded_is_not_loaded_again(ask):
    office = Office()
    for number in (1, 2):
        office.desk.put(number, ask())
        office.answer(number)
    assert office.about(1, Loading)
    assert not office.about(2, Loading)
    assert [one.text for one in office.about(1, Finished)] == [
        one.text for one in office.about(2, Finished)
    ]


def test_requests_are_answered_in_turns_so_that_a_short_one_overtakes_a_long_one(ask):
    office = Office()
    office.desk.put(1, ask(LONG))
    office.step_until(lambda: len(office.about(1, Token)) >= 3)
    office.desk.put(2, ask(SHORT))
    office.answer(2)
    order = [number for number, message in office.said if isinstance(message, Token)]
    from_first_on = order[order.index(2) :]
    assert from_first_on[:7] == [2, 1, 2, 1, 2, 1, 2], "a token each"
    assert not office.about(1, Done)


def test_together_or_alone_the_answers_are_the_same(ask):
    alone, together = Office(), Office()
    for number in (1, 2, 3):
        alone.desk.put(number, ask(SOME, seed=number))
        alone.answer(number)
        together.desk.put(number, ask(SOME, seed=number))
    together.answer(1, 2, 3)
    for number in (1, 2, 3):
        assert alone.about(number, Token) == together.about(number, Token)


def test_a_cancelled_request_says_no_more_and_gives_its_models_back(ask):
    office = Office()
    office.desk.put(1, ask(LONG))
    office.step_until(lambda: office.about(1, Token))
    office.desk.put(1, Cancel())
    office.desk.put(2, ListModels())
    office.answer(2)
    assert 0 < len(office.about(1, Token)) < 400
    assert not office.about(1, Done)
    assert [model.in_use for model in office.about(2, Models)[0].models] == [False]


def fill(office, ask, *numbers):
    """Put long requests to work, one after the other."""
    for number in numbers:
        office.desk.put(number, ask(LONG, seed=number))
        office.step_until(lambda number=number: office.about(number, Token))


def line_up(office, ask, *numbers):
    """Put short requests in line, one after the other."""
    for number in numbers:
        office.desk.put(number, ask(SHORT, seed=number))
        office.step_until(lambda number=number: office.about(number, Queued))


def test_only_so_many_are_answered_at_once_and_the_others_know_their_place(ask):
    office = Office(active=2)
    fill(office, ask, 1, 2)
    line_up(office, ask, 3, 4)
    assert not office.about(1, Queued)
    assert not office.about(3, Token)
    office.desk.put(1, Cancel())
    office.answer(3, 4)
    assert not office.about(2, Done), "one long one is still at work"
    assert [message.position for message in office.about(3, Queued)] == [1]
    assert [message.position for message in office.about(4, Queued)] == [2, 1]
    order = [number for number, message in office.said if message == Done()]
    assert order == [3, 4]


def test_a_request_in_line_can_be_cancelled_and_a_free_place_is_taken_at_once(ask, monkeypatch):
    monkeypatch.setattr(serving_worker, "REST", 20.0)
    office = Office(active=1)
    fill(office, ask, 1)
    line_up(office, ask, 2, 3, 4)
    office.desk.put(2, Cancel())
    office.step_until(lambda: office.about(3, Queued)[-1].position == 1)
    office.desk.put(1, Cancel())
    before = time.monotonic()
    office.answer(3, 4)
    assert time.monotonic() - before < serving_worker.REST
    assert not office.about(2, Token | Done)
    assert [message.position for message in office.about(3, Queued)] == [2, 1]


@pytest.fixture
def two_folders(model_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    return model_folder, other


def test_what_does_not_fit_beside_the_others_waits_and_those_behind_it_do_not(ask, two_folders):
    first, other = two_folders
    office = Office(memory_bytes=find_model("policy", str(first)).size)
    office.desk.put(1, ask(LONG))
    office.step_until(lambda: office.about(1, Token))
    office.desk.put(2, ask(model=other))
    office.step_until(lambda: office.about(2, Queued))
    office.desk.put(3, ask(model=first))
    office.answer(3)
    assert not office.about(1, Done)
    assert not office.about(2, Token)
    office.desk.put(1, Cancel())
    office.answer(2)
    office.desk.put(4, ListModels())
    office.answer(4)
    assert [model.path for model in office.about(4, Models)[0].models] == [str(other)]


def test_nobody_overtakes_one_that_has_waited_for_long(ask, two_folders, monkeypatch):
    first, other = two_folders
    office = Office(memory_bytes=find_model("policy", str(first)).size)
    monkeypatch.setattr(serving_worker, "PATIENCE", 0.0)
    office.desk.put(1, ask(LONG))
    office.step_until(lambda: office.about(1, Token))
    office.desk.put(2, ask(model=other))
    office.step_until(lambda: office.about(2, Queued))
    office.desk.put(3, ask(model=first))
    office.step_until(lambda: office.about(3, Queued))
    office.desk.put(1, Cancel())
    office.answer(2, 3)
    order = [number for number, message in office.said if message == Done()]
    assert order == [2, 3]


def test_a_model_beyond_the_bound_is_refused_in_one_line(ask, model_folder):
    office = Office(memory_bytes=1000)
    office.desk.put(1, ask())
    office.answer(1)
    (failed,) = office.about(1, Failed)
    assert failed.reason.startswith(f"{model_folder} needs ")
    assert "\n" not in failed.reason


def test_what_is_wrong_with_a_request_fails_it_and_no_other(ask, tmp_path, reward_folder):
    office = Office()
    office.desk.put(1, ask(model=tmp_path / "nowhere"))
    office.desk.put(2, ask(model=reward_folder))
    office.desk.put(3, ask(DecodingSection(max_new_tokens=508)))
    office.desk.put(4, ask())
    office.answer(1, 2, 3, 4)
    assert office.about(1, Failed)[0].reason.startswith("No model in ")
    assert "must hold a language model, got a reward" in office.about(2, Failed)[0].reason
    assert "a prompt must have at most 4 tokens" in office.about(3, Failed)[0].reason
    assert office.about(4, Done)


def test_a_fault_of_ours_fails_one_request_and_is_told_in_full(ask, monkeypatch, capsys):
    def fail(*_):
        yield []
        raise KeyError("surprise")

    office = Office()
    with monkeypatch.context() as patch:
        patch.setattr(serving_worker, "stream_answers", fail)
        office.desk.put(1, ask())
        office.answer(1)
    (failed,) = office.about(1, Failed)
    assert failed.reason == "The process that holds the models failed (KeyError: 'surprise')."
    assert "Traceback" in capsys.readouterr().err
    office.desk.put(2, ask())
    office.answer(2)
    assert office.about(2, Done)


def test_want_of_memory_is_said_in_plain_words(ask, monkeypatch):
    def fail(*_):
        yield []
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    office = Office()
    monkeypatch.setattr(serving_worker, "stream_answers", fail)
    office.desk.put(1, ask())
    office.answer(1)
    assert office.about(1, Failed)[0].reason.startswith("There must be memory for the answer")


def test_a_distribution_comes_between_the_tokens_of_others(ask, model_folder):
    office = Office()
    office.desk.put(1, ask(LONG))
    office.step_until(lambda: len(office.about(1, Token)) >= 3)
    ids = tuple(token.id for token in office.about(1, Token))
    office.desk.put(2, DistributionRequest(str(model_folder), MESSAGES, ids, top=3))
    office.answer(2)
    (found,) = office.about(2, Distribution)
    assert len(found.tokens) == 3
    assert not office.about(1, Done)


def test_idle_models_are_let_go(ask, monkeypatch):
    monkeypatch.setattr(serving_worker, "REST", 0.01)
    office = Office(idle_seconds=0.05)
    office.desk.put(1, ask())
    office.answer(1)
    time.sleep(0.1)
    office.desk.step()
    office.desk.put(2, ListModels())
    office.answer(2)
    assert office.about(2, Models) == [Models(())]
