"""Say what the lab compares: the models of all runs, prompts to ask them, and who is asking."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labeling_ui.compare_bodies import AskBody, LookBody
from pipeline.config.sampling import DecodingSection
from pipeline.errors import DataError, RunError, SteerlineError
from pipeline.model_places import ModelKind, ModelPlace
from pipeline.records import Message, Prompt, read_log
from pipeline.regression_set import RegressionSet, check_prompt, read_turns
from pipeline.run_index import RunIndex
from pipeline.serving_messages import DistributionRequest, GenerationRequest

if TYPE_CHECKING:
    from pipeline.serving import ModelServer

OWN = "own"
"""What a request says for the base, or the reward model, of each model's own run."""
STREAMS = 2
"""Streams that one account may have open: a page that was left is noticed a moment later."""
LOOKS = 8
"""Looks at the next token that one account may wait for; each holds a thread."""
WRITING = "Your answers on other pages are still being written. Stop them there first."
LOOKING = "What you asked of other tokens is still being found. Wait for it first."
EXAMPLES, LINES = 40, 400


class BusyError(SteerlineError):
    """Report an account that has as many answers under way as it may."""


@dataclass
class Turns:
    """Count what each account has under way.

    Attributes:
        most: of one account.
        refusal: what an account is told that has so many.
    """

    most: int = STREAMS
    refusal: str = WRITING
    _open: Counter[int] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, account: int) -> None:
        """Begin one more.

        Raises:
            BusyError: if the account has as many as it may.
        """
        with self._lock:
            if self._open[account] >= self.most:
                raise BusyError(self.refusal)
            self._open[account] += 1

    def give_back(self, account: int) -> None:
        """End one."""
        with self._lock:
            self._open[account] -= 1

    @contextmanager
    def held(self, account: int) -> Iterator[None]:
        """Have one under way as long as the block lasts.

        Raises:
            BusyError: if the account has as many as it may.
        """
        self.take(account)
        try:
            yield
        finally:
            self.give_back(account)


@dataclass(frozen=True)
class Bench:
    """What the comparison works with.

    Attributes:
        index: the runs.
        regression: the prompts saved in the app's own run.
        models: what runs the models; None where nothing does.
        turns: who has answers under way.
        looks: who waits for what could come next.
    """

    index: RunIndex
    regression: RegressionSet
    models: ModelServer | None
    turns: Turns = field(default_factory=Turns)
    looks: Turns = field(default_factory=lambda: Turns(LOOKS, LOOKING))

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

    def names(self) -> dict[str, str]:
        """Return the id of each model by its folder."""
        return {str(place.path): place.id for place in self.index.models()}

    def requests(self, asked: AskBody, asker: str) -> list[GenerationRequest]:
        """Return one request for each model that is asked.

        Args:
            asked: what the page sent.
            asker: who sent it.

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
            base = self._other(places, asked.reference, place.run, "policy")
            judge = self._other(places, asked.reward, place.run, "reward")
            request = GenerationRequest(
                model=place.path,
                prompt=messages,
                decoding=decoding,
                samples=asked.samples,
                seed=asked.seed,
                reference=_path(base),
                reward=_path(judge),
                tokenizer=place.tokenizer,
                reference_tokenizer=None if base is None else base.tokenizer,
                asker=asker,
            )
            request.check()
            requests.append(request)
        return requests

    def distribution(self, looked: LookBody, asker: str) -> DistributionRequest:
        """Return the request for what a model would say next.

        Args:
            looked: what the page sent.
            asker: who sent it.

        Raises:
            RunError: if a model is not there.
            DataError: if the prompt is none.
        """
        places = {place.id: place for place in self.index.models()}
        place = self._find(places, looked.model, "policy")
        base = self._other(places, looked.reference, place.run, "policy")
        return DistributionRequest(
            model=place.path,
            prompt=_prompt(looked.messages),
            prefix=tuple(looked.prefix),
            chosen=looked.chosen,
            top=looked.top,
            reference=_path(base),
            tokenizer=place.tokenizer,
            reference_tokenizer=None if base is None else base.tokenizer,
            asker=asker,
        )

    def _find(self, places: dict[str, ModelPlace], id_: str, kind: ModelKind) -> ModelPlace:
        place = places.get(id_) or self.index.model(id_)
        if place.kind != kind:
            raise RunError(f"{id_} must be a {kind} model, got a {place.kind} model. Choose one.")
        return place

    def _other(
        self, places: dict[str, ModelPlace], id_: str, run: str, kind: ModelKind
    ) -> ModelPlace | None:
        """Return the base or the reward model that is asked for, or None."""
        if id_ == OWN:
            return default_place([one for one in places.values() if one.run == run], kind)
        return self._find(places, id_, kind) if id_ else None

    def examples(self, run: str) -> list[list[Message]]:
        """Return prompts that the run's stages were shown or asked, each once, at most 40.

        Raises:
            RunError: if there is no such run.
        """
        folder = self.index.folder(run)
        logs = sorted(folder.glob("*/samples.jsonl"))
        logs += sorted(folder.glob("evaluate/completions/*.jsonl"))[:1]
        rows = itertools.chain.from_iterable(itertools.islice(_rows(path), LINES) for path in logs)
        prompts = (prompt for row in rows if (prompt := whole_prompt(row)) is not None)
        found = {prompt.id: list(prompt.messages) for prompt in prompts}
        return list(itertools.islice(found.values(), EXAMPLES))


def whole_prompt(row: Mapping[str, Any]) -> Prompt | None:
    """Return the prompt that a row of a stage's log tells, or None where it may be a part.

    A row without ``messages`` holds the last turn alone (of an older log), or the start of a text
    that pretraining completes. It is the whole only where the row's ``prompt_id`` says so.
    """
    turns, text = read_turns(row.get("messages")), row.get("prompt")
    is_whole = turns is not None
    if turns is None and isinstance(text, str):
        turns = ({"role": "user", "content": text},)
    prompt = Prompt(turns or ())
    try:
        check_prompt(prompt.messages)
    except DataError:
        return None
    return prompt if is_whole or prompt.id == row.get("prompt_id") else None


def default_place(places: list[ModelPlace], kind: ModelKind) -> ModelPlace | None:
    """Return a run's base, or its reward model: the first finished one of the line."""
    whole = [place for place in places if place.kind == kind and place.step is None]
    return whole[0] if whole else None


def _path(place: ModelPlace | None) -> Path | None:
    return None if place is None else place.path


def _prompt(turns: list[Message]) -> tuple[Message, ...]:
    messages = tuple(turns)
    check_prompt(messages)
    return messages


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from read_log(path)
    except DataError:
        # A log that is damaged further on still has its beginning; the run's page tells of it.
        return
