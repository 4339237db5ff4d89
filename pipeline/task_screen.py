"""Say why a task that a model wrote is not worth keeping, by Self-Instruct's and Alpaca's rules."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence

from pipeline.config.sft import BootstrapSection
from pipeline.formatting import Formatter
from pipeline.records import Demonstration
from pipeline.store import reason_to_refuse
from pipeline.task_text import Task

# One Chinese or Japanese character, or a run of other letters and digits: the former write no
# spaces, and a clause of theirs is not one word.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
# What a language model cannot read or do: the lists in the published code of Self-Instruct (up to
# "go to") and of Alpaca.
OUT_OF_REACH = re.compile(
    r"\b(images?|graphs?|pictures?|files?|maps?|draw|plot|go to"
    r"|video|audio|music|flowchart|diagram)\b",
    re.IGNORECASE,
)
# Self-Instruct's: it is unclear whether the program or its result is asked for.
UNCLEAR = "write a program"
REASONS = (
    "cut",
    "malformed",
    "unreadable",
    "too_short",
    "too_long",
    "unsuitable",
    "empty_output",
    "repeats_input",
    "incomplete",
    "duplicate",
    "similar",
    "over_max_length",
    "surplus",
)
"""Why a task is not kept, in the order of the questions; the first two are the parser's, and
``surplus`` are the good tasks after the last one asked for."""


class Screen:
    """Judge tasks one after the other, against the seeds and all that was admitted before.

    Args:
        section: the filters' settings.
        formatter: counts tokens.
        max_length: tokens a demonstration may have.
        seeds: tasks that a new one must differ from.
    """

    def __init__(
        self,
        section: BootstrapSection,
        formatter: Formatter,
        max_length: int,
        seeds: Iterable[Task],
    ) -> None:
        self._section, self._formatter, self._max_length = section, formatter, max_length
        self._pool: dict[str, list[str]] = {}
        for task in seeds:
            self.admit(task)

    def admit(self, task: Task) -> None:
        """Hold later tasks against this one as well."""
        self._pool[_key(task)] = split_words(task.instruction)

    def judge(self, task: Task) -> tuple[str | None, float]:
        """Return why a task is not kept, or None, and its ROUGE-L with the most similar one.

        The ROUGE-L is 0 for a task that fails before it is compared.
        """
        reason = find_fault(task, self._section)
        if reason is None and _key(task) in self._pool:
            reason = "duplicate"
        if reason is not None:
            return reason, 0.0
        similarity = find_similarity(split_words(task.instruction), self._pool.values())
        if similarity > self._section.max_similarity:
            return "similar", similarity
        messages = Demonstration(task.prompt, task.output).messages
        if len(self._formatter.conversation(messages).ids) > self._max_length:
            return "over_max_length", similarity
        return None, similarity


def find_fault(task: Task, section: BootstrapSection) -> str | None:
    """Return what is wrong with a task taken alone, or None."""
    words = len(split_words(task.instruction))
    shown = [text for text in (task.instruction, task.input) if text]
    output = _fold(task.output)
    faults = {
        "unreadable": any(reason_to_refuse(text) for text in shown),
        "too_short": words < section.min_words,
        "too_long": words > section.max_words,
        "unsuitable": _is_unsuitable(task.instruction),
        "empty_output": reason_to_refuse(task.output) is not None,
        "repeats_input": output in (_fold(task.input), _fold(task.instruction)),
        "incomplete": task.input.endswith(":") or output.endswith(":"),
    }
    return next((reason for reason, found in faults.items() if found), None)


def split_words(text: str) -> list[str]:
    """Return a text's words without case."""
    return WORD.findall(text.casefold())


def find_similarity(words: Sequence[str], others: Iterable[Sequence[str]]) -> float:
    """Return the highest ROUGE-L of a text with any of the others, 0 where there are none.

        ROUGE-L = 2 LCS(a, b) / (|a| + |b|)

    the F-measure with equal weights (Lin 2004) over words.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    return max(
        (
            2 * _count_common(places, len(words), other) / (len(words) + len(other))
            for other in others
            if other
        ),
        default=0.0,
    )


def _count_common(places: Mapping[str, int], length: int, other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, a bit for each word of the first text.

        V <- (V + (V & M_w)) | (V & ~M_w)      for each word w of the other text

    V starts as ones and its zeros count at the end; M_w has ones where w stands (Crochemore et al.
    2001). Some forty times as fast as the table of ``rouge_score``, whose value it is.
    """
    rest = full = (1 << length) - 1
    for word in other:
        match = rest & places.get(word, 0)
        rest = (rest + match | rest & ~match) & full
    return length - rest.bit_count()


def _is_unsuitable(instruction: str) -> bool:
    folded = instruction.casefold()
    return (
        OUT_OF_REACH.search(instruction) is not None
        or folded.startswith(UNCLEAR)
        or folded.startswith(tuple(string.punctuation))
    )


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _key(task: Task) -> str:
    return _fold(f"{task.instruction}\n{task.input}")
