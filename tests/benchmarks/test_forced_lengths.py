from __future__ import annotations

import json

import pytest
import torch

from benchmarks.completion_lengths import length_of
from benchmarks.forced_lengths import (
    RECORDED,
    ForcedLengths,
    in_generate,
    in_our_sampler,
    recorded_lengths,
)
from pipeline import sampling
from pipeline.config.sampling import DecodingSection
from pipeline.records import Prompt
from pipeline.sampling import SampledText, sample_completions

LIMIT = 9
LENGTHS = [1, 4, LIMIT, LIMIT + 1, 2]
WORDS = ("Mia", "Tom", "cat", "dog", "boat")


@pytest.fixture
def prompts(tiny_formatter):
    made = [Prompt.from_text(f"Where does {word[0]} live?") for word in WORDS]
    assert len({len(tiny_formatter.prompt_ids(prompt.messages)) for prompt in made}) == 1
    return made


@pytest.fixture
def forced(prompts, tiny_formatter):
    encoded = [tuple(tiny_formatter.prompt_ids(prompt.messages)) for prompt in prompts]
    lengths = dict(zip(encoded, LENGTHS, strict=True))
    return ForcedLengths(lengths, len(encoded[0]), tiny_formatter.end_id, [tiny_formatter.pad_id])


def test_our_sampler_ends_where_it_is_told_and_is_left_as_it_was(
    prompts, forced, make_policy, tiny_formatter
) -> None:
    own, decoding = sampling.logits_processors, DecodingSection(max_new_tokens=LIMIT)
    policy = make_policy()
    with in_our_sampler(forced):
        # In batches of two, so that a row is not where its prompt stands.
        sampled = sample_completions(
            policy, tiny_formatter, prompts, decoding, seed=0, batch_size=2
        )
    assert [len(one.ids) for one in sampled] == [1, 4, LIMIT, LIMIT, 2]
    for one, length in zip(sampled, LENGTHS, strict=True):
        assert (one.ids[-1] == tiny_formatter.end_id) == (length <= LIMIT)
        assert tiny_formatter.end_id not in one.ids[:-1]
        assert tiny_formatter.pad_id not in one.ids
        assert length_of(one) == length
    assert sampling.logits_processors is own


def test_generate_ends_where_it_is_told(prompts, forced, make_policy, tiny_formatter) -> None:
    policy = make_policy()
    in_generate(policy, forced)
    ids = torch.tensor([tiny_formatter.prompt_ids(prompt.messages) for prompt in prompts])
    torch.manual_seed(0)
    found = policy.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        top_k=0,
        max_new_tokens=LIMIT,
        eos_token_id=tiny_formatter.end_id,
        pad_token_id=tiny_formatter.pad_id,
    )[:, ids.shape[1] :]
    assert (found != tiny_formatter.pad_id).sum(dim=1).tolist() == [1, 4, LIMIT, LIMIT, 2]
    assert found[:, -1].tolist().count(tiny_formatter.end_id) == 1


def test_other_tokens_keep_their_odds() -> None:
    forced = ForcedLengths({(5, 6): 2, (5, 7): 3}, 2, end_id=1, never=[0])
    logits = torch.randn(2, 8, dtype=torch.float64)
    before = logits.clone()
    changed = forced(torch.tensor([[5, 6, 3], [5, 7, 3]]), logits)
    assert torch.equal(logits, before)
    assert changed[0].softmax(-1).tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    expected = before[1, 2:].softmax(-1)
    assert torch.allclose(changed[1].softmax(-1)[2:], expected, atol=1e-12)
    assert changed[1, :2].tolist() == [float("-inf")] * 2


def test_a_recorded_list_is_cut_at_a_smaller_limit(tmp_path) -> None:
    path = tmp_path / "lengths.json"
    path.write_text(json.dumps({"max_new_tokens": 10, "lengths": [1, 10, 11, 7, 8]}))
    assert recorded_lengths(10, path) == [1, 10, 11, 7, 8]
    assert recorded_lengths(7, path) == [1, 8, 8, 7, 8]
    with pytest.raises(AssertionError, match="recorded up to 10 tokens, got a limit of 11"):
        recorded_lengths(11, path)


def test_the_shipped_record_is_whole() -> None:
    record = json.loads(RECORDED.read_text())
    lengths, cut = record["lengths"], record["max_new_tokens"]
    assert record["tokens"]["count"] == len(lengths) >= 72
    assert sum(length > cut for length in lengths) == record["without_end"]
    mean = sum(min(length, cut) for length in lengths) / len(lengths)
    assert record["tokens"]["mean"] == pytest.approx(mean, abs=0.005)


def test_a_completion_without_an_end_is_one_longer_than_its_tokens() -> None:
    assert length_of(SampledText([4, 5, 1], "", "eos")) == 3
    assert length_of(SampledText([4, 5, 6], "", "length")) == 4
