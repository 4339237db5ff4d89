"""Configure PPO and PPO-ptx."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.config.rewards import DEFAULT_REWARD, RewardSource, reward_problems
from pipeline.config.schema import Problem, Section
from pipeline.config.source import Source
from pipeline.config.training import Attention, Precision


@dataclass(frozen=True)
class PpoSection(Section):
    """Configure ``ppo``; the defaults are InstructGPT's (Ouyang et al. 2022, C.4)."""

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
    clip_range: float = 0.2
    """Clip the probability ratio to 1 +- this (InstructGPT: 0.2)."""
    value_clip_range: float = 0.2
    """Clip the value's change to +- this (Stiennon et al. 2020)."""
    gamma: float = 1.0
    """Discount (InstructGPT: none)."""
    gae_lambda: float = 0.95
    """Lambda of generalized advantage estimation (not printed in the paper; N+ details: 0.95)."""
    learning_rate: float = 8e-6
    """Policy's learning rate (InstructGPT swept 2.55e-6 to 2.55e-5; above 8.05e-6 needs ptx)."""
    value_learning_rate: float = 9e-6
    """Value model's learning rate (InstructGPT: 9e-6)."""
    warmup_iterations: int = 10
    """Iterations of linear warm-up from a tenth, constant afterwards (InstructGPT: 10)."""
    adam_beta1: float = 0.9
    """AdamW's first moment (InstructGPT C)."""
    adam_beta2: float = 0.95
    """AdamW's second moment (InstructGPT C)."""
    adam_epsilon: float = 1e-5
    """AdamW's epsilon (N+ details: 1e-5, as TensorFlow's Adam behaves)."""
    weight_decay: float = 0.0
    """Decoupled weight decay, on matrices only."""
    max_grad_norm: float = 1.0
    """Clip the gradient norm of policy and value model, each alone."""
    whiten_rewards: bool = False
    """Divide the shaped rewards by their standard deviation, keeping the mean (N details)."""
    whiten_advantages: bool = True
    """Shift and scale the advantages to mean 0, variance 1 (N details)."""
    missing_eos_penalty: float | None = 1.0
    """Lower the score of a completion without an end by this; null leaves it."""
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
    precision: Precision = "float32"
    """``bf16`` keeps float32 weights and computes under autocast; ``float64`` is for tests."""
    attention: Attention = "sdpa"
    """Transformers' attention kernel; on a CPU ``eager`` trains short sequences faster."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    checkpoint_every: int = 50
    """Iterations between checkpoints."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints to keep."""
    sample_every: int = 10
    """Iterations between completions of the fixed prompts in samples.jsonl."""
    sample_prompts: int = 8
    """How many fixed prompts there are."""

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
        yield from self.below(0, "weight_decay", "sample_prompts")
        yield from self.not_positive("temperature", "clip_range", "value_clip_range")
        yield from self.not_positive("learning_rate", "value_learning_rate", "max_grad_norm")
        yield from self.not_positive("adam_epsilon")
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
        yield from reward_problems(self.reward, self.rewards)

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
