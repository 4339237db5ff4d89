"""Ask models that run in a process of their own, from any thread, without loading torch here.

``ModelServer`` starts that process (``pipeline.serving_worker``) on first use. Requests of all users
go to it over one pipe, are answered there in turns, a token each, and come back over another.

    with ModelServer(ServingSettings(threads=2)) as server:
        for event in server.generate(GenerationRequest(folder, prompt)):
            ...

If the process dies (out of memory, killed), what it was answering fails with one line, and the next
request starts it anew and says so in a ``Notice``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from pipeline.serving_messages import (
    Candidate,
    Distribution,
    DistributionRequest,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    LoadedModel,
    Loading,
    Notice,
    Place,
    Queued,
    ServingSettings,
    Token,
)


class Stream(Iterator[tuple[int, Event]]):
    """Events of several requests as they come, each with its request's place in the list.

    It ends when every request is finished or failed, and soon after ``close`` from any thread, also
    while another waits in ``next``. Closing it, or leaving its ``with``, cancels what is unfinished.
    """

    def __next__(self) -> tuple[int, Event]:
        """Wait for the next event."""

    def poll(self, seconds: float) -> tuple[int, Event] | None:
        """Wait so long at most for the next event; None where none came.

        Raises:
            StopIteration: if all is said.
        """

    def close(self) -> None:
        """Cancel what is unfinished; may be called from any thread, and again."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""


class ModelServer:
    """Answer requests of many users by models in one other process.

    Nothing is started before the first request. All methods may be called from any thread.

    Args:
        settings: how much of the machine the models may take.
    """

    def __init__(self, settings: ServingSettings | None = None) -> None: ...

    def generate(self, request: GenerationRequest) -> Iterator[Event]:
        """Yield the events of one request; closing the iterator cancels it.

        Raises:
            ConfigError: if the request breaks a rule; a model that cannot be loaded is ``Failed``.
        """

    def generate_all(self, requests: Sequence[GenerationRequest]) -> Stream:
        """Ask several requests at once and return the stream of their events.

        Raises:
            ConfigError: if a request breaks a rule.
        """

    def distribution(self, request: DistributionRequest) -> Distribution:
        """Return what a model would say next.

        Raises:
            ModelError: if it cannot be told: no such model, another tokenizer, a process that died.
        """

    def loaded(self) -> tuple[LoadedModel, ...]:
        """Return the models that are held, most recently used first; none before the first use."""

    def close(self) -> None:
        """End the process; open streams fail. A later request raises ``RunError``."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
