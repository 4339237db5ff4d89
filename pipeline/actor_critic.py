"""Hold what PPO trains: a policy, and the values of its states.

Values come from a model of their own, or from a head on the policy, which gives logits and values
in one pass. Everything that depends on which of the two it is stands here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.config.ppo import PpoSection
from pipeline.distributed import Workers
from pipeline.forward import completion_logits, completion_logits_and_values, completion_values
from pipeline.optimizing import Average, clip_gradient, gradient_norm, make_optimizer, take_step
from pipeline.rollout import Episodes


class ActorCritic:
    """A policy and a value function, with their optimizers.

    Args:
        section: hyper-parameters.
        workers: the processes at work.
        policy: what is trained.
        value_model: what is trained beside it; None where the policy has a value head.
    """

    def __init__(
        self,
        section: PpoSection,
        workers: Workers,
        policy: nn.Module,
        value_model: nn.Module | None,
    ) -> None:
        self.section, self.workers = section, workers
        self.policy: Any = self._wrap(policy)
        self.value_model: Any = None if value_model is None else self._wrap(value_model)
        # With one trunk for both, the value loss moves the policy, and its weight matters.
        self.value_coef = 1.0
        if section.hydra is not None and value_model is None:
            self.value_coef = section.hydra.value_coef
        self.optimizers = {
            name: make_optimizer(section, *rated) for name, rated in self._rates().items()
        }

    @property
    def trained(self) -> list[Any]:
        """Return the models that are trained: the policy first."""
        return [self.policy] if self.value_model is None else [self.policy, self.value_model]

    def answer(self, episodes: Episodes, policy: Any = None) -> tuple[Tensor, Tensor]:
        """Return logits [batch, time, vocabulary] and values [batch, time] of the completions.

        Args:
            episodes: what to read.
            policy: whose logits to return; the trained one by default. Values are always its own.
        """
        workers, temperature = self.workers, self.section.temperature
        models = [self.policy if policy is None else policy, self.policy, self.value_model]
        if not torch.is_grad_enabled():
            # Processes score shares of their own, and a wrapper's forward pass would wait for all.
            models = [model and workers.unwrap(model) for model in models]
        asked, own, value_model = models
        if value_model is not None:
            logits = completion_logits(workers, asked, episodes, temperature)
            return logits, completion_values(workers, value_model, episodes)
        logits, values = completion_logits_and_values(workers, own, episodes, temperature)
        if asked is not own:
            logits = completion_logits(workers, asked, episodes, temperature)
        return logits, values

    @contextlib.contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """Exchange gradients between processes only in the last of several backward passes."""
        with contextlib.ExitStack() as stack:
            for model in self.trained:
                stack.enter_context(self.workers.accumulating(model, last=last))
            yield
        if last:
            for model in self.trained:
                self.workers.average_gradients(model)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Drop out, and recompute activations, as the section says.

        Both are off in rollouts and scoring; dropout is off in training too by default (N 13).
        """
        for model in self.trained:
            for module in model.modules():
                self._prepare(module)
        try:
            yield
        finally:
            for model in self.trained:
                model.eval()

    def _prepare(self, module: Any) -> None:
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = self.section.attention_dropout
            module.training = self.section.attention_dropout > 0
        elif isinstance(module, nn.Dropout):
            module.training = self.section.hydra is not None  # LoRA's; a model's own stays off.
        else:
            # Transformers recomputes the activations of layers in training mode only.
            module.training = isinstance(module, GradientCheckpointingLayer)

    def scale_rates(self, factor: float) -> None:
        """Set every learning rate to a factor of its peak."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor

    def clip(self, tally: Average) -> Tensor:
        """Clip the gradients of each model, and return the policy's norm before that.

        Args:
            tally: takes the value function's norm: of its model, or of its head.
        """
        limit = self.section.max_grad_norm
        if self.value_model is None:
            head = [weight.grad for weight in self.policy.value_head.parameters()]
            tally.add("grad_norm/value", gradient_norm(head), 1)
            return clip_gradient(self.policy, limit)
        norm = clip_gradient(self.policy, limit)
        tally.add("grad_norm/value", clip_gradient(self.value_model, limit), 1)
        return norm

    def step(self) -> None:
        """Step every optimizer."""
        for optimizer in self.optimizers.values():
            take_step(optimizer)

    def save(self, folder: Path) -> None:
        """Write the models' weights."""
        self.workers.unwrap(self.policy).save_pretrained(folder / "policy")
        if self.value_model is not None:
            self.workers.unwrap(self.value_model).save_pretrained(folder / "value")

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizers' states."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the optimizers' states; the models were loaded already."""
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])

    def _rates(self) -> dict[str, list[tuple[Iterable[nn.Parameter], float]]]:
        """Return which weights learn at which rate, an optimizer each."""
        slow, fast = self.section.learning_rate, self.section.value_learning_rate
        if self.value_model is not None:
            parameters = self.policy.parameters(), self.value_model.parameters()
            return {"policy": [(parameters[0], slow)], "value": [(parameters[1], fast)]}
        head = list(self.policy.value_head.parameters())
        own = {id(weight) for weight in head}
        trunk = [weight for weight in self.policy.parameters() if id(weight) not in own]
        return {"policy": [(trunk, slow), (head, fast)]}

    def _wrap(self, model: nn.Module) -> Any:
        if isinstance(model, PreTrainedModel):
            return self.workers.wrap(model.eval())
        # Branches share their backbone, and a wrapper would take hold of it: `average_gradients`.
        return model.eval().to(self.workers.device)
