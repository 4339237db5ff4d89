from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

from pipeline.evaluation.packing import Query, plan_packs
from pipeline.evaluation.passes import Trunk, packs_exactly, pass_tokens, score_packs

STEM = [7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 41]


def queries_of(count=6):
    made = []
    for i in range(count):
        context = [*STEM, 50 + i, 60 + i, 70]
        made += [Query([*context, 80, 90 + choice], [80, 90 + choice, 3]) for choice in range(3)]
    return made


def score_plainly(model, query):
    with torch.no_grad():
        logprobs = model(torch.tensor([query.ids])).logits[0].log_softmax(-1)
    rows = range(query.start, len(query.ids))
    return [
        (logprobs[row, token].item(), logprobs[row].argmax().item() == token)
        for row, token in zip(rows, query.targets, strict=True)
    ]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("budget", "chunk"), [(1000, 1000), (30, 30), (30, 7), (1, 1)])
def test_packed_scores_are_the_models_own(make_policy, attention, budget, chunk):
    model, queries = make_policy(), queries_of()
    model.set_attn_implementation(attention)
    # Eager attention computes its softmax in float32.
    tolerance = 1e-11 if attention == "sdpa" else 1e-6
    found = score_packs(model, queries, plan_packs(queries, budget), chunk)
    for i, query in enumerate(queries):
        here = found.query == i
        expected = score_plainly(model, query)
        assert found.logprob[here] == pytest.approx([one for one, _ in expected], abs=tolerance)
        assert found.likeliest[here].tolist() == [greedy for _, greedy in expected]


def test_no_pack_is_no_score(make_policy):
    found = score_packs(make_policy(), [], [], 8)
    assert [len(part) for part in found] == [0, 0, 0]


def test_only_the_scored_tokens_have_logits(make_policy, monkeypatch):
    model, queries = make_policy(), queries_of(4)
    rows, tokens = [], []
    head = model.lm_head.forward
    monkeypatch.setattr(
        model.lm_head, "forward", lambda hidden: rows.append(hidden.shape[1]) or head(hidden)
    )
    embed = model.model.embed_tokens.forward
    monkeypatch.setattr(
        model.model.embed_tokens, "forward", lambda ids: tokens.append(ids.numel()) or embed(ids)
    )
    score_packs(model, queries, plan_packs(queries, 20), 20)
    # A question's context, its first token and three times the second; the trunk's one is unused.
    assert sum(rows) == 1 + 4 * (1 + 1 + 3)
    assert sum(tokens) == len(STEM) + 4 * (3 + 1 + 3)


def test_a_trunk_grows_shrinks_and_stays(make_policy):
    model = make_policy()
    trunk = Trunk(model)

    def keys():
        return trunk.cache.layers[1].keys

    with torch.no_grad():
        trunk.stand_on(STEM, [4, 10])
        long = keys().clone()
        plain = Trunk(model)
        plain.stand_on(STEM, [10])
        assert torch.allclose(plain.cache.layers[1].keys, long, rtol=0, atol=1e-12)
        trunk.stand_on([*STEM[:6], 1, 2], [4, 8])
        assert keys().shape[-2] == 8
        assert torch.equal(keys()[..., :4, :], long[..., :4, :])
        assert not torch.allclose(keys()[..., 6:8, :], long[..., 6:8, :])
        trunk.stand_on(STEM, [4, 10])
        assert torch.equal(keys(), long)
        trunk.stand_on([99, *STEM], [])
        assert trunk.cache.get_seq_length() == 0


def test_models_that_cannot_be_packed_are_known(make_policy):
    assert packs_exactly(make_policy(), torch.float64)
    assert packs_exactly(make_policy(dtype=torch.float32), torch.float32)
    assert not packs_exactly(make_policy(sliding_window=4), torch.float64)
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    assert not packs_exactly(make_policy(rope_parameters=dynamic), torch.float64)
    torch.manual_seed(0)
    size = {"vocab_size": 64, "n_layer": 2, "n_head": 2}
    learned = GPT2LMHeadModel(GPT2Config(n_embd=16, **size)).double().eval()
    assert packs_exactly(learned, torch.float64)
    # Biases by distance (ALiBi) do not come from position ids: found out by trying.
    alibi = BloomForCausalLM(BloomConfig(hidden_size=16, **size)).double().eval()
    assert not packs_exactly(alibi, torch.float64)


def test_a_pass_is_bounded_by_its_logits(make_policy, monkeypatch):
    model = make_policy()
    assert pass_tokens(model) == 512
    monkeypatch.setattr("pipeline.evaluation.passes.LOGITS_A_PASS", 10 * model.config.vocab_size)
    assert pass_tokens(model) == 10


def test_lower_precision_is_near(make_policy):
    model, queries = make_policy(dtype=torch.float32), queries_of(2)
    packs = plan_packs(queries, 100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert packs_exactly(model, torch.bfloat16)
        lower = score_packs(model, queries, packs, 100)
    exact = score_packs(model, queries, packs, 100)
    differences = np.abs(lower.logprob - exact.logprob)
    assert 0 < differences.max() < 0.3
