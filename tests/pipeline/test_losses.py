import math

import pytest
import torch

from pipeline.errors import ShapeError
from pipeline.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    importance_weights,
    token_entropy,
    token_logprobs,
)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, -2.4),  # a rise of a good token is clipped at 1.2
        (0.5, 2.0, -1.0),  # its fall is not
        (1.5, -2.0, 3.0),  # a rise of a bad token is not clipped
        (0.5, -2.0, 1.6),  # its fall is, at 0.8
    ],
)
def test_the_clip_binds_only_where_it_would_pay(ratio, advantage, loss):
    computed = clipped_policy_loss(row(math.log(ratio)), row(0.0), row(advantage), 0.2)
    assert computed.item() == pytest.approx(loss, abs=1e-12)


def test_a_clipped_token_has_no_gradient_and_others_have():
    logprobs = row(math.log(1.5), math.log(1.5), 0.0).requires_grad_()
    clipped_policy_loss(logprobs, row(0, 0, 0), row(1.0, -1.0, 1.0), 0.2).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([0.0, 1.5, -1.0])


def test_at_the_old_policy_the_gradient_is_reinforces():
    logprobs = row(-1.0, -2.0).requires_grad_()
    clipped_policy_loss(logprobs, logprobs.detach(), row(0.7, -0.3), 0.2).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([-0.7, 0.3])


@pytest.mark.parametrize(
    ("value", "old", "target", "loss"),
    [
        (1.1, 1.0, 2.0, 0.5 * 0.9**2),  # within the clip
        (1.8, 1.0, 2.0, 0.5 * 0.8**2),  # moved too far towards the target: the clipped one counts
        (0.0, 1.0, 2.0, 0.5 * 2.0**2),  # moved away: the unclipped one counts
    ],
)
def test_the_value_loss_takes_the_worse_of_clipped_and_not(value, old, target, loss):
    computed = clipped_value_loss(row(value), row(old), row(target), 0.2)
    assert computed.item() == pytest.approx(loss, abs=1e-12)


def test_logprobs_and_entropy_are_those_of_a_categorical():
    logits = torch.randn(2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[0, 6, 3], [2, 2, 5]])
    categorical = torch.distributions.Categorical(logits=logits)
    assert torch.allclose(token_logprobs(logits, tokens), categorical.log_prob(tokens), atol=1e-12)
    assert torch.allclose(token_entropy(logits), categorical.entropy(), atol=1e-12)


def test_half_precision_logits_are_reduced_in_float32():
    logits = torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert token_logprobs(logits, torch.tensor([[1, 2]])).dtype == torch.float32


def test_shapes_must_be_equal():
    with pytest.raises(ShapeError):
        clipped_policy_loss(row(1, 2), row(1), row(1), 0.2)
    with pytest.raises(ShapeError):
        clipped_value_loss(row(1, 2), row(1, 2), row(1), 0.2)


def test_importance_weights_turn_the_engines_expectation_into_the_policys():
    generator = torch.Generator().manual_seed(0)
    policy, engine = torch.randn(2, 1, 6, generator=generator, dtype=torch.float64).log_softmax(-1)
    figure = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    weights = importance_weights(policy, engine, cap=1e9)
    over_engine = (engine.exp() * weights * figure).sum()
    assert over_engine.item() == pytest.approx((policy.exp() * figure).sum().item(), abs=1e-12)


def test_importance_weights_are_capped_from_above_only():
    policy, engine = row(math.log(0.9), math.log(0.3), math.log(0.01)), row(*[math.log(0.3)] * 3)
    weights = importance_weights(policy, engine, cap=2.0)
    assert weights[0].tolist() == pytest.approx([2.0, 1.0, 1 / 30])
