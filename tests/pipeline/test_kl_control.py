import math

import pytest

from pipeline.config.ppo import PpoSection
from pipeline.kl_control import KLController


def test_without_a_target_the_coefficient_stays():
    controller = KLController(PpoSection(kl_coef=0.02))
    for kl in (0.0, 500.0, -3.0):
        controller.update(kl, 512)
    assert controller.coef == 0.02


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (6.0, 1.0),
        (6.6, 1 + 0.1 * 0.0512),  # 512 of 10,000 episodes
        (60.0, 1 + 0.2 * 0.0512),  # the error is clipped
        (-1.0, 1 - 0.2 * 0.0512),
    ],
)
def test_one_update_is_ziegler_et_als(kl, factor):
    controller = KLController(PpoSection(kl_coef=0.15, kl_target=6.0))
    controller.update(kl, 512)
    assert controller.coef == pytest.approx(0.15 * factor, rel=1e-12)


@pytest.mark.parametrize("start", [1e-3, 10.0])
def test_it_leads_a_plant_whose_kl_falls_with_it_to_the_target(start):
    controller = KLController(PpoSection(kl_coef=start, kl_target=6.0))
    for _ in range(3000):
        controller.update(1.2 / controller.coef, 512)
    assert 1.2 / controller.coef == pytest.approx(6.0, rel=1e-6)


def test_the_time_to_answer_is_in_episodes_not_in_updates():
    few, many = (KLController(PpoSection(kl_coef=1.0, kl_target=1.0)) for _ in range(2))
    few.update(9.0, 100)
    for _ in range(100):
        many.update(9.0, 1)
    # To the second order in the step: (1 + x / n)^n against 1 + x, x = 0.002.
    assert math.log(few.coef) == pytest.approx(math.log(many.coef), rel=2e-3)


def test_a_state_goes_on_where_it_was():
    section = PpoSection(kl_coef=0.15, kl_target=6.0)
    first, second = KLController(section), KLController(section)
    first.update(9.0, 512)
    second.load_state_dict(first.state_dict())
    first.update(3.0, 512)
    second.update(3.0, 512)
    assert second.coef == first.coef != 0.15
