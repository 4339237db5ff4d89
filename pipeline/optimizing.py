"""Make PPO's optimizers, step them safely, and average figures over micro-batches and processes."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pipeline.config.ppo import PpoSection
from pipeline.distributed import Workers
from pipeline.errors import DivergedError


def make_optimizer(section: PpoSection, *rated: tuple[Iterable[nn.Parameter], float]) -> AdamW:
    """Return AdamW over trainable weights, decaying matrices only.

    Args:
        section: betas, epsilon and decay.
        rated: weights, and their learning rate; a group keeps it as ``peak_lr``.
    """
    groups: list[dict[str, Any]] = []
    for weights, rate in rated:
        trained = [weight for weight in weights if weight.requires_grad]
        for matrices, decay in ((True, section.weight_decay), (False, 0.0)):
            chosen = [weight for weight in trained if (weight.dim() > 1) == matrices]
            fields = {"weight_decay": decay, "lr": rate, "peak_lr": rate}
            groups.append({"params": chosen, **fields})
    return AdamW(
        groups, betas=(section.adam_beta1, section.adam_beta2), eps=section.adam_epsilon, fused=True
    )


def warm_up(iteration: int, warmup_iterations: int) -> float:
    """Return the warm-up's factor: linear from 0.1 to 1, and 1 afterwards (IG C.4)."""
    if iteration >= warmup_iterations:
        return 1.0
    return 0.1 + 0.9 * iteration / warmup_iterations


def rate_factor(section: PpoSection, iteration: int) -> float:
    """Return what both learning rates are multiplied by in an iteration, counted from 0."""
    factor = warm_up(iteration, section.warmup_iterations)
    if section.lr_schedule == "linear":
        factor *= 1 - iteration / section.iterations
    return factor


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


def clip_gradient(model: nn.Module, max_grad_norm: float | None) -> Tensor:
    """Scale a model's gradient down to a norm, if any, and return its norm before that."""
    norm = gradient_norm([weight.grad for weight in model.parameters()])
    if max_grad_norm is not None and norm > max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), max_grad_norm, norm)
    return norm


def take_step(optimizer: Optimizer) -> None:
    """Step, and leave the model without gradients."""
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def require_finite(iteration: int, figures: Mapping[str, float]) -> None:
    """Stop a training before a number that is not finite reaches a weight.

    Raises:
        DivergedError: naming the first such figure.
    """
    for name, figure in figures.items():
        if not math.isfinite(figure):
            raise DivergedError(
                f"{name} of iteration {iteration} must be finite, got {figure}; no step was taken "
                "and the last checkpoint is kept. Lower the learning rates, or look at the scores."
            )


class Average:
    """Average figures that come in parts: micro-batches of an iteration, on every process."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}
        self._laps: dict[str, tuple[float, float]] = {}
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
        parts = {name: (self._sums[name], self._counts[name]) for name in sorted(self._sums)}
        return {**_divide(parts, workers), **self._seconds}

    def lap(self, workers: Workers, *prefixes: str) -> dict[str, float]:
        """Return the means of what was added since the last lap, the same on every process.

        Args:
            workers: the processes at work.
            prefixes: what the names of the figures begin with, in the order of the result.
        """
        parts = {}
        names = [n for prefix in prefixes for n in sorted(self._sums) if n.startswith(prefix)]
        for name in names:
            total, count = self._laps.get(name, (0.0, 0.0))
            parts[name] = (self._sums[name] - total, self._counts[name] - count)
            self._laps[name] = (self._sums[name], self._counts[name])
        return _divide(parts, workers)


def _divide(parts: Mapping[str, tuple[float, float]], workers: Workers) -> dict[str, float]:
    """Sum totals and counts over the processes, and divide."""
    whole = torch.tensor(list(parts.values()), dtype=torch.float64).to(workers.device)
    totals = workers.total(whole).tolist()
    return {name: total / count for name, (total, count) in zip(parts, totals, strict=True)}
