import pytest
import torch

from pipeline.config.ppo import PpoSection
from pipeline.score_scaling import RunningVariance, ScoreScaler


def batches(count=6, size=16):
    generator = torch.Generator().manual_seed(0)
    # Far from 0, where a naive sum of squares loses its digits.
    return [
        1e4 + (i + 1) * torch.randn(size, generator=generator, dtype=torch.float64)
        for i in range(count)
    ]


def test_the_running_variance_is_that_of_all_numbers_together():
    seen = RunningVariance()
    for batch in batches():
        seen.add(batch)
    together = torch.cat(batches())
    assert seen.variance == pytest.approx(float(together.var(correction=0)), rel=1e-12)
    assert seen.mean == pytest.approx(float(together.mean()), rel=1e-12)


def test_running_divides_by_the_deviation_so_far_and_keeps_zero_where_it_is():
    scaler, before = ScoreScaler(PpoSection(score_scaling="running")), []
    for batch in batches():
        before.append(batch)
        expected = batch / torch.cat(before).std(correction=0)
        assert torch.allclose(scaler.scale(batch), expected, rtol=1e-12)
    assert scaler.scale(torch.zeros(4)).tolist() == [0.0] * 4


def test_batch_is_a_layer_norm_over_the_rollout():
    (batch,) = batches(1)
    computed = ScoreScaler(PpoSection(score_scaling="batch")).scale(batch)
    oracle = torch.nn.functional.layer_norm(batch, batch.shape, eps=1e-8)
    # The layer norm of numbers near 10,000 has lost four digits of fifteen.
    assert torch.allclose(computed, oracle, atol=1e-9)
    assert computed.abs().max() < 5


@pytest.mark.parametrize("scaling", ["none", "running"])
def test_equal_scores_are_left_as_they_are(scaling):
    scores = torch.full((8,), 0.1, dtype=torch.float64)
    assert torch.equal(ScoreScaler(PpoSection(score_scaling=scaling)).scale(scores), scores)


def test_none_returns_the_very_scores():
    (batch,) = batches(1)
    assert ScoreScaler(PpoSection()).scale(batch) is batch


def test_the_clip_comes_after_the_scale():
    scores = torch.tensor([-40.0, 0.0, 10.0, 30.0], dtype=torch.float64)
    assert ScoreScaler(PpoSection(score_clip=5.0)).scale(scores).tolist() == [-5, 0, 5, 5]
    scaled = ScoreScaler(PpoSection(score_scaling="running", score_clip=1.0)).scale(scores)
    deviation = float(scores.std(correction=0))
    assert scaled.tolist() == pytest.approx([-1.0, 0.0, 10 / deviation, 1.0])


def test_a_state_goes_on_where_it_was():
    section = PpoSection(score_scaling="running")
    first, second = ScoreScaler(section), ScoreScaler(section)
    one, two, *_ = batches()
    first.scale(one)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.scale(two), second.scale(two))
    assert not torch.equal(second.scale(two), ScoreScaler(section).scale(two))
