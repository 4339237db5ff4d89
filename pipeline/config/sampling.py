"""Configure how completions are drawn from a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.config.schema import Problem, Section
from pipeline.config.source import Source


@dataclass(frozen=True)
class DecodingSection(Section):
    """Hold the decoding parameters; the defaults sample the model's own distribution."""

    temperature: float = 1.0
    """Divide the logits by this; 0 is greedy."""
    top_k: int = 0
    """Keep only the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the likeliest tokens that hold this probability together (Holtzman et al. 2019)."""
    repetition_penalty: float = 1.0
    """Divide the logits of generated tokens by this (Keskar et al. 2019); 1 is off."""
    presence_penalty: float = 0.0
    """Subtract this from the logit of each token generated at least once."""
    frequency_penalty: float = 0.0
    """Subtract this from a token's logit for each time it was generated."""
    num_beams: int = 1
    """Beams of beam search; 1 samples (or is greedy at temperature 0)."""
    length_penalty: float = 1.0
    """Exponent of the length that a beam's log-probability is divided by."""
    early_stopping: bool = False
    """Stop beam search when num_beams candidates are finished."""
    min_new_tokens: int = 0
    """Forbid the end of the completion before this many tokens."""
    max_new_tokens: int = 256
    """Cut a completion after this many tokens."""
    stop: list[str] = field(default_factory=list)
    """Strings that end a completion; the string itself is left out."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        # Not "below 0": nan is neither.
        if not self.temperature >= 0:
            yield Problem("temperature", "be 0 or more", "0 is greedy, 1 the model's own.")
        if self.top_k < 0:
            yield Problem("top_k", "be 0 or more", "0 keeps all tokens.")
        if not 0 < self.top_p <= 1:
            yield Problem("top_p", "lie in (0, 1]", "1 keeps all tokens.")
        if self.repetition_penalty <= 0:
            yield Problem("repetition_penalty", "be positive", "1 is off.")
        if self.num_beams < 1:
            yield Problem("num_beams", "be 1 or more", "1 is no beam search.")
        if self.num_beams > 1 and self.temperature > 0:
            yield Problem(
                "temperature", "be 0 with beam search", "Set temperature: 0, or num_beams: 1."
            )
        yield from self.below(0, "min_new_tokens")
        if self.max_new_tokens < 1:
            yield Problem("max_new_tokens", "be 1 or more", "Use a positive integer.")
        if self.min_new_tokens > self.max_new_tokens:
            yield Problem(
                "min_new_tokens", f"be at most max_new_tokens ({self.max_new_tokens})", "Lower it."
            )


@dataclass(frozen=True)
class SampleSection(DecodingSection):
    """Configure ``sample``: K completions a prompt, written to the label store."""

    stages: list[str] = field(default_factory=lambda: ["sft"])
    """Stages whose models answer; the K completions are spread over them."""
    prompts: list[Source] = field(default_factory=list)
    """Prompts to answer."""
    k_min: int = 4
    """Fewest completions a prompt (InstructGPT: 4)."""
    k_max: int = 9
    """Most completions a prompt; each prompt's K is drawn between the two (InstructGPT: 9)."""
    validation_fraction: float = 0.1
    """Share of the prompts whose labels are held out from the reward model."""
    batch_size: int = 64
    """Completions generated together on one process."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from super().problems()
        yield from self.below(1, "batch_size")
        if not 2 <= self.k_min <= self.k_max:
            yield Problem("k_min", f"lie between 2 and k_max ({self.k_max})", "The paper: 4 to 9.")
        if not self.stages:
            yield Problem("stages", "name at least one stage", "Use [sft].")
        if not 0 <= self.validation_fraction < 1:
            yield Problem("validation_fraction", "lie in [0, 1)", "Use 0.1.")
        if self.num_beams > 1 and self.num_beams < self.k_max:
            yield Problem("num_beams", f"be at least k_max ({self.k_max})", "Or use 1.")
