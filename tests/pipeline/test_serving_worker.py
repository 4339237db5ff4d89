from __future__ import annotations

import functools
import time

import pytest

from pipeline import serving_worker, streaming
from pipeline.config.sampling import DecodingSection
from pipeline.models import load_policy, new_reward_model, save_model
from pipeline.serving_messages import (
    Distribution,
    DistributionRequest,
    Failed,
    Finished,
    Loading,
    Queued,
    Token,
)
from pipeline.serving_wire import Cancel, Done, ListModels, Models
from tests.pipeline.offices import LONG, MESSAGES, SHORT, SOME, Office, ask_of, fill, line_up


@pytest.fixture
def ask(long_folder):
    return functools.partial(ask_of, long_folder)


def test_an_answer_is_loading_tokens_the_end_and_done(ask, long_folder, reward_folder):
    office = Office()
    request = ask(reference=str(long_folder), reward=str(reward_folder), samples=2)
    office.desk.put(1, request)
    office.answer(1)
    kinds = [type(message).__name__ for message in office.about(1)]
    assert kinds == ["Loading"] * 2 + ["Token"] * 8 + ["Finished"] * 2 + ["Done"]
    paths = [message.path for message in office.about(1, Loading)]
    assert paths == [str(long_folder), str(reward_folder)]
    end = office.about(1, Finished)[0]
    assert end.kl == pytest.approx(0, abs=1e-6), "the reference is the policy"
    assert end.score is not None


def test_a_checkpoint_answers_with_the_tokenizer_that_is_named(ask, long_folder, tmp_path):
    office = Office()
    load_policy(long_folder).save_pretrained(tmp_path)
    office.desk.put(1, ask(model=tmp_path))
    office.desk.put(2, ask(model=tmp_path, tokenizer=long_folder, reference=long_folder))
    beside = {"reference": tmp_path, "reference_tokenizer": long_folder}
    office.desk.put(3, ask(tokenizer=long_folder, **beside))
    office.desk.put(4, ask())
    office.answer(1, 2, 3, 4)
    assert "No tokenizer could be loaded" in office.about(1, Failed)[0].reason
    texts = [office.about(number, Finished)[0].text for number in (2, 3, 4)]
    assert len(set(texts)) == 1, "the weights are the same"
    assert office.about(2, Finished)[0].kl == pytest.approx(0, abs=1e-6)
    assert office.about(3, Finished)[0].kl == pytest.approx(0, abs=1e-6)
    office.desk.put(5, DistributionRequest(str(tmp_path), MESSAGES, tokenizer=str(long_folder)))
    office.step_until(lambda: office.about(5, (Distribution, Failed)))
    assert office.about(5, Distribution)


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


def test_only_so_many_of_one_asker_are_answered_at_once_and_the_others_know_their_place(ask):
    office = Office(active=4)
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


def test_answers_are_scored_between_the_tokens_of_others(
    ask, long_folder, tiny_formatter, tiny_tokenizer, tmp_path, monkeypatch
):
    judge = new_reward_model(long_folder, tiny_formatter, seed=1)
    save_model(tmp_path, judge, tiny_tokenizer, "# For tests\n")
    monkeypatch.setattr(streaming, "SLICE", 16)
    office = Office()
    office.desk.put(1, ask(reward=str(tmp_path)))
    office.answer(1)
    (loaded,) = [
        entry.model.result()
        for need, entry in office.desk._models._entries.items()
        if need.role == "reward"
    ]
    seen = []
    loaded.model.base_model.register_forward_pre_hook(
        lambda _module, _given, named: seen.append(
            (named["input_ids"].numel(), len(office.about(2, Token)))
        ),
        with_kwargs=True,
    )
    fill(office, ask, 2, asker="b")
    office.desk.put(3, ask(SOME, samples=3, reward=str(tmp_path), asker="a"))
    office.answer(3)
    assert len(seen) > 6, "three answers of several slices each"
    assert max(tokens for tokens, _ in seen) <= 16
    others = [count for _, count in seen]
    assert others == sorted(set(others)), "another's token comes after each slice"
    assert not office.about(2, Done)


def test_a_model_beyond_the_bound_is_refused_in_one_line(ask, long_folder):
    office = Office(memory_bytes=1000)
    office.desk.put(1, ask())
    office.answer(1)
    (failed,) = office.about(1, Failed)
    assert failed.reason.startswith(f"{long_folder} needs ")
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


def test_a_distribution_comes_between_the_tokens_of_others(ask, long_folder):
    office = Office()
    office.desk.put(1, ask(LONG))
    office.step_until(lambda: len(office.about(1, Token)) >= 3)
    ids = tuple(token.id for token in office.about(1, Token))
    office.desk.put(2, DistributionRequest(str(long_folder), MESSAGES, ids, top=3))
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
