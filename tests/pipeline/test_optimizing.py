import math

import pytest
import torch

from pipeline.distributed import Workers
from pipeline.errors import SteerlineError
from pipeline.optimizing import Average, clip_gradient, rate_factor, require_finite, warm_up


def test_the_learning_rate_warms_up_from_a_tenth():
    assert warm_up(0, 10) == pytest.approx(0.1)
    assert warm_up(5, 10) == pytest.approx(0.55)
    assert warm_up(10, 10) == warm_up(99, 10) == warm_up(0, 0) == 1


def test_rates_stay_or_fall_to_zero_over_the_training(change):
    constant = change(episodes=80, warmup_iterations=0)
    assert {rate_factor(constant, i) for i in range(10)} == {1.0}
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    oracle = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=10)
    linear = change(episodes=80, warmup_iterations=0, lr_schedule="linear")
    for iteration in range(10):
        assert rate_factor(linear, iteration) == pytest.approx(oracle.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        oracle.step()
    both = change(episodes=80, warmup_iterations=4, lr_schedule="linear")
    assert rate_factor(both, 2) == pytest.approx((0.1 + 0.9 * 2 / 4) * 0.8)


@pytest.mark.parametrize(
    ("limit", "left"), [(None, [3.0, 4.0]), (5.0, [3.0, 4.0]), (7.0, [3.0, 4.0]), (1.0, [0.6, 0.8])]
)
def test_a_gradient_is_scaled_down_to_the_limit_and_its_norm_before_that_returned(limit, left):
    model = torch.nn.ParameterList([torch.zeros(1), torch.zeros(1), torch.zeros(1)])
    for weight, gradient in zip(model, (3.0, 4.0), strict=False):
        weight.grad = torch.tensor([gradient])
    assert clip_gradient(model, limit).item() == 5.0
    assert [weight.grad.item() for weight in list(model)[:2]] == pytest.approx(left, rel=1e-5)
    assert model[2].grad is None


def test_a_lap_is_the_mean_of_what_came_since_the_last():
    tally, workers = Average(), Workers()
    tally.add("loss/policy", torch.tensor(6.0), 3)
    tally.add("loss/value", torch.tensor(1.0), 1)
    tally.add("policy/approxkl", torch.tensor(5.0), 1)
    assert tally.lap(workers, "loss/") == {"loss/policy": 2.0, "loss/value": 1.0}
    tally.add("loss/policy", torch.tensor(20.0), 2)
    tally.add("loss/value", torch.tensor(3.0), 1)
    assert tally.lap(workers, "loss/") == {"loss/policy": 10.0, "loss/value": 3.0}
    assert tally.lap(workers, "policy/approxkl") == {"policy/approxkl": 5.0}
    assert tally.means(workers)["loss/policy"] == pytest.approx(26 / 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stops_with_one_line(bad):
    require_finite(1, {"loss/policy": -1e30, "grad_norm/value": 0.0})
    with pytest.raises(SteerlineError, match="grad_norm/value of iteration 7 must be finite") as e:
        require_finite(7, {"loss/policy": 1.0, "grad_norm/value": bad})
    assert "\n" not in str(e.value)
    assert "the last checkpoint is kept" in str(e.value)
