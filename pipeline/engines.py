"""Draw the completions of rollouts: with the policy as it is, or with an engine made for it.

An engine answers for one process; ``EpisodeSampler`` gives each process its share. Where it says
how probable it found the tokens that it drew, the gap to the trainer's own figures is logged, and
``ppo.importance_cap`` can weigh it out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.config.engine import EngineSection
from pipeline.config.sampling import DecodingSection
from pipeline.distributed import Workers, use_cpu
from pipeline.errors import ConfigError
from pipeline.formatting import Formatter
from pipeline.sampling import SampledTokens, sample_rows


class RolloutEngine(Protocol):
    """Draw completions of token ids."""

    @property
    def decoding(self) -> DecodingSection:
        """Return the temperature and the lengths that it draws with."""

    def sample(
        self, model: Any, prompts: Sequence[Sequence[int]], keys: Sequence[str]
    ) -> list[SampledTokens]:
        """Draw a completion for each prompt, in their order.

        Every process calls it together, each with a share that may be empty.

        Args:
            model: the policy whose weights to draw with, unwrapped.
            prompts: token ids up to where the answer begins.
            keys: what each completion's randomness should depend on.
        """


@dataclass(frozen=True)
class HfEngine:
    """Draw with the policy itself, by keyed random numbers (pipeline/sampling.py).

    Attributes:
        workers: the processes at work; they know the precision.
        formatter: of the policy's tokenizer.
        decoding: temperature and lengths.
        batch_size: completions at once; changes nothing but speed.
        with_logprobs: record the log-probabilities that tokens are drawn with; changes no token.
    """

    workers: Workers
    formatter: Formatter
    decoding: DecodingSection
    batch_size: int
    with_logprobs: bool = False

    def sample(
        self, model: Any, prompts: Sequence[Sequence[int]], keys: Sequence[str]
    ) -> list[SampledTokens]:
        """Draw a completion for each prompt; see ``RolloutEngine``."""
        with self.workers.autocast():
            return sample_rows(
                model,
                prompts,
                keys,
                self.decoding,
                self.formatter,
                batch_size=self.batch_size,
                with_logprobs=self.with_logprobs,
            )


def require_engine(section: EngineSection, workers: Workers, where: str) -> None:
    """Refuse an engine that cannot run here.

    Args:
        section: names the engine.
        workers: the processes at work.
        where: the stage's name, for the error.

    Raises:
        ConfigError: if vllm or a GPU is missing, or the processes do not suit the engine.
    """
    if section.kind != "vllm":
        return
    if importlib.util.find_spec("vllm") is None or use_cpu():
        raise ConfigError(
            f"{where}.engine.kind: vllm needs vllm and a GPU. "
            "Install steerline[vllm], or set kind: hf."
        )
    if workers.world_size % section.tensor_parallel_size:
        raise ConfigError(
            f"{where}.engine.tensor_parallel_size must divide the {workers.world_size} processes, "
            f"got {section.tensor_parallel_size}. Change it, or the number of processes."
        )
