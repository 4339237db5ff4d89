"""Configure the base: train it from scratch, continue it, or load it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.schema import Problem, Section
from pipeline.config.source import Source
from pipeline.config.training import TrainingSection


@dataclass(frozen=True)
class ModelSection(Section):
    """Shape a LLaMA: RMSNorm pre-normalization, SwiGLU, RoPE, grouped-query attention."""

    hidden_size: int = 4096
    """Width of the residual stream (LLaMA 7B: 4096)."""
    num_layers: int = 32
    """Transformer blocks."""
    num_heads: int = 32
    """Query heads."""
    num_kv_heads: int = 32
    """Key and value heads; fewer than num_heads is grouped-query attention."""
    intermediate_size: int = 11008
    """Width of the SwiGLU layer; LLaMA uses 2/3 * 4 * hidden_size, rounded up."""
    rope_theta: float = 10000.0
    """Base of the rotary position embedding."""
    rope_parameters: dict[str, Any] | None = None
    """Transformers' ``rope_parameters`` for longer context, e.g. rope_type: yarn; null is plain."""
    sliding_window: int | None = None
    """Tokens that attention looks back over (the same block as ``MistralConfig``); null is all."""
    attention_bias: bool = False
    """Add biases to attention (Qwen2's block does); a small model learns to copy much sooner."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights (GPT-2, LLaMA in transformers: 0.02)."""
    tie_embeddings: bool = False
    """Share input and output embeddings; small models gain by it."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from self.below(1, "hidden_size", "num_layers", "num_heads", "num_kv_heads")
        yield from self.below(1, "intermediate_size")
        yield from self.not_positive("rope_theta")
        if self.hidden_size % (2 * self.num_heads):
            yield Problem(
                "hidden_size",
                f"be a multiple of twice num_heads ({self.num_heads})",
                "RoPE turns pairs of dimensions.",
            )
        if self.sliding_window is not None and self.sliding_window < 1:
            yield Problem("sliding_window", "be 1 or more, or null", "null looks at all.")
        if self.num_heads % self.num_kv_heads:
            yield Problem(
                "num_kv_heads", f"divide num_heads ({self.num_heads})", "Use a divisor of it."
            )


@dataclass(frozen=True)
class PretrainSection(TrainingSection):
    """Configure ``pretrain``; the defaults are LLaMA 7B's (Touvron et al. 2023)."""

    tokens: int = 0
    """Tokens to train on; 0 only loads ``base``."""
    sources: list[Source] = field(default_factory=list)
    """The pretraining mixture, each source with its weight (LLaMA, table 1)."""
    model: ModelSection = field(default_factory=ModelSection)
    """Shape of a model trained from scratch."""
    vocab_size: int = 32000
    """Size of a tokenizer trained from scratch (BPE, digits split, byte fallback)."""
    tokenizer_documents: int = 20000
    """Documents that a new tokenizer is trained on."""
    context: int = 2048
    """Tokens a packed sequence."""
    batch_size: int = 2048
    """Sequences an optimizer step (LLaMA: 4M tokens)."""
    micro_batch_size: int = 8
    """Sequences a forward pass on one process; accumulation makes up the rest of batch_size."""
    learning_rate: float = 3e-4
    """Peak learning rate (LLaMA 7B)."""
    warmup_steps: int = 2000
    """Optimizer steps of linear warm-up (LLaMA)."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only (LLaMA)."""
    sample_prompts: int = 8
    """Starts of texts that samples.jsonl shows greedy completions of as training goes on."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from super().problems()
        if self.tokens < 0:
            yield Problem("tokens", "be 0 or more", "0 only loads the base.")
        if self.tokens and not self.sources:
            yield Problem("sources", "list at least one source", "Or set tokens: 0 to only load.")
        if self.vocab_size < 300:
            yield Problem(
                "vocab_size", "be 300 or more", "256 bytes and the special tokens take that room."
            )
        yield from self.below(1, "tokenizer_documents")
        yield from self.below(0, "sample_prompts")
        if self.context < 8:
            yield Problem("context", "be 8 or more", "2048 is LLaMA's.")
