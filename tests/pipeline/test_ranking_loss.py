from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from trl import RewardTrainer

from pipeline.errors import ShapeError
from pipeline.ranking_loss import (
    count_pairs,
    mark_pairs,
    pair_accuracy,
    ranking_loss,
    rating_margin,
)

LENGTHS = (4, 2, 7, 9, 3)


def draw(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return random scores, ranks with ties, ratings and mask of rankings of several K."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS))
    mask = torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    ranks = torch.randint(1, 5, shape, generator=generator)
    # Ranks drawn alike everywhere would leave a pair of two tied.
    ranks[:, 0], ranks[:, 1] = 1, 2
    ratings = torch.randint(1, 8, shape, generator=generator).double()
    return scores, ranks, ratings, mask


def whole(scores: Tensor, ranks: Tensor, mask: Tensor, ties: str = "drop", **options: Tensor):
    return ranking_loss(scores, mask, mark_pairs(ranks, mask), ties=ties, **options)


def one(scores: list[float], ranks: list[int], **options) -> float:
    mask = torch.ones(1, len(scores), dtype=torch.bool)
    values = torch.tensor([scores], dtype=torch.float64)
    return whole(values, torch.tensor([ranks]), mask, **options).item()


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def brute_force(scores, ranks, ratings, mask, ties) -> list[float]:
    """Sum over the pairs one by one."""
    losses = []
    for r, order, rating, real in zip(scores, ranks, ratings, mask, strict=True):
        terms = []
        places = [i for i in range(len(real)) if real[i]]
        for i in places:
            for j in places:
                gap = float(r[i] - r[j])
                if order[i] < order[j]:
                    asked = min(max(float(rating[i] - rating[j]), 0.0), 3.0) / 3
                    terms.append(-log_sigmoid(gap - asked))
                elif ties == "half" and i < j and order[i] == order[j]:
                    terms.append(-(log_sigmoid(gap) + log_sigmoid(-gap)) / 2)
        losses.append(sum(terms) / len(terms) if terms else 0.0)
    return losses


class _Scores:
    """Stand for a model whose scores are given; the oracle only reads ``logits``."""

    training = False

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def __call__(self, **_: object) -> _Scores:
        return self


def trl_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | None) -> Tensor:
    """Call TRL's own ``compute_loss`` on given scores."""
    model = _Scores(torch.cat([chosen, rejected])[:, None])
    trainer = RewardTrainer.__new__(RewardTrainer)
    trainer.model = model
    trainer.args = type("Args", (), {"center_rewards_coefficient": None})()
    gather = type(
        "Accelerator",
        (),
        {"gather": staticmethod(lambda x: x), "gather_for_metrics": lambda _, x: x},
    )
    trainer.accelerator = gather()
    trainer._total_train_tokens = 0
    trainer._metrics = {"eval": __import__("collections").defaultdict(list)}
    inputs = {} if margin is None else {"margin": margin}
    return trainer.compute_loss(model, inputs)


@pytest.mark.parametrize("with_margin", [False, True])
def test_two_completions_give_trls_pairwise_loss(with_margin: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    chosen, rejected = torch.randn(2, 16, generator=generator, dtype=torch.float64)
    ratings = torch.randint(1, 8, (16, 2), generator=generator).double()
    margin = rating_margin(ratings) if with_margin else None
    mask = torch.ones(16, 2, dtype=torch.bool)
    ranks = torch.tensor([[1, 2]]).expand(16, 2)
    ours = whole(torch.stack([chosen, rejected], dim=1), ranks, mask, margin=margin).mean()
    theirs = trl_loss(chosen, rejected, margin[:, 0, 1] if margin is not None else None)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ties", ["drop", "half"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_vectorised_loss_is_the_sum_over_pairs(ties: str, seed: int) -> None:
    scores, ranks, ratings, mask = draw(seed)
    losses = whole(scores, ranks, mask, ties, margin=rating_margin(ratings))
    expected = torch.tensor(brute_force(scores, ranks, ratings, mask, ties), dtype=torch.float64)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-12)


def test_three_completions_by_hand() -> None:
    # Scores 2, 0, 1 ranked first, second, third: the gaps are 2, 1 and -1.
    expected = -(log_sigmoid(2) + log_sigmoid(1) + log_sigmoid(-1)) / 3
    assert one([2.0, 0.0, 1.0], [1, 2, 3]) == pytest.approx(expected, abs=1e-12)
    assert one([2.0, 0.0, 1.0], [1, 2, 3]) == pytest.approx(0.5844838, abs=1e-7)


def test_a_tie_by_hand() -> None:
    # The last two are tied: two pairs of gap 2 and 1 count, and one of gap -1 if ties are halves.
    dropped = -(log_sigmoid(2) + log_sigmoid(1)) / 2
    halves = -(log_sigmoid(2) + log_sigmoid(1) + (log_sigmoid(-1) + log_sigmoid(1)) / 2) / 3
    assert one([2.0, 0.0, 1.0], [1, 2, 2]) == pytest.approx(dropped, abs=1e-12)
    assert one([2.0, 0.0, 1.0], [1, 2, 2], ties="half") == pytest.approx(halves, abs=1e-12)


@pytest.mark.parametrize("k", [2, 4, 9])
@pytest.mark.parametrize("ties", ["drop", "half"])
def test_equal_scores_cost_log_2(k: int, ties: str) -> None:
    assert one([0.7] * k, list(range(1, k + 1)), ties=ties) == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("ties", ["drop", "half"])
def test_a_shift_of_all_scores_changes_nothing(ties: str) -> None:
    scores, ranks, ratings, mask = draw()
    margin = rating_margin(ratings)
    shift = torch.arange(5, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        whole(scores + shift, ranks, mask, ties, margin=margin),
        whole(scores, ranks, mask, ties, margin=margin),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("ties", ["drop", "half"])
def test_gradients_of_a_ranking_sum_to_zero(ties: str) -> None:
    scores, ranks, ratings, mask = draw()
    scores.requires_grad_()
    whole(scores, ranks, mask, ties, margin=rating_margin(ratings)).sum().backward()
    torch.testing.assert_close(scores.grad.sum(dim=1), torch.zeros(5, dtype=torch.float64))
    assert scores.grad.abs().sum() > 0.1


def test_a_pairs_gradient_is_antisymmetric_and_raises_the_chosen() -> None:
    scores = torch.tensor([[0.3, -0.4]], dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    whole(scores, torch.tensor([[1, 2]]), mask).sum().backward()
    expected = torch.sigmoid(torch.tensor(-0.7, dtype=torch.float64))
    torch.testing.assert_close(scores.grad[0], torch.stack([-expected, expected]))


def test_swapping_chosen_and_rejected_negates_the_gap() -> None:
    assert one([0.3, -0.4], [1, 2]) == pytest.approx(one([-0.3, 0.4], [2, 1]), abs=1e-12)
    assert one([0.3, -0.4], [1, 2]) == pytest.approx(-log_sigmoid(0.7), abs=1e-12)
    assert one([0.3, -0.4], [2, 1]) == pytest.approx(-log_sigmoid(-0.7), abs=1e-12)


@pytest.mark.parametrize("ties", ["drop", "half"])
def test_the_order_of_completions_changes_nothing(ties: str) -> None:
    scores, ranks, ratings, mask = draw()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    mixed = [tensor[:, order] for tensor in (scores, ranks, ratings, mask)]
    torch.testing.assert_close(
        whole(mixed[0], mixed[1], mixed[3], ties, margin=rating_margin(mixed[2])),
        whole(scores, ranks, mask, ties, margin=rating_margin(ratings)),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("ties", ["drop", "half"])
@pytest.mark.parametrize("junk", [1e9, math.inf, math.nan])
def test_padding_completions_changes_neither_loss_nor_gradient(ties: str, junk: float) -> None:
    scores, ranks, ratings, mask = draw()
    clean = scores.clone().requires_grad_()
    loss = whole(clean, ranks, mask, ties, margin=rating_margin(ratings))
    loss.sum().backward()
    wide = torch.nn.functional.pad(scores.masked_fill(~mask, junk), (0, 3), value=junk)
    wide.requires_grad_()
    padded = whole(
        wide,
        torch.nn.functional.pad(ranks, (0, 3), value=1),
        torch.nn.functional.pad(mask, (0, 3), value=False),
        ties,
        margin=rating_margin(torch.nn.functional.pad(ratings, (0, 3), value=7.0)),
    )
    padded.sum().backward()
    torch.testing.assert_close(padded, loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(wide.grad[:, :9], clean.grad, rtol=0, atol=1e-12)
    assert (wide.grad[:, 9:] == 0).all()


@pytest.mark.parametrize("ties", ["drop", "half"])
def test_a_batch_is_each_ranking_alone(ties: str) -> None:
    scores, ranks, ratings, mask = draw()
    together = whole(scores, ranks, mask, ties, margin=rating_margin(ratings))
    alone = [
        whole(
            scores[i : i + 1, :k],
            ranks[i : i + 1, :k],
            mask[i : i + 1, :k],
            ties,
            margin=rating_margin(ratings[i : i + 1, :k]),
        )
        for i, k in enumerate(LENGTHS)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)


def test_a_ranking_weighs_the_same_whatever_its_ties() -> None:
    # Two pairs of the same gap and, where the third ties with the second, one left out.
    assert one([1.0, 0.0, 0.0], [1, 2, 2]) == pytest.approx(-log_sigmoid(1.0), abs=1e-12)


def test_a_ranking_of_ties_alone_counts_no_pair() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    pairs = mark_pairs(torch.tensor([[1, 1, 1]]), mask)
    scores = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    loss = ranking_loss(scores, mask, pairs)
    loss.sum().backward()
    assert loss.item() == 0.0
    assert (scores.grad == 0).all()
    assert count_pairs(pairs, "drop").item() == 0
    assert count_pairs(pairs, "half").item() == 3


def test_half_targets_pull_tied_scores_together() -> None:
    assert one([1.0, -1.0], [1, 1], ties="half") > one([0.0, 0.0], [1, 1], ties="half")


def test_pairs_are_counted_once() -> None:
    mask = torch.ones(1, 4, dtype=torch.bool)
    pairs = mark_pairs(torch.tensor([[1, 2, 2, 3]]), mask)
    assert count_pairs(pairs, "drop").item() == 5
    assert count_pairs(pairs, "half").item() == 6


@pytest.mark.parametrize(("gap", "margin"), [(0, 0), (1, 1 / 3), (2, 2 / 3), (3, 1), (6, 1)])
def test_margins_grow_by_a_third_a_rating_point(gap: int, margin: float) -> None:
    asked = rating_margin(torch.tensor([[1.0 + gap, 1.0]], dtype=torch.float64))
    assert asked[0, 0, 1].item() == pytest.approx(margin, abs=1e-12)
    assert asked[0, 1, 0].item() == 0.0


def test_a_margin_does_not_touch_tied_pairs() -> None:
    ratings = torch.tensor([[7.0, 1.0]], dtype=torch.float64)
    asked = one([0.4, 0.1], [1, 1], ties="half", margin=rating_margin(ratings))
    assert asked == pytest.approx(one([0.4, 0.1], [1, 1], ties="half"), abs=1e-12)


def test_half_precision_scores_are_compared_in_float32() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    pairs = mark_pairs(torch.tensor([[1, 2]]), mask)
    assert ranking_loss(torch.zeros(1, 2, dtype=torch.bfloat16), mask, pairs).dtype == torch.float32


def test_accuracy_counts_equal_scores_and_ties_as_half() -> None:
    mask = torch.tensor([[True, True, True, False]])
    pairs = mark_pairs(torch.tensor([[1, 2, 2, 1]]), mask)
    scores = torch.tensor([[1.0, 0.0, 1.0, 9.0]])
    # Of the two ordered pairs one is right and one has equal scores; the third is tied.
    assert pair_accuracy(scores, mask, pairs).item() == pytest.approx(0.75)
    assert pair_accuracy(scores, mask, pairs, ties="half").item() == pytest.approx(2 / 3)
    assert pair_accuracy(-scores, mask, pairs).item() == pytest.approx(0.25)


def test_shapes_that_differ_are_refused() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ShapeError, match=r"\(1, 2\)"):
        mark_pairs(torch.ones(1, 2), mask)
    with pytest.raises(ShapeError, match=r"\(1, 4\)"):
        ranking_loss(torch.zeros(1, 4), mask, mark_pairs(torch.ones(1, 3), mask))
