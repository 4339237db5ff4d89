"""Let a model write demonstrations from seed tasks, and keep those that are new and well formed.

Self-Instruct (Wang et al. 2022) as Alpaca (Taori et al. 2023) simplified it: a prompt shows tasks
and asks for the next ones, instruction, input and output together. Rounds of such prompts run until
enough tasks were kept. A round is a function of the seed, its number and the tasks kept before it,
and one line of ``bootstrap_rounds.jsonl``: a kill loses the round at work and changes no result.
``bootstrap.jsonl`` holds the kept tasks in Alpaca's fields, each with its provenance.

Departures from both:
1. The prompt is one user's turn in the model's chat format, so that a tuned model answers it and
   a base model goes on with its list.
2. A quarter of the tasks shown are kept ones (Self-Instruct: 2 of 8; Alpaca: none), and those that
   do not fit in the context are left out.
3. A word is a run of letters and digits of any script, or one Chinese or Japanese character;
   instructions need not be in English.
4. A task with the prompt of another is a duplicate whatever ``max_similarity`` is, and one longer
   than the fine-tuning's ``max_length`` is dropped.
5. Plain sampling at a temperature; Self-Instruct adds top-p 0.5 and a presence penalty of 2, which
   would punish the labels of the form.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from pipeline.artifacts import write_text
from pipeline.config.sampling import DecodingSection
from pipeline.config.sft import BootstrapSection
from pipeline.config.source import Source
from pipeline.data import read_demonstrations
from pipeline.errors import DataError
from pipeline.formatting import Formatter
from pipeline.records import Demonstration
from pipeline.runs import Alone, Crew
from pipeline.sampling import SampledText, sample_completions
from pipeline.task_screen import REASONS, Screen
from pipeline.task_text import Task, compose_request, parse_tasks

BOOTSTRAP = "bootstrap.jsonl"
ROUNDS = "bootstrap_rounds.jsonl"
KEPT_SHARE = 4
"""One of so many tasks shown is a kept one (Self-Instruct: 2 of 8)."""
Round = Mapping[str, Any]
"""A line of the log: ``round``, ``rejected`` by reason, and the rows ``kept``."""
Sampler = Callable[..., list[SampledText]]
"""Complete prompts as ``sample_completions`` does."""
logger = logging.getLogger(__name__)


def bootstrap_demonstrations(
    section: BootstrapSection,
    model: Any,
    formatter: Formatter,
    *,
    folder: Path,
    provenance: Mapping[str, str],
    seed: int,
    max_length: int,
    crew: Crew | None = None,
    sample: Sampler = sample_completions,
) -> tuple[list[Demonstration], dict[str, int]]:
    """Make demonstrations with a model, or go on from the rounds that ``folder`` already holds.

    Every process of a crew calls this; rank 0 samples, and the others follow round by round.

    Args:
        section: seed tasks, sizes and filters.
        model: the causal language model that writes.
        formatter: of its tokenizer.
        folder: where ``bootstrap_rounds.jsonl`` and ``bootstrap.jsonl`` stand.
        provenance: what each row says of the model: its stage and hash.
        seed: the run's.
        max_length: tokens a demonstration may have, in the chat format.
        crew: the processes at work; one alone by default.
        sample: how prompts are completed.

    Returns:
        The kept demonstrations, and ``rounds``, ``candidates``, ``kept`` and ``rejected_REASON``
        for each reason; the candidates are the kept and the rejected together.

    Raises:
        DataError: if a seed task is no single turn, none fits in the context, or none was kept.
    """
    crew = crew or Alone()
    seeds = [_as_seed(demonstration) for demonstration in read_demonstrations(section.seeds, seed)]
    work = _Bootstrap(section, model, formatter, seeds, provenance, seed, max_length, sample)
    for done in crew.on_main(lambda: _read_rounds(folder)):
        work.add(done)
    bar = tqdm(
        desc="bootstrap",
        initial=len(work.rows),
        total=section.count,
        unit="task",
        disable=True if crew.rank else None,  # None: quiet when stderr is no terminal
    )
    while len(work.rows) < section.count and work.rounds < section.max_rounds:
        done = crew.on_main(lambda: _append_round(folder, work.sample_round()))
        work.add(done)
        bar.update(len(done["kept"]))
    bar.close()
    figures = work.figures()
    if not work.rows:
        raise DataError(_say_none_kept(figures))
    if len(work.rows) < section.count:
        logger.warning(
            "bootstrap kept %d of %d tasks in %d rounds",
            *(len(work.rows), section.count, work.rounds),
        )
    lines = "".join(_as_line(row) for row in work.rows)
    crew.on_main(lambda: write_text(folder / BOOTSTRAP, lines))
    return read_bootstrap(folder), figures


def read_bootstrap(folder: Path) -> list[Demonstration]:
    """Read the demonstrations that a finished bootstrap left in a stage's folder.

    Raises:
        DataError: if there are none.
    """
    return read_demonstrations([Source(path=str(folder / BOOTSTRAP), format="alpaca")], seed=0)


@dataclass
class _Bootstrap:
    """Hold what was kept so far, and sample the next round from it."""

    section: BootstrapSection
    model: Any
    formatter: Formatter
    seeds: Sequence[Task]
    provenance: Mapping[str, str]
    seed: int
    max_length: int
    sample: Sampler
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    rounds: int = 0

    def __post_init__(self) -> None:
        limit = self.section.max_new_tokens
        self._decoding = DecodingSection(temperature=self.section.temperature, max_new_tokens=limit)
        self._room: int = self.model.config.max_position_embeddings - limit
        self._fitting = [task for task in self.seeds if self._fits([task])]
        if not self._fitting:
            raise DataError(
                f"bootstrap.seeds must hold a task of at most {self._room} tokens with the request "
                f"for more, to leave room for max_new_tokens ({limit}) in the context, got none "
                f"in {len(self.seeds)}. Use shorter tasks, or lower max_new_tokens."
            )
        self._screen = Screen(self.section, self.formatter, self.max_length, self.seeds)
        self._kept: list[Task] = []
        self._rejected: Counter[str] = Counter()

    def add(self, done: Round) -> None:
        """Take over a round that was sampled now, earlier or by another process."""
        assert done["round"] == self.rounds, f"round {done['round']} follows {self.rounds} rounds"
        for row in done["kept"]:
            task = Task(row["instruction"], row["input"], row["output"])
            self._screen.admit(task)
            self._kept.append(task)
            self.rows.append(row)
        self._rejected.update(done["rejected"])
        self.rounds += 1

    def sample_round(self) -> Round:
        """Sample the next round's prompts and sift what the model wrote."""
        numbers = range(self.section.prompts_per_round)
        shown = [self._choose_examples(number) for number in numbers]
        completions = self.sample(
            self.model,
            self.formatter,
            [compose_request(tasks) for tasks in shown],
            self._decoding,
            seed=self.seed,
            step=self.rounds,
            sample_index=list(numbers),
            batch_size=len(numbers),
        )
        kept: list[Mapping[str, Any]] = []
        rejected: Counter[str] = Counter()
        for number, completion in zip(numbers, completions, strict=True):
            for task in parse_tasks(completion.text, cut=completion.finish_reason == "length"):
                if isinstance(task, str):
                    rejected[task] += 1
                    continue
                reason, similarity = self._screen.judge(task)
                if reason is None and len(self.rows) + len(kept) == self.section.count:
                    reason = "surplus"
                if reason is not None:
                    rejected[reason] += 1
                    continue
                self._screen.admit(task)
                kept.append(self._describe(task, number, shown[number], similarity))
        return {
            "round": self.rounds,
            "rejected": dict(sorted(rejected.items())),
            "kept": kept,
        }

    def figures(self) -> dict[str, int]:
        """Count rounds, candidates, and what became of them."""
        rejected = {f"rejected_{reason}": self._rejected[reason] for reason in REASONS}
        candidates = len(self.rows) + self._rejected.total()
        counts = {"rounds": self.rounds, "candidates": candidates, "kept": len(self.rows)}
        return counts | rejected

    def _choose_examples(self, number: int) -> list[Task]:
        """Draw the tasks that a prompt shows, in a random order; those that fit in the context."""
        draw = random.Random(f"{self.seed}:bootstrap:{self.rounds}:{number}")
        size = self.section.examples
        kept = draw.sample(self._kept, min(size // KEPT_SHARE, len(self._kept)))
        chosen = [*kept, *draw.sample(self._fitting, min(size - len(kept), len(self._fitting)))]
        draw.shuffle(chosen)
        shown: list[Task] = []
        for task in chosen:
            if self._fits([*shown, task]):
                shown.append(task)
        return shown

    def _fits(self, tasks: Sequence[Task]) -> bool:
        messages = compose_request(tasks).messages
        return len(self.formatter.prompt_ids(messages)) <= self._room

    def _describe(
        self, task: Task, number: int, shown: Sequence[Task], similarity: float
    ) -> Mapping[str, Any]:
        """Write a kept task in Alpaca's fields, with how it came about."""
        return {
            **task._asdict(),
            "id": task.prompt.id,
            "provenance": {
                **self.provenance,
                "seed": self.seed,
                "round": self.rounds,
                "sample_index": number,
                "examples": [example.prompt.id for example in shown],
                "sampling": dataclasses.asdict(self._decoding),
                "max_similarity": round(similarity, 6),
            },
        }


def _as_seed(demonstration: Demonstration) -> Task:
    messages = demonstration.prompt.messages
    if len(messages) > 1:
        raise DataError(
            f"bootstrap.seeds must be tasks of one user's turn, got {len(messages)} turns "
            f"({messages[0]['content'][:40]!r}...). Leave conversations out."
        )
    return Task.from_prompt(messages[0]["content"], demonstration.completion)


def _say_none_kept(figures: Mapping[str, int]) -> str:
    rejected = ", ".join(
        f"{count} {key.removeprefix('rejected_')}"
        for key, count in figures.items()
        if key.startswith("rejected_") and count
    )
    return (
        f"bootstrap must keep at least one task, got none of {figures['candidates']} in "
        f"{figures['rounds']} rounds ({rejected or 'nothing was written'}). Start from a model "
        "that follows the examples, or raise max_new_tokens or max_rounds."
    )


def _as_line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _append_round(folder: Path, done: Round) -> Round:
    with (folder / ROUNDS).open("a", encoding="utf-8") as out:
        out.write(_as_line(done))
        out.flush()
        os.fsync(out.fileno())
    return done


def _read_rounds(folder: Path) -> list[Round]:
    """Return the finished rounds, and drop a line that a kill left half written."""
    path = folder / ROUNDS
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        write_text(path, b"".join(lines[:-1]).decode())
        lines.pop()
    return [json.loads(line) for line in lines]
