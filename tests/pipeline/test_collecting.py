from __future__ import annotations

import dataclasses

import pytest

from pipeline.collecting import Sampler, collect_completions, plan_completions
from pipeline.config.sampling import SampleSection
from pipeline.distributed import Workers
from pipeline.records import Prompt
from pipeline.sampling import sample_completions
from pipeline.store import LabelStore

PROMPTS = [Prompt.from_text(f"Say {number}") for number in range(30)]
SECTION = SampleSection(k_min=2, k_max=4, max_new_tokens=6, batch_size=4)


@pytest.fixture
def samplers(make_policy, tiny_formatter):
    return [
        Sampler("sft", "aaa", make_policy(0), tiny_formatter),
        Sampler("ppo", "bbb", make_policy(1), tiny_formatter),
    ]


@pytest.fixture
def store(tmp_path):
    with LabelStore.open(tmp_path / "labels.db") as store:
        store.add_prompts(PROMPTS)
        yield store


def sources(store, prompt):
    return [source for text in store.completions(prompt.id) for source in text.sources]


def test_k_varies_by_prompt_within_its_bounds_and_goes_over_the_samplers_in_turn():
    wanted = list(plan_completions(PROMPTS, SECTION, seed=0, samplers=2))
    by_prompt = {p.id: [w for w in wanted if w.prompt.id == p.id] for p in PROMPTS}
    assert {len(part) for part in by_prompt.values()} == {2, 3, 4}
    for part in by_prompt.values():
        assert [want.sampler for want in part] == [0, 1, 0, 1][: len(part)]
        assert [want.sample_index for want in part] == list(range(len(part)))


def test_every_completion_is_stored_with_its_provenance(store, samplers):
    figures = collect_completions(store, PROMPTS[:6], samplers, SECTION, Workers(), seed=0)
    wanted = list(plan_completions(PROMPTS[:6], SECTION, 0, 2))
    assert figures["sampled"] == len(wanted)
    stored = [source for prompt in PROMPTS[:6] for source in sources(store, prompt)]
    assert len(stored) == len(wanted) - figures["refused"]
    assert {(s.stage, s.checkpoint) for s in stored} == {("sft", "aaa"), ("ppo", "bbb")}
    assert all(s.sampling["max_new_tokens"] == 6 and s.seed == 0 for s in stored)
    assert sum(v for k, v in figures.items() if k.startswith("finished_by_")) == len(stored)


def test_what_is_stored_is_not_sampled_again(store, samplers, monkeypatch):
    first = collect_completions(store, PROMPTS[:6], samplers, SECTION, Workers(), seed=0)
    before = [store.completions(prompt.id) for prompt in PROMPTS[:6]]
    asked = []

    def sample_and_count(model, formatter, prompts, decoding, **options):
        asked.extend(prompts)
        return sample_completions(model, formatter, prompts, decoding, **options)

    monkeypatch.setattr("pipeline.collecting.sample_completions", sample_and_count)
    assert collect_completions(store, PROMPTS[:6], samplers, SECTION, Workers(), 0) == first
    # A refused completion is not in the store, so it alone is tried again.
    assert len(asked) == first["refused"] < first["sampled"]
    assert [store.completions(prompt.id) for prompt in PROMPTS[:6]] == before


def test_other_parameters_are_other_completions(store, samplers):
    collect_completions(store, PROMPTS[:2], samplers, SECTION, Workers(), seed=0)
    count = len(sources(store, PROMPTS[0]))
    cold = dataclasses.replace(SECTION, temperature=0.5)
    collect_completions(store, PROMPTS[:2], samplers, cold, Workers(), seed=0)
    assert len(sources(store, PROMPTS[0])) == 2 * count
