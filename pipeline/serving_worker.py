"""Be the process that holds the models: requests come in on stdin, answers go out on stdout.

One thread does all the arithmetic, a slice of work of each request in turn; another reads stdin,
others find and load models. The end of stdin is the end of the process, so that it never outlives
whoever started it.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import torch

from pipeline import serving_turns
from pipeline.errors import SteerlineError
from pipeline.judges import RewardJudge
from pipeline.model_finding import Need, find_model
from pipeline.served_models import Lease, Served, ServedModels
from pipeline.serving_memory import room_for
from pipeline.serving_messages import (
    DistributionRequest,
    Failed,
    GenerationRequest,
    Loading,
    Queued,
    Role,
    ServingSettings,
)
from pipeline.serving_turns import Job, Request, Rota, has_place, in_order
from pipeline.serving_wire import Cancel, Done, ListModels, Models, read_line, write_line
from pipeline.streaming import Policy, find_distribution, stream_answers

REST = 5.0
"""Seconds between two looks at what has been idle for long, where nothing else is to do."""
FINDERS = 4
"""Threads that look for models on disk and on the Hub."""


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
        self._line: list[Job] = []
        self._turns = Rota()

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
            self._work(self._turns.take())

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
                self._line.append(Job(number, request, needs))

    def _cancel(self, number: int) -> None:
        for job in [*self._line, *self._turns]:
            if job.number == number:
                (self._turns if job.work else self._line).remove(job)
                self._leave(job)

    def _under_way(self) -> list[Job]:
        """Return the requests that have their models, those included that wait for a disk."""
        return [*self._turns, *(job for job in self._line if job.lease is not None)]

    def _begin(self) -> None:
        """Let requests begin, as far as there are places and memory for them."""
        ahead: list[Job] = []
        for job in in_order(self._line, self._under_way()):
            try:
                begins = self._has_models(job, ahead) and self._starts(job)
            except Exception as error:
                self._line.remove(job)
                self._fail(job, error)
                continue
            if begins:
                self._line.remove(job)
                self._turns.add(job)
            else:
                ahead.append(job)
        self._tell_positions()

    def _has_models(self, job: Job, ahead: Sequence[Job]) -> bool:
        """Take a request's models if it is its turn; tell whether it has them, read or not."""
        if job.lease is not None:
            return True
        if not job.needs.done():
            return False
        # What is not there fails at once, in line as well.
        job.needs.result()
        if not has_place(job, self._under_way(), self._settings) or self._is_held_up(job, ahead):
            return False
        lease = self._take_models(job)
        if lease is None:
            return False
        for need in lease.missing:
            self._send(job.number, Loading(need.name, need.size))
        return True

    def _is_held_up(self, job: Job, ahead: Sequence[Job]) -> bool:
        """Tell whether one ahead, that has waited for memory for long, keeps a request from it."""
        under_way = self._under_way()
        return any(
            other.waited > serving_turns.PATIENCE
            and has_place(other, under_way, self._settings)
            and not self._may_pass(job, other, under_way)
            for other in ahead
        )

    def _may_pass(self, job: Job, other: Job, under_way: Sequence[Job]) -> bool:
        """Tell whether a request takes nothing from one that waits, which could not start anyway.

        The memory that the other waits for is used until then, and from some time on by requests
        that may go on for longer than this one.
        """
        if not self._models.holds(job.needs.result()):
            return False
        is_last_call = other.waited > serving_turns.LIMIT
        lasting = [
            one.lease
            for one in under_way
            if one.lease is not None and (not is_last_call or one.turns_left > job.turns_left)
        ]
        return not self._models.fits(other.needs.result(), other.room or 0, lasting)

    def _take_models(self, job: Job) -> Lease | None:
        """Give a request its models where there is room, also for its keys and values if known."""
        needs, room = job.needs.result(), job.room or 0
        job.lease = self._models.lease(needs, room, at_once=job.is_look)
        if job.lease is None:
            job.waits_since = job.waits_since or time.monotonic()
        else:
            # It waits for a disk at most now, and no longer for a place that others could take.
            job.waits_since = None
        return job.lease

    def _starts(self, job: Job) -> bool:
        """Start the work if the models are read, and there is room for its keys and values."""
        assert job.lease is not None, "a request starts with its models"
        if not job.lease.is_ready:
            return False
        models = [model.result() for model in job.lease.models]
        if job.room is None:
            # Only tokenizer and model tell what is needed. Whoever has to wait holds nothing.
            job.room = room_for(job.request, models)
            models_alone, job.lease = job.lease, None
            try:
                lease = self._take_models(job)
            finally:
                self._give_back(models_alone)
            if lease is None:
                return False
        job.work = _work_on(job.request, models)
        return True

    def _tell_positions(self) -> None:
        ordered = in_order(self._line, self._under_way())
        waiting = [job for job in ordered if job.lease is None]
        for position, job in enumerate(waiting, start=1):
            # One whose models are still looked for may begin at once.
            if job.needs.done() and job.position != position:
                job.position = position
                self._send(job.number, Queued(position))

    def _work(self, job: Job) -> None:
        """Do one slice of a request's work, and put it behind the others."""
        assert job.work is not None, "a request in turns has begun"
        job.turns += 1
        try:
            for message in next(job.work):
                self._send(job.number, message)
        except StopIteration:
            self._leave(job)
            self._send(job.number, Done())
        except Exception as error:
            self._fail(job, error)
        else:
            self._turns.add(job)

    def _fail(self, job: Job, error: Exception) -> None:
        self._leave(job)
        self._send(job.number, Failed(_say(error)))

    def _leave(self, job: Job) -> None:
        # What the work holds, the keys and values above all, goes before another takes its place.
        job.work = None
        if job.lease is not None:
            self._give_back(job.lease)
            job.lease = None

    def _give_back(self, lease: Lease) -> None:
        self._models.release(lease)
        # Somebody may be waiting for this place.
        self._wake()


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _find(request: Request) -> list[Need]:
    """Find the models of a request: its own, the reference, the reward model."""
    wanted: list[tuple[Role, Any, Any]] = [
        ("policy", request.model, request.tokenizer),
        ("policy", request.reference, request.reference_tokenizer),
    ]
    if isinstance(request, GenerationRequest):
        wanted.append(("reward", request.reward, None))
    return [
        find_model(role, str(place), tokenizer and str(tokenizer))
        for role, place, tokenizer in wanted
        if place is not None
    ]


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
