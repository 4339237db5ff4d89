"""Choose the judgments that the explorer shows, and the page of them; no Gradio here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipeline.store.judged import Judged

PAGE = 25


@dataclass(frozen=True)
class Filter:
    """What the explorer shows; an empty choice lets everything through.

    Attributes:
        labelers: by name.
        splits: of the prompts.
        kinds: of tasks.
        purposes: of tasks.
        flags: ticked on an output, any of them.
        stages: that one of the outputs comes from.
        text: in the prompt, an output or the comment, in any case.
        tasks: only these; None for all.
    """

    labelers: Collection[str] = ()
    splits: Collection[str] = ()
    kinds: Collection[str] = ()
    purposes: Collection[str] = ()
    flags: Collection[str] = ()
    stages: Collection[str] = ()
    text: str = ""
    tasks: Collection[str] | None = None

    def matches(self, item: Judged) -> bool:
        """Tell whether a judgment is shown."""
        return (
            _in(item.labeler, self.labelers)
            and _in(item.split, self.splits)
            and _in(item.kind, self.kinds)
            and _in(item.purpose, self.purposes)
            and (self.tasks is None or item.task in self.tasks)
            and self._has_flag(item)
            and self._has_stage(item)
            and self._has_text(item)
        )

    def _has_flag(self, item: Judged) -> bool:
        ticked = {name for flags in item.flags for name, yes in flags.items() if yes}
        ticked |= {name for name, yes in item.prompt_flags.items() if yes}
        return not self.flags or not ticked.isdisjoint(self.flags)

    def _has_stage(self, item: Judged) -> bool:
        stages = {stage for output in item.outputs for stage in output.stages}
        return not self.stages or not stages.isdisjoint(self.stages)

    def _has_text(self, item: Judged) -> bool:
        wanted = self.text.strip().casefold()
        texts = [turn["content"] for turn in item.prompt.messages]
        texts += [output.text for output in item.outputs]
        return not wanted or any(wanted in text.casefold() for text in (*texts, item.comment))


@dataclass(frozen=True)
class Shown:
    """One page of judgments.

    Attributes:
        numbered: the judgments, the newest first, each with its number among all that match.
        number: of the page, from 1.
        pages: how many there are, at least 1.
        total: how many judgments match.
    """

    numbered: tuple[tuple[int, Judged], ...]
    number: int
    pages: int
    total: int


def show_page(judged: Sequence[Judged], wanted: Filter, number: int) -> Shown:
    """Return a page of the judgments that match; one beyond the ends is the nearest."""
    matching = [item for item in reversed(judged) if wanted.matches(item)]
    pages = max(1, -(-len(matching) // PAGE))
    number = min(max(1, number), pages)
    start = (number - 1) * PAGE
    numbered = enumerate(matching[start : start + PAGE], start=start + 1)
    return Shown(tuple(numbered), number, pages, len(matching))


def _in(value: str, chosen: Collection[str]) -> bool:
    return not chosen or value in chosen
