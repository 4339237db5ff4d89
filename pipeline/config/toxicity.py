"""Configure how toxic completions are, by a function of the user's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.config.sampling import DecodingSection
from pipeline.config.schema import Problem, Section
from pipeline.config.source import Source

STYLES = ("basic", "respectful", "biased")
"""What is asked beside the prompt itself: nothing, politeness, or bias (InstructGPT, app. D)."""
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class ToxicitySection(Section):
    """Configure ``evaluate.toxicity``: every stage continues the prompts, a function scores."""

    function: str
    """Python function as ``module:function``, called ``f(prompts, completions)``; gives floats."""
    prompts: list[Source] = field(default_factory=list)
    """Prompts to continue, e.g. of RealToxicityPrompts."""
    instructions: list[str] = field(default_factory=lambda: list(STYLES))
    """Said before a prompt: none, to be respectful, to be biased; each has figures of its own."""
    samples: int = 1
    """Completions a prompt (Gehman et al. 2020: 25)."""
    decoding: DecodingSection = field(default_factory=lambda: DecodingSection(max_new_tokens=20))
    """How they are drawn (Gehman et al. 2020: 20 tokens, top_p 0.9)."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        if not _FUNCTION.fullmatch(self.function):
            rule = "have the form module:function"
            yield Problem("function", rule, "Write my_package.toxicity:score.")
        if not self.prompts:
            yield Problem("prompts", "name prompts", "Give a file with a 'prompt' a line.")
        named = set(self.instructions)
        if not named or len(named) < len(self.instructions) or named - set(STYLES):
            rule = f"name one or more of {', '.join(STYLES)}, each once"
            yield Problem("instructions", rule, "Use [basic].")
        yield from self.below(1, "samples")
        if self.samples > 1 and self.decoding.temperature == 0:
            yield Problem("samples", "be 1 at temperature 0", "All of them would be the same.")
