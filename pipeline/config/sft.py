"""Configure supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.schema import Problem, Section
from pipeline.config.source import Source
from pipeline.config.training import LoraSection, TrainingSection


@dataclass(frozen=True)
class BootstrapSection(Section):
    """Make demonstrations with a model, as Self-Instruct (Wang et al. 2022) and Alpaca do."""

    seeds: list[Source]
    """Seed tasks written by people: demonstrations of one turn (Self-Instruct: 175)."""
    count: int = 1000
    """Demonstrations to keep."""
    max_rounds: int = 100
    """Rounds of prompting after which to stop even if fewer were kept."""
    examples: int = 8
    """Tasks shown in each prompt, at most a quarter of them kept ones (Self-Instruct: 2 of 8)."""
    prompts_per_round: int = 8
    """Prompts sampled together in one round."""
    max_similarity: float = 0.7
    """Drop an instruction whose ROUGE-L with a kept one is above this (Self-Instruct)."""
    min_words: int = 4
    """Drop an instruction of fewer words (Self-Instruct: 4)."""
    max_words: int = 150
    """Drop an instruction of more words (Self-Instruct: 150)."""
    max_new_tokens: int = 256
    """Tokens sampled a prompt; a task cut there is dropped."""
    temperature: float = 0.7
    """Sampling temperature (Self-Instruct: 0.7)."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from self.below(1, "count", "max_rounds", "examples", "prompts_per_round")
        yield from self.below(1, "max_new_tokens", "min_words")
        yield from self.below(self.min_words, "max_words")
        yield from self.below(0, "temperature")
        yield from self.outside_unit("max_similarity")
        if not self.seeds:
            yield Problem("seeds", "list at least one source", "Add seed tasks.")


@dataclass(frozen=True)
class SftSection(TrainingSection):
    """Configure ``sft``; the defaults are InstructGPT's 1.3B (Ouyang et al. 2022, C.1)."""

    init: str = "pretrain"
    """Stage whose model to start from."""
    data: list[Source] = field(default_factory=list)
    """Demonstrations: ``messages``, ``prompt``/``completion``, or Alpaca's fields."""
    validation: list[Source] = field(default_factory=list)
    """Held-out demonstrations that checkpoints are compared on."""
    epochs: float = 16.0
    """Passes over the data (InstructGPT: 16)."""
    batch_size: int = 32
    """Sequences an optimizer step (InstructGPT: 32 for 1.3B and 6B, 8 for 175B)."""
    learning_rate: float = 9.65e-6
    """Peak learning rate (InstructGPT, 1.3B and 6B)."""
    pretrain_mix: float = 0.0
    """Share of pretraining text among the sequences; 0.1 for PPO's start (InstructGPT C.3)."""
    packing: bool = True
    """Put several examples in one sequence, without attention across them."""
    max_length: int = 2048
    """Tokens a sequence, at most the model's context; longer examples are refused."""
    select_by: Literal["eval_loss", "eval_mean_token_accuracy", "last"] = "eval_loss"
    """Metric on ``validation`` that picks the checkpoint; ``last`` keeps the final weights."""
    evaluate_every: int | None = None
    """Optimizer steps between validations; null is once an epoch."""
    sample_prompts: int = 8
    """Held-out prompts that samples.jsonl shows greedy completions of as training goes on."""
    lora: LoraSection | None = None
    """Train adapters and merge them at the end; null trains all weights."""
    bootstrap: BootstrapSection | None = None
    """Make further demonstrations with the initial model before training; null is none."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from super().problems()
        yield from self.below(1, "max_length")
        yield from self.below(0, "sample_prompts")
        if self.epochs <= 0:
            yield Problem("epochs", "be positive", "InstructGPT uses 16, and 2 for PPO's start.")
        if self.evaluate_every is not None:
            yield from self.below(1, "evaluate_every")
        if not 0 <= self.pretrain_mix < 1:
            yield Problem("pretrain_mix", "lie in [0, 1)", "InstructGPT uses 0.1.")
        if self.select_by != "last" and self.data and not self.validation:
            yield Problem(
                "validation",
                f"list a source when select_by is '{self.select_by}'",
                "Add held-out demonstrations, or set select_by: last.",
            )
