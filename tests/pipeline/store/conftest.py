from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from benchmarks.postgres import PostgresMissingError, cluster, find_binaries, url_of
from pipeline.records import Prompt
from pipeline.store import Judgment, LabelStore, Provenance, SampledCompletion, Task


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.db"


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrate one empty store, which tests copy: migrating is most of a small test's time."""
    made = tmp_path_factory.mktemp("blank") / "labels.db"
    LabelStore.open(made).close()
    return made


@pytest.fixture(scope="session")
def postgres() -> Iterator[Engine]:
    """Run a PostgreSQL with a migrated, empty store to copy; yield an engine that can."""
    try:
        find_binaries()
    except PostgresMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with cluster(durable=False) as folder:
        admin = create_engine(url_of(folder, "postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE blank")
        LabelStore.open(url_of(folder, "blank")).close()
        yield admin
        admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, path: Path) -> Iterator[Path | str]:
    """Return where an empty store is: a file, or a database of a real PostgreSQL."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("blank"), path)
        yield path
        return
    admin = request.getfixturevalue("postgres")
    name = f"labels_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE blank")
    yield admin.url.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(location: Path | str, clock: Clock) -> Iterator[LabelStore]:
    with LabelStore.open(location, clock=clock) as opened:
        yield opened


@pytest.fixture
def fill() -> Callable[..., list[Prompt]]:
    """Return a function that adds prompts with K completions each, and their tasks."""

    def add(
        store: LabelStore,
        prompts: int = 2,
        k: int = 3,
        overlap: int = 1,
        split: str = "train",
        held_out: int = 0,
    ) -> list[Prompt]:
        added = [Prompt.from_text(f"{split} question {i}", meta={"i": i}) for i in range(prompts)]
        store.add_prompts(added, split=split)
        for prompt in added:
            samples = [
                SampledCompletion(
                    f"answer {j}", Provenance("sft", "abc", "tiny", {"top_p": 1.0}, 7, j)
                )
                for j in range(k)
            ]
            store.add_completions(prompt.id, samples)
        store.create_ranking_tasks(overlap, split, held_out=held_out)
        return added

    return add


@pytest.fixture
def by_text() -> Callable[..., Judgment]:
    """Return a function that ranks by text, the first in the alphabet best."""

    def judge(task: Task, **fields: object) -> Judgment:
        order = sorted(task.completions, key=lambda choice: choice.text)
        ranks = {choice.id: rank for rank, choice in enumerate(order, start=1)}
        ratings = {id_: 8 - rank for id_, rank in ranks.items()}
        return Judgment(**{"ranks": ranks, "ratings": ratings, **fields})

    return judge
