"""Compute faster on CPUs: matrix products by oneDNN, and memory that the process keeps.

PyTorch's float32 products come from MKL, which uses half of what an AMD core can do, and less with
few rows. oneDNN, which PyTorch holds as well and uses for bfloat16 by itself, does not depend on
the maker. On an AMD EPYC with AVX-512, two threads, [rows, 576] x [576, 1536]: 200 against 450
GFLOP/s at 256 rows, 94 against 170 at 8. The numbers differ from MKL's in the last digits.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NARROW = 192
"""Layers with fewer inputs or outputs stay PyTorch's: each new shape costs oneDNN half a
millisecond of preparation, as much as a narrow product takes."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of ``mallopt`` (malloc.h of glibc)."""
LARGEST, AT_ONCE = 2**31 - 1, 2**28


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors free, for the next ones; tell whether it does.

    By default glibc gives a large block back when it is freed, and every large tensor takes pages
    that the kernel must clear first: a PPO iteration of SmolLM2-135M's shape, one epoch in float32,
    took 24.0 and 24.3 s without this, and 19.3 to 20.7 s with it. The peak stayed where it was.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False  # Not glibc.
    options = {M_MMAP_THRESHOLD: LARGEST, M_TRIM_THRESHOLD: -1, M_TOP_PAD: AT_ONCE}
    return all(mallopt(name, value) == 1 for name, value in options.items())


class OneDnnLinear(nn.Linear):
    """A linear layer whose float32 products on a CPU are oneDNN's; all others are PyTorch's."""

    def forward(self, input: Tensor) -> Tensor:
        """Return input W' + b, [..., out_features]."""
        if not suits_onednn(input, self.weight) or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        rows = input.reshape(-1, self.in_features)
        product: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            rows, self.weight, self.bias
        )
        return product.view(*input.shape[:-1], self.out_features)


PLAIN_LINEAR = (nn.Linear, OneDnnLinear)
"""The classes of linear layers that are nothing else besides."""


def use_onednn(model: nn.Module) -> None:
    """Make the wide linear layers of a model ``OneDnnLinear``, where this PyTorch can."""
    if not has_onednn():
        return
    for layer in model.modules():
        if type(layer) is nn.Linear and min(layer.weight.shape) >= NARROW:
            layer.__class__ = OneDnnLinear


@contextlib.contextmanager
def without_onednn(model: nn.Module) -> Iterator[None]:
    """Let a model's products be PyTorch's own for a while, to the last digit."""
    layers: list[nn.Module] = [m for m in model.modules() if type(m) is OneDnnLinear]
    for layer in layers:
        layer.__class__ = nn.Linear
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = OneDnnLinear


@functools.cache
def has_onednn() -> bool:
    """Tell whether PyTorch has oneDNN's products for this processor."""
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return x86 and operator is not None and torch.backends.mkldnn.is_available()


def suits_onednn(left: Tensor, right: Tensor) -> bool:
    """Tell whether ``multiply`` takes these: float32 in main memory, wide, and not empty."""
    return (
        has_onednn()
        and left.dtype == right.dtype == torch.float32
        and left.device.type == right.device.type == "cpu"
        and left.numel() > 0
        and min(right.shape) >= NARROW
    )


def multiply(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return left right' + bias by oneDNN, of [rows, inner] and [columns, inner]; no gradients."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return product


class _Product(torch.autograd.Function):
    """Y = X W' + b;  dX = dY W,  dW = dY' X,  db = sum of dY's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return multiply(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        of_rows, of_weight, of_bias = ctx.needs_input_grad
        return (
            multiply(gradient, weight.t()) if of_rows else None,
            multiply(gradient.t(), rows.t()) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )
