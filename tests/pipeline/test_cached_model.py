from __future__ import annotations

import pytest
import torch

from pipeline.cached_model import CachedModel

IDS = torch.tensor([[0, 0, 290, 301, 300, 310, 305], [299, 300, 301, 302, 303, 304, 305]])
MASK = torch.tensor([[False, False, *[True] * 5], [True] * 7])


@pytest.fixture(scope="module")
def model(make_policy):
    return make_policy()


def test_reading_in_slices_gives_what_reading_at_once_does(model):
    expected = CachedModel(model).read(IDS, MASK)
    reader = CachedModel(model)
    for end in (3, 4, 7):
        assert reader.seen < end
        last = reader.read(IDS[:, :end], MASK[:, :end])
        assert reader.seen == end
    assert torch.allclose(last, expected, atol=1e-12)


def test_rows_that_are_not_kept_are_forgotten(model):
    reader = CachedModel(model)
    reader.read(IDS[:, :4], MASK[:, :4])
    reader.keep(torch.tensor([False, True]))
    left = reader.read(IDS[1:], MASK[1:])
    assert torch.allclose(left, CachedModel(model).read(IDS[1:], MASK[1:]), atol=1e-12)


def test_rows_repeat_each_after_itself(model):
    reader = CachedModel(model)
    reader.read(IDS[:, :6], MASK[:, :6])
    reader.repeat(2)
    order = [0, 0, 1, 1]
    logits = reader.read(IDS[order], MASK[order])
    assert torch.allclose(logits, CachedModel(model).read(IDS, MASK)[order], atol=1e-12)
