"""Say what the lab compares: the models of all runs, prompts to ask them, and who is asking."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from labeling_ui.compare_bodies import AskBody, LookBody
from pipeline.config.run import stage_of
from pipeline.config.sampling import DecodingSection
from pipeline.errors import DataError, RunError, SteerlineError
from pipeline.records import Message, read_log
from pipeline.regression_set import RegressionSet, check_prompt
from pipeline.run_index import ModelKind, ModelPlace, RunIndex
from pipeline.serving_messages import DistributionRequest, GenerationRequest

if TYPE_CHECKING:
    from pipeline.serving import ModelServer

OWN = "own"
"""What a request says for the base, or the reward model, of each model's own run."""
STREAMS = 2
"""Streams that one account may have open: a page that was left is noticed a moment later."""
EXAMPLES, LINES = 40, 400


class BusyError(SteerlineError):
    """Report an account that has as many answers under way as it may."""


@dataclass
class Turns:
    """Count the streams that each account has open."""

    _open: Counter[int] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, account: int) -> None:
        """Open one more.

        Raises:
            BusyError: if the account has ``STREAMS`` open.
        """
        with self._lock:
            if self._open[account] >= STREAMS:
                raise BusyError(
                    "Your answers on other pages are still being written. Stop them there first."
                )
            self._open[account] += 1

    def give_back(self, account: int) -> None:
        """Close one."""
        with self._lock:
            self._open[account] -= 1


@dataclass(frozen=True)
class Bench:
    """What the comparison works with.

    Attributes:
        index: the runs.
        regression: the prompts saved in the app's own run.
        models: what runs the models; None where nothing does.
        turns: who has answers under way.
    """

    index: RunIndex
    regression: RegressionSet
    models: ModelServer | None
    turns: Turns = field(default_factory=Turns)

    @classmethod
    def over(cls, run_dir: Path, models: ModelServer | None) -> Bench:
        """Return the bench of an app that was started for a run."""
        return cls(RunIndex(run_dir), RegressionSet.of_run(run_dir), models)

    @property
    def server(self) -> ModelServer:
        """Return what runs the models.

        Raises:
            RunError: if nothing does.
        """
        if self.models is None:
            raise RunError("This app runs no models. Start it with 'steerline serve'.")
        return self.models

    def requests(self, asked: AskBody) -> list[GenerationRequest]:
        """Return one request for each model that is asked.

        Raises:
            RunError: if a model is not there.
            ConfigError: if a parameter of the decoding is out of its range.
            DataError: if the prompt is none.
        """
        messages = _prompt(asked.messages)
        decoding = DecodingSection(
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            max_new_tokens=asked.max_new_tokens,
        )
        places = {place.id: place for place in self.index.models()}
        requests = []
        for id_ in asked.models:
            place = self._find(places, id_, "policy")
            request = GenerationRequest(
                model=place.path,
                prompt=messages,
                decoding=decoding,
                samples=asked.samples,
                seed=asked.seed,
                reference=self._other(places, asked.reference, place.run, "policy"),
                reward=self._other(places, asked.reward, place.run, "reward"),
            )
            request.check()
            requests.append(request)
        return requests

    def distribution(self, looked: LookBody) -> DistributionRequest:
        """Return the request for what a model would say next.

        Raises:
            RunError: if a model is not there.
            DataError: if the prompt is none.
        """
        places = {place.id: place for place in self.index.models()}
        place = self._find(places, looked.model, "policy")
        return DistributionRequest(
            model=place.path,
            prompt=_prompt(looked.messages),
            prefix=tuple(looked.prefix),
            chosen=looked.chosen,
            top=looked.top,
            reference=self._other(places, looked.reference, place.run, "policy"),
        )

    def _find(self, places: dict[str, ModelPlace], id_: str, kind: ModelKind) -> ModelPlace:
        place = places.get(id_) or self.index.model(id_)
        if place.kind != kind:
            raise RunError(f"{id_} must be a {kind} model, got a {place.kind} model. Choose one.")
        return place

    def _other(
        self, places: dict[str, ModelPlace], id_: str, run: str, kind: ModelKind
    ) -> Path | None:
        """Return the folder of the base or the reward model that is asked for, or None."""
        if id_ == OWN:
            place = default_place([one for one in places.values() if one.run == run], kind)
            return None if place is None else place.path
        return self._find(places, id_, kind).path if id_ else None

    def examples(self, run: str) -> list[str]:
        """Return prompts that the run's stages were shown or asked, each once, at most 40.

        Raises:
            RunError: if there is no such run.
        """
        folder = self.index.folder(run)
        # What pretraining is shown is running text, no prompt.
        logs = [
            path
            for path in sorted(folder.glob("*/samples.jsonl"))
            if stage_of(path.parent.name) != "pretrain"
        ]
        logs += sorted(folder.glob("evaluate/completions/*.jsonl"))[:1]
        rows = itertools.chain.from_iterable(itertools.islice(_rows(path), LINES) for path in logs)
        texts = (row.get("prompt") for row in rows)
        found = dict.fromkeys(text for text in texts if isinstance(text, str) and text.strip())
        return list(itertools.islice(found, EXAMPLES))


def default_place(places: list[ModelPlace], kind: ModelKind) -> ModelPlace | None:
    """Return a run's base, or its reward model: the first finished one of the line."""
    whole = [place for place in places if place.kind == kind and place.step is None]
    return whole[0] if whole else None


def _prompt(turns: list[Message]) -> tuple[Message, ...]:
    messages = tuple(turns)
    check_prompt(messages)
    return messages


def _rows(path: Path) -> Iterator[dict[str, object]]:
    try:
        yield from read_log(path)
    except DataError:
        # A log that is damaged further on still has its beginning; the run's page tells of it.
        return
