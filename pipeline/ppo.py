"""Optimise a policy against a reward with PPO, pretraining gradients mixed in (PPO-ptx).

    objective(phi) = E_{x, y ~ pi_phi} [ r(x, y) - beta log(pi_phi(y|x) / pi_ref(y|x)) ]
                     + gamma E_{x ~ pretrain} [ log pi_phi(x) ]

Ouyang et al. 2022, eq. 2. ``PPOTrainer.step`` is one iteration: sample prompts, roll out, score,
shape rewards, estimate advantages, update, record. docs/algorithm.md lists every detail of the
literature with the option that holds it.

Departures from the paper:
1. Value clipping, GAE's lambda, advantage whitening and gradient clipping are not printed there;
   they follow "The N Implementation Details of RLHF with PPO".
2. Randomness is keyed by (seed, step, prompt, sample index), not by a seed a rank, and every
   process holds the whole rollout: the number of processes changes no number.
3. Policy and value model have an optimizer each, so a weight of the value loss would change
   nothing; there is one only where they share a trunk (``hydra.value_coef``).
4. The moving average of the policy is updated once an iteration.
5. The pretraining term is a mean over tokens, times gamma; its sequences are spread evenly over
   the optimizer steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.actor_critic import ActorCritic
from pipeline.advantages import estimate_advantages, shape_rewards
from pipeline.config.ppo import PpoSection
from pipeline.cursors import Cursor, permutation, seed_generators
from pipeline.distributed import DTYPES, Workers
from pipeline.engines import HfEngine, RolloutEngine
from pipeline.episodes import EpisodeSampler, spread
from pipeline.errors import ConfigError
from pipeline.formatting import Formatter
from pipeline.forward import completion_logits
from pipeline.hydra import Branch
from pipeline.kl_control import KLController
from pipeline.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    importance_weights,
    token_entropy,
    token_logprobs,
)
from pipeline.masked import masked_sum, whiten
from pipeline.optimizing import (
    Average,
    rate_factor,
    require_finite,
)
from pipeline.ptx import PretrainingMix
from pipeline.records import Prompt
from pipeline.rewards import Reward
from pipeline.rollout import Episodes, Judged, Rollout
from pipeline.rollout_figures import describe_components, describe_rollout, describe_tokens
from pipeline.score_scaling import ScoreScaler


@dataclass(frozen=True)
class Models:
    """The models of PPO, which share one tokenizer, and the reward.

    Attributes:
        policy: what is trained; starts as the reference.
        ref_policy: frozen; the KL is measured to it.
        reward: frozen; scores whole conversations.
        value_model: trained; starts as the reward model where one reads the policy's tokens. None:
            the policy has a value head.
        average: moving average of the policy's weights; None keeps none.
    """

    policy: PreTrainedModel | Branch
    ref_policy: PreTrainedModel | Branch
    reward: Reward
    value_model: PreTrainedModel | Branch | None
    average: PreTrainedModel | Branch | None = None


class PPOTrainer:
    """Train a policy and a value model on sampled completions.

    Args:
        section: hyper-parameters.
        workers: the processes at work.
        formatter: of the tokenizer that the models share.
        models: policy, reference, reward, value model.
        prompts: what to roll out.
        ptx_sequences: packed pretraining text, [sequences, tokens]; None without ptx.
        seed: the run's.
        engine: samples rollouts; None takes our own.

    Raises:
        ConfigError: if a size does not divide over the processes.
        DataError: if a prompt leaves no room for max_new_tokens in the context.
    """

    def __init__(
        self,
        section: PpoSection,
        workers: Workers,
        formatter: Formatter,
        models: Models,
        *,
        prompts: Sequence[Prompt],
        ptx_sequences: Tensor | None,
        seed: int,
        engine: RolloutEngine | None = None,
    ) -> None:
        for key in ("minibatch_size", "ptx_minibatch_size"):
            if getattr(section, key) % workers.world_size:
                raise ConfigError(
                    f"ppo.{key} must be a multiple of the {workers.world_size} processes, "
                    f"got {getattr(section, key)}. Change it, or the number of processes."
                )
        self.section, self.workers, self.formatter, self.seed = section, workers, formatter, seed
        self.trained = ActorCritic(section, workers, models.policy, models.value_model)
        self.ref_policy: Any = workers.place(models.ref_policy)
        self.reward = models.reward
        self.idle: list[Any] = []
        if section.offload:
            whole = isinstance(models.ref_policy, PreTrainedModel)
            self.idle = [*([self.ref_policy] if whole else []), *models.reward.models]
            workers.put_away(self.idle)
        self.average: Any = None if models.average is None else workers.place(models.average)
        own = HfEngine(workers, formatter, section.decoding, section.rollout_micro_batch_size)
        # Evaluations and samples are compared over time: they keep the keyed random numbers.
        self.sampler = EpisodeSampler(workers, formatter, own, seed)
        engine = engine or replace(own, with_logprobs=section.engine.logprobs)
        self.rollout_sampler = replace(self.sampler, engine=engine)
        self.room = models.policy.config.max_position_embeddings - section.max_new_tokens
        self.prompts = prompts
        self.encoded = formatter.check_lengths(prompts, self.room, "ppo.prompts")
        self.prompt_cursor = Cursor(len(prompts), seed, "prompts")
        self.ptx: PretrainingMix | None = None
        if ptx_sequences is not None:
            self.ptx = PretrainingMix(section, workers, ptx_sequences, seed)
        self.kl, self.scaler = KLController(section), ScoreScaler(section)
        self.iteration = 0

    @property
    def policy(self) -> Any:
        """Return the policy in training."""
        return self.trained.policy

    @property
    def value_model(self) -> Any:
        """Return the value model in training; None where the policy has a value head."""
        return self.trained.value_model

    @property
    def candidate(self) -> Any:
        """Return the policy that ``model/`` would hold now: the average where there is one."""
        return self.workers.unwrap(self.policy) if self.average is None else self.average

    def step(self) -> dict[str, float]:
        """Do one iteration of PPO and return its figures."""
        tally, factor = Average(), rate_factor(self.section, self.iteration)
        self.trained.scale_rates(factor)
        with tally.timed("perf/rollout_seconds"):
            episodes = self.roll_out(self.next_prompts())
        with tally.timed("perf/score_seconds"):
            rollout = self.score(episodes)
        with tally.timed("perf/train_seconds"), self.trained.training():
            self.update(rollout, tally)
            self.update_average()
        self.iteration += 1
        described = describe_rollout(rollout, self.kl.coef)
        self.kl.update(described["objective/kl"], len(rollout))
        return {
            "episodes": self.iteration * self.section.rollout_batch_size,
            **described,
            **describe_components(self.reward.names, rollout.components),
            "policy/learning_rate": self.section.learning_rate * factor,
            "value/learning_rate": self.section.value_learning_rate * factor,
            **tally.means(self.workers),
        }

    def next_prompts(self) -> list[int]:
        """Return the indices of the iteration's prompts; none repeats within an epoch."""
        size = self.section.rollout_batch_size
        return self.prompt_cursor.take(self.iteration * size, size)

    def roll_out(self, prompts: Sequence[int]) -> Episodes:
        """Sample a completion for each prompt; every process ends up with all of them."""
        first = self.iteration * self.section.rollout_batch_size
        return self.rollout_sampler.roll_out(
            self.policy,
            [self.prompts[prompt] for prompt in prompts],
            [self.encoded[prompt] for prompt in prompts],
            step=self.iteration,
            sample_index=range(first, first + len(prompts)),
        )

    @torch.no_grad()
    def ask(self, episodes: Episodes, policy: Any) -> Judged:
        """Ask the models about completions that a policy sampled."""
        section, workers = self.section, self.workers

        def compute(part: Episodes) -> dict[str, Tensor]:
            logits, values = self.trained.answer(part, policy)
            return {
                "logprobs": token_logprobs(logits, part.completions),
                "ref_logprobs": self.completion_logprobs(self.ref_policy, part),
                "values": values,
            }

        dtype = DTYPES[section.precision]
        size = section.rollout_micro_batch_size
        with workers.at_hand(self.idle):
            answers: dict[str, Any] = spread(workers, episodes, size, dtype, compute)
            scores, components = self.ask_reward(episodes, dtype)
        return Judged(**vars(episodes), **answers, scores=scores, components=components)

    @torch.no_grad()
    def ask_reward(self, episodes: Episodes, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the scores, what a missing end costs included, and the reward's components."""
        section = self.section
        rows = zip(episodes.completions.cpu(), episodes.completion_mask.cpu(), strict=True)
        texts = [self.formatter.decode(ids[real].tolist()) for ids, real in rows]
        scored = self.reward(episodes.prompts, texts, episodes)
        scores = scored.total.to(dtype)
        if section.missing_eos_penalty is not None:
            scores = torch.where(episodes.ended, scores, scores - section.missing_eos_penalty)
        if section.missing_eos_score is not None:
            scores = torch.where(episodes.ended, scores, section.missing_eos_score)
        return scores, scored.components

    @torch.no_grad()
    def score(self, episodes: Episodes) -> Rollout:
        """Ask models and reward about the completions, shape rewards, estimate advantages."""
        section, judged = self.section, self.ask(episodes, self.policy)
        mask, logprobs = judged.completion_mask, judged.logprobs
        scaled = self.scaler.scale(judged.scores)
        rewards = shape_rewards(scaled, logprobs, judged.ref_logprobs, mask, self.kl.coef)
        if section.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = estimate_advantages(
            rewards, judged.values, mask, section.gamma, section.gae_lambda
        )
        if section.whiten_advantages:
            advantages = whiten(advantages, mask)
        importance = None
        if judged.engine_logprobs is not None and section.importance_cap is not None:
            drawn = judged.engine_logprobs.to(logprobs.dtype)
            weights = importance_weights(logprobs, drawn, section.importance_cap)
            importance = torch.where(mask, weights, 0.0)
        return Rollout(
            **vars(judged),
            scaled_scores=scaled,
            rewards=rewards,
            advantages=advantages,
            returns=returns,
            importance=importance,
        )

    def completion_logprobs(self, policy: Any, episodes: Episodes) -> Tensor:
        """Return the log-probability of each completion token, [batch, time]."""
        logits = completion_logits(self.workers, policy, episodes, self.section.temperature)
        return token_logprobs(logits, episodes.completions)

    def update(self, rollout: Rollout, tally: Average) -> None:
        """Take the optimizer steps of one iteration: epochs of shuffled minibatches."""
        section = self.section
        step = self.iteration * section.num_ppo_epochs * section.minibatches
        for epoch in range(section.num_ppo_epochs):
            order = permutation(len(rollout), self.seed, "minibatches", self.iteration, epoch)
            for minibatch in rollout.split(section.minibatch_size, order):
                self.train_on(minibatch, step, tally)
                step += 1
            if self.has_moved_far(tally):
                break
        if section.stop_approxkl is not None:
            tally.add("policy/epochs", torch.tensor(epoch + 1.0), 1)

    def has_moved_far(self, tally: Average) -> bool:
        """Tell, alike on every process, whether the last epoch moved the policy too far."""
        limit = self.section.stop_approxkl
        if limit is None:
            return False
        return tally.lap(self.workers, "policy/approxkl")["policy/approxkl"] > limit

    def train_on(self, minibatch: Rollout, step: int, tally: Average) -> None:
        """Accumulate the gradients of one minibatch and of its pretraining text, and step."""
        tokens, workers = minibatch.token_count, self.workers
        share = torch.arange(workers.rank, len(minibatch), workers.world_size)
        share = minibatch.by_length(share)
        parts = list(minibatch.split(self.section.micro_batch_size, share))
        if self.section.drops_out:
            seed_generators(self.seed, "dropout", step, workers.rank)
        for i, part in enumerate(parts):
            with self.trained.accumulating(last=i == len(parts) - 1):
                loss = self.ppo_loss(part.trimmed(), tally)
                # Gradients are averaged over the processes: the product makes that a sum.
                (loss * workers.world_size / tokens).backward()
        if self.ptx is not None:
            self.ptx.add_gradient(self.policy, step, tally)
        self.take_step(tally)

    def take_step(self, tally: Average) -> None:
        """Clip the gradients and take an optimizer step, unless a number is not finite."""
        norm = self.trained.clip(tally)
        # With ptx, the norm of PPO's gradient alone was taken before the two were added.
        tally.add("grad_norm/policy" if self.ptx is None else "grad_norm/both", norm, 1)
        require_finite(self.iteration + 1, tally.lap(self.workers, "loss/", "grad_norm/"))
        self.trained.step()

    def ppo_loss(self, part: Rollout, tally: Average) -> Tensor:
        """Return the summed policy and value loss of some episodes, and note their figures."""
        section, mask, count = self.section, part.completion_mask, part.token_count
        logits, values = self.trained.answer(part)
        logprobs = token_logprobs(logits, part.completions)
        policy_losses = clipped_policy_loss(
            logprobs, part.logprobs, part.advantages, section.clip_range
        )
        if part.importance is not None:
            policy_losses = policy_losses * part.importance
        values = values.to(part.values.dtype)
        value_losses = clipped_value_loss(values, part.values, part.returns, section.value_limit)
        figures = describe_tokens(
            part,
            logits,
            logprobs,
            values,
            clip_range=section.clip_range,
            value_clip_range=section.value_limit,
        )
        figures |= {"loss/policy": policy_losses, "loss/value": value_losses}
        for name, tokens in figures.items():
            tally.add(name, masked_sum(tokens, mask), count)
        value_loss = self.trained.value_coef * masked_sum(value_losses, mask)
        loss = masked_sum(policy_losses, mask) + value_loss
        if section.entropy_coef:
            loss = loss - section.entropy_coef * masked_sum(token_entropy(logits), mask)
        return loss

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged policy towards the policy: w <- d w + (1 - d) w_policy."""
        if self.average is None or self.section.ema_decay is None:
            return
        current = dict(self.workers.unwrap(self.policy).named_parameters())
        for name, slow in self.average.named_parameters():
            slow.lerp_(current[name], 1 - self.section.ema_decay)

    @property
    def stateful(self) -> dict[str, Any]:
        """Return what changes beside the models' weights; cursors follow from the iteration."""
        return {
            "optimizers": self.trained,
            "kl": self.kl,
            "scaler": self.scaler,
        }

    def save_state(self, folder: Path) -> None:
        """Write all that an exact resume needs, from rank 0."""
        if self.workers.rank == 0:
            self.trained.save(folder)
            if self.average is not None:
                self.average.save_pretrained(folder / "average")
            state = {name: part.state_dict() for name, part in self.stateful.items()}
            torch.save({"iteration": self.iteration, **state}, folder / "state.pt")
        self.workers.wait()

    def load_state(self, folder: Path) -> None:
        """Go on from a checkpoint whose models were already loaded from it."""
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        self.iteration = state["iteration"]
        for name, part in self.stateful.items():
            part.load_state_dict(state[name])
