"""Be people at the board: sign in, lease, save drafts and submit over HTTP, all at once.

What they send is what the board's script sends (``labeling_ui/static/work.js`` and ``holding.js``);
a test holds it against a recording of a browser. What they think is a function of their name and of
the texts.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
from fastapi import FastAPI

from pipeline.store.accounts import Accounts
from pipeline.store.questions import OUTPUT_FLAGS
from pipeline.store.values import Group
from tests.labeling_ui.browsers import GOOD, HERE, PAGE

RELOADS = 20
"""One of so many tasks is left in the middle and taken up again."""
HALVES = 4
"""One of so many tasks is saved when half of it is rated, too."""
LOST = 15
"""The answer to one of so many submissions is lost, so that it is sent again."""
EDITED = 9
"""Everybody has second thoughts about this one of their tasks."""
SKIPPED = 7
"""Those who skip pass over this one of their tasks."""
NEAR = 0.04
"""Outputs that somebody finds closer than this are a tie."""


@dataclass(frozen=True)
class Work:
    """What a person has done of a task; the board's work (``work.js``).

    Attributes:
        ratings: 1 to 7 by completion.
        tiers: completions from best to worst; a tie shares a tier.
        flags: ticked questions by completion.
        prompt_flags: ticked questions on the prompt.
        none_acceptable: whether no output would do.
        comment: a note.
        text: the written answer; None where there is something to judge.
    """

    ratings: Mapping[str, int] = field(default_factory=dict)
    tiers: Sequence[Sequence[str]] = ()
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    prompt_flags: Mapping[str, bool] = field(default_factory=dict)
    none_acceptable: bool = False
    comment: str = ""
    text: str | None = None

    def submission(self, seconds: float) -> dict[str, Any]:
        """Return the judgment or the answer as the board submits it."""
        shared = {
            "comment": self.comment,
            "prompt_flags": self.prompt_flags,
            "active_seconds": round(seconds, 1),
        }
        if self.text is not None:
            return {**shared, "text": self.text}
        ranks = {id_: rank for rank, tier in enumerate(self.tiers, start=1) for id_ in tier}
        return {
            **shared,
            "ranks": ranks,
            "ratings": self.ratings,
            "flags": self.flags,
            "none_acceptable": self.none_acceptable,
        }

    def draft(self, page: str, seconds: int, *, rated: int, ranked: bool = False) -> dict[str, Any]:
        """Return the draft that the board saves.

        Args:
            page: names the open page.
            seconds: worked so far.
            rated: how many outputs are rated.
            ranked: whether they are ranked, too.
        """
        shared = {
            "comment": self.comment,
            "prompt_flags": self.prompt_flags,
            "page": page,
            "active_seconds": seconds,
        }
        if self.text is not None:
            return {**shared, "text": self.text}
        return {
            **shared,
            "tiers": [list(tier) for tier in self.tiers] if ranked else [],
            "none_acceptable": self.none_acceptable,
            "step": "rank" if ranked else "rate",
            "at": rated - 1,
            "ratings": dict([*self.ratings.items()][:rated]),
            "flags": self.flags,
        }


def think(name: str, task: Mapping[str, Any]) -> Work:
    """Return what somebody thinks of a task: partly what everybody thinks."""
    asked = task["prompt"][-1]["content"]
    prompt_flags = {"ambiguous": True} if _share("unclear", name, asked) < 0.1 else {}
    if task["kind"] == "demonstration":
        return Work(prompt_flags=prompt_flags, text=f"{name} would answer so.\n\n{asked[:40]} ☕")
    texts = {choice["id"]: choice["text"] for choice in task["completions"]}
    liking = {
        id_: 0.6 * _share("quality", text) + 0.4 * _share("taste", name, text)
        for id_, text in texts.items()
    }
    flags = {}
    for id_, text in texts.items():
        seen = {
            question.name: True
            for question in OUTPUT_FLAGS
            if (_share(question.name, text) < 0.15) != (_share(question.name, name, text) < 0.05)
        }
        if seen:
            flags[id_] = seen
    return Work(
        ratings={id_: 1 + int(7 * value) for id_, value in liking.items()},
        tiers=_tiers(liking),
        flags=flags,
        prompt_flags=prompt_flags,
        none_acceptable=max(liking.values()) < 0.4,
        comment="hm… 🙂 <b>x</b>" if _share("comment", name, asked) < 0.1 else "",
    )


def _tiers(liking: Mapping[str, float]) -> list[list[str]]:
    tiers: list[list[str]] = []
    best = 2.0
    for id_ in sorted(liking, key=lambda one: -liking[one]):
        if best - liking[id_] < NEAR:
            tiers[-1].append(id_)
        else:
            tiers.append([id_])
            best = liking[id_]
    return tiers


def _share(*words: str) -> float:
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 256**6


class Person:
    """One labeler at the board.

    Args:
        client: a browser of their own.
        name: of their account.
        skips: whether they pass over a task.

    Attributes:
        acknowledged: what the server has acknowledged, by key.
        tasks: the tasks that they have met, as the server gave them.
    """

    def __init__(self, client: httpx2.AsyncClient, name: str, *, skips: bool = False) -> None:
        self._client, self.name, self._skips = client, name, skips
        self._page = str(uuid.uuid4())
        self.acknowledged: dict[str, Any] = {}
        self.tasks: list[dict[str, Any]] = []

    async def sign_in(self) -> None:
        """Sign in and open the page."""
        form = {"name": self.name, "password": GOOD}
        answer = await self._client.post("/signin", data=form)
        assert answer.headers["location"] == "/", answer.text
        page = await self._client.get("/label/", headers=PAGE)
        assert page.status_code == 200, page.text

    async def work(self) -> int:
        """Do tasks until there is none, and return how many there were."""
        before = len(self.tasks)
        while (task := await self._lease()) is not None:
            self.tasks.append(task)
            await self._do(task)
        return len(self.tasks) - before

    async def post(self, path: str, body: object) -> Any:
        """Send what the board sends."""
        answer = await self._client.post(f"/api/desk{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def _lease(self) -> Any:
        desk = (await self._client.get("/api/desk")).json()
        self._versions = {
            "instructions": desk["instructions"]["version"],
            "interface": desk["interface"],
        }
        return (await self.post("/lease", {}))["task"]

    async def _do(self, task: dict[str, Any]) -> None:
        number = len(self.tasks)
        if self._skips and number == SKIPPED:
            body = {"token": task["token"], "reason": "other", "comment": "not mine"}
            assert await self.post("/skip", body) == {"skipped": True}
            return
        work = think(self.name, task)
        version = 0
        for content in self._drafts(task, work):
            body = {"token": task["token"], "version": version, "content": content}
            version = (await self.post("/draft", body))["version"]
        if number % RELOADS == 0:
            again = await self._lease()
            assert again["draft"] == {"version": version, "content": content}
            assert again["token"] == task["token"]
        await self._submit(task, work, repeated=number % LOST == 0)
        if number == EDITED:
            await self._edit()

    def _drafts(self, task: dict[str, Any], work: Work) -> Iterator[dict[str, Any]]:
        """Yield the work as it is saved: ranked, and before that by some half rated."""
        count = len(task["completions"])
        if work.text is None and len(self.tasks) % HALVES == 0:
            yield work.draft(self._page, 20, rated=count // 2)
        yield work.draft(self._page, 45, rated=count, ranked=True)

    async def _submit(self, task: dict[str, Any], work: Work, *, repeated: bool = False) -> None:
        seconds = 10 + 90 * _share("seconds", self.name, task["token"])
        body = {
            "token": task["token"],
            "key": str(uuid.uuid4()),
            "judgment": work.submission(seconds),
            **self._versions,
        }
        answer = await self.post("/submit", body)
        if repeated:
            assert (await self.post("/submit", body))["receipt"] == answer["receipt"]
        self.acknowledged[body["key"]] = answer["receipt"]

    async def _edit(self) -> None:
        """Open the newest work again and say something else."""
        history = (await self._client.get("/api/desk/history")).json()["done"]
        task = (await self.post("/reopen", {"id": history[0]["id"]}))["task"]
        work = think(f"{self.name}, on second thoughts", task)
        await self._submit(task, work)


def add_people(accounts: Accounts, people: Mapping[str, Group], lead: str = "lena") -> None:
    """Make accounts of a lead and of labelers, by name and group, with the password GOOD."""
    for name, group in {lead: "train", **people}.items():
        once = accounts.add(name, "lead" if name == lead else "labeler", group=group)
        account = accounts.sign_in(name, once, "198.51.100.1").account
        accounts.change_password(account.id, once, GOOD)


def label_all(app: FastAPI, names: Sequence[str], *, skipping: Sequence[str] = ()) -> list[Person]:
    """Let people do all that there is to do, all at once, and return them."""

    async def work() -> list[Person]:
        transport = httpx2.ASGITransport(app)
        clients = [
            httpx2.AsyncClient(transport=transport, base_url=HERE, headers={"origin": HERE})
            for _ in names
        ]
        people = [
            Person(client, name, skips=name in skipping)
            for client, name in zip(clients, names, strict=True)
        ]
        async with app.router.lifespan_context(app):
            await app.state.pages.opened()
            await asyncio.gather(*(person.sign_in() for person in people))
            # Again, because what one skips another may do.
            while any(await asyncio.gather(*(person.work() for person in people))):
                pass
        for client in clients:
            await client.aclose()
        return people

    return asyncio.run(work())
