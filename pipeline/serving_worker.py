"""Be the process that holds the models: requests come in on stdin, answers go out on stdout.

One thread does all the arithmetic, a slice of work of each request in turn; another reads stdin,
others find and load models. The end of stdin is the end of the process, so that it never outlives
whoever started it.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from pipeline.errors import SteerlineError
from pipeline.judges import RewardJudge
from pipeline.served_models import Lease, Need, Served, ServedModels, find_model
from pipeline.serving_messages import (
    DistributionRequest,
    Failed,
    GenerationRequest,
    Loading,
    Queued,
    Role,
    ServingSettings,
)
from pipeline.serving_wire import Cancel, Done, ListModels, Models, read_line, write_line
from pipeline.streaming import Policy, find_distribution, stream_answers

Request = GenerationRequest | DistributionRequest
PATIENCE = 20.0
"""Seconds that a request waits for memory before those behind it wait as well."""
REST = 5.0
"""Seconds between two looks at what has been idle for long, where nothing else is to do."""
FINDERS = 4
"""Threads that look for models on disk and on the Hub."""


@dataclass
class _Job:
    """A request, and how far it is."""

    number: int
    request: Request
    needs: Future[list[Need]]
    lease: Lease | None = None
    work: Iterator[Sequence[Any]] | None = None
    position: int = 0
    waits_since: float | None = None


class Desk:
    """Answer requests in turns.

    Args:
        settings: how much of the machine the models may take.
        send: takes the number of a request and a message about it.
    """

    def __init__(self, settings: ServingSettings, send: Callable[[int, Any], None]) -> None:
        self._settings, self._send = settings, send
        self._inbox: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
        self._finders = ThreadPoolExecutor(FINDERS, thread_name_prefix="finder")
        self._models = ServedModels(settings.memory_bytes, _device(settings.device), self._wake)
        self._line: list[_Job] = []
        self._turns: deque[_Job] = deque()

    def put(self, number: int, message: Any) -> None:
        """Take a message in; may be called from any thread."""
        self._inbox.put((number, message))

    def run(self) -> None:
        """Answer requests for ever."""
        while True:
            self.step()

    def step(self) -> None:
        """Take in what has come, begin what can begin, and do one slice of one request's work."""
        self._take_in()
        self._begin()
        if self._turns:
            self._work(self._turns.popleft())

    def _wake(self, _: object = None) -> None:
        self._inbox.put(None)

    def _take_in(self) -> None:
        """Read all messages; wait for one where there is nothing to work on."""
        patience = 0.0 if self._turns else REST
        try:
            self._receive(
                self._inbox.get(timeout=patience) if patience else self._inbox.get_nowait()
            )
            while True:
                self._receive(self._inbox.get_nowait())
        except queue.Empty:
            self._models.drop_idle(self._settings.idle_seconds)

    def _receive(self, item: tuple[int, Any] | None) -> None:
        match item:
            case (number, ListModels()):
                self._send(number, Models(self._models.list()))
            case (number, Cancel()):
                self._cancel(number)
            case (number, GenerationRequest() | DistributionRequest() as request):
                needs = self._finders.submit(_find, request)
                needs.add_done_callback(self._wake)
                self._line.append(_Job(number, request, needs))

    def _cancel(self, number: int) -> None:
        for job in [*self._line, *self._turns]:
            if job.number == number:
                (self._turns if job.work else self._line).remove(job)
                self._leave(job)

    def _begin(self) -> None:
        """Let requests begin in the order in which they came, as far as there is room."""
        for job in list(self._line):
            try:
                begins = self._is_leased(job) and self._starts(job)
            except Exception as error:
                self._line.remove(job)
                self._fail(job, error)
                continue
            if begins:
                self._line.remove(job)
                self._turns.append(job)
        self._tell_positions()

    def _is_leased(self, job: _Job) -> bool:
        """Take a request's models if it is its turn; tell whether it has them, loaded or not."""
        if job.lease is not None:
            return True
        if not job.needs.done():
            return False
        needs = job.needs.result()
        leased = len(self._turns) + sum(other.lease is not None for other in self._line)
        if leased >= self._settings.active or self._is_held_up(job):
            return False
        job.lease = self._models.lease(needs)
        if job.lease is None:
            job.waits_since = job.waits_since or time.monotonic()
            return False
        for need in job.lease.missing:
            self._send(job.number, Loading(need.name, need.size))
        return True

    def _is_held_up(self, job: _Job) -> bool:
        """Tell whether one before has waited for memory so long that nobody may overtake it."""
        now = time.monotonic()
        before = self._line[: self._line.index(job)]
        return any(other.waits_since and now - other.waits_since > PATIENCE for other in before)

    def _starts(self, job: _Job) -> bool:
        """Start the work if the models are there."""
        assert job.lease is not None, "a request starts with its models"
        if not job.lease.is_ready:
            return False
        job.work = _work_on(job.request, [model.result() for model in job.lease.models])
        return True

    def _tell_positions(self) -> None:
        waiting = [job for job in self._line if job.lease is None]
        for position, job in enumerate(waiting, start=1):
            # One whose models are still looked for may begin at once.
            if job.needs.done() and job.position != position:
                job.position = position
                self._send(job.number, Queued(position))

    def _work(self, job: _Job) -> None:
        """Do one slice of a request's work, and put it behind the others."""
        assert job.work is not None, "a request in turns has begun"
        try:
            for message in next(job.work):
                self._send(job.number, message)
        except StopIteration:
            self._leave(job)
            self._send(job.number, Done())
        except Exception as error:
            self._fail(job, error)
        else:
            self._turns.append(job)

    def _fail(self, job: _Job, error: Exception) -> None:
        self._leave(job)
        self._send(job.number, Failed(_say(error)))

    def _leave(self, job: _Job) -> None:
        # What the work holds, the keys and values above all, goes before another takes its place.
        job.work = None
        if job.lease is not None:
            self._models.release(job.lease)
            job.lease = None
            # Somebody may be waiting for this place.
            self._wake()


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _find(request: Request) -> list[Need]:
    """Find the models of a request: its own, the reference, the reward model."""
    wanted: list[tuple[Role, Any]] = [("policy", request.model), ("policy", request.reference)]
    if isinstance(request, GenerationRequest):
        wanted.append(("reward", request.reward))
    return [find_model(role, str(place)) for role, place in wanted if place is not None]


def _work_on(request: Request, models: Sequence[Served]) -> Iterator[Sequence[Any]]:
    """Return the work of a request, with the models of ``_find``."""
    policies = [model for model in models if isinstance(model, Policy)]
    judge = next((model for model in models if isinstance(model, RewardJudge)), None)
    reference = policies[1] if len(policies) > 1 else None
    if isinstance(request, GenerationRequest):
        return stream_answers(request, policies[0], reference, judge)
    return find_distribution(request, policies[0], reference)


def _say(error: Exception) -> str:
    """Say in one line why a request failed; a fault of ours goes to stderr in full."""
    if isinstance(error, SteerlineError):
        return " ".join(str(error).splitlines())
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        return (
            "There must be memory for the answer beside the models, got none. "
            "Ask for fewer samples or tokens, or lower the bound of the models."
        )
    traceback.print_exception(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"The process that holds the models failed ({type(error).__name__}: {first})."


def _listen(source: BinaryIO, desk: Desk) -> None:
    """Hand on what comes on stdin; its end is the end of this process."""
    for line in source:
        desk.put(*read_line(line))
    os._exit(0)


def main() -> None:
    """Serve until stdin ends."""
    # An interruption in the terminal reaches this process too: its parent decides what comes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not be read as a message.
    os.dup2(2, 1)
    _, settings = read_line(source.readline())
    torch.set_num_threads(settings.threads)

    def send(number: int, message: Any) -> None:
        try:
            out.write(write_line(number, message))
            out.flush()
        except BrokenPipeError:
            os._exit(0)

    desk = Desk(settings, send)
    threading.Thread(target=_listen, args=(source, desk), daemon=True).start()
    desk.run()


if __name__ == "__main__":
    main()
