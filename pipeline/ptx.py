"""Mix pretraining gradients into PPO's (PPO-ptx), so that the policy keeps what it had learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.config.ppo import PpoSection
from pipeline.cursors import Cursor
from pipeline.distributed import Workers
from pipeline.losses import token_logprobs
from pipeline.optimizing import Average, add_gradients, gradient_norm, take_gradients


class PretrainingMix:
    """Add gamma times the pretraining gradient to a policy's, before its optimizer steps.

        gamma E_{x ~ pretrain} [ log pi_phi(x) ]

    Ouyang et al. 2022, eq. 2 and C.4: both gradients accumulate into one step. The expectation is a
    mean over tokens; the sequences are spread evenly over the optimizer steps.

    Args:
        section: ``ptx_coef`` is gamma; sizes.
        workers: the processes at work.
        sequences: packed text, [sequences, tokens]; none repeats within an epoch.
        seed: the run's.
    """

    def __init__(self, section: PpoSection, workers: Workers, sequences: Tensor, seed: int) -> None:
        self.section, self.workers, self.sequences = section, workers, sequences
        self.cursor = Cursor(len(sequences), seed, "ptx")

    def add_gradient(self, policy: Any, step: int, tally: Average) -> None:
        """Add to the gradient that the policy holds.

        Args:
            policy: wrapped for the processes.
            step: which optimizer step of the training this is.
            tally: takes the loss, the norms of both gradients apart, and the ratio of the two.
        """
        section, workers = self.section, self.workers
        ppo_gradients = take_gradients(policy)
        count = section.ptx_minibatch_size
        taken = self.cursor.take(step * count, count)
        text = self.sequences[torch.tensor(taken)].to(workers.device)
        tokens = text[:, 1:].numel()
        parts = text[workers.rank :: workers.world_size].split(section.micro_batch_size)
        for i, part in enumerate(parts):
            with workers.accumulating(policy, last=i == len(parts) - 1):
                with workers.autocast():
                    logits = policy(input_ids=part, use_cache=False).logits[:, :-1]
                loss = -token_logprobs(logits, part[:, 1:]).sum()
                (section.ptx_coef * loss * workers.world_size / tokens).backward()
            tally.add("loss/ptx", loss, part[:, 1:].numel())
        workers.average_gradients(policy)
        norm = gradient_norm([weight.grad for weight in policy.parameters()])
        ppo_norm = gradient_norm(ppo_gradients)
        tally.add("grad_norm/policy", ppo_norm, 1)
        tally.add("grad_norm/ptx", norm, 1)
        tally.add("grad_norm/ptx_ratio", norm / ppo_norm.clamp(min=1e-12), 1)
        add_gradients(policy, ppo_gradients)
