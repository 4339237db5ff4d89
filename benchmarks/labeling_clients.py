"""Be many labelers at once: replay the requests that the page makes, and note what came of them.

``benchmarks/results/labeling-requests.json`` holds one task's requests as a browser sent them; a
browser test records them anew and compares. Here they go out with this task's token, draft version,
completions and day in place of the recorded ones, one to three seconds apart. What fails for the
moment goes out again, the same, as the page does it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

RECORDING = Path(__file__).parent / "results" / "labeling-requests.json"
PAUSE = (1.0, 3.0)
RETRY_SECONDS = 1.0
PATIENCE = 20.0
OPENS_WITHIN = 90.0
MEASURED = ("draft", "submit")


@dataclass(frozen=True)
class Action:
    """One request of the page.

    Attributes:
        name: ``lease``, ``draft``, ``heartbeat`` or ``submit``.
        method: of HTTP.
        path: on the server.
        headers: those that the page sets itself.
        body: the JSON that was sent.
    """

    name: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Recording:
    """One task's requests, in order.

    Attributes:
        completions: the ids that the bodies name, in the order presented.
        actions: the requests; the first is the lease.
    """

    completions: tuple[str, ...]
    actions: tuple[Action, ...]

    @classmethod
    def read(cls, path: Path = RECORDING) -> Recording:
        """Read a recording."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(saved["completions"]), tuple(Action(**item) for item in saved["actions"]))


@dataclass
class Outcome:
    """What all labelers together met.

    Attributes:
        seconds: how long each measured request took, by action.
        acknowledged: keys of the submits that the server acknowledged.
        drafts: the newest version of a draft that it acknowledged, by the task's token.
        tried: keys of all submits that went out.
        retries: requests that went out again.
        refused: answers that were neither success nor a passing failure, by status.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    acknowledged: list[str] = field(default_factory=list)
    drafts: dict[str, int] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)
    retries: int = 0
    refused: dict[int, int] = field(default_factory=dict)

    @property
    def measured(self) -> list[float]:
        """Return the seconds of drafts and submits."""
        return [value for name in MEASURED for value in self.seconds.get(name, [])]


def fill_body(recorded: Any, names: Mapping[str, Any]) -> Any:
    """Put this task's values in the place of the recorded ones, keys of mappings too."""
    if isinstance(recorded, dict):
        return {names.get(key, key): fill_body(value, names) for key, value in recorded.items()}
    if isinstance(recorded, list):
        return [fill_body(value, names) for value in recorded]
    return names.get(recorded, recorded) if isinstance(recorded, str) else recorded


async def sign_in(base: str, name: str, password: str) -> httpx.AsyncClient:
    """Return a client with the session of one labeler, whose page is open.

    Raises:
        RuntimeError: if the server does not let them in.
        HTTPStatusError: if it has no page for them.
    """
    client = httpx.AsyncClient(base_url=base, timeout=PATIENCE, headers={"Origin": base})
    answer = await client.post("/signin", data={"name": name, "password": password})
    if answer.status_code != 303 or answer.headers["location"].startswith("/signin"):
        raise RuntimeError(f"{name} cannot sign in: {answer.status_code}")
    # As a browser does before it asks for a task; the page of a server just started is waited for.
    page = await client.get("/label/", timeout=OPENS_WITHIN)
    page.raise_for_status()
    return client


class Labeler:
    """One person at the page, until the deadline.

    Args:
        client: signed in.
        recording: what the page sends.
        outcome: shared by all; filled.
        deadline: on the monotonic clock.
        seed: of the pauses.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        recording: Recording,
        outcome: Outcome,
        deadline: float,
        seed: int,
    ) -> None:
        self._client = client
        self._recording = recording
        self._outcome = outcome
        self._deadline = deadline
        self._random = random.Random(seed)
        midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        self._day = midnight.isoformat()

    async def work(self) -> None:
        """Do tasks until the deadline, or until there are none."""
        # People do not begin together.
        await asyncio.sleep(self._random.uniform(0, PAUSE[1]))
        while time.monotonic() < self._deadline:
            lease, *rest = self._recording.actions
            answer = await self._send(lease, {})
            task = None if answer is None else answer["task"]
            if task is None:
                return
            await self._do(task, rest)

    def extend(self, deadline: float) -> None:
        """Work until another deadline."""
        self._deadline = deadline

    async def _do(self, task: Mapping[str, Any], actions: Sequence[Action]) -> None:
        """Send one task's requests; give it up where one of them is refused."""
        ids = [item["id"] for item in task["completions"]]
        names: dict[str, Any] = dict(zip(self._recording.completions, ids, strict=True))
        names |= {"{token}": task["token"], "{key}": uuid.uuid4().hex}
        version = 0 if task["draft"] is None else task["draft"]["version"]
        for action in actions:
            await asyncio.sleep(self._random.uniform(*PAUSE))
            if time.monotonic() > self._deadline and action.name != "submit":
                return
            if action.name == "submit":
                self._outcome.tried.append(names["{key}"])
            answer = await self._send(action, {**names, "{version}": version})
            if answer is None:
                return
            if action.name == "draft":
                version = answer["version"]
                self._outcome.drafts[task["token"]] = version
            if action.name == "submit":
                self._outcome.acknowledged.append(names["{key}"])

    async def _send(self, action: Action, names: Mapping[str, Any]) -> Any:
        """Send a request until it is answered; return the answer, None where it is refused."""
        body = fill_body(action.body, names)
        headers = fill_body(action.headers, {"{day}": self._day})
        while True:
            began = time.perf_counter()
            try:
                answer = await self._client.request(
                    action.method, action.path, json=body, headers=headers
                )
            except httpx.TransportError:
                await self._wait()
                continue
            if answer.is_success:
                took = time.perf_counter() - began
                self._outcome.seconds.setdefault(action.name, []).append(took)
                return answer.json()
            if answer.status_code == 409:
                # This page's own save, whose answer was lost: go on from its version.
                body = {**body, "version": answer.json()["draft"]["version"]}
                self._outcome.retries += 1
            elif answer.status_code in (429, 500, 502, 503):
                await self._wait()
            else:
                status = answer.status_code
                self._outcome.refused[status] = self._outcome.refused.get(status, 0) + 1
                return None

    async def _wait(self) -> None:
        self._outcome.retries += 1
        await asyncio.sleep(RETRY_SECONDS)


async def label(
    clients: Sequence[httpx.AsyncClient], seconds: float, least: int = 0
) -> tuple[Outcome, float]:
    """Let labelers work for so many seconds, longer until ``least`` requests are measured.

    Returns:
        The outcome, and how many seconds it took.
    """
    recording, outcome = Recording.read(), Outcome()
    began = time.monotonic()
    workers = [
        Labeler(client, recording, outcome, began + seconds, seed)
        for seed, client in enumerate(clients)
    ]
    tasks = [asyncio.create_task(worker.work()) for worker in workers]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.5)
        if least > len(outcome.measured) and time.monotonic() > began + seconds - 1:
            seconds += 5
            for worker in workers:
                worker.extend(began + seconds)
    await asyncio.gather(*tasks)
    return outcome, time.monotonic() - began
