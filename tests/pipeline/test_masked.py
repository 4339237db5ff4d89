import pytest
import torch

from pipeline.errors import ShapeError
from pipeline.masked import (
    last_token,
    masked_mean,
    masked_sum,
    masked_variance,
    positions,
    require_same_shape,
    whiten,
)

MASK = torch.tensor([[True, True, False], [False, True, False]])
VALUES = torch.tensor([[1.0, 2.0, float("nan")], [float("inf"), 6.0, 9.0]], dtype=torch.float64)


def test_what_is_padding_never_counts():
    assert masked_sum(VALUES, MASK) == 9
    assert masked_mean(VALUES, MASK) == 3
    assert masked_mean(VALUES, MASK, count=9) == 1
    finite = torch.nan_to_num(VALUES, posinf=0.0)
    assert masked_variance(finite, MASK) == pytest.approx((4 + 1 + 9) / 3)


def test_an_empty_mask_has_mean_zero():
    assert masked_mean(VALUES, torch.zeros_like(MASK)) == 0


def test_whitening_gives_mean_zero_and_population_variance_one():
    values = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) > 0.3
    white = whiten(values, mask)
    assert float(masked_mean(white, mask)) == pytest.approx(0, abs=1e-12)
    # 1e-8 under the root keeps a constant batch finite.
    assert float(masked_variance(white, mask)) == pytest.approx(1, abs=1e-6)
    assert (white[~mask] == 0).all()


def test_rewards_keep_their_mean_when_whitened():
    values = torch.tensor([[3.0, 5.0, 7.0]], dtype=torch.float64)
    mask = torch.ones_like(values, dtype=torch.bool)
    white = whiten(values, mask, shift_mean=False)
    assert float(white.mean()) == pytest.approx(5)
    assert float(white.var(correction=0)) == pytest.approx(1, abs=1e-6)


def test_positions_and_last_tokens_do_not_depend_on_the_padding_side():
    left = torch.tensor([[False, False, True, True]])
    right = torch.tensor([[True, True, False, False]])
    assert positions(left)[0, 2:].tolist() == positions(right)[0, :2].tolist() == [0, 1]
    assert last_token(left).item() == 3
    assert last_token(right).item() == 1


def test_shapes_that_differ_are_named():
    with pytest.raises(ShapeError, match=r"rewards.*\(2, 3\).*values.*\(2, 4\)"):
        require_same_shape(rewards=torch.zeros(2, 3), values=torch.zeros(2, 4))
