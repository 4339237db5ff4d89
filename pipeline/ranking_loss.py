"""Turn rankings of K completions into a loss on the reward model's scores.

Ouyang et al. 2022, eq. 1: all C(K, 2) pairs of a prompt are one element, and each completion is
scored once, because pairs shuffled into separate elements overfit in one epoch. Everything here is
a pure function over a batch of prompts whose K may differ.

Symbols: P rankings in the batch, K the most completions one of them has; ``scores``, ``ranks`` and
``ratings`` are [P, K], and ``mask`` [P, K] is True at real completions.

Departures from the paper:
1. A ranking's loss is divided by the number of its pairs that count, not by C(K, 2): where ties
   are dropped, every ranking still weighs the same. Without ties the two are equal.
2. Ties may instead be kept as targets of one half.
3. An optional margin from the labelers' ratings (Touvron et al. 2023, arXiv:2307.09288, eq. 2).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pipeline.errors import ShapeError

Ties = Literal["drop", "half"]


class Pairs(NamedTuple):
    """Mark the pairs (i, j) of each ranking, [P, K, K].

    Attributes:
        wins: True where completion i is ranked above completion j.
        ties: True where i and j share a rank and i < j: each tied pair once.
    """

    wins: Tensor
    ties: Tensor


def mark_pairs(ranks: Tensor, mask: Tensor) -> Pairs:
    """Find which completion of each pair is ranked above the other.

    Args:
        ranks: 1 is the best, equal ranks are ties, [P, K].
        mask: True at real completions, [P, K].
    Raises:
        ShapeError: if the shapes differ.
    """
    _check_shapes(ranks=ranks, mask=mask)
    both = mask[:, :, None] & mask[:, None, :]
    first, second = ranks[:, :, None], ranks[:, None, :]
    upper = torch.ones_like(both).triu(diagonal=1)
    return Pairs(wins=both & (first < second), ties=both & (first == second) & upper)


def count_pairs(pairs: Pairs, ties: Ties) -> Tensor:
    """Count the pairs that a ranking's loss is averaged over, [P]."""
    counted = pairs.wins if ties == "drop" else pairs.wins | pairs.ties
    return counted.sum(dim=(1, 2))


def rating_margin(ratings: Tensor) -> Tensor:
    """Ask for a larger gap where the labeler rated two completions further apart.

        m_ij = min(max(rating_i - rating_j, 0), 3) / 3

    Touvron et al. 2023, table 27, "margin small": 0, 1/3, 2/3 and 1 for its four grades of
    preference. A rating that contradicts the rank asks for no gap.

    Args:
        ratings: overall quality from 1 to 7, [P, K].
    Returns:
        Margins in score units, [P, K, K].
    """
    return (ratings[:, :, None] - ratings[:, None, :]).clamp(0, 3) / 3


def ranking_loss(
    scores: Tensor, mask: Tensor, pairs: Pairs, *, ties: Ties = "drop", margin: Tensor | None = None
) -> Tensor:
    """Compute each ranking's loss: the mean over its pairs of -log P(labeler's order).

        loss = -1/n [ sum_(w, l) log sigmoid(r_w - r_l - m_wl)
                      + sum_(tied i, j) (log sigmoid(r_i - r_j) + log sigmoid(r_j - r_i)) / 2 ]

    n counts the pairs in the sums; the second sum is there with ``ties="half"`` only. With K = 2
    this is the pairwise loss of Bradley and Terry.

    Args:
        scores: one score a completion, [P, K]; what stands where the mask is False is ignored.
        mask: True at real completions, [P, K].
        pairs: of ``mark_pairs``.
        ties: ``drop`` leaves tied pairs out, ``half`` gives them a target of one half.
        margin: of ``rating_margin``, [P, K, K]; None is 0.
    Returns:
        The loss of each ranking, [P], in nats a pair; 0 where no pair counts.
    Raises:
        ShapeError: if the shapes differ.
    """
    _check_shapes(scores=scores, mask=mask)
    # A sigmoid of bf16 scores would lose the small differences that a ranking is made of.
    scores = scores.float() if scores.dtype.itemsize < 4 else scores
    scores = scores.masked_fill(~mask, 0.0)
    gap = scores[:, :, None] - scores[:, None, :]
    asked = gap if margin is None else gap - margin.to(gap)
    total = -(logsigmoid(asked) * pairs.wins).sum(dim=(1, 2))
    if ties == "half":
        even = (logsigmoid(gap) + logsigmoid(-gap)) / 2
        total = total - (even * pairs.ties).sum(dim=(1, 2))
    return total / count_pairs(pairs, ties).clamp(min=1)


def pair_accuracy(scores: Tensor, mask: Tensor, pairs: Pairs, *, ties: Ties = "drop") -> Tensor:
    """Compute the share of each ranking's pairs that the scores order as the labeler did, [P].

    Equal scores are half right. Tied pairs are left out, or count as half with ``ties="half"``
    (the rule of WebGPT, Nakano et al. 2021). 0 where no pair counts.

    Raises:
        ShapeError: if the shapes differ.
    """
    _check_shapes(scores=scores, mask=mask)
    scores = scores.masked_fill(~mask, 0.0)
    order = torch.sign(scores[:, :, None] - scores[:, None, :])
    right = (((order + 1) / 2) * pairs.wins).sum(dim=(1, 2))
    if ties == "half":
        right = right + pairs.ties.sum(dim=(1, 2)) / 2
    return right / count_pairs(pairs, ties).clamp(min=1)


def _check_shapes(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ShapeError(f"must all be [rankings, completions], got {shapes}")
