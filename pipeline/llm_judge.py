"""Let a language model behind an OpenAI-compatible URL compare answers, each pair in both orders.

A verdict counts only where both orders give the same; else the pair is a tie, for what decided was
the place and not the answer (Zheng et al. 2023). What was judged is kept on disk
(``pipeline.judge_cache``) and not asked again. The key that a server may ask for comes from the
environment, goes into the request's header and nowhere else.

Departures from common practice:
1. A reply must hold exactly one kind of [[A]], [[B]], [[tie]]; nothing is read into any other.
2. Equal answers are a tie without being asked about.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from pipeline.artifacts import hash_text
from pipeline.closing import Closing
from pipeline.config.win_rates import JudgeSection
from pipeline.errors import ConfigError, JudgeError
from pipeline.judge_cache import Verdict, VerdictCache
from pipeline.records import Message

VERSION = 1
"""Of what is asked and how a reply is read: part of each verdict's key."""
OWN_TEMPLATE = Path(__file__).with_name("judge_template.txt")
FIELDS = ("prompt", "first", "second")
PASSING = frozenset({408, 409, 425, 429})
"""Refusals that may be gone at the next attempt, as are all from 500 on."""
FIRST_WAIT = 1.0
"""Seconds after a first failure; doubled after each further one."""
LONGEST_WAIT = 60.0
"""Seconds between two attempts, whatever the server asks for."""
MUTE = 2
"""Replies without a verdict after which a question is left without one."""
SHOWN = 200
"""Characters of a server's words that an error shows."""
SPOKEN = 2_000
"""Characters of a reply that are kept beside its verdict."""
_FIELD = re.compile(r"\{(prompt|first|second)\}")
_MARK = re.compile(r"\[\[(A|B|tie)\]\]", re.IGNORECASE)
_MEANS: Mapping[str, Verdict] = {"a": "first", "b": "second", "tie": "tie"}


class Question(NamedTuple):
    """Two answers to a prompt, in the order in which they are shown."""

    prompt: str
    first: str
    second: str


class Pair(NamedTuple):
    """Two answers to a prompt that are to be compared; ``ours`` is shown first, then second."""

    prompt: str
    ours: str
    theirs: str


class PairVerdict(NamedTuple):
    """Say how a pair was judged.

    Attributes:
        preference: 1 for ours, 0 for theirs, 1/2 where neither won both orders.
        first: for each order, 1 where the answer shown first was preferred, 0 the second, 1/2 none.
    """

    preference: float
    first: tuple[float, ...]


class _PassingError(Exception):
    """Tell of an attempt that failed and may succeed later.

    Args:
        reason: what went wrong.
        wait: seconds that the server asks to wait, or None.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class LlmJudge(Closing):
    """Ask a language model which of two answers is better.

    Args:
        section: what to ask, and how often.
        where: dotted path of the section, for errors.
        cache: file that the verdicts are kept in.

    Raises:
        ConfigError: if the template cannot be used, or the variable of the key is not set.
        DataError: if the file of verdicts is damaged.
    """

    def __init__(self, section: JudgeSection, where: str, cache: Path) -> None:
        self.section, self.where = section, where
        self._template = read_template(section.template, where)
        self._key = read_key(section.api_key_env, where)
        self._cache = VerdictCache(cache)
        self._stop = threading.Event()
        limits = httpx.Limits(max_connections=section.concurrency)
        self._client = httpx.Client(timeout=section.timeout, headers=self._headers(), limits=limits)
        self._url = f"{section.url.rstrip('/')}/chat/completions"

    def close(self) -> None:
        """Close the connections and the file of verdicts."""
        self._client.close()
        self._cache.close()

    def compare(self, pairs: Sequence[Pair]) -> list[PairVerdict | None]:
        """Judge pairs in both orders; None where the model gave no verdict.

        Raises:
            JudgeError: if the server cannot be reached, refuses, or goes on failing.
        """
        asked = {
            question: None
            for pair in pairs
            if pair.ours != pair.theirs
            for question in _orders(pair)
        }
        verdicts = dict(zip(asked, self.ask(list(asked)), strict=True))
        return [self._join(pair, verdicts) for pair in pairs]

    def ask(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """Return a verdict a question, None where no attempt brought one.

        Raises:
            JudgeError: if the server cannot be reached, refuses, or goes on failing.
        """
        keys = [self._hash(question) for question in questions]
        missing = {
            key: question
            for key, question in zip(keys, questions, strict=True)
            if self._cache.find(key) is None
        }
        if missing:
            self._ask_missing(missing)
        return [self._cache.find(key) for key in keys]

    def _ask_missing(self, missing: Mapping[str, Question]) -> None:
        self._stop.clear()
        with ThreadPoolExecutor(self.section.concurrency) as pool:
            futures = [pool.submit(self._settle, key, missing[key]) for key in missing]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # Those under way end with their attempt; what they bring is kept.
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        failed = next((error for each in done if (error := each.exception())), None)
        if failed is not None:
            raise failed

    def _settle(self, key: str, question: Question) -> None:
        """Ask until there is a verdict, and keep it; a question that fails stops all others."""
        try:
            for _ in range(MUTE):
                reply = None if self._stop.is_set() else self._try_again(question)
                if reply is None:
                    return
                verdict = read_verdict(reply)
                if verdict is not None:
                    self._cache.add(key, verdict, self.section.model, self._scrub(reply)[:SPOKEN])
                    return
        except BaseException:
            self._stop.set()
            raise

    def _try_again(self, question: Question) -> str | None:
        """Send a request until it is answered; None where another question has failed for good.

        Raises:
            JudgeError: if no attempt was answered.
        """
        failures = 0
        while True:
            try:
                return self._request(question)
            except _PassingError as error:
                if failures == self.section.retries:
                    raise self._give_up(str(error)) from error
                self._stop.wait(min(error.wait or FIRST_WAIT * 2.0**failures, LONGEST_WAIT))
            if self._stop.is_set():
                return None
            failures += 1

    def _give_up(self, reason: str) -> JudgeError:
        return JudgeError(
            f"{self.where}.url must answer, got {reason} from {self.section.url} after "
            f"{1 + self.section.retries} attempts. Start the server, or mend the URL, and run "
            f"the command again: {len(self._cache)} verdicts are kept."
        )

    def _request(self, question: Question) -> str:
        """Send one request and return the reply's text.

        Raises:
            _PassingError: if another attempt may succeed.
            JudgeError: if none will.
        """
        body = {
            "model": self.section.model,
            "messages": [{"role": "user", "content": render(self._template, question)}],
            "temperature": self.section.temperature,
            "max_tokens": self.section.max_tokens,
        }
        # Half of a surrogate pair, which a model may write, is no JSON text.
        sent = json.dumps(body).encode("ascii")
        try:
            response = self._client.post(self._url, content=sent)
        except httpx.RequestError as error:
            kind = type(error).__name__
            raise _PassingError(f"{kind}: {self._shorten(str(error)) or 'no answer'}") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise JudgeError(
                f"{self.where}.url must be an address, got {self.section.url!r} "
                f"({self._shorten(str(error))}). Mend it."
            ) from error
        status = response.status_code
        if status in PASSING or status >= 500:
            said = f"status {status} ({self._shorten(response.text) or 'no reason given'})"
            raise _PassingError(said, _wait_asked_for(response))
        if status != 200:
            raise JudgeError(
                f"{self.where} must be something that {self._url} accepts, got status {status}: "
                f"{self._shorten(response.text) or 'no reason given'}. Mend the URL, the model's "
                "name or the key."
            )
        return _read_reply(response)

    def _headers(self) -> dict[str, str]:
        named = {"Content-Type": "application/json"}
        return named | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _hash(self, question: Question) -> str:
        section = self.section
        parts = [section.model, self._template, section.temperature, section.max_tokens]
        return hash_text(json.dumps([VERSION, *parts, *question]))

    def _join(self, pair: Pair, verdicts: Mapping[Question, Verdict | None]) -> PairVerdict | None:
        if pair.ours == pair.theirs:
            return PairVerdict(0.5, ())
        here, there = (verdicts[question] for question in _orders(pair))
        if here is None or there is None:
            return None
        first = tuple({"first": 1.0, "second": 0.0, "tie": 0.5}[each] for each in (here, there))
        # Ours is first in the one and second in the other: they agree where the two sum to 1.
        return PairVerdict(first[0] if sum(first) == 1.0 else 0.5, first)

    def _shorten(self, text: str) -> str:
        """Return a server's words on one line, without the key, should it repeat it."""
        return " ".join(self._scrub(text).split())[:SHOWN]

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def read_template(path: str | None, where: str) -> str:
    """Read the text that the judge is asked with.

    Raises:
        ConfigError: if there is no such file, or it lacks one of the three fields.
    """
    file = OWN_TEMPLATE if path is None else Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{where}.template must be a text file in UTF-8, got {path!r} ({error}). "
            "Mend the path, or leave it out."
        ) from error
    missing = [f"{{{name}}}" for name in FIELDS if f"{{{name}}}" not in text]
    if missing:
        raise ConfigError(
            f"{where}.template must hold {{prompt}}, {{first}} and {{second}}, got {path!r} "
            f"without {' and '.join(missing)}. Add what is missing."
        )
    return text


def read_key(variable: str | None, where: str) -> str:
    """Return the server's key from the environment, nothing where none is asked for.

    Raises:
        ConfigError: if the variable is not set, or its text cannot stand in a header.
    """
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"{where}.api_key_env must name a variable that is set, got {variable!r}. Export it."
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"{where}.api_key_env must name a variable of printable ASCII, got {variable!r}. "
            "Export the key alone."
        )
    return key


def render(template: str, question: Question) -> str:
    """Put a question into a template; what looks like a field in an answer stays as it is."""
    values = question._asdict()
    return _FIELD.sub(lambda match: values[match[1]], template)


def read_verdict(reply: str) -> Verdict | None:
    """Return the one verdict that a reply holds; None where it holds none, or two that differ."""
    found = {mark.lower() for mark in _MARK.findall(reply)}
    return _MEANS[found.pop()] if len(found) == 1 else None


def write_prompt(messages: Iterable[Message]) -> str:
    """Write a prompt for the judge: one user's turn as it stands, a conversation with its roles."""
    turns = list(messages)
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _orders(pair: Pair) -> Iterator[Question]:
    yield Question(pair.prompt, pair.ours, pair.theirs)
    yield Question(pair.prompt, pair.theirs, pair.ours)


def _read_reply(response: httpx.Response) -> str:
    try:
        body: Any = response.json()
        text = body["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _PassingError("a reply that is no chat completion") from error
    # A model that ran out of tokens while it reasoned has no content: no verdict.
    return text if isinstance(text, str) else ""


def _wait_asked_for(response: httpx.Response) -> float | None:
    """Return the seconds of a ``Retry-After``, None where there is none or it is a date."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if seconds >= 0 else None
