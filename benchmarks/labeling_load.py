"""Let fifty labelers work at once, and kill the server under them: is anything lost or slow?

``python -m benchmarks.labeling_load [--quick] [--stores sqlite postgresql]`` prints a table and, as
its last line, one JSON object: by store, ``p95_ms`` over drafts and submits, ``lost``, ``double``,
``over_assigned``, ``crashes``.

``steerline serve`` runs as a process of its own on this machine, with the store on its disk, and
the labelers in this one (``labeling_clients``), so that both share the processor. Two runs a store:

* Load. Fifty labelers for 60 s, and on until 2,500 drafts and submits are measured; they send what
  the page sends for a task: a lease, five drafts, a sign of life, a submit, 1 to 3 s apart.
* Crash. The same while the server is killed with SIGKILL five times and started again; what its
  restarts took is reported apart.

Afterwards the store itself is read: a submit or a draft that was acknowledged and is not in it is
*lost*; two judgments of one labeler on one task, or a judgment that nobody sent, are *double*; a
task with more judgments than places is *over-assigned*; a task with a free place that nobody is
given once its leases have run out is *stuck*.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

from benchmarks.labeling_clients import Outcome, Recording, label, sign_in
from benchmarks.postgres import cluster, url_of
from pipeline.records import Prompt
from pipeline.store import LabelStore, Provenance, SampledCompletion
from pipeline.store.accounts import Accounts
from pipeline.store.clock import utc_now
from pipeline.store.desk import Desk
from pipeline.store.leasing import LEASE
from pipeline.store.questions import SKIP_REASONS
from pipeline.store.schema import AssignmentRow, JudgmentRow, TaskRow
from pipeline.store.schema_app import DraftRow

OVERLAP = 2
STARTS_WITHIN = 60.0
DAMAGE = ("lost", "double", "over_assigned", "stuck")
STORES = ("sqlite", "postgresql")


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        labelers: who work at once.
        seconds: how long, at least; a run of crashes gets ``SECONDS_A_CRASH`` for each.
        least: drafts and submits to measure before the load ends.
        crashes: times that the server is killed.
        tasks: of ``OVERLAP`` places each.
    """

    labelers: int = 50
    seconds: float = 60.0
    least: int = 2500
    crashes: int = 5
    tasks: int = 600


# A task takes some 16 s.
QUICK = Size(labelers=10, seconds=25.0, least=0, crashes=1)
SECONDS_A_CRASH = 10.0


@dataclass
class Server:
    """The command ``steerline serve`` on a run's folder.

    Attributes:
        config: the run's YAML.
        port: where it listens.
        starts: seconds that each start took, to the first answer.
    """

    config: Path
    port: int
    starts: list[float] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait for its first answer.

        Raises:
            RuntimeError: if it ends instead, or does not answer in time.
        """
        began = time.monotonic()
        command = [sys.executable, "-m", "stages.cli", "serve", str(self.config)]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() - began > STARTS_WITHIN:
                self.stop()
                raise RuntimeError(f"The server did not start on {self.url}.")
            time.sleep(0.05)
        self.starts.append(time.monotonic() - began)

    def kill(self) -> None:
        """Kill it without a warning."""
        assert self._process is not None, "a server is started before it is killed"
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=STARTS_WITHIN)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/signin", timeout=5.0).is_success
        except httpx.TransportError:
            return False


def prepare(store_url: str, folder: Path, labelers: int, tasks: int) -> dict[str, str]:
    """Write a run's YAML, fill its store, and return the labelers' passwords by name."""
    config = {
        "run_dir": str(folder / "run"),
        "pretrain": {"tokens": 1, "sources": ["tiny:facts"]},
        "label": {"store": store_url, "app": {"gold_rate": 0.0, "repeat_rate": 0.0}},
    }
    (folder / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
    completions = len(Recording.read().completions)
    with LabelStore.open(store_url) as store:
        prompts = [Prompt.from_text(f"Question {number}?") for number in range(tasks)]
        store.add_prompts(prompts)
        for number, prompt in enumerate(prompts):
            samples = [
                SampledCompletion(f"Answer {number}.{index}. " + "It depends. " * 40,
                                  Provenance("sft", sample_index=index))
                for index in range(completions)
            ]  # fmt: skip
            store.add_completions(prompt.id, samples)
        store.create_ranking_tasks(OVERLAP)
        accounts = Accounts(store)
        accounts.add("lead", "lead")
        passwords = {}
        for number in range(labelers):
            name = f"labeler {number}"
            first = accounts.add(name, "labeler")
            passwords[name] = f"a password of {name}"
            accounts.change_password(accounts.sign_in(name, first, "").account.id, first,
                                     passwords[name])  # fmt: skip
    return passwords


def check_store(store_url: str, outcome: Outcome) -> dict[str, int]:
    """Count what a store lost, has twice, gave out too often, or keeps from everybody."""
    done = AssignmentRow.state == "done"
    with LabelStore.open(store_url, create=False) as store, store.reading() as session:
        keys = set(session.scalars(select(JudgmentRow.idempotency_key)))
        judgments = session.scalars(select(func.count()).select_from(JudgmentRow)).one()
        places = session.execute(
            select(TaskRow.overlap, func.count())
            .join(AssignmentRow, AssignmentRow.task_id == TaskRow.id)
            .where(done)
            .group_by(TaskRow.id, TaskRow.overlap)
        ).all()
        pairs = session.scalars(
            select(func.count())
            .select_from(AssignmentRow)
            .group_by(AssignmentRow.task_id, AssignmentRow.labeler_id)
        ).all()
        finished = set(session.scalars(select(AssignmentRow.token).where(done)))
        drafts = dict(
            session.execute(
                select(AssignmentRow.token, DraftRow.version)
                .join(DraftRow, DraftRow.assignment_id == AssignmentRow.id)
            ).all()
        )  # fmt: skip
    lost_drafts = [
        token
        for token, version in outcome.drafts.items()
        if token not in finished and drafts.get(token, 0) < version
    ]
    doubles = judgments - len(keys) + sum(count - 1 for count in pairs)
    return {
        "lost": len(set(outcome.acknowledged) - keys) + len(lost_drafts),
        "double": doubles + len(keys - set(outcome.tried)),
        "over_assigned": sum(count > overlap for overlap, count in places),
        "stuck": count_stuck(store_url),
    }


def count_stuck(store_url: str) -> int:
    """Count the tasks with a free place that a newcomer is not given after all leases' ends."""
    later = utc_now() + 2 * LEASE
    done = (
        select(func.count())
        .where(AssignmentRow.task_id == TaskRow.id, AssignmentRow.state == "done")
        .scalar_subquery()
    )
    with LabelStore.open(store_url, create=False, clock=lambda: later) as store:
        with store.reading() as session:
            wanting = set(session.scalars(select(TaskRow.id).where(done < TaskRow.overlap)))
        desk, newcomer = Desk(store), store.add_labeler("newcomer")
        while (task := desk.lease(newcomer)) is not None:
            wanting.discard(task.id)
            desk.skip(newcomer, task.token, SKIP_REASONS[0].name, "")
    return len(wanting)


async def run_load(server: Server, passwords: dict[str, str], seconds: float, least: int) -> Any:
    """Let everybody work; return the outcome and the seconds."""
    clients = [await sign_in(server.url, name, word) for name, word in passwords.items()]
    try:
        return await label(clients, seconds, least)
    finally:
        for client in clients:
            await client.aclose()


async def run_crash(server: Server, passwords: dict[str, str], seconds: float, crashes: int) -> Any:
    """Let everybody work while the server dies and comes back; return the outcome and seconds."""
    clients = [await sign_in(server.url, name, word) for name, word in passwords.items()]
    rng = random.Random(0)
    work = asyncio.create_task(label(clients, seconds))
    try:
        for _ in range(crashes):
            await asyncio.sleep(seconds / crashes * rng.uniform(0.3, 0.9))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        return await work
    finally:
        work.cancel()
        for client in clients:
            await client.aclose()


def measure(kind: str, size: Size, folder: Path) -> dict[str, Any]:
    """Do both runs on one kind of store and return its figures."""
    figures: dict[str, Any] = {}
    for run in ("load", "crash"):
        here = folder / f"{kind}-{run}"
        here.mkdir()
        with open_store(kind, here) as url:
            passwords = prepare(url, here, size.labelers, size.tasks)
            server = Server(here / "run.yaml", free_port())
            server.start()
            try:
                if run == "load":
                    outcome, took = asyncio.run(
                        run_load(server, passwords, size.seconds, size.least)
                    )
                else:
                    seconds = max(size.seconds, SECONDS_A_CRASH * size.crashes)
                    outcome, took = asyncio.run(run_crash(server, passwords, seconds, size.crashes))
            finally:
                server.stop()
            figures[run] = describe(outcome, took) | check_store(url, outcome)
            figures[run]["start_seconds"] = [round(value, 2) for value in server.starts]
    return summarise(figures, size.crashes)


def describe(outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Return a run's figures."""
    measured = sorted(outcome.measured)
    return {
        "requests_measured": len(measured),
        "p50_ms": 1000 * statistics.median(measured),
        "p95_ms": 1000 * measured[round(0.95 * (len(measured) - 1))],
        "max_ms": 1000 * measured[-1],
        "judgments": len(outcome.acknowledged),
        "retries": outcome.retries,
        "refused": outcome.refused,
        "seconds": seconds,
    }


def summarise(figures: dict[str, Any], crashes: int) -> dict[str, Any]:
    """Put both runs together: the speed of the load, the losses of either."""
    load, crash = figures["load"], figures["crash"]
    return {
        "p95_ms": load["p95_ms"],
        "requests_measured": load["requests_measured"],
        **{name: load[name] + crash[name] for name in DAMAGE},
        "crashes": crashes,
        "load": load,
        "crash": crash,
    }


@contextlib.contextmanager
def open_store(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty store of a kind."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'labels.db'}"
        return
    with cluster(durable=True) as socket_folder:
        yield url_of(socket_folder, "postgres")


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def show(results: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title="Labelers at work: drafts and submits")
    columns = ("store", "run", "measured", "p50 ms", "p95 ms", "max ms", "judgments", "lost",
               "double", "over-assigned", "stuck", "retries", "starts s")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in ("store", "run") else "right")
    for kind, figures in results.items():
        for run in ("load", "crash"):
            part = figures[run]
            table.add_row(
                kind, run, str(part["requests_measured"]), f"{part['p50_ms']:.0f}",
                f"{part['p95_ms']:.0f}", f"{part['max_ms']:.0f}", str(part["judgments"]),
                *(str(part[name]) for name in (*DAMAGE, "retries")),
                ", ".join(f"{value:.1f}" for value in part["start_seconds"]),
            )  # fmt: skip
    Console(width=150).print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="10 labelers, 25 s, one crash")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="labeling-load-") as folder:
        size = QUICK if given.quick else Size()
        results = {kind: measure(kind, size, Path(folder)) for kind in given.stores}
    show(results)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
