"""Configure PPO and PPO-ptx."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.config.engine import EngineSection
from pipeline.config.hydra import HydraSection
from pipeline.config.presets import PRESETS, Preset
from pipeline.config.rewards import DEFAULT_REWARD, RewardSource, reward_problems
from pipeline.config.sampling import DecodingSection
from pipeline.config.schema import Problem, Section
from pipeline.config.source import Source
from pipeline.config.training import Attention, Precision

POSITIVE_OR_NULL = (
    *("kl_target", "stop_approxkl", "importance_cap", "score_clip"),
    *("value_clip_range", "max_grad_norm"),
)


@dataclass(frozen=True)
class PpoSection(Section):
    """Configure ``ppo``; the defaults are InstructGPT's (Ouyang et al. 2022, C.4)."""

    preset: Preset = "instructgpt"
    """Whose settings the fields take that the YAML leaves out; docs/algorithm.md lists them."""
    init: str = "sft@ppo_init"
    """Stage whose model is the policy's start and the KL reference (InstructGPT C.3)."""
    reward: str = DEFAULT_REWARD
    """Stage whose reward model scores completions and initialises the value model."""
    rewards: list[RewardSource] = field(default_factory=list)
    """What scores completions, as a weighted sum; empty takes the stage in ``reward`` alone."""
    prompts: list[Source] = field(default_factory=list)
    """Prompts to roll out; none repeats within an epoch."""
    episodes: int = 256_000
    """Completions in the whole training (InstructGPT: 256k)."""
    rollout_batch_size: int = 512
    """Completions an iteration, over all processes (InstructGPT: 512)."""
    minibatch_size: int = 64
    """Completions an optimizer step (InstructGPT: 64)."""
    micro_batch_size: int = 8
    """Completions a forward pass on one process."""
    num_ppo_epochs: int = 1
    """Passes over a rollout (InstructGPT: 1)."""
    max_new_tokens: int = 1024
    """Cut a completion after this many tokens (InstructGPT: 1k)."""
    temperature: float = 1.0
    """Sampling temperature, in rollouts and in training alike (InstructGPT: 1)."""
    kl_coef: float = 0.02
    """Weight beta of the per-token KL to the reference in the reward (InstructGPT: 0.02)."""
    kl_target: float | None = None
    """Steer kl_coef towards this KL a completion, nats (N details: 6); null keeps it."""
    kl_horizon: int = 10_000
    """Episodes in which a steered kl_coef answers an error (N details: 10,000)."""
    clip_range: float = 0.2
    """Clip the probability ratio to 1 +- this (InstructGPT: 0.2)."""
    value_clip_range: float | None = 0.2
    """Clip the value's change to +- this (Stiennon et al. 2020); null does not clip."""
    entropy_coef: float = 0.0
    """Weight of the next-token entropy in the objective (Schulman et al. 2017, eq. 9: c2)."""
    stop_approxkl: float | None = None
    """End an iteration's epochs once the last one's mean policy/approxkl is above; null: never."""
    importance_cap: float | None = 2.0
    """Largest weight of a token by its engine's logprob (Yao et al. 2025); null: no weights."""
    gamma: float = 1.0
    """Discount (InstructGPT: none)."""
    gae_lambda: float = 0.95
    """Lambda of generalized advantage estimation (not printed in the paper; N+ details: 0.95)."""
    learning_rate: float = 8e-6
    """Policy's learning rate (InstructGPT swept 2.55e-6 to 2.55e-5; above 8.05e-6 needs ptx)."""
    value_learning_rate: float = 9e-6
    """Value model's learning rate (InstructGPT: 9e-6)."""
    warmup_iterations: int = 10
    """Iterations of linear warm-up of both rates from a tenth (InstructGPT: 10)."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """Keep both rates afterwards (InstructGPT), or anneal them to 0 over the training (N 5)."""
    adam_beta1: float = 0.9
    """AdamW's first moment (InstructGPT C)."""
    adam_beta2: float = 0.95
    """AdamW's second moment (InstructGPT C)."""
    adam_epsilon: float = 1e-5
    """AdamW's epsilon (N+ details: 1e-5, as TensorFlow's Adam behaves)."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on matrices only."""
    max_grad_norm: float | None = 1.0
    """Clip the gradient norm of policy and value model, each alone; null does not clip."""
    whiten_rewards: bool = False
    """Divide the shaped rewards by their standard deviation, keeping the mean (N details)."""
    whiten_advantages: bool = True
    """Shift and scale the advantages to mean 0, variance 1 (N details)."""
    missing_eos_penalty: float | None = 1.0
    """Lower the score of a completion without an end by this; null leaves it."""
    missing_eos_score: float | None = None
    """Replace the score of a completion without an end by this (N details: -1); null keeps it."""
    score_scaling: Literal["none", "running", "batch"] = "none"
    """Divide scores by their running standard deviation, or whiten each rollout's (Llama 2)."""
    score_clip: float | None = None
    """Clip the scaled scores to +- this (DeepSpeed-Chat: 5); null does not clip."""
    ptx_coef: float = 27.8
    """Weight gamma of the pretraining gradient (InstructGPT: 27.8); 0 is plain PPO."""
    ptx_ratio: float = 8.0
    """Pretraining sequences an episode (InstructGPT: 8)."""
    ptx_sources: list[Source] = field(default_factory=list)
    """Pretraining text; empty takes ``pretrain.sources``."""
    ptx_length: int | None = None
    """Tokens a pretraining sequence; null is the pretraining context."""
    ptx_pool: int = 65536
    """Pretraining sequences to draw at most; beyond them they repeat, in a new order."""
    ema_decay: float | None = 0.992
    """Decay of the averaged policy that ``model/`` holds (InstructGPT: 0.992); null: the last."""
    rollout_micro_batch_size: int = 64
    """Completions generated and scored together on one process."""
    engine: EngineSection = field(default_factory=EngineSection)
    """What samples rollouts."""
    precision: Precision = "float32"
    """``bf16`` keeps float32 weights and computes under autocast; ``float64`` is for tests."""
    attention: Attention = "sdpa"
    """Transformers' attention kernel; on a CPU ``eager`` trains short sequences faster."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    offload: bool = False
    """Keep reference and reward models in main memory while the policy samples and trains."""
    attention_dropout: float = 0.0
    """Probability of dropping attention weights in training passes (N details 13: none)."""
    hydra: HydraSection | None = None
    """Keep the models on one frozen backbone, with adapters; null trains all weights of two."""
    checkpoint_every: int = 50
    """Iterations between checkpoints."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep."""
    sample_every: int = 10
    """Iterations between completions of the fixed prompts in samples.jsonl."""
    sample_prompts: int = 8
    """How many fixed prompts there are."""
    eval_every: int = 0
    """Iterations between evaluations on eval_prompts, and one at the end; 0: never."""
    eval_prompts: list[Source] = field(default_factory=list)
    """Held-out prompts for evaluations; those that are also in prompts are left out."""
    select: Literal["last", "best_score"] = "last"
    """Which policy becomes ``model/``: the last, or the best by ``eval/scores``."""
    patience: int = 0
    """Stop after this many evaluations in a row without a better score; 0: never."""

    @classmethod
    def fill(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values over those of the preset that they name."""
        preset = values.get("preset")
        return {**PRESETS.get(preset, {}), **values} if isinstance(preset, str) else values

    def problems(self) -> Iterator[Problem]:
        """Yield broken rules."""
        yield from self.below(
            1, "rollout_batch_size", "minibatch_size", "micro_batch_size", "num_ppo_epochs"
        )
        yield from self.below(
            1, "max_new_tokens", "checkpoint_every", "keep_checkpoints", "ptx_pool"
        )
        yield from self.below(1, "keep_checkpoints", "rollout_micro_batch_size", "sample_every")
        yield from self.below(0, "kl_coef", "ptx_coef", "ptx_ratio", "warmup_iterations")
        yield from self.below(0, "weight_decay", "sample_prompts", "entropy_coef")
        yield from self.below(0, "eval_every", "patience")
        yield from self.not_positive("temperature", "clip_range")
        yield from self.not_positive("learning_rate", "value_learning_rate")
        yield from self.not_positive("adam_epsilon", "kl_horizon")
        yield from self.outside_unit("gamma", "gae_lambda", "adam_beta1", "adam_beta2")
        if self.rollout_batch_size % self.minibatch_size:
            yield Problem(
                "minibatch_size",
                f"divide ppo.rollout_batch_size ({self.rollout_batch_size})",
                f"Use {_divisors_near(self.rollout_batch_size, self.minibatch_size)}.",
            )
        if self.episodes < self.rollout_batch_size:
            yield Problem(
                "episodes",
                f"be at least ppo.rollout_batch_size ({self.rollout_batch_size})",
                "Raise it, or lower the batch.",
            )
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            yield Problem("ema_decay", "lie in [0, 1), or be null", "The paper uses 0.992.")
        if not 0 <= self.attention_dropout < 1:
            yield Problem("attention_dropout", "lie in [0, 1)", "Use 0 or 0.1.")
        yield from reward_problems(self.reward, self.rewards)
        yield from self._contradictions()

    def _contradictions(self) -> Iterator[Problem]:
        """Yield options that make no sense without, or beside, another."""
        one_pass = self.hydra is None or self.hydra.value == "trunk"
        if self.activation_checkpointing and not one_pass:
            # A layer that is run again would find the adapter of the model that ran last.
            rule = "be false with ppo.hydra.value: adapter"
            yield Problem("activation_checkpointing", rule, "Set ppo.hydra.value: trunk.")
        yield from self._missing_partners()

    def _missing_partners(self) -> Iterator[Problem]:
        for name in POSITIVE_OR_NULL:
            if (value := getattr(self, name)) is not None and value <= 0:
                yield Problem(name, "be positive, or null", "See --help.")
        if self.kl_target is not None and not self.kl_coef:
            yield Problem("kl_coef", "be positive with kl_target", "Set a start, such as 0.15.")
        if self.kl_target is not None and self.kl_horizon < self.rollout_batch_size:
            yield Problem(
                "kl_horizon",
                f"be at least ppo.rollout_batch_size ({self.rollout_batch_size})",
                "Raise it: a shorter one makes kl_coef jump.",
            )
        if self.stop_approxkl is not None and self.num_ppo_epochs == 1:
            yield Problem(
                "stop_approxkl",
                "be null with num_ppo_epochs: 1",
                "There is no later epoch to skip.",
            )
        if self.missing_eos_score is not None and self.missing_eos_penalty is not None:
            yield Problem(
                "missing_eos_penalty",
                "be null with missing_eos_score",
                "Set one of the two to null.",
            )
        if self.eval_every and not self.eval_prompts:
            yield Problem("eval_prompts", "list prompts with eval_every", "Add held-out prompts.")
        for name in ("select", "patience"):
            if getattr(self, name) not in ("last", 0) and not self.eval_every:
                yield Problem(
                    "eval_every", f"be positive with {name}", "Set how often to evaluate."
                )

    @property
    def decoding(self) -> DecodingSection:
        """Return how completions are drawn: from the whole distribution (N details 4)."""
        return DecodingSection(temperature=self.temperature, max_new_tokens=self.max_new_tokens)

    @property
    def reward_sources(self) -> list[RewardSource]:
        """Return what scores completions, in the order of the sum."""
        return self.rewards or [RewardSource(stage=self.reward)]

    def reward_paths(self, where: str) -> list[tuple[str, RewardSource]]:
        """Return each of them after the dotted path that an error about it names."""
        if not self.rewards:
            return [(f"{where}.reward", source) for source in self.reward_sources]
        return [(f"{where}.rewards[{i}].{s.kind}", s) for i, s in enumerate(self.rewards)]

    @property
    def reward_stages(self) -> list[str]:
        """Return the reward stages among them, each once."""
        stages = [source.stage for source in self.reward_sources if source.stage is not None]
        return list(dict.fromkeys(stages))

    @property
    def drops_out(self) -> bool:
        """Tell whether training passes drop anything out."""
        return self.attention_dropout > 0 or bool(self.hydra and self.hydra.lora.dropout)

    @property
    def value_limit(self) -> float:
        """Return how far a value may move: ``value_clip_range``, or infinitely far."""
        return math.inf if self.value_clip_range is None else self.value_clip_range

    @property
    def iterations(self) -> int:
        """Return how many rollouts make up the training; a remainder of episodes is left out."""
        return self.episodes // self.rollout_batch_size

    @property
    def minibatches(self) -> int:
        """Return how many minibatches a rollout has."""
        return self.rollout_batch_size // self.minibatch_size

    @property
    def ptx_minibatch_size(self) -> int:
        """Return how many pretraining sequences go into an optimizer step, 0 without ptx."""
        share = self.minibatch_size * self.ptx_ratio / self.num_ppo_epochs
        return max(1, round(share)) if self.ptx_coef and self.ptx_ratio else 0


def _divisors_near(total: int, wanted: int) -> str:
    divisors = [size for size in range(1, total + 1) if total % size == 0]
    below = [size for size in divisors if size < wanted]
    above = [size for size in divisors if size > wanted]
    return " or ".join(str(size) for size in (below[-1:] + above[:1]))
