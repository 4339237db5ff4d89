"""Configure what samples PPO's rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.config.schema import Problem, Section


@dataclass(frozen=True)
class EngineSection(Section):
    """Choose the engine of rollouts; all fields after ``logprobs`` are read with vllm alone.

    Evaluations and ``samples.jsonl`` are always ``hf``'s.
    """

    kind: Literal["hf", "vllm"] = "hf"
    """``hf`` samples with the policy itself, keyed; ``vllm`` by trl.generation (vllm, a GPU)."""
    logprobs: bool = False
    """Let ``hf`` record its logprobs too: logs engine/..., and importance_cap weighs with them."""
    mode: Literal["colocate", "server"] = "colocate"
    """``colocate`` shares the trainer's GPUs; ``server`` asks a running ``trl vllm-serve``."""
    gpu_memory_utilization: float = 0.3
    """Share of a GPU's memory that vLLM takes, with ``colocate`` (TRL's GRPO: 0.3)."""
    tensor_parallel_size: int = 1
    """GPUs that one copy of the model is spread over, with ``colocate``."""
    sleep: bool = False
    """Free vLLM's memory while the policy trains, with ``colocate``; waking costs time."""
    server: str = "http://localhost:8000"
    """Address of the server, with ``server``."""
    server_timeout: float = 240.0
    """Seconds to wait for the server, with ``server``."""
    group_port: int = 51216
    """Port that weights are sent to the server over, with ``server``."""

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from self.below(1, "tensor_parallel_size", "group_port")
        yield from self.not_positive("server_timeout")
        if not 0 < self.gpu_memory_utilization <= 1:
            yield Problem("gpu_memory_utilization", "lie in (0, 1]", "Use 0.3.")
        if not self.server.startswith(("http://", "https://")):
            yield Problem(
                "server", "begin with http:// or https://", "Write http://localhost:8000."
            )
        if self.mode == "server" and self.tensor_parallel_size > 1:
            yield Problem(
                "tensor_parallel_size",
                "be 1 with mode: server",
                "Give it to the server when you start it.",
            )
