"""Put the tiny world together: documents, demonstrations, prompts, tasks, gold, and labelers.

Everything is a pure function of the world's seed. A combination of entities belongs to one split
for good (``keyed.split_of``), a prompt text to demonstrations or to prompts, never to both.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from pipeline.errors import ConfigError, nearest
from pipeline.records import Demonstration, Prompt
from pipeline.world.documents import DOCUMENT_DRAWERS, draw_document
from pipeline.world.facts import FactTable
from pipeline.world.flaws import draw_flaw, spoil
from pipeline.world.gold import GoldJudge, GoldVerdict, word_pairs
from pipeline.world.instruction import USE_CASES, Instruction
from pipeline.world.keyed import Split, keyed_number, keyed_random
from pipeline.world.labelers import (
    USUAL_NOISE,
    LabelerSettings,
    SimulatedLabeler,
    draw_labeler,
)
from pipeline.world.tasks import FewShotTask, build_tasks
from pipeline.world.use_cases import USE_CASE_DRAWERS

# A use case is spent when this many draws in a row bring no new prompt.
PATIENCE = 400
DEMONSTRATED_SHARE = 0.6


class World:
    """A small-English world, the same for the same seed everywhere."""

    DOCUMENT_SOURCES: tuple[str, ...] = tuple(DOCUMENT_DRAWERS)

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.facts = FactTable(seed)

    def documents(self, source: str, count: int, split: Split = "train") -> Iterator[str]:
        """Yield ``count`` different documents of one source; a larger count only adds to them.

        Raises:
            ConfigError: if there is no such source.
        """
        if source not in DOCUMENT_DRAWERS:
            raise ConfigError(
                f"world source must be known, got {source!r}.{nearest(source, DOCUMENT_DRAWERS)}"
            )
        rng = keyed_random(self.seed, "documents", source, split)
        seen: set[int] = set()
        while len(seen) < count:
            text = draw_document(source, rng, split, self.facts)
            mark = keyed_number(text)
            if mark not in seen:
                seen.add(mark)
                yield text

    def demonstrations(self, split: Split, count: int) -> list[Demonstration]:
        """Return demonstrations, balanced over the use cases.

        Those of the train split are flawed at the rates of ``flaws.FLAW_RATES``. The first ``n`` of
        a larger count are the same.
        """
        shown = []
        for instruction in self._instructions(split, count, "demonstrations"):
            prompt = instruction.prompt
            rng = keyed_random(self.seed, "demonstrator", prompt.id)
            flaw = draw_flaw(rng) if split == "train" else None
            text = instruction.completion if flaw is None else spoil(instruction, flaw, rng)
            shown.append(Demonstration(prompt, text))
        return shown

    def prompts(self, split: Split, count: int) -> list[Prompt]:
        """Return prompts, balanced over the use cases, none of which has a demonstration."""
        return [item.prompt for item in self._instructions(split, count, "prompts")]

    def tasks(self) -> list[FewShotTask]:
        """Return the few-shot tasks."""
        return build_tasks(self.facts, self.seed)

    def gold(self, prompt: Prompt, completion: str) -> GoldVerdict:
        """Judge any completion of one of the world's prompts.

        Raises:
            DataError: if the prompt is not the tiny world's.
        """
        return self._judge.judge(prompt, completion)

    @cached_property
    def _judge(self) -> GoldJudge:
        known: set[tuple[str, str]] = set()
        for use_case, draw in USE_CASE_DRAWERS.items():
            rng = keyed_random("known pairs", use_case)
            for _ in range(600):
                known.update(word_pairs(draw(rng, self.facts).completion))
        return GoldJudge(self.facts, frozenset(known))

    def _instructions(
        self, split: Split, count: int, purpose: Literal["demonstrations", "prompts"]
    ) -> list[Instruction]:
        """Draw from each use case in turn; the share of a spent one goes to the others."""
        generators = {
            use_case: keyed_random(self.seed, purpose, use_case, split) for use_case in USE_CASES
        }
        seen: set[str] = set()
        drawn: list[Instruction] = []
        while len(drawn) < count:
            for use_case in list(generators):
                if len(drawn) == count:
                    break
                found = self._draw_new(use_case, generators[use_case], split, purpose, seen)
                if found is None:
                    del generators[use_case]
                else:
                    drawn.append(found)
            if not generators:
                raise ConfigError(
                    f"count must be at most {len(drawn)} for {purpose} of {split}, got {count}. "
                    "Ask for fewer."
                )
        return drawn

    def _draw_new(
        self,
        use_case: str,
        rng: random.Random,
        split: Split,
        purpose: str,
        seen: set[str],
    ) -> Instruction | None:
        for _ in range(PATIENCE):
            found = USE_CASE_DRAWERS[use_case](rng, self.facts)
            text = "\n".join(found.turns)
            if found.split != split or text in seen or _purpose_of(text) != purpose:
                continue
            seen.add(text)
            return found
        return None


def _purpose_of(text: str) -> str:
    shown = keyed_number("purpose", text) % 100 < 100 * DEMONSTRATED_SHARE
    return "demonstrations" if shown else "prompts"


def draw_labelers(
    world: World,
    count: int,
    seed: int,
    noise: float = 1.0,
    held_out: int = 0,
) -> list[SimulatedLabeler]:
    """Draw ``count`` labelers of the train group, and after them ``held_out`` of the other.

    ``noise`` scales the labelers' noise: 1 gives the paper's agreement, 0 leaves only leanings.
    """
    settings = LabelerSettings(noise=noise * USUAL_NOISE)
    return [
        draw_labeler(
            world.gold,
            f"simulated-{number:02d}",
            "train" if number <= count else "held_out",
            seed,
            settings,
        )
        for number in range(1, count + held_out + 1)
    ]
