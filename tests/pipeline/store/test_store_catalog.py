from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.errors import StoreError
from pipeline.records import Prompt
from pipeline.store import LabelStore, Provenance, SampledCompletion, reason_to_refuse
from pipeline.store.values import dense_ranks

SFT = Provenance("sft", "hash-a", "tiny-sft", {"temperature": 1.0}, 3, 0, "eos")
PPO = Provenance("ppo", "hash-b", "tiny-ppo", {"temperature": 0.7}, 3, 1, "length")


def test_prompts_come_back_as_they_went_in(store: LabelStore) -> None:
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüße, 世界 🙂"},
    )
    prompt = Prompt(messages, "chat", {"row": 3, "nested": [1, {"a": None}]})
    assert store.add_prompts([prompt], split="test") == 1
    assert store.add_prompts([prompt, prompt], split="test") == 0
    assert store.prompts("test") == [prompt]
    assert store.prompts("train") == []
    assert store.prompts() == [prompt]


def test_no_prompt_crosses_splits(store: LabelStore) -> None:
    first, second = Prompt.from_text("one"), Prompt.from_text("two")
    store.add_prompts([first], split="train")
    with pytest.raises(StoreError, match=r"must stay in one split \(train\), got 'test'"):
        store.add_prompts([second, first], split="test")
    assert store.prompts() == [first]
    with pytest.raises(StoreError, match="split must be one of train, validation, test"):
        store.add_prompts([second], split="dev")


def test_equal_outputs_become_one_completion_with_all_provenances(store: LabelStore) -> None:
    prompt = Prompt.from_text("hi")
    store.add_prompts([prompt])
    samples = [
        SampledCompletion("a", SFT),
        SampledCompletion("b", SFT),
        SampledCompletion("a", PPO),
    ]
    ids = store.add_completions(prompt.id, samples)
    assert ids[0] == ids[2] != ids[1]
    assert store.add_completions(prompt.id, samples) == ids
    found = {item.text: set(map(repr, item.sources)) for item in store.completions(prompt.id)}
    assert found == {"a": {repr(SFT), repr(PPO)}, "b": {repr(SFT)}}


def test_the_same_text_for_another_prompt_is_another_completion(store: LabelStore) -> None:
    one, two = Prompt.from_text("one"), Prompt.from_text("two")
    store.add_prompts([one, two])
    sample = [SampledCompletion("same", SFT)]
    assert store.add_completions(one.id, sample) != store.add_completions(two.id, sample)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("\u200b\u00a0", "is empty"),
        ("a\x00b", "holds a NUL character"),
        ("a\ud800", "holds a lone surrogate"),
    ],
)
def test_a_text_that_cannot_be_ranked_is_refused_as_announced(
    store: LabelStore, text: str, reason: str
) -> None:
    prompt = Prompt.from_text("hi")
    store.add_prompts([prompt])
    assert reason_to_refuse(text) == reason
    samples = [SampledCompletion("fine", SFT), SampledCompletion(text, SFT)]
    with pytest.raises(StoreError, match=f"prompt {prompt.id} {reason}"):
        store.add_completions(prompt.id, samples)
    assert store.completions(prompt.id) == []


@pytest.mark.parametrize("text", ["a", " . ", "🙂", "مرحبا", "a\u200b"])
def test_any_text_that_a_person_can_see_is_taken(store: LabelStore, text: str) -> None:
    prompt = Prompt.from_text("hi")
    store.add_prompts([prompt])
    assert reason_to_refuse(text) is None
    store.add_completions(prompt.id, [SampledCompletion(text, SFT)])
    assert [item.text for item in store.completions(prompt.id)] == [text]


def test_completions_of_an_unknown_prompt_are_refused(store: LabelStore) -> None:
    with pytest.raises(StoreError, match="No prompt 0123"):
        store.add_completions("0123", [SampledCompletion("a", SFT)])


def test_tasks_are_made_once_and_take_the_last_overlap(store: LabelStore, fill: Callable) -> None:
    fill(store, prompts=3, overlap=1)
    assert store.create_ranking_tasks(1) == 0
    assert store.counts()["places_wanted"] == 3
    assert store.create_ranking_tasks(2) == 0
    assert store.counts()["places_wanted"] == 6
    with pytest.raises(StoreError, match="overlap must be 1 or more, got 0"):
        store.create_ranking_tasks(0)


def test_a_prompt_with_one_distinct_completion_has_nothing_to_rank(store: LabelStore) -> None:
    prompt = Prompt.from_text("hi")
    store.add_prompts([prompt])
    store.add_completions(prompt.id, [SampledCompletion("a", SFT), SampledCompletion("a", PPO)])
    assert store.create_ranking_tasks(1) == 0
    store.add_completions(prompt.id, [SampledCompletion("b", PPO)])
    assert store.create_ranking_tasks(1, "validation") == 0
    assert store.create_ranking_tasks(1, "train") == 1


def test_a_labeler_is_added_once_and_never_changes_sides(store: LabelStore) -> None:
    first = store.add_labeler("ada", group="held_out")
    assert store.add_labeler("ada", group="held_out") == first
    assert store.add_labeler("bob") != first
    with pytest.raises(StoreError, match="'ada' must stay human in group held_out"):
        store.add_labeler("ada", group="train")


@pytest.mark.parametrize(("name", "kind"), [("sim", "simulated"), ("simulated-1", "human")])
def test_a_name_tells_whether_its_labels_are_simulated(
    store: LabelStore, name: str, kind: str
) -> None:
    with pytest.raises(StoreError, match="must begin with 'simulated-'"):
        store.add_labeler(name, kind=kind)


@pytest.mark.parametrize(
    ("given", "dense"), [((1, 1, 3), (1, 1, 2)), ((2, 9, 2), (1, 2, 1)), ((0, 0), (1, 1))]
)
def test_dense_ranks_keep_order_and_ties(given: tuple[int, ...], dense: tuple[int, ...]) -> None:
    assert dense_ranks(given) == dense
