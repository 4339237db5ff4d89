from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.subjects import (
    SHAPES,
    Work,
    draw_prompts,
    make_models,
    make_tokenizer,
    ppo_work,
    spread_of,
    work_of,
)
from pipeline.formatting import Formatter
from pipeline.models import load_policy, load_reward_model, new_llama

TINY = SHAPES["tiny"]


def test_prompts_are_as_long_as_asked_and_differ() -> None:
    tokenizer = make_tokenizer(TINY.vocabulary)
    assert len(tokenizer) == TINY.vocabulary
    formatter = Formatter(tokenizer)
    encoded = [formatter.prompt_ids(p.messages) for p in draw_prompts(20, 16, TINY.vocabulary)]
    assert {len(ids) for ids in encoded} == {16}
    assert len({tuple(ids) for ids in encoded}) == 20
    assert draw_prompts(3, 16, 512, seed=1) == draw_prompts(3, 16, 512, seed=1)


def test_smollm2_has_its_134_million_weights() -> None:
    shape = SHAPES["smollm2-135m"]
    with torch.device("meta"):
        model = new_llama(shape.blocks, make_tokenizer(shape.vocabulary), 2048)
    # The published model's count (Hugging Face hub, safetensors header).
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008


def test_the_work_is_what_torch_counts() -> None:
    length, logits = 12, 5
    model = new_llama(TINY.blocks, make_tokenizer(TINY.vocabulary), 64)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(length)[None], logits_to_keep=logits, use_cache=False)
    work = work_of(TINY)
    # Eager attention computes the half above the diagonal too.
    expected = work.trunk * length + work.head * logits + work.attention * length**2
    assert counter.get_total_flops() == expected
    triangle = length * (length + 1) / 2
    assert work.forward(length, logits) == (
        work.trunk * length + work.head * logits + work.attention * triangle
    )


def test_an_iteration_needs_its_passes() -> None:
    # Two tokens of prompt, one of completion: 3 tokens a whole row, which see 6 places.
    one = ppo_work(TINY, 2, [1], epochs=4)
    work = work_of(TINY)
    rollout = 2 * work.trunk + work.head + 3 * work.attention
    trunk = 3 * work.trunk + 6 * work.attention
    assert one == rollout + 3 * trunk + work.head + 12 * (2 * trunk + work.head)
    assert ppo_work(TINY, 2, [1, 1, 1], epochs=4) == pytest.approx(3 * one)
    assert Work(1.0, 0.0, 0.0).forward(7, 3) == 7


def test_lengths_are_described() -> None:
    spread = spread_of([1, 2, 3, 4, 40])
    assert spread == {"count": 5, "mean": 10, "min": 1, "q25": 2, "median": 3, "q75": 4, "max": 40}


def test_models_are_the_same_each_time_and_made_once(tmp_path) -> None:
    first, second = (make_models("tiny", tmp_path / name) for name in ("a", "b"))
    for load, kind in ((load_policy, "policy"), (load_reward_model, "reward")):
        one, other = (load(getattr(made, kind)).state_dict() for made in (first, second))
        assert all(torch.equal(one[name], other[name]) for name in one)
    written = (first.policy / "model.safetensors").stat().st_mtime_ns
    assert make_models("tiny", tmp_path / "a") == first
    assert (first.policy / "model.safetensors").stat().st_mtime_ns == written
    assert make_models("tiny", tmp_path / "a", seed=1) != first
