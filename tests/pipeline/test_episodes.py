import dataclasses

import pytest
import torch

from pipeline.config.sampling import DecodingSection
from pipeline.distributed import Workers
from pipeline.engines import HfEngine
from pipeline.episodes import EpisodeSampler, spread
from pipeline.records import Prompt
from pipeline.sampling import SampledTokens, read_text, sample_completions

PROMPTS = [Prompt.from_text(text) for text in ("cat", "Where does Tom live?", "Say 12", "cat dog")]
DECODING = DecodingSection(max_new_tokens=6)


@pytest.fixture
def sampler(tiny_formatter):
    workers = Workers("float64")
    engine = HfEngine(workers, tiny_formatter, DECODING, batch_size=2)
    return EpisodeSampler(workers, tiny_formatter, engine, seed=3)


class OneOfTwo(Workers):
    """Be one of two processes; what the other sends is given."""

    world_size = 2
    rank = 0

    def __init__(self, rank, sent=()):
        super().__init__("float64")
        self.rank, self.sent = rank, list(sent)

    def gather_objects(self, items):
        return [*self.sent, *items]

    def total(self, values):
        return values


def test_completions_are_those_of_the_plain_sampler_in_order(sampler, make_policy, tiny_formatter):
    policy = make_policy()
    sampled = sampler.sample(policy, PROMPTS, step=4, sample_index=[7, 8, 9, 10])
    for prompt, index, completion in zip(PROMPTS, range(7, 11), sampled, strict=True):
        (expected,) = sample_completions(
            policy, tiny_formatter, [prompt], DECODING, seed=3, step=4, sample_index=index
        )
        assert completion == expected


def test_episodes_hold_prompt_and_completion(sampler, make_policy, tiny_formatter):
    policy = make_policy()
    encoded = [tiny_formatter.prompt_ids(prompt.messages) for prompt in PROMPTS]
    sampled = sampler.sample(policy, PROMPTS)
    episodes = sampler.roll_out(policy, PROMPTS, encoded)
    for row, (before, completion) in enumerate(zip(encoded, sampled, strict=True)):
        real = episodes.ids[row][episodes.attention_mask[row]].tolist()
        assert real == before + completion.ids
        length = int(episodes.completion_mask[row].sum())
        assert episodes.completions[row, :length].tolist() == completion.ids
        assert bool(episodes.ended[row]) == (completion.finish_reason == "eos")
    assert episodes.engine_logprobs is None


def test_the_engines_logprobs_lie_under_the_tokens(sampler, make_policy, tiny_formatter):
    encoded = [tiny_formatter.prompt_ids(prompt.messages) for prompt in PROMPTS]
    # So hot that some completions end early.
    hot = dataclasses.replace(
        sampler.engine, decoding=DecodingSection(max_new_tokens=40, temperature=9.0)
    )
    sampler = dataclasses.replace(sampler, engine=hot)
    recording = dataclasses.replace(sampler, engine=dataclasses.replace(hot, with_logprobs=True))
    for dtype in (torch.float32, torch.float64):
        policy = make_policy(0, dtype)
        episodes = recording.roll_out(policy, PROMPTS, encoded)
        drawn = recording.engine.sample(policy, encoded, [f"3:0:{p.id}:0" for p in PROMPTS])
        # Whatever the policy's type, as exact as the engine gave them.
        assert episodes.engine_logprobs.dtype == torch.float64
        assert len({len(row.ids) for row in drawn}) > 1
        for row, completion in enumerate(drawn):
            length = len(completion.ids)
            assert episodes.engine_logprobs[row, :length].tolist() == completion.logprobs
            assert not episodes.engine_logprobs[row, length:].any()
        plain = sampler.roll_out(policy, PROMPTS, encoded)
        assert torch.equal(episodes.ids, plain.ids)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_samples_its_share_and_takes_the_rest_from_the_other(
    sampler, make_policy, tiny_formatter, rank
):
    policy = make_policy()
    sent = [(row, SampledTokens([row])) for row in range(1 - rank, 4, 2)]
    sampled = dataclasses.replace(sampler, workers=OneOfTwo(rank, sent)).sample(policy, PROMPTS)
    expected = sampler.sample(policy, PROMPTS)
    for row, tokens in sent:
        expected[row] = read_text(tokens.ids, DECODING, tiny_formatter)
    assert sampled == expected


def test_spread_fills_every_row_and_leaves_padding_zero(sampler, make_policy, tiny_formatter):
    policy = make_policy()
    encoded = [tiny_formatter.prompt_ids(prompt.messages) for prompt in PROMPTS]
    episodes = sampler.roll_out(policy, PROMPTS, encoded)

    def compute(part):
        return {
            "ids": part.completions.double() + 1,
            "length": part.completion_mask.sum(dim=1).double(),
        }

    mask = episodes.completion_mask
    expected = torch.where(mask, episodes.completions.double() + 1, 0.0)
    for size in (1, 3, 4):
        made = spread(sampler.workers, episodes, size, torch.float64, compute)
        assert torch.equal(made["ids"], expected)
        assert torch.equal(made["length"], mask.sum(dim=1).double())
    half = spread(OneOfTwo(1), episodes, 3, torch.float64, compute)
    assert torch.equal(half["ids"][1::2], expected[1::2])
    assert not half["ids"][0::2].any()
