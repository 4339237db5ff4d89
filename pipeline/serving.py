"""Ask models that run in a process of their own, from any thread, without loading torch here.

``ModelServer`` starts that process (``pipeline.serving_worker``) on first use. Requests of all
users go to it over one pipe, are answered there in turns, a token each, and come back over another.

    with ModelServer(ServingSettings(threads=2)) as server:
        for event in server.generate(GenerationRequest(folder, prompt)):
            ...

If the process dies (out of memory, killed), what it was answering fails with one line, and the next
request starts it anew and says so in a ``Notice``.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.closing import Closing
from pipeline.config.schema import check
from pipeline.errors import ModelError, RunError
from pipeline.serving_messages import (
    Distribution,
    DistributionRequest,
    Event,
    Failed,
    GenerationRequest,
    LoadedModel,
    Notice,
    ServingSettings,
)
from pipeline.serving_process import LAST, ModelProcess, Sink
from pipeline.serving_wire import Done, ListModels, Models

STARTING = "The process that holds the models starts."
STARTING_ANEW = "The process that holds the models had ended; it starts anew."
Asked = tuple[ModelProcess, int]
"""The process that was asked, and the number of the request there."""


class Stream(Closing, Iterator[tuple[int, Event]]):
    """Events of several requests as they come, each with its request's place in the list.

    It ends when every request is finished or failed, and soon after ``close`` from any thread, also
    while another waits in ``next``. Closing it, or leaving its ``with``, cancels what is left.

    Args:
        ask: passes a request on, with where its events are to go.
        requests: what is asked.
    """

    def __init__(self, ask: Callable[[Any, Sink], Asked], requests: Sequence[Any]) -> None:
        self._events: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
        self._open = set(range(len(requests)))
        self._closed = False
        self._asked: list[Asked] = []
        try:
            for place, request in enumerate(requests):
                self._asked.append(ask(request, self._make_sink(place)))
        except BaseException:
            self.close()
            raise

    def __next__(self) -> tuple[int, Event]:
        """Wait for the next event."""
        while True:
            event = self._next(None)
            if event is not None:
                return event

    def poll(self, seconds: float) -> tuple[int, Event] | None:
        """Wait so long at most for the next event; None where none came, or only an end.

        Raises:
            StopIteration: if all is said, or the stream was closed.
        """
        try:
            return self._next(seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Cancel what is unfinished; may be called from any thread, and again."""
        if not self._closed:
            self._closed = True
            for process, number in self._asked:
                process.leave(number)
            self._events.put(None)

    def _make_sink(self, place: int) -> Sink:
        return lambda message: self._events.put((place, message))

    def _next(self, seconds: float | None) -> tuple[int, Event] | None:
        """Return the next event, or None for the end of one of the requests.

        Raises:
            StopIteration: if all is said.
            queue.Empty: if nothing came in time.
        """
        if self._closed or not self._open:
            raise StopIteration
        item = self._events.get(timeout=seconds)
        if item is None:
            raise StopIteration
        place, message = item
        if isinstance(message, LAST):
            self._open.discard(place)
        return None if isinstance(message, Done) else (place, message)


class ModelServer(Closing):
    """Answer requests of many users by models in one other process.

    Nothing is started before the first request. All methods may be called from any thread.

    Args:
        settings: how much of the machine the models may take; None takes the defaults.
    """

    def __init__(self, settings: ServingSettings | None = None) -> None:
        self.settings = settings or ServingSettings()
        check(self.settings, "")
        self._process: ModelProcess | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    @property
    def pid(self) -> int | None:
        """Return the id of the process; None while there is none."""
        with self._lock:
            process = self._process
            return None if process is None or process.ended else process.pid

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        """Return the events of one request, as they come; closing the iterator cancels it.

        Raises:
            ConfigError: if the request breaks a rule; a model that cannot be loaded is ``Failed``.
        """
        request.check()
        return self._events(request)

    def generate_all(self, requests: Sequence[GenerationRequest]) -> Stream:
        """Ask several requests at once and return the stream of their events.

        Raises:
            ConfigError: if a request breaks a rule.
        """
        for request in requests:
            request.check()
        return Stream(self._ask, requests)

    def distribution(self, request: DistributionRequest) -> Distribution:
        """Return what a model would say next.

        Raises:
            ConfigError: if the request breaks a rule.
            ModelError: if it cannot be told: no such model, an unknown token, a process that died.
        """
        request.check()
        answer = self._wait_for(request)
        assert isinstance(answer, Distribution), f"a distribution is answered by one, got {answer}"
        return answer

    def loaded(self) -> tuple[LoadedModel, ...]:
        """Return the models that are held, most recently used first; none before the first use."""
        if self.pid is None:
            return ()
        answer = self._wait_for(ListModels())
        return answer.models if isinstance(answer, Models) else ()

    def close(self) -> None:
        """End the process; open streams fail. A later request raises ``RunError``."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is not None:
            process.close()

    def _events(self, request: GenerationRequest) -> Iterator[Event]:
        with self.generate_all([request]) as stream:
            for _, event in stream:
                yield event

    def _wait_for(self, request: Any) -> Any:
        """Return the one message that answers a request.

        Raises:
            ModelError: if it fails.
        """
        with Stream(self._ask, [request]) as stream:
            for _, message in stream:
                if isinstance(message, Failed):
                    raise ModelError(message.reason)
                if isinstance(message, LAST):
                    return message
        raise ModelError("The models were closed.")

    def _ask(self, request: Any, sink: Sink) -> Asked:
        """Pass a request on, to a new process where there is none that lives.

        Raises:
            RunError: if the server is closed, or the system starts no further process.
        """
        with self._lock:
            number = next(self._numbers)
            while True:
                if self._closed:
                    raise RunError("The models are closed. Start the command again.")
                if self._process is None or self._process.ended:
                    sink(Notice(STARTING if self._process is None else STARTING_ANEW))
                    self._process = _start(self.settings)
                if self._process.ask(number, request, sink):
                    return self._process, number


def _start(settings: ServingSettings) -> ModelProcess:
    try:
        return ModelProcess(settings)
    except OSError as error:
        raise RunError(
            f"No process could be started for the models ({error.strerror}). "
            "See that there is memory and room for one, and ask again."
        ) from error
