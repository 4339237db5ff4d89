from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select

from pipeline.errors import StoreError
from pipeline.records import Prompt
from pipeline.store import Judgment, LabelStore, Provenance, SampledCompletion
from pipeline.store.schema import TaskRow


def answer(store: LabelStore, prompt: Prompt, **texts: str) -> None:
    """Let stages answer a prompt."""
    samples = [SampledCompletion(text, Provenance(stage)) for stage, text in texts.items()]
    store.add_completions(prompt.id, samples)


@pytest.fixture
def prompts(store: LabelStore) -> list[Prompt]:
    made = [Prompt.from_text(f"question {number}") for number in range(4)]
    store.add_prompts(made, split="validation")
    return made


def test_comparisons_are_of_prompts_that_both_stages_answered_differently(
    store: LabelStore, prompts: list[Prompt]
) -> None:
    answer(store, prompts[0], sft="yes", ppo="no")
    answer(store, prompts[1], sft="the same", ppo="the same")
    answer(store, prompts[2], sft="alone")
    answer(store, prompts[3], sft="one", ppo="two", base="three")
    assert store.create_comparison_tasks(("sft", "ppo"), 2, "train") == 0
    assert store.create_comparison_tasks(("sft", "ppo"), 2, "validation") == 2
    assert store.create_comparison_tasks(("sft", "ppo"), 2) == 0
    labeler = store.add_labeler("ada")
    shown = {}
    for _ in range(2):
        task = store.lease_task(labeler)
        assert task.kind == "comparison"
        shown[task.prompt.id] = {choice.text for choice in task.completions}
        ids = [choice.id for choice in task.completions]
        store.submit(task.token, Judgment({ids[0]: 1, ids[1]: 1}), task.id)
    assert shown == {prompts[0].id: {"yes", "no"}, prompts[3].id: {"one", "two"}}
    assert store.lease_task(labeler) is None


def test_the_first_sample_stands_for_a_stage(store: LabelStore, prompts: list[Prompt]) -> None:
    samples = [
        SampledCompletion(text, Provenance(stage, seed=1, sample_index=index))
        for stage, index, text in [
            ("sft", 1, "sft second"),
            ("sft", 0, "sft first"),
            ("ppo", 0, "ppo first"),
            ("ppo", 1, "ppo second"),
        ]
    ]
    store.add_completions(prompts[0].id, samples)
    assert store.create_comparison_tasks(("sft", "ppo"), 1) == 1
    task = store.lease_task(store.add_labeler("ada"))
    assert {choice.text for choice in task.completions} == {"sft first", "ppo first"}


def test_a_demonstration_is_asked_for_where_nobody_answered(
    store: LabelStore, prompts: list[Prompt]
) -> None:
    answer(store, prompts[0], sft="an answer")
    assert store.create_demonstration_tasks(1, "validation") == 3
    with store.reading() as session:
        tasks = session.scalars(select(TaskRow)).all()
        assert {task.prompt_id for task in tasks} == {prompt.id for prompt in prompts[1:]}
        assert {task.kind for task in tasks} == {"demonstration"}


def test_asking_again_takes_the_new_numbers_of_labelers(store: LabelStore, fill: Callable) -> None:
    fill(store, prompts=2)
    assert store.counts()["places_wanted"] == 2
    assert store.create_ranking_tasks(3, held_out=2) == 0
    assert store.counts()["places_wanted"] == 10


def test_gold_tasks_keep_their_numbers(store: LabelStore, fill: Callable) -> None:
    fill(store, prompts=1)
    with store.writing() as session:
        session.scalars(select(TaskRow)).one().purpose = "gold"
    store.create_ranking_tasks(5)
    with store.reading() as session:
        assert session.scalars(select(TaskRow)).one().overlap == 1


@pytest.mark.parametrize(("train", "held_out"), [(0, 0), (-1, 3), (2, -1)])
def test_somebody_must_be_wanted(store: LabelStore, train: int, held_out: int) -> None:
    with pytest.raises(StoreError, match="overlap must be 1 or more"):
        store.create_ranking_tasks(train, held_out=held_out)
