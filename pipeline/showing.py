"""Let a model in training complete the same prompts again and again, so that change is visible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState

from pipeline.config.sampling import DecodingSection
from pipeline.distributed import Workers
from pipeline.formatting import Formatter
from pipeline.records import Demonstration
from pipeline.runs import StageRun
from pipeline.sampling import read_text, sample_batch

TOKENS = 64
"""Tokens of a completion, at most half of the context."""
TEXT_START = 16
"""Tokens of a pretraining text that are completed, at most half of the context."""


def greedy(context: int) -> DecodingSection:
    """Return how prompts are completed: what differs between two completions is the model alone."""
    return DecodingSection(temperature=0.0, max_new_tokens=min(TOKENS, context // 2))


class Shown(NamedTuple):
    """A prompt to complete.

    Attributes:
        logged: what stands of it in the log, beside the completion.
        ids: as the model reads it.
    """

    logged: Mapping[str, Any]
    ids: Sequence[int]


def fixed_prompts(
    demonstrations: Iterable[Demonstration], formatter: Formatter, count: int, context: int
) -> list[Shown]:
    """Return the first ``count`` prompts that leave room for a completion in the context."""
    room = context - greedy(context).max_new_tokens
    shown: list[Shown] = []
    for demonstration in demonstrations:
        if len(shown) == count:
            break
        prompt = demonstration.prompt
        ids = formatter.prompt_ids(prompt.messages)
        if len(ids) <= room:
            shown.append(Shown(prompt.to_log(), ids))
    return shown


def text_starts(
    rows: Sequence[Sequence[int]] | np.ndarray, formatter: Formatter, count: int
) -> list[Shown]:
    """Return the first tokens of the first ``count`` rows of text."""
    starts = [
        [int(token) for token in row[: min(TEXT_START, len(row) // 2)]] for row in rows[:count]
    ]
    return [Shown({"prompt": formatter.tokenizer.decode(ids)}, ids) for ids in starts]


class ShowSamples(TrainerCallback):
    """Write greedy completions to ``samples.jsonl``.

    Before the first step, wherever training validates or keeps a checkpoint, and after the last.
    Every process completes all of them, for a model may be spread over the processes.

    Args:
        run: the stage's open folder; its crew must be ``Workers``.
        formatter: of the model's tokenizer.
        prompts: what to complete.
    """

    def __init__(self, run: StageRun, formatter: Formatter, prompts: Sequence[Shown]) -> None:
        self._run, self._formatter, self._prompts = run, formatter, list(prompts)

    def on_train_begin(
        self,
        args: Any,  # noqa: ARG002 - Trainer calls with these names
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        *,
        model: Any,
        **_: Any,
    ) -> None:
        """Show what the model says before it learns."""
        if state.global_step == 0:
            self.show(model, 0)

    def on_step_end(
        self,
        args: Any,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        *,
        model: Any,
        **_: Any,
    ) -> None:
        """Show what it says now; before the checkpoint, so that a resume has it."""
        last = state.global_step >= state.max_steps
        if control.should_evaluate or control.should_save or last:
            self.show(model, state.global_step)

    def show(self, model: Any, step: int) -> None:
        """Write a line for each prompt."""
        if not self._prompts:
            return
        crew = self._run.crew
        assert isinstance(crew, Workers), "a trained stage runs on Workers"
        decoding = greedy(model.config.max_position_embeddings)
        training = model.training
        model.eval()
        with crew.autocast():
            completed = sample_batch(
                model,
                [prompt.ids for prompt in self._prompts],
                [""] * len(self._prompts),
                decoding,
                self._formatter,
            )
        model.train(training)
        for prompt, completion in zip(self._prompts, completed, strict=True):
            text = read_text(completion.ids, decoding, self._formatter).text
            self._run.samples.write(step, {**prompt.logged, "completion": text})
