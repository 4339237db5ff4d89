"""Reduce tensors over the positions that are real.

Padding is only ever a boolean mask, and a mean divides by a count that the caller may give: the
count of the whole minibatch, so that micro-batches and processes cannot change a number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.errors import ShapeError


def require_same_shape(**tensors: Tensor) -> None:
    """Check that named tensors have one shape.

    Raises:
        ShapeError: if they differ; names each with its shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ShapeError(f"Shapes must be equal, got {shapes}.")


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum the values where the mask is True; what stands elsewhere, even NaN, does not count."""
    return torch.where(mask, values, torch.zeros_like(values)).sum()


def masked_mean(values: Tensor, mask: Tensor, count: int | Tensor | None = None) -> Tensor:
    """Average the values where the mask is True, over ``count`` instead of the mask's own count."""
    return masked_sum(values, mask) / (mask.sum().clamp(min=1) if count is None else count)


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """Return the population variance of the values where the mask is True."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Scale the values to variance 1, and to mean 0 where ``shift_mean``.

        w = (x - mean) / sqrt(var + 1e-8)  [+ mean unless shift_mean]

    Population variance (N implementation details of RLHF, 18).

    Args:
        values: [batch, time].
        mask: True at real positions, [batch, time].
        shift_mean: False keeps the mean, as for rewards.
    Returns:
        Whitened values, [batch, time]; zero where the mask is False.
    """
    mean = masked_mean(values, mask)
    whitened = (values - mean) * torch.rsqrt(masked_variance(values, mask) + 1e-8)
    if not shift_mean:
        whitened = whitened + mean
    return torch.where(mask, whitened, torch.zeros_like(values))


def positions(mask: Tensor) -> Tensor:
    """Number the real tokens of each row from 0, [batch, time], wherever the padding is."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def last_token(mask: Tensor) -> Tensor:
    """Return the index of each row's last True, [batch], from a mask [batch, time]."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return (positions * mask).argmax(dim=1)
