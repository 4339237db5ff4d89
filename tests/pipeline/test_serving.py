from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline import serving_process
from pipeline.config.sampling import DecodingSection
from pipeline.errors import ConfigError, ModelError, RunError
from pipeline.formatting import Formatter
from pipeline.models import load_policy
from pipeline.records import Prompt
from pipeline.sampling import sample_completions
from pipeline.serving import STARTING, STARTING_ANEW, ModelServer, Stream
from pipeline.serving_messages import (
    DistributionRequest,
    Failed,
    Finished,
    GenerationRequest,
    Notice,
    ServingSettings,
    Token,
)
from pipeline.tokenizer import load_tokenizer

PROMPT = Prompt.from_text("Where does Tom live?")
SHORT = DecodingSection(max_new_tokens=5)
LONG = DecodingSection(max_new_tokens=45, min_new_tokens=45)
SETTINGS = ServingSettings(device="cpu")
PATIENCE = 60


@pytest.fixture(scope="module")
def server():
    with ModelServer(SETTINGS) as made:
        yield made


@pytest.fixture
def ask(policy_folder):
    def make(decoding=SHORT, **fields):
        return GenerationRequest(
            **{"model": policy_folder, "prompt": PROMPT.messages, "decoding": decoding, **fields}
        )

    return make


def is_worker(pid):
    return b"pipeline.serving_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()


def wait_until(holds):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def in_use(server):
    return any(model.in_use for model in server.loaded())


def test_an_answer_is_the_one_that_sampling_here_gives(server, ask, policy_folder):
    model, formatter = load_policy(policy_folder).eval(), Formatter(load_tokenizer(policy_folder))
    expected = sample_completions(
        model, formatter, [PROMPT] * 2, SHORT, seed=5, sample_index=range(2)
    )
    ends = [
        event for event in server.generate(ask(seed=5, samples=2)) if isinstance(event, Finished)
    ]
    ends.sort(key=lambda end: end.sample)
    assert [end.text for end in ends] == [one.text for one in expected]
    assert [end.finish_reason for end in ends] == [one.finish_reason for one in expected]
    (held,) = server.loaded()
    assert held.path == str(policy_folder)
    assert held.role == "policy"


def test_several_requests_come_over_one_stream(server, ask):
    with server.generate_all([ask(seed=1), ask(seed=2)]) as stream:
        events = list(stream)
    for place in (0, 1):
        alone = [e for e in server.generate(ask(seed=place + 1)) if isinstance(e, Finished)]
        assert [e for at, e in events if at == place and isinstance(e, Finished)] == alone
    with pytest.raises(StopIteration):
        stream.poll(1)


def test_users_in_threads_each_get_their_own(server, ask):
    found = {}

    def use(seed):
        found[seed] = [e for e in server.generate(ask(LONG, seed=seed)) if isinstance(e, Finished)]

    users = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join(PATIENCE)
    for seed in range(4):
        alone = [e for e in server.generate(ask(LONG, seed=seed)) if isinstance(e, Finished)]
        assert found[seed] == alone


def test_an_iterator_that_is_closed_stops_the_work(server, ask):
    events = server.generate(ask(LONG))
    while not isinstance(next(events), Token):
        pass
    events.close()
    wait_until(lambda: not in_use(server))


def test_a_stream_can_be_closed_while_another_thread_waits_for_it(server, ask):
    stream = server.generate_all([ask(LONG)])
    waiter = threading.Thread(target=lambda: list(stream))
    waiter.start()
    stream.close()
    stream.close()
    waiter.join(PATIENCE)
    assert not waiter.is_alive()
    wait_until(lambda: not in_use(server))


def test_poll_waits_no_longer_than_it_is_told(server, ask):
    polled = []
    with server.generate_all([ask()]) as stream, contextlib.suppress(StopIteration):
        while True:
            before = time.monotonic()
            polled.append(stream.poll(0.01))
            assert time.monotonic() - before < PATIENCE / 2
    assert sum(isinstance(item[1], Finished) for item in polled if item) == 1


def test_a_distribution_is_answered(server, policy_folder):
    found = server.distribution(DistributionRequest(policy_folder, PROMPT.messages, top=3))
    assert len(found.tokens) == 3
    assert found.tokens[0].probability >= found.tokens[1].probability
    with pytest.raises(ModelError, match="must hold tokens of"):
        server.distribution(DistributionRequest(policy_folder, PROMPT.messages, (10**6,)))


def test_a_model_that_is_not_there_fails_in_one_line(server, ask, tmp_path):
    (failed,) = [e for e in server.generate(ask(model=tmp_path / "no")) if isinstance(e, Failed)]
    assert failed.reason == f"No model in {tmp_path / 'no'}. Check the path."


def test_a_wrong_request_is_refused_before_anything_starts(ask):
    server = ModelServer(SETTINGS)
    with pytest.raises(ConfigError, match="samples must be 1 or more"):
        server.generate(ask(samples=0))
    assert server.loaded() == ()
    server.close()


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="threads must be positive, got 0"):
        ModelServer(ServingSettings(threads=0))


def test_a_killed_process_fails_what_it_answered_and_starts_anew(server, ask):
    stream = server.generate_all([ask(LONG, samples=30)] * 20)
    assert next(stream)
    worker = server.pid
    os.kill(worker, signal.SIGKILL)
    last = [event for _, event in stream][-1]
    assert last == Failed(
        "The process that holds the models was killed by SIGKILL, perhaps for want of memory. "
        "Ask again: it starts anew."
    )
    assert server.loaded() == ()
    events = list(server.generate(ask()))
    assert events[0] == Notice(STARTING_ANEW)
    assert isinstance(events[-1], Finished)
    assert not Path(f"/proc/{worker}").exists(), "the dead process must be waited for"


def test_nothing_starts_before_it_is_needed_and_nothing_is_left(ask):
    server = ModelServer(SETTINGS)
    assert server.pid is None
    stream = server.generate_all([ask()])
    assert next(stream) == (0, Notice(STARTING))
    worker = server.pid
    assert is_worker(worker)
    assert os.getpgid(worker) != os.getpgrp(), "Ctrl-C in the terminal is not for it"
    server.close()
    server.close()
    assert [event for _, event in stream] == [Failed("The models were closed.")]
    assert not Path(f"/proc/{worker}").exists()
    assert server.pid is None
    assert server.loaded() == ()
    with pytest.raises(RunError, match="The models are closed"):
        list(server.generate(ask()))


@pytest.fixture
def awake(monkeypatch, tmp_path):
    """Return a file; until it is there, processes that are started read nothing."""
    path = tmp_path / "awake"
    monkeypatch.setenv("DEAF_UNTIL", str(path))
    monkeypatch.setattr(serving_process, "WORKER", "tests.pipeline.deaf_worker")
    return path


def test_nobody_waits_for_a_process_that_does_not_read(ask, awake):
    much = Prompt.from_text("cat " * 100_000).messages
    kept = []

    def use():
        server.generate_all([ask(prompt=much)] * 2).close()
        kept.append(server.generate_all([ask(prompt=much), ask()]))

    with ModelServer(SETTINGS) as server:
        user = threading.Thread(target=use, daemon=True)
        user.start()
        user.join(PATIENCE / 4)
        assert not user.is_alive(), "a pipe holds little, and nothing reads it yet"
        awake.touch()
        assert list(kept[0]) == [], "all that was asked meanwhile is passed on and answered"


def test_a_process_that_never_reads_can_be_closed(ask, awake):
    server = ModelServer(SETTINGS)
    stream = server.generate_all([ask(prompt=Prompt.from_text("cat " * 100_000).messages)])
    assert next(stream) == (0, Notice(STARTING))
    server.close()
    assert [event for _, event in stream] == [Failed("The models were closed.")]
    assert not awake.exists()


def test_a_request_that_cannot_be_passed_on_leaves_none_behind():
    class Process:
        left: ClassVar[list[int]] = []

        def leave(self, number):
            self.left.append(number)

    def ask(request, _sink):
        if request == "second":
            raise RunError("The models are closed.")
        return Process(), 1

    with pytest.raises(RunError, match="closed"):
        Stream(ask, ["first", "second"])
    assert Process.left == [1]


def test_a_process_that_cannot_be_started_is_one_line(ask, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with ModelServer(SETTINGS) as server:
        with pytest.raises(RunError, match=r"^No process could be started for the models"):
            list(server.generate(ask()))
        assert server.pid is None


def test_the_process_ends_with_whoever_started_it(policy_folder):
    code = (
        "import os, sys\n"
        "from pipeline.records import Prompt\n"
        "from pipeline.serving import ModelServer\n"
        "from pipeline.serving_messages import GenerationRequest\n"
        "server = ModelServer()\n"
        "request = GenerationRequest(sys.argv[1], Prompt.from_text('cat').messages)\n"
        "stream = server.generate_all([request])\n"
        "print(next(stream)[1].text, server.pid, flush=True)\n"
        "os._exit(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(policy_folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(STARTING), done.stderr
    worker = int(done.stdout.split()[-1])
    wait_until(lambda: not Path(f"/proc/{worker}/cmdline").exists() or not is_worker(worker))
