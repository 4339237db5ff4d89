"""Optimise a policy against a reward with PPO, pretraining gradients mixed in (PPO-ptx).

    objective(phi) = E_{x, y ~ pi_phi} [ r(x, y) - beta log(pi_phi(y|x) / pi_ref(y|x)) ]
                     + gamma E_{x ~ pretrain} [ log pi_phi(x) ]

Ouyang et al. 2022, eq. 2. ``PPOTrainer.step`` is one iteration: sample prompts, roll out, score,
shape rewards, estimate advantages, update, record.

Departures from the paper:
1. Value clipping, GAE's lambda, advantage whitening and gradient clipping are not printed there;
   they follow "The N Implementation Details of RLHF with PPO".
2. Randomness is keyed by (seed, step, prompt, sample index), not by a seed a rank, and every
   process holds the whole rollout: the number of processes changes no number.
3. Policy and value model have an optimizer each, so a weight of the value loss would change
   nothing, and there is none.
4. The moving average of the policy is updated once an iteration.
5. The pretraining term is a mean over tokens, times gamma; its sequences are spread evenly over
   the optimizer steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.advantages import estimate_advantages, shape_rewards
from pipeline.config.ppo import PpoSection
from pipeline.config.rewards import metric_keys
from pipeline.config.sampling import DecodingSection
from pipeline.cursors import Cursor, permutation
from pipeline.distributed import Workers
from pipeline.errors import ConfigError
from pipeline.formatting import Formatter
from pipeline.losses import clipped_policy_loss, clipped_value_loss, token_entropy, token_logprobs
from pipeline.masked import masked_mean, masked_sum, masked_variance, positions, whiten
from pipeline.optimizing import (
    Average,
    add_gradients,
    gradient_norm,
    make_optimizer,
    optimize,
    take_gradients,
    warm_up,
)
from pipeline.records import Prompt
from pipeline.rewards import Reward
from pipeline.rollout import Episodes, Rollout, lay_out
from pipeline.runs import StageRun
from pipeline.sampling import sample_completions


@dataclass(frozen=True)
class Models:
    """The models of PPO, which share one tokenizer, and the reward.

    Attributes:
        policy: what is trained; starts as the reference.
        ref_policy: frozen; the KL is measured to it.
        reward: frozen; scores whole conversations.
        value_model: trained; starts as the reward model where one reads the policy's tokens.
        average: moving average of the policy's weights; None keeps none.
    """

    policy: PreTrainedModel
    ref_policy: PreTrainedModel
    reward: Reward
    value_model: PreTrainedModel
    average: PreTrainedModel | None = None


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
    ) -> None:
        for key in ("minibatch_size", "ptx_minibatch_size"):
            if getattr(section, key) % workers.world_size:
                raise ConfigError(
                    f"ppo.{key} must be a multiple of the {workers.world_size} processes, "
                    f"got {getattr(section, key)}. Change it, or the number of processes."
                )
        self.section, self.workers, self.formatter, self.seed = section, workers, formatter, seed
        # Dropout stays off, in rollouts and in training alike (N details, 13).
        self.policy: Any = workers.wrap(models.policy.eval())
        self.value_model: Any = workers.wrap(models.value_model.eval())
        self.ref_policy: Any = workers.place(models.ref_policy)
        self.reward = models.reward
        self.average: Any = None if models.average is None else workers.place(models.average)
        self.policy_optimizer = make_optimizer(self.policy, section, section.learning_rate)
        self.value_optimizer = make_optimizer(
            self.value_model, section, section.value_learning_rate
        )
        self.decoding = DecodingSection(
            temperature=section.temperature, max_new_tokens=section.max_new_tokens
        )
        room = models.policy.config.max_position_embeddings - section.max_new_tokens
        self.prompts = prompts
        self.encoded = formatter.check_lengths(prompts, room, "ppo.prompts")
        self.prompt_cursor = Cursor(len(prompts), seed, "prompts")
        self.ptx_sequences = ptx_sequences
        self.ptx_cursor = Cursor(0 if ptx_sequences is None else len(ptx_sequences), seed, "ptx")
        self.iteration = 0

    def train(self, run: StageRun) -> dict[str, float]:
        """Run the iterations that are left, and return the last one's figures."""
        section, figures = self.section, {}
        while self.iteration < section.iterations:
            figures = self.step()
            run.metrics.write(self.iteration, figures)
            done = self.iteration == section.iterations
            if self.iteration % section.sample_every == 0 or done:
                self.show_samples(run)
            if self.iteration % section.checkpoint_every == 0 or done:
                with run.checkpoint(self.iteration, section.keep_checkpoints) as folder:
                    self.save_state(folder)
        return figures

    def step(self) -> dict[str, float]:
        """Do one iteration of PPO and return its figures."""
        tally = Average()
        with tally.timed("perf/rollout_seconds"):
            prompts = self.next_prompts()
            episodes = self.roll_out(prompts)
        with tally.timed("perf/score_seconds"):
            rollout = self.score(episodes)
        with tally.timed("perf/train_seconds"):
            self.update(rollout, tally)
            self.update_average()
        self.iteration += 1
        return {**self.describe(rollout), **tally.means(self.workers)}

    def next_prompts(self) -> list[int]:
        """Return the indices of the iteration's prompts; none repeats within an epoch."""
        size = self.section.rollout_batch_size
        return self.prompt_cursor.take(self.iteration * size, size)

    def roll_out(self, prompts: Sequence[int]) -> Episodes:
        """Sample a completion for each prompt; every process ends up with all of them."""
        workers, first = self.workers, self.iteration * self.section.rollout_batch_size
        share = range(workers.rank, len(prompts), workers.world_size)
        with workers.autocast():
            sampled = sample_completions(
                workers.unwrap(self.policy),
                self.formatter,
                [self.prompts[prompts[row]] for row in share],
                self.decoding,
                seed=self.seed,
                step=self.iteration,
                sample_index=[first + row for row in share],
                batch_size=self.section.rollout_micro_batch_size,
            )
        completions = dict(workers.gather_objects(list(zip(share, sampled, strict=True))))
        rows = [completions[row].ids for row in range(len(prompts))]
        encoded = [self.encoded[prompt] for prompt in prompts]
        ids, attention_mask, completion_mask = lay_out(encoded, rows, self.formatter.pad_id)
        ended = torch.tensor([row[-1] == self.formatter.end_id for row in rows])
        device = workers.device
        return Episodes(
            ids.to(device),
            attention_mask.to(device),
            completion_mask.to(device),
            ended.to(device),
            prompts=tuple(self.prompts[prompt] for prompt in prompts),
        )

    @torch.no_grad()
    def score(self, episodes: Episodes) -> Rollout:
        """Ask models and reward about the completions, shape rewards, estimate advantages."""
        section, workers = self.section, self.workers
        mask, device = episodes.completion_mask, workers.device
        dtype = self.ref_policy.get_output_embeddings().weight.dtype
        logprobs, ref_logprobs, values = torch.zeros(3, *mask.shape, dtype=dtype, device=device)
        share = torch.arange(workers.rank, len(episodes), workers.world_size)
        for start in range(0, len(share), section.rollout_micro_batch_size):
            rows = share[start : start + section.rollout_micro_batch_size]
            part = episodes.rows(rows).trimmed()
            time = part.completion_mask.shape[1]
            logits = self.completion_logits(workers.unwrap(self.policy), part)
            logprobs[rows, :time] = token_logprobs(logits, part.completions).to(dtype)
            logits = self.completion_logits(self.ref_policy, part)
            ref_logprobs[rows, :time] = token_logprobs(logits, part.completions).to(dtype)
            value_model = workers.unwrap(self.value_model)
            values[rows, :time] = self.completion_values(value_model, part).to(dtype)
        # Each row was filled on one process, and is zero on the others.
        logprobs, ref_logprobs, values = (
            torch.where(mask, workers.total(column), 0.0)
            for column in (logprobs, ref_logprobs, values)
        )
        scores, components = self.ask_reward(episodes, dtype)
        rewards = shape_rewards(scores, logprobs, ref_logprobs, mask, section.kl_coef)
        if section.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = estimate_advantages(
            rewards, values, mask, section.gamma, section.gae_lambda
        )
        if section.whiten_advantages:
            advantages = whiten(advantages, mask)
        return Rollout(
            **vars(episodes),
            scores=scores,
            components=components,
            logprobs=logprobs,
            ref_logprobs=ref_logprobs,
            values=values,
            rewards=rewards,
            advantages=advantages,
            returns=returns,
        )

    def ask_reward(self, episodes: Episodes, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the scores less the missing-end penalty, [batch], and the reward's components."""
        rows = zip(episodes.completions.cpu(), episodes.completion_mask.cpu(), strict=True)
        texts = [self.formatter.decode(ids[real].tolist()) for ids, real in rows]
        scored = self.reward(episodes.prompts, texts, episodes)
        scores = scored.total.to(dtype)
        if self.section.missing_eos_penalty is not None:
            penalized = scores - self.section.missing_eos_penalty
            scores = torch.where(episodes.ended, scores, penalized)
        return scores, scored.components

    def completion_logits(self, model: Any, episodes: Episodes) -> Tensor:
        """Return the logits that the completion tokens were drawn from, [batch, time, vocabulary].

        Divided by the sampling temperature, so that training sees the distribution that was
        sampled (N details, 10).
        """
        time = episodes.completion_mask.shape[1]
        with self.workers.autocast():
            logits: Tensor = model(**model_inputs(episodes), logits_to_keep=time + 1).logits[:, :-1]
        return logits / self.section.temperature

    def completion_values(self, model: Any, episodes: Episodes) -> Tensor:
        """Return the value before each completion token, [batch, time]."""
        time = episodes.completion_mask.shape[1]
        with self.workers.autocast():
            values: Tensor = model(**model_inputs(episodes)).logits[:, -time - 1 : -1, 0]
        return values

    def update(self, rollout: Rollout, tally: Average) -> None:
        """Take the optimizer steps of one iteration: epochs of shuffled minibatches."""
        factor = warm_up(self.iteration, self.section.warmup_iterations)
        for optimizer, rate in (
            (self.policy_optimizer, self.section.learning_rate),
            (self.value_optimizer, self.section.value_learning_rate),
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        step = self.iteration * self.section.num_ppo_epochs * self.section.minibatches
        for epoch in range(self.section.num_ppo_epochs):
            order = permutation(len(rollout), self.seed, "minibatches", self.iteration, epoch)
            for minibatch in rollout.split(self.section.minibatch_size, order):
                self.train_on(minibatch, step, tally)
                step += 1

    def train_on(self, minibatch: Rollout, step: int, tally: Average) -> None:
        """Accumulate the gradients of one minibatch and of its pretraining text, and step."""
        tokens, workers = minibatch.token_count, self.workers
        share = torch.arange(workers.rank, len(minibatch), workers.world_size)
        parts = list(minibatch.split(self.section.micro_batch_size, share))
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            with (
                workers.accumulating(self.policy, last=last),
                workers.accumulating(self.value_model, last=last),
            ):
                loss = self.ppo_loss(part.trimmed(), tally)
                # Gradients are averaged over the processes: the product makes that a sum.
                (loss * workers.world_size / tokens).backward()
        gradients = [weight.grad for weight in self.policy.parameters()]
        tally.add("grad_norm/policy", gradient_norm(gradients), 1)
        if self.ptx_sequences is not None:
            self.add_pretraining_gradient(self.ptx_sequences, step, tally)
        limit = self.section.max_grad_norm
        optimize(self.policy, self.policy_optimizer, limit, "policy")
        norm = optimize(self.value_model, self.value_optimizer, limit, "value model")
        tally.add("grad_norm/value", norm, 1)

    def ppo_loss(self, part: Rollout, tally: Average) -> Tensor:
        """Return the summed policy and value loss of some episodes, and note their figures."""
        section, mask, count = self.section, part.completion_mask, part.token_count
        logits = self.completion_logits(self.policy, part)
        logprobs = token_logprobs(logits, part.completions)
        policy_losses = clipped_policy_loss(
            logprobs, part.logprobs, part.advantages, section.clip_range
        )
        values = self.completion_values(self.value_model, part).to(part.values.dtype)
        value_losses = clipped_value_loss(
            values, part.values, part.returns, section.value_clip_range
        )
        with torch.no_grad():
            change = logprobs - part.logprobs
            ratio = change.exp()
            figures = {
                "policy/approxkl": 0.5 * change**2,
                "policy/clipfrac": ((ratio - 1).abs() > section.clip_range).to(ratio.dtype),
                "policy/ratio": ratio,
                "policy/entropy": token_entropy(logits),
                "loss/policy": policy_losses,
                "loss/value": value_losses,
                "value/clipfrac": ((values - part.values).abs() > section.value_clip_range).to(
                    ratio.dtype
                ),
            }
            for name, tokens in figures.items():
                tally.add(name, masked_sum(tokens, mask), count)
        return masked_sum(policy_losses, mask) + masked_sum(value_losses, mask)

    def add_pretraining_gradient(self, text: Tensor, step: int, tally: Average) -> None:
        """Add gamma times the pretraining gradient to the policy's (PPO-ptx, IG C.4).

        Args:
            text: packed sequences to draw from, [sequences, tokens].
            step: which optimizer step of the training this is.
            tally: takes the loss and the norm of this gradient alone.
        """
        section, workers = self.section, self.workers
        ppo_gradients = take_gradients(self.policy)
        count = section.ptx_minibatch_size
        taken = self.ptx_cursor.take(step * count, count)
        sequences = text[torch.tensor(taken)].to(workers.device)
        tokens = sequences[:, 1:].numel()
        parts = sequences[workers.rank :: workers.world_size].split(section.micro_batch_size)
        for i, part in enumerate(parts):
            with workers.accumulating(self.policy, last=i == len(parts) - 1):
                with workers.autocast():
                    logits = self.policy(input_ids=part, use_cache=False).logits[:, :-1]
                loss = -token_logprobs(logits, part[:, 1:]).sum()
                (section.ptx_coef * loss * workers.world_size / tokens).backward()
            tally.add("loss/ptx", loss, part[:, 1:].numel())
        norm = gradient_norm([weight.grad for weight in self.policy.parameters()])
        tally.add("grad_norm/ptx", norm, 1)
        add_gradients(self.policy, ppo_gradients)

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged policy towards the policy: w <- d w + (1 - d) w_policy."""
        if self.average is None or self.section.ema_decay is None:
            return
        current = self.workers.unwrap(self.policy).parameters()
        for slow, fast in zip(self.average.parameters(), current, strict=True):
            slow.lerp_(fast, 1 - self.section.ema_decay)

    def describe(self, rollout: Rollout) -> dict[str, float]:
        """Return the figures of the rollout itself: scores, KL, lengths, how well values fit."""
        mask = rollout.completion_mask
        log_ratio = torch.where(mask, rollout.logprobs - rollout.ref_logprobs, 0.0)
        kl = log_ratio.sum(dim=1)
        k3 = torch.where(mask, (-log_ratio).exp() - 1 + log_ratio, 0.0).sum(dim=1)
        surprisal = torch.where(mask, -rollout.logprobs, 0.0).sum(dim=1)
        unexplained = masked_variance(rollout.returns - rollout.values, mask)
        variance = masked_variance(rollout.returns, mask).clamp(min=1e-12)
        figures = {
            "objective/kl": kl.mean(),
            "objective/kl_k3": k3.mean(),
            "objective/scores": rollout.scores.mean(),
            "objective/scores_std": rollout.scores.std(correction=0),
            "objective/rlhf_reward": (rollout.scores - self.section.kl_coef * kl).mean(),
            "objective/entropy": surprisal.mean(),
            "objective/length": mask.sum(dim=1).double().mean(),
            "objective/eos_rate": rollout.ended.double().mean(),
            "value/mean": masked_mean(rollout.values, mask),
            "value/explained_variance": 1 - unexplained / variance,
        }
        for name, scores in zip(self.reward.names, rollout.components.T, strict=True):
            mean, spread = metric_keys(name)
            figures |= {mean: scores.mean(), spread: scores.std(correction=0)}
        named = {name: float(figure) for name, figure in figures.items()}
        return {"episodes": self.iteration * self.section.rollout_batch_size, **named}

    def show_samples(self, run: StageRun) -> None:
        """Write the fixed prompts' completions, so that change is visible."""
        count = min(self.section.sample_prompts, len(self.prompts))
        prompts = [
            self.prompts[i] for i in range(self.workers.rank, count, self.workers.world_size)
        ]
        with self.workers.autocast():
            sampled = sample_completions(
                self.workers.unwrap(self.policy),
                self.formatter,
                prompts,
                self.decoding,
                seed=self.seed,
                batch_size=self.section.rollout_micro_batch_size,
            )
        rows = [
            {"prompt": prompt.messages[-1]["content"], "completion": completion.text}
            for prompt, completion in zip(prompts, sampled, strict=True)
        ]
        for row in self.workers.gather_objects(rows):
            run.samples.write(self.iteration, row)

    def save_state(self, folder: Path) -> None:
        """Write all that an exact resume needs, from rank 0; cursors follow from the iteration."""
        if self.workers.rank == 0:
            self.workers.unwrap(self.policy).save_pretrained(folder / "policy")
            self.workers.unwrap(self.value_model).save_pretrained(folder / "value")
            if self.average is not None:
                self.average.save_pretrained(folder / "average")
            state = {
                "iteration": self.iteration,
                "policy_optimizer": self.policy_optimizer.state_dict(),
                "value_optimizer": self.value_optimizer.state_dict(),
            }
            torch.save(state, folder / "state.pt")
        self.workers.wait()

    def load_state(self, folder: Path) -> None:
        """Go on from a checkpoint whose models were already loaded from it."""
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        self.iteration = state["iteration"]
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.value_optimizer.load_state_dict(state["value_optimizer"])


def model_inputs(episodes: Episodes) -> dict[str, Any]:
    """Return what a forward pass over whole episodes takes, wherever their padding is."""
    return {
        "input_ids": episodes.ids,
        "attention_mask": episodes.attention_mask.long(),
        "position_ids": positions(episodes.attention_mask),
        "use_cache": False,
    }
