"""Run the app on a free port of this machine, with a store that the tests can reach into."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select, update

from pipeline.records import Prompt
from pipeline.store import LabelStore, Provenance, SampledCompletion
from pipeline.store.accounts import Accounts, Role
from pipeline.store.oversight import Oversight
from pipeline.store.schema import AssignmentRow, DemonstrationRow, JudgmentRow, TaskRow
from pipeline.store.tasking import Overlap, Wanted, add_task
from pipeline.store.values import TaskKind

ROOT = Path(__file__).parents[2]
START_SECONDS = 90
WORDS = (
    "lake",
    "river",
    "harbour",
    "window",
    "garden",
    "letter",
    "market",
    "winter",
    "bridge",
    "sea",
)


@dataclass(frozen=True)
class Person:
    """Somebody who can sign in."""

    name: str
    password: str = field(repr=False)
    labeler_id: int


class Server:
    """The app in a process of its own, over a store in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = LabelStore.open(path)
        self.accounts = Accounts(self.store)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._prompts = 0

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self._process = subprocess.Popen(self.command(), cwd=ROOT)
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, "the server did not start"
            assert time.monotonic() < end, f"the server did not answer within {START_SECONDS} s"
            time.sleep(0.1)

    def command(self) -> list[str]:
        """Return what serves the store."""
        return [sys.executable, "-m", "tests.browser.serve", str(self.path), str(self.port)]

    def kill(self) -> None:
        """End the process as a power cut would, wherever it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/signin", timeout=2):
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def clear(self) -> None:
        """Close what other tests have left open, so that nobody is given it."""
        with self.store.writing() as session:
            session.execute(update(TaskRow).values(open=False, purpose="work"))

    def add_person(self, role: Role = "labeler", *, admitted: bool = True) -> Person:
        """Add somebody with a password of their own."""
        name, password = f"person-{secrets.token_hex(4)}", secrets.token_urlsafe(12)
        once = self.accounts.add(name, role, admitted=admitted)
        account = next(one for one in self.accounts.list() if one.name == name)
        self.accounts.change_password(account.id, once, password)
        return Person(name, password, account.labeler_id)

    def add_ranking(self, k: int = 4, texts: Sequence[str] | None = None, prompt: str = "") -> None:
        """Make a task of a prompt with K outputs to rank."""
        self._add_task("ranking", prompt, texts or [self._output(i) for i in range(k)])

    def add_comparison(self, texts: tuple[str, str] | None = None, prompt: str = "") -> None:
        """Make a task of a prompt with two answers to compare."""
        self._add_task("comparison", prompt, texts or [self._output(i) for i in range(2)])

    def add_demonstration(self, prompt: str = "") -> None:
        """Make a task of a prompt that nobody has answered."""
        self._add_task("demonstration", prompt, [])

    def add_screening(self, k: int) -> None:
        """Make a task of the screening test, all outputs tied."""
        task = self._add_task("ranking", "", [self._output(i) for i in range(k)])
        with self.store.reading() as session:
            ids = [row.id for row in session.get_one(TaskRow, task).completions]
        Oversight(self.store).set_gold(task, dict.fromkeys(ids, 1), {}, "lead", "screening")

    def _add_task(self, kind: TaskKind, text: str, outputs: Sequence[str]) -> str:
        self._prompts += 1
        # Spaces at the end do not show, and make each prompt another one.
        text = text or "Tell me about the harbour and the ships that lie there."
        prompt = Prompt.from_text(text + " " * self._prompts)
        self.store.add_prompts([prompt])
        samples = [SampledCompletion(output, Provenance("sft")) for output in outputs]
        ids = self.store.add_completions(prompt.id, samples)
        with self.store.writing() as session:
            wanted = Wanted(prompt.id, ids)
            return add_task(session, wanted, Overlap(1), self.store.clock(), kind).id

    def _output(self, index: int) -> str:
        """Return a text that no other output has; the later ones are longer."""
        sentence = f"The {WORDS[index]} lies where the {WORDS[index + 1]} was, so they say. "
        return sentence * (1 + 4 * index)

    def judgments(self, person: Person) -> list[JudgmentRow]:
        """Return everything that a person has judged, the oldest first."""
        query = (
            select(JudgmentRow)
            .join(AssignmentRow)
            .where(AssignmentRow.labeler_id == person.labeler_id)
            .order_by(JudgmentRow.id)
        )
        with self.store.reading() as session:
            return list(session.scalars(query))

    def demonstrations(self, person: Person) -> list[DemonstrationRow]:
        """Return everything that a person has written, the oldest first."""
        query = (
            select(DemonstrationRow)
            .join(AssignmentRow)
            .where(AssignmentRow.labeler_id == person.labeler_id)
            .order_by(DemonstrationRow.id)
        )
        with self.store.reading() as session:
            return list(session.scalars(query))

    def states(self, person: Person) -> list[str]:
        """Return what became of a person's assignments, the oldest first."""
        query = (
            select(AssignmentRow.state)
            .where(AssignmentRow.labeler_id == person.labeler_id)
            .order_by(AssignmentRow.id)
        )
        with self.store.reading() as session:
            return list(session.scalars(query))
