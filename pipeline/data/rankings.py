"""Read rankings: one labeler's order over the completions of a prompt.

A row is one of ours (``prompt``, ``completions``, ``ranks``; the label store exports such rows), a
preference (``prompt``, ``chosen``, ``rejected``; or without ``prompt`` both as whole
conversations), or a judged pair (``completion_a``, ``completion_b``, ``votes``), which is one
ranking a voter.

Completions of one ranking must differ: a judgment between equal texts teaches nothing, and the
label store does not take it. Rows of the store's that a later revision replaced are left out, and
so are those that do not reach training there: comparisons, screening, gold and repeated tasks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pipeline.config.source import Source
from pipeline.data.fields import (
    check_messages,
    check_text,
    make_prompt,
    read_completion,
    read_prompt,
    read_text,
)
from pipeline.data.layouts import Kind, Layout
from pipeline.data.rows import Row, draw_subset
from pipeline.data.tiny import refuse_tiny_rankings
from pipeline.records import Message, Prompt, Ranking
from pipeline.store.values import RATINGS, dense_ranks

GROUPS: dict[str, Literal["train", "held_out"]] = {"train": "train", "held_out": "held_out"}
VOTES = {"a": (1, 2), "b": (2, 1), "tie": (1, 1)}
# Anthropic's HH writes a conversation so; the speaker opens each turn.
TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}


class Judged(NamedTuple):
    """A ranking, and which revision of its labeler's judgment it is where the row says so."""

    ranking: Ranking
    revision: int | None = None


def read_rankings(
    sources: Sequence[Source],
    seed: int,
    *,
    drop_empty: bool = False,
    dropped: Counter[str] | None = None,
) -> list[Ranking]:
    """Read rankings, source after source; ranks come out dense, 1 the best, equal ranks ties.

    Args:
        sources: what to read; ``limit`` draws from each.
        seed: the run's seed.
        drop_empty: leave out and count rows with an empty text, rather than refuse them.
        dropped: filled with how many rows were left out, by source and reason.

    Raises:
        DataError: naming the file and the line.
    """
    found: list[Ranking] = []
    for source in sources:
        refuse_tiny_rankings(source)
        judged = RANKINGS.read(source, drop_empty=drop_empty, dropped=dropped)
        found += draw_subset(_keep_latest(judged), source, seed)
    return found


def _keep_latest(judged: Sequence[Judged]) -> list[Ranking]:
    """Keep the last revision of each labeler's judgment, where the first stood."""
    latest: dict[object, Judged] = {}
    for number, item in enumerate(judged):
        ranking = item.ranking
        judgment = (ranking.prompt.id, frozenset(ranking.completions), ranking.labeler)
        key: object = number if item.revision is None else judgment
        known = latest.get(key)
        if known is None or (known.revision or 0) < (item.revision or 0):
            latest[key] = item
    return [item.ranking for item in latest.values()]


def _read_ranks(row: Row) -> list[Judged]:
    completions = _read_completions(row)
    ranks = _read_numbers(row, "ranks", len(completions))
    ratings = None
    if "ratings" in row.values:
        ratings = _read_numbers(row, "ratings", len(completions))
        for rating in ratings:
            if rating not in RATINGS:
                raise row.fault(f"'ratings' must lie in 1 to 7, got {rating}. Mend the line.")
    group = row.values.get("group", "train")
    if group not in [*GROUPS]:
        raise row.fault(f"'group' must be train or held_out, got {group!r}. Change it.")
    if not _is_training(row):
        return []
    labeler, revision = row.values.get("labeler"), row.values.get("revision")
    ranking = Ranking(
        read_prompt(row),
        completions,
        dense_ranks(ranks),
        ratings,
        None if labeler is None else str(labeler),
        GROUPS[group],
    )
    return [Judged(ranking, revision if isinstance(revision, int) else None)]


def _is_training(row: Row) -> bool:
    """Tell whether a row of the label store's is a ranking to train on.

    Comparisons measure stages, and screening, gold and repeated tasks measure labelers.
    """
    aside = ("screening", "gold", "repeat")
    return row.values.get("kind") != "comparison" and row.values.get("purpose") not in aside


def _read_completions(row: Row) -> tuple[str, ...]:
    values = row.values["completions"]
    if not isinstance(values, list) or len(values) < 2:
        raise row.fault(
            f"'completions' must be a list of two or more, got {values!r:.40}. Mend the line."
        )
    texts = []
    for number, value in enumerate(values, start=1):
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise row.fault(
                f"'completions[{number}]' must be a string or have a 'text', got {value!r:.40}. "
                "Mend the line."
            )
        texts.append(check_text(row, f"completions[{number}]", text))
        first = texts.index(text) + 1
        if first < number:
            raise row.fault(
                f"'completions[{number}]' equals 'completions[{first}]'. Remove one of them."
            )
    return tuple(texts)


def _read_numbers(row: Row, key: str, count: int) -> tuple[int, ...]:
    values = row.values[key]
    if not isinstance(values, list) or len(values) != count:
        raise row.fault(
            f"'{key}' must have one entry a completion ({count}), got {values!r:.60}. "
            "Mend the line."
        )
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise row.fault(f"'{key}' must be whole numbers, got {value!r}. Mend the line.")
    return tuple(values)


def _read_preference(row: Row) -> list[Judged]:
    prompt = read_prompt(row)
    texts = []
    for key in ("chosen", "rejected"):
        before, text = read_completion(row, key)
        if before and before != prompt.messages:
            raise row.fault(
                f"'{key}' must continue 'prompt', got another conversation. Mend the line."
            )
        texts.append(text)
    return [_compare(row, prompt, *texts)]


def _read_conversations(row: Row) -> list[Judged]:
    before, chosen = _read_conversation(row, "chosen")
    other, rejected = _read_conversation(row, "rejected")
    if before != other or not before or before[-1]["role"] != "user":
        raise row.fault(
            "'chosen' and 'rejected' must share all but the last turn, up to a user's. "
            "Mend the line, or give 'prompt'."
        )
    return [_compare(row, make_prompt(row, before), chosen, rejected)]


def _read_conversation(row: Row, key: str) -> tuple[tuple[Message, ...], str]:
    if not isinstance(row.values[key], str):
        return read_completion(row, key)
    opening, *parts = TRANSCRIPT.split(read_text(row, key))
    if opening.strip() or not parts:
        raise row.fault(f"'{key}' stands without 'prompt', and is no conversation. Add 'prompt'.")
    turns = [
        {"role": SPEAKERS[speaker], "content": text.strip()}
        for speaker, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    *before, last = check_messages(row, key, turns, "assistant")
    return tuple(before), last["content"]


def _compare(row: Row, prompt: Prompt, chosen: str, rejected: str) -> Judged:
    if chosen == rejected:
        raise row.fault("'chosen' equals 'rejected'. Remove the line or relabel it.")
    return Judged(Ranking.from_pair(prompt, chosen, rejected))


def _read_votes(row: Row) -> list[Judged]:
    prompt = read_prompt(row)
    pair = (read_text(row, "completion_a"), read_text(row, "completion_b"))
    if pair[0] == pair[1]:
        raise row.fault("'completion_a' equals 'completion_b'. Remove the line.")
    votes = row.values["votes"]
    if not isinstance(votes, list) or not votes or any(v not in [*VOTES] for v in votes):
        raise row.fault(f"'votes' must be a list of a, b or tie, got {votes!r:.60}. Mend the line.")
    return [
        Judged(Ranking(prompt, pair, VOTES[vote], labeler=f"pandalm-{number}"))
        for number, vote in enumerate(votes, start=1)
    ]


RANKINGS = Kind(
    "rankings",
    (
        Layout(("prompt", "completions", "ranks"), _read_ranks, ("oasst",)),
        Layout(("prompt", "chosen", "rejected"), _read_preference),
        Layout(("chosen", "rejected"), _read_conversations),
        Layout(("prompt", "completion_a", "completion_b", "votes"), _read_votes, ("pandalm",)),
    ),
)
