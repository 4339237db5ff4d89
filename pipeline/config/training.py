"""Hold the fields that the trained stages share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.config.schema import Problem, Section

Precision = Literal["float32", "bf16", "float64"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flex_attention"]


@dataclass(frozen=True)
class LoraSection(Section):
    """Train low-rank adapters instead of all weights (Hu et al. 2021)."""

    rank: int = 16
    """Rank of the adapters."""
    alpha: float = 32.0
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the adapters' input, a probability."""
    target_modules: str | list[str] = "all-linear"
    """Which linear layers get adapters: names, or ``all-linear`` (PEFT)."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        if self.rank < 1:
            yield Problem("rank", "be 1 or more", "8 to 64 is usual.")
        if not 0 <= self.dropout < 1:
            yield Problem("dropout", "lie in [0, 1)", "Use 0 or 0.05.")


@dataclass(frozen=True)
class TrainingSection(Section):
    """Hold what every stage on ``transformers.Trainer`` needs."""

    batch_size: int = 32
    """Sequences an optimizer step, over all processes and accumulation steps."""
    micro_batch_size: int = 8
    """Sequences a forward pass on one process; accumulation makes up the rest of batch_size."""
    learning_rate: float = 1e-5
    """Peak learning rate."""
    min_lr_ratio: float = 0.1
    """Final learning rate as a share of the peak, by cosine (InstructGPT C.1, LLaMA)."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on matrices only."""
    adam_beta1: float = 0.9
    """AdamW's first moment (InstructGPT C, LLaMA)."""
    adam_beta2: float = 0.95
    """AdamW's second moment (InstructGPT C, LLaMA)."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon; 1e-5 follows the N+ implementation details."""
    max_grad_norm: float = 1.0
    """Clip the gradient's norm to this (LLaMA)."""
    precision: Precision = "float32"
    """``bf16`` keeps float32 weights and computes under autocast; ``float64`` is for tests."""
    attention: Attention = "sdpa"
    """Transformers' attention kernel; on a CPU ``eager`` trains short sequences faster."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    checkpoint_every: int = 200
    """Optimizer steps between checkpoints."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep."""
    log_every: int = 10
    """Optimizer steps between lines of metrics.jsonl."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Any further ``transformers.TrainingArguments``, passed through as they are."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from self.below(1, "batch_size", "micro_batch_size", "checkpoint_every")
        yield from self.below(1, "log_every", "keep_checkpoints")
        yield from self.below(0, "warmup_steps", "weight_decay", "max_grad_norm")
        yield from self.not_positive("learning_rate", "adam_epsilon")
        yield from self.outside_unit("min_lr_ratio", "adam_beta1", "adam_beta2")
        if self.batch_size % self.micro_batch_size:
            yield Problem(
                "micro_batch_size",
                f"divide batch_size ({self.batch_size})",
                "Use a divisor of it.",
            )
