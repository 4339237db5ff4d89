"""Make PPO's optimizers, step them safely, and average figures over micro-batches and processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pipeline.config.ppo import PpoSection
from pipeline.distributed import Workers
from pipeline.errors import SteerlineError


def make_optimizer(model: nn.Module, section: PpoSection, learning_rate: float) -> AdamW:
    """Return AdamW over a model's trainable weights, decaying matrices only."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    matrices = [weight for weight in trained if weight.dim() > 1]
    vectors = [weight for weight in trained if weight.dim() <= 1]
    return AdamW(
        [
            {"params": matrices, "weight_decay": section.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(section.adam_beta1, section.adam_beta2),
        eps=section.adam_epsilon,
    )


def warm_up(iteration: int, warmup_iterations: int) -> float:
    """Return the learning rate's factor: linear from 0.1 to 1, constant afterwards (IG C.4)."""
    if iteration >= warmup_iterations:
        return 1.0
    return 0.1 + 0.9 * iteration / warmup_iterations


def take_gradients(model: nn.Module) -> list[Tensor | None]:
    """Return a model's gradients and leave it without."""
    gradients = [weight.grad for weight in model.parameters()]
    for weight in model.parameters():
        weight.grad = None
    return gradients


def add_gradients(model: nn.Module, gradients: list[Tensor | None]) -> None:
    """Add gradients to those that a model holds."""
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        if gradient is not None:
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)


def gradient_norm(gradients: list[Tensor | None]) -> Tensor:
    """Return the Euclidean norm of gradients taken together."""
    return torch.nn.utils.get_total_norm([g for g in gradients if g is not None])


def optimize(model: nn.Module, optimizer: Optimizer, max_grad_norm: float, what: str) -> Tensor:
    """Clip the gradient, step, and return its norm before clipping.

    Raises:
        SteerlineError: if the gradient is not finite; nothing is stepped.
    """
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    if not torch.isfinite(norm):
        raise SteerlineError(
            f"The gradient of the {what} must be finite, got {norm.item()}; no step was taken and "
            "the last checkpoint is kept. Lower the learning rate, or look at the scores."
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


class Average:
    """Average figures that come in parts: micro-batches of an iteration, on every process."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def add(self, name: str, total: Tensor, count: float) -> None:
        """Add a part: the sum of a figure over ``count`` tokens, episodes or steps."""
        self._sums[name] = self._sums.get(name, 0.0) + float(total.detach())
        self._counts[name] = self._counts.get(name, 0.0) + count

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a phase, in seconds."""
        start = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - start

    def means(self, workers: Workers) -> dict[str, float]:
        """Return each figure's mean over all parts of all processes, then the phases' seconds."""
        names = sorted(self._sums)
        parts = torch.tensor(
            [[self._sums[name] for name in names], [self._counts[name] for name in names]],
            dtype=torch.float64,
        )
        sums, counts = workers.total(parts.to(workers.device)).tolist()
        means = {
            name: total / count for name, total, count in zip(names, sums, counts, strict=True)
        }
        return {**means, **self._seconds}
