"""Define what goes into the label store and comes out of it, and the rules a judgment must meet.

Ranks are *dense*: 1 is the best, equal ranks are ties, and no rank is left out (``1, 1, 2``, never
``1, 1, 3``). One order then has one spelling, so equal judgments have equal hashes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from pipeline.errors import StoreError
from pipeline.records import Prompt

Split = Literal["train", "validation", "test"]
Kind = Literal["human", "simulated"]
Group = Literal["train", "held_out"]
FinishReason = Literal["eos", "length", "stop"]
TaskKind = Literal["ranking", "comparison", "demonstration"]
Purpose = Literal["work", "screening", "gold", "repeat"]

SPLITS: tuple[str, ...] = get_args(Split)
KINDS: tuple[str, ...] = get_args(Kind)
GROUPS: tuple[str, ...] = get_args(Group)
FINISH_REASONS: tuple[str, ...] = get_args(FinishReason)
TASK_KINDS: tuple[str, ...] = get_args(TaskKind)

RATINGS = range(1, 8)
# Every simulated labeler's name begins so, and no person's: a name is all that some outputs show.
SIMULATED_PREFIX = "simulated-"


@dataclass(frozen=True)
class Provenance:
    """How a completion came about.

    Attributes:
        stage: the stage, or the data set, that it comes from.
        checkpoint: hash of the weights that sampled it.
        model: the model's name.
        sampling: sampling parameters, as JSON.
        seed: seed of the sampling.
        sample_index: which of the prompt's K samples it was.
        finish_reason: ``eos``, ``length`` or ``stop``; None where unknown.
    """

    stage: str
    checkpoint: str | None = None
    model: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    sample_index: int | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class SampledCompletion:
    """A completion on its way into the store."""

    text: str
    provenance: Provenance


@dataclass(frozen=True)
class Answered:
    """A prompt with what was answered to it.

    Attributes:
        prompt: the prompt.
        completions: every answer with its origin, in the row's order; none where there is none.
    """

    prompt: Prompt
    completions: tuple[SampledCompletion, ...] = ()


@dataclass(frozen=True)
class StoredCompletion:
    """A completion in the store, with every way in which it came about."""

    id: str
    text: str
    sources: tuple[Provenance, ...]


@dataclass(frozen=True)
class Choice:
    """A completion as a labeler meets it: an opaque id and a text, nothing of its origin."""

    id: str
    text: str


@dataclass(frozen=True)
class Judgment:
    """A labeler's verdict on one task; mappings have completion ids as keys.

    Attributes:
        ranks: dense ranks, 1 the best, equal ranks are ties.
        ratings: overall quality from 1 to 7 for every completion, or None where none were asked.
        flags: named yes/no observations on any of the completions.
        comment: the labeler's note.
        prompt_flags: named yes/no observations on the prompt.
        none_acceptable: whether none of the completions would do as an answer.
        instructions: the version of the instructions that the labeler worked by, if any.
        interface: the version of the page that the labeler worked with, if any.
        active_seconds: working time, in seconds.
    """

    ranks: Mapping[str, int]
    ratings: Mapping[str, int] | None = None
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    comment: str = ""
    prompt_flags: Mapping[str, bool] = field(default_factory=dict)
    none_acceptable: bool = False
    instructions: int | None = None
    interface: str | None = None
    active_seconds: float | None = None


@dataclass(frozen=True)
class Written:
    """An answer that a labeler wrote to a prompt.

    Attributes:
        text: the answer.
        comment: the labeler's note.
        prompt_flags: named yes/no observations on the prompt.
        instructions: the version of the instructions that the labeler worked by, if any.
        interface: the version of the page that the labeler worked with, if any.
        active_seconds: working time, in seconds.
    """

    text: str
    comment: str = ""
    prompt_flags: Mapping[str, bool] = field(default_factory=dict)
    instructions: int | None = None
    interface: str | None = None
    active_seconds: float | None = None


@dataclass(frozen=True)
class SavedDraft:
    """What a page has saved of its work.

    Attributes:
        version: counts the saves; a page that saves names the last one it has seen.
        content: the page's own.
        saved: when, UTC.
    """

    version: int
    content: Mapping[str, Any]
    saved: datetime


@dataclass(frozen=True)
class Task:
    """A task in a labeler's hands.

    Attributes:
        id: the task.
        token: what ``submit`` asks for; only the holder of the lease knows it.
        kind: what is to be done.
        prompt: what was or is to be answered.
        completions: the answers in the order to present, shuffled for each labeler.
        lease_expires: until when the place is held, UTC.
        draft: what was saved of the work so far.
        submitted: the newest judgment or answer of this labeler, where there is one to edit.
    """

    id: str
    token: str
    kind: TaskKind
    prompt: Prompt
    completions: tuple[Choice, ...]
    lease_expires: datetime
    draft: SavedDraft | None = None
    submitted: Judgment | Written | None = None


@dataclass(frozen=True)
class Receipt:
    """Acknowledge a stored judgment: it is on disk when this is returned."""

    task_id: str
    labeler: str
    revision: int
    created: datetime


@dataclass(frozen=True)
class ImportCount:
    """Say how many judgments an import added, and how many the store had already."""

    added: int
    duplicates: int


def hash_content(*parts: object) -> str:
    """Return 16 hex digits of the SHA-256 of the parts as canonical JSON."""
    text = json.dumps(parts, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def completion_id(prompt_id: str, text: str) -> str:
    """Name a completion by its prompt and its text."""
    return hash_content("completion", prompt_id, text)


def source_id(completion: str, provenance: Provenance) -> str:
    """Name one provenance of a completion by its content."""
    return hash_content("source", completion, provenance_fields(provenance))


def provenance_fields(provenance: Provenance) -> dict[str, Any]:
    """Return the provenance as plain JSON."""
    return {**vars(provenance), "sampling": dict(provenance.sampling)}


def task_id(prompt_id: str, completions: Collection[str], kind: TaskKind = "ranking") -> str:
    """Name a task by its kind, its prompt and the set of its completions."""
    return hash_content(kind, prompt_id, sorted(completions))


def reason_to_refuse(text: str) -> str | None:
    """Say why the store would refuse a completion of this text, or return None where it takes it.

    A sampler asks this beforehand, to sample again or to record the refusal. Refused are texts
    that a person cannot see (nothing but white space and invisible characters) and texts that
    databases cannot hold (NUL, lone surrogates).
    """
    if not any(char.isprintable() and not char.isspace() for char in text):
        return "is empty"
    return reason_unstorable(text)


def dense_ranks(ranks: Sequence[float]) -> tuple[int, ...]:
    """Return the same order with ties as dense ranks: ``(2, 2, 9)`` becomes ``(1, 1, 2)``."""
    position = {rank: index for index, rank in enumerate(sorted(set(ranks)), start=1)}
    return tuple(position[rank] for rank in ranks)


def check_choice(where: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuse a word outside a closed set.

    Raises:
        StoreError: if the value is none of the valid ones.
    """
    if value not in valid:
        raise StoreError(
            f"{where} must be one of {', '.join(valid)}, got {value!r}. Use one of them."
        )


def check_labeler(name: str, kind: str, group: str) -> None:
    """Refuse a labeler whose name is unusable or hides that its labels are simulated.

    Raises:
        StoreError: naming the rule.
    """
    check_choice("labeler.kind", kind, KINDS)
    check_choice("labeler.group", group, GROUPS)
    if not name.strip() or len(name) > 200:
        raise StoreError(
            f"labeler.name must have 1 to 200 characters, got {name!r}. Give another pseudonym."
        )
    if name.startswith(SIMULATED_PREFIX) != (kind == "simulated"):
        raise StoreError(
            f"labeler.name must begin with {SIMULATED_PREFIX!r} for simulated labelers and for no "
            f"others, got {name!r} for a {kind} one. Rename the labeler."
        )


def check_judgment(judgment: Judgment, completions: Collection[str]) -> None:
    """Hold a judgment against the task's completions.

    Raises:
        StoreError: if a completion is missing, unknown or ranked with gaps, a rating lies outside
            1 to 7, a flag is no yes/no, or the time is negative.
    """
    _check_cover("ranks", judgment.ranks, completions)
    ranks = sorted(set(judgment.ranks.values()))
    if ranks != list(range(1, len(ranks) + 1)):
        raise StoreError(
            f"judgment.ranks must be dense from 1 (ties equal, no gaps), got "
            f"{sorted(judgment.ranks.values())!r}. Renumber them."
        )
    if judgment.ratings is not None:
        _check_cover("ratings", judgment.ratings, completions)
        for rating in judgment.ratings.values():
            if rating not in RATINGS:
                raise StoreError(
                    f"judgment.ratings must lie from 1 to 7, got {rating!r}. Rate again."
                )
    _check_flags(judgment, completions)
    _check_circumstances("judgment", judgment)


def check_written(written: Written) -> None:
    """Refuse an answer that nobody could see or that the store cannot hold.

    Raises:
        StoreError: naming the rule.
    """
    reason = reason_to_refuse(written.text)
    if reason is not None:
        raise StoreError(f"demonstration.text must be an answer, but it {reason}. Write one.")
    _check_circumstances("demonstration", written)


def _check_circumstances(where: str, work: Judgment | Written) -> None:
    """Check what a judgment and a written answer have in common."""
    seconds = work.active_seconds
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise StoreError(
            f"{where}.active_seconds must be a time of 0 or more, got {seconds!r}. Mend it."
        )
    reason = reason_unstorable(work.comment)
    if reason is not None:
        raise StoreError(f"{where}.comment must be plain text, but it {reason}. Remove that.")
    for name, value in work.prompt_flags.items():
        if not isinstance(value, bool):
            raise StoreError(
                f"{where}.prompt_flags.{name} must be true or false, got {value!r}. Mend it."
            )


def _check_flags(judgment: Judgment, completions: Collection[str]) -> None:
    for completion, flags in judgment.flags.items():
        if completion not in completions:
            raise StoreError(
                f"judgment.flags must name completions of the task, got {completion!r}. Remove it."
            )
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise StoreError(
                    f"judgment.flags.{name} must be true or false, got {value!r}. Mend it."
                )


def reason_unstorable(text: str) -> str | None:
    """Say why a database could not hold a text, or return None where it can."""
    if "\x00" in text:
        return "holds a NUL character"
    if any("\ud800" <= char <= "\udfff" for char in text):
        return "holds a lone surrogate"
    return None


def _check_cover(name: str, values: Mapping[str, int], completions: Collection[str]) -> None:
    if set(values) != set(completions):
        raise StoreError(
            f"judgment.{name} must name each of the task's {len(completions)} completions once, "
            f"got {sorted(values)!r}. Judge all of them and no others."
        )
    for value in values.values():
        if type(value) is not int:
            raise StoreError(f"judgment.{name} must be whole numbers, got {value!r}. Judge again.")
