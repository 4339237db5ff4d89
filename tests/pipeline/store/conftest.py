from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

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


@pytest.fixture
def store(path: Path, blank: Path, clock: Clock) -> Iterator[LabelStore]:
    shutil.copy(blank, path)
    with LabelStore.open(path, clock=clock) as opened:
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
