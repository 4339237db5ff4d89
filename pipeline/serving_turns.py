"""Say which requests may begin and whose turn it is, so that nobody's answers hold up another's.

Three rules, all of them between askers and not between requests:

1. Turns go from asker to asker, however many requests each has at work.
2. Whoever has no answer at work begins one at once; nobody has more than a share of the places.
3. A look at the next token takes no place, and goes before its asker's answers.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from pipeline.model_finding import Need
from pipeline.served_models import Lease
from pipeline.serving_messages import DistributionRequest, GenerationRequest, ServingSettings

Request = GenerationRequest | DistributionRequest
PATIENCE, LIMIT = 20.0, 120.0
"""Seconds that a request waits for memory before only those may pass it whose models are read, and
before nobody may who would make it wait longer."""


@dataclass(eq=False)
class Job:
    """A request, and how far it is.

    Attributes:
        number: of the request.
        request: what is asked.
        needs: its models, once they are found.
        room: bytes of the keys and values that it may come to hold; None until its models are read.
        lease: its models, as long as it has them.
        work: gives the messages of a slice of work at a time; None before it begins.
        turns: slices that were worked on.
        position: its place in line as it was last told; 0 for none.
        waits_since: when it found no room in memory; None if it did not, or has its models.
    """

    number: int
    request: Request
    needs: Future[list[Need]]
    room: int | None = None
    lease: Lease | None = None
    work: Iterator[Sequence[Any]] | None = None
    turns: int = 0
    position: int = 0
    waits_since: float | None = None

    @property
    def asker(self) -> str:
        """Return who asks."""
        return self.request.asker

    @property
    def is_look(self) -> bool:
        """Tell whether it asks for the next token alone, which takes few turns."""
        return isinstance(self.request, DistributionRequest)

    @property
    def turns_left(self) -> int:
        """Return how many turns its answers may take yet; 0 for a look."""
        if isinstance(self.request, DistributionRequest):
            return 0
        return max(0, self.request.decoding.max_new_tokens - self.turns)

    @property
    def waited(self) -> float:
        """Return for how many seconds it has waited for memory."""
        return 0.0 if self.waits_since is None else time.monotonic() - self.waits_since


class Rota:
    """Requests at work, in the order of their turns: askers in turn, and each asker's in turn."""

    def __init__(self) -> None:
        self._of: dict[str, deque[Job]] = {}

    def add(self, job: Job) -> None:
        """Put a request behind the asker's others, a look before them."""
        own = self._of.setdefault(job.asker, deque())
        if job.is_look:
            own.appendleft(job)
        else:
            own.append(job)

    def take(self) -> Job:
        """Take out the request whose turn it is; the next turn is another asker's."""
        asker = next(iter(self._of))
        own = self._of.pop(asker)
        job = own.popleft()
        if own:
            self._of[asker] = own
        return job

    def remove(self, job: Job) -> None:
        """Take out a request, whosever turn it is."""
        own = self._of[job.asker]
        own.remove(job)
        if not own:
            del self._of[job.asker]

    def __iter__(self) -> Iterator[Job]:
        """Go through all, asker by asker."""
        return iter([job for own in self._of.values() for job in own])

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(map(len, self._of.values()))


def in_order(line: Sequence[Job], under_way: Iterable[Job]) -> list[Job]:
    """Return the requests in line in the order in which they may begin.

    First come those that have their models already, looks, and whoever has waited for memory for
    long; then the first answer of each asker who has none under way, then the second ones, and so
    on. Of equals, the first to come is the first.

    Args:
        line: as they came.
        under_way: the requests that have models.
    """
    counts = Counter(job.asker for job in under_way if not job.is_look)
    ranks: dict[int, int] = {}
    for job in line:
        is_first = job.lease is not None or job.is_look or job.waited > PATIENCE
        if not is_first:
            counts[job.asker] += 1
        ranks[job.number] = 0 if is_first else counts[job.asker]
    return sorted(line, key=lambda job: ranks[job.number])


def has_place(job: Job, under_way: Collection[Job], settings: ServingSettings) -> bool:
    """Tell whether there is a place for a request beside those that have models.

    Of looks, each asker has one at a time.

    Args:
        job: what is to begin.
        under_way: the requests that have models.
        settings: say how many places there are.
    """
    alike = [other for other in under_way if other.is_look == job.is_look]
    own = sum(other.asker == job.asker for other in alike)
    if own == 0 or job.is_look:
        return own == 0
    return own < settings.share and len(alike) < settings.active
