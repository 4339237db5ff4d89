"""Read and write the ranking JSONL: one row a judgment, everything about it in the row.

    {"prompt": [{"role": "user", "content": "..."}], "split": "train",
     "completions": [{"text": "...", "sources": [{"stage": "sft", ...}]}, ...],
     "ranks": [1, 2, 2], "ratings": [6, 3, 3], "labeler": "simulated-1", "simulated": true, ...}

Lists run parallel to ``completions``. ``prompt``, ``completions`` and ``ranks`` are required, and a
prompt or a completion may be a plain string, so that other sources' rankings are rows too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, get_args

from pipeline.errors import StoreError, nearest
from pipeline.records import ROLES, Message, Prompt, Ranking
from pipeline.store.values import (
    FINISH_REASONS,
    GROUPS,
    SPLITS,
    Provenance,
    Purpose,
    SampledCompletion,
    check_choice,
    dense_ranks,
    provenance_fields,
)


@dataclass(frozen=True)
class JudgmentRecord:
    """One judgment with all that it is about.

    Attributes:
        prompt: what was answered.
        completions: each distinct text with its sources.
        ranks: dense ranks, parallel to the completions.
        ratings: 1 to 7, parallel to the completions, or None.
        flags: yes/no observations, parallel to the completions, or None.
        split: the prompt's split, or None where the source names none.
        labeler: pseudonym, or None where the source names none.
        group: the labeler's group.
        simulated: whether a program judged.
        comment: the labeler's note.
        active_seconds: working time.
        presented: the order that the labeler saw, as indices of completions, or None.
        overlap: labelers wanted for the task.
        held_out_overlap: held-out labelers wanted beside them.
        revision: 1 for the first judgment of this labeler on this task, or None for the next.
        key: idempotency key, or None for one made of the content.
        created: when it was submitted, or None for now.
        kind: ``ranking`` or ``comparison``.
        purpose: ``work``, or what keeps it from training: ``screening``, ``gold``, ``repeat``.
        repeats: the task that a repeat shows again.
        known: whether this is the known answer of a screening or gold task, given by a lead (the
            ``labeler``), and no judgment.
        prompt_flags: yes/no observations on the prompt.
        none_acceptable: whether no completion would do as an answer.
        instructions: the version that the labeler worked by, or None.
        interface: the version of the page that the labeler worked with, or None.
    """

    prompt: Prompt
    completions: tuple[tuple[str, tuple[Provenance, ...]], ...]
    ranks: tuple[int, ...]
    ratings: tuple[int, ...] | None = None
    flags: tuple[Mapping[str, bool], ...] | None = None
    split: str | None = None
    labeler: str | None = None
    group: str = "train"
    simulated: bool = False
    comment: str = ""
    active_seconds: float | None = None
    presented: tuple[int, ...] | None = None
    overlap: int = 1
    held_out_overlap: int = 0
    revision: int | None = None
    key: str | None = None
    created: datetime | None = None
    kind: str = "ranking"
    purpose: str = "work"
    repeats: str | None = None
    known: bool = False
    prompt_flags: Mapping[str, bool] = field(default_factory=dict)
    none_acceptable: bool = False
    instructions: int | None = None
    interface: str | None = None

    @property
    def sampled(self) -> list[SampledCompletion]:
        """Return each completion once a source."""
        return [
            SampledCompletion(text, source)
            for text, sources in self.completions
            for source in sources
        ]

    @classmethod
    def from_ranking(cls, ranking: Ranking, source: str, *, simulated: bool) -> JudgmentRecord:
        """Take over a plain ranking of the named source; its ranks may have gaps."""
        provenance = (Provenance(stage=source),)
        return cls(
            prompt=ranking.prompt,
            completions=tuple((text, provenance) for text in ranking.completions),
            ranks=dense_ranks(ranking.ranks),
            ratings=ranking.ratings,
            labeler=ranking.labeler,
            group=ranking.group,
            simulated=simulated,
        )


PURPOSES: tuple[str, ...] = get_args(Purpose)
# Left out of a row where they say nothing, as in the files of before they were asked.
OPTIONAL: dict[str, Any] = {
    "kind": "ranking",
    "purpose": "work",
    "repeats": None,
    "known": False,
    "prompt_flags": {},
    "none_acceptable": False,
    "instructions": None,
    "interface": None,
}


def write_row(record: JudgmentRecord) -> dict[str, Any]:
    """Return the JSON row of a judgment."""
    row = {item.name: getattr(record, item.name) for item in fields(record)}
    for name, default in OPTIONAL.items():
        if row[name] == default:
            del row[name]
    prompt: Prompt = row.pop("prompt")
    assert record.created is not None, "a stored judgment has its time"
    return {
        "prompt": list(prompt.messages),
        "use_case": prompt.use_case,
        "meta": prompt.meta,
        **row,
        "completions": [
            {"text": text, "sources": [provenance_fields(source) for source in sources]}
            for text, sources in record.completions
        ],
        "created": record.created.astimezone(UTC).isoformat(),
    }


def read_row(row: Mapping[str, Any], source: str) -> JudgmentRecord:
    """Parse a JSON row; ``source`` names the origin of completions that bring none.

    Raises:
        StoreError: naming the field and the rule that it breaks.
    """
    cells = _Cells(row, "")
    record = JudgmentRecord(
        prompt=Prompt(
            _read_messages(cells.required("prompt")),
            cells.optional("use_case", str),
            cells.optional("meta", dict) or {},
        ),
        completions=tuple(
            _read_completion(item, source) for item in cells.items("completions", (str, dict)) or ()
        ),
        ranks=dense_ranks(cells.items("ranks", int) or ()),
        ratings=cells.items("ratings", int),
        flags=cells.items("flags", dict),
        split=cells.word("split", SPLITS),
        labeler=cells.optional("labeler", str),
        group=cells.word("group", GROUPS) or "train",
        simulated=cells.optional("simulated", bool) or False,
        comment=cells.optional("comment", str) or "",
        active_seconds=cells.optional("active_seconds", (int, float)),
        presented=cells.items("presented", int),
        overlap=cells.natural("overlap") or 1,
        held_out_overlap=cells.natural("held_out_overlap", least=0) or 0,
        revision=cells.natural("revision"),
        key=cells.optional("key", str),
        created=_read_time(cells.optional("created", str)),
        kind=cells.word("kind", ("ranking", "comparison")) or "ranking",
        purpose=cells.word("purpose", PURPOSES) or "work",
        repeats=cells.optional("repeats", str),
        known=cells.optional("known", bool) or False,
        prompt_flags=cells.optional("prompt_flags", dict) or {},
        none_acceptable=cells.optional("none_acceptable", bool) or False,
        instructions=cells.natural("instructions"),
        interface=cells.optional("interface", str),
    )
    cells.refuse_rest()
    check_lengths(record)
    return record


def check_lengths(record: JudgmentRecord) -> None:
    """Hold the parallel lists of a judgment against its completions.

    Raises:
        StoreError: if there are fewer than two completions, two are equal, or a list does not fit.
    """
    texts = [text for text, _ in record.completions]
    if len(texts) < 2 or len(set(texts)) != len(texts):
        raise StoreError(
            f"'completions' must be two or more different texts, got {len(texts)} with "
            f"{len(set(texts))} different. Remove the row or the repeated text."
        )
    if record.kind == "comparison" and len(texts) != 2:
        raise StoreError(
            f"'completions' of a comparison must be 2, got {len(texts)}. Mend the row, or make it "
            "a ranking."
        )
    for name in ("ranks", "ratings", "flags"):
        values = getattr(record, name)
        if values is not None and len(values) != len(texts):
            raise StoreError(
                f"'{name}' must have one entry a completion ({len(texts)}), got {len(values)}. "
                "Mend the row."
            )
    if record.presented is not None and sorted(record.presented) != list(range(len(texts))):
        raise StoreError(
            f"'presented' must hold each index below {len(texts)} once, got "
            f"{list(record.presented)!r}. Mend the row."
        )


@dataclass
class _Cells:
    """Take the cells of one JSON object by name and type, and notice those left over."""

    row: Mapping[str, Any]
    where: str
    taken: set[str] = field(default_factory=set)

    def required(self, name: str) -> Any:
        self.taken.add(name)
        if self.row.get(name) is None:
            raise StoreError(f"'{self.where}{name}' is missing. Add it.")
        return self.row[name]

    def optional(self, name: str, types: type | tuple[type, ...]) -> Any:
        self.taken.add(name)
        value = self.row.get(name)
        if value is not None:
            self._check(name, value, types)
        return value

    def items(self, name: str, types: type | tuple[type, ...]) -> tuple[Any, ...] | None:
        values = self.optional(name, list)
        for value in values or ():
            self._check(name, value, types)
        return None if values is None else tuple(values)

    def word(self, name: str, valid: tuple[str, ...]) -> Any:
        value = self.optional(name, str)
        if value is not None:
            check_choice(f"'{self.where}{name}'", value, valid)
        return value

    def natural(self, name: str, least: int = 1) -> int | None:
        value: int | None = self.optional(name, int)
        if value is not None and value < least:
            raise StoreError(
                f"'{self.where}{name}' must be {least} or more, got {value!r}. Mend it."
            )
        return value

    def refuse_rest(self) -> None:
        for name in self.row:
            if name not in self.taken:
                raise StoreError(
                    f"'{self.where}{name}' is not a field of a ranking.{nearest(name, self.taken)}"
                )

    def _check(self, name: str, value: object, types: type | tuple[type, ...]) -> None:
        # JSON's true is an int to Python and a mistake where a number belongs.
        if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
            kinds = types if isinstance(types, tuple) else (types,)
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise StoreError(
                f"'{self.where}{name}' must hold {wanted}, got {value!r}. Mend the row."
            )


def _read_messages(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value or not all(map(_is_message, value)):
        raise StoreError(
            "'prompt' must be a text or a list of messages with 'role' and 'content', got "
            f"{value!r}. Mend the row."
        )
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in value)


def _is_message(turn: object) -> bool:
    return (
        isinstance(turn, dict)
        and set(turn) == {"role", "content"}
        and turn["role"] in ROLES
        and isinstance(turn["content"], str)
    )


def _read_completion(
    value: str | dict[str, Any], source: str
) -> tuple[str, tuple[Provenance, ...]]:
    if isinstance(value, str):
        return value, (Provenance(stage=source),)
    cells = _Cells(value, "completions.")
    text: str = cells.optional("text", str)
    cells.required("text")
    sources = cells.items("sources", dict) or ()
    cells.refuse_rest()
    return text, tuple(map(read_source, sources)) or (Provenance(stage=source),)


def read_source(value: Mapping[str, Any]) -> Provenance:
    """Parse the JSON of one provenance.

    Raises:
        StoreError: naming the field and the rule that it breaks.
    """
    cells = _Cells(value, "completions.sources.")
    cells.required("stage")
    provenance = Provenance(
        stage=cells.optional("stage", str),
        checkpoint=cells.optional("checkpoint", str),
        model=cells.optional("model", str),
        sampling=cells.optional("sampling", dict) or {},
        seed=cells.optional("seed", int),
        sample_index=cells.optional("sample_index", int),
        finish_reason=cells.word("finish_reason", FINISH_REASONS),
    )
    cells.refuse_rest()
    return provenance


def _read_time(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError as error:
        raise StoreError(
            f"'created' must be an ISO 8601 time, got {value!r}. Mend the row."
        ) from error
    if time.tzinfo is None:
        raise StoreError(f"'created' must name its time zone, got {value!r}. Add 'Z' for UTC.")
    return time
