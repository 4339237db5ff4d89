from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from pipeline.records import Prompt
from pipeline.store import LabelStore, Provenance, SampledCompletion
from pipeline.store.schema import TaskRow


def add_prompts(store: LabelStore, count: int, k: int = 2) -> list[Prompt]:
    prompts = [Prompt.from_text(f"question {number}") for number in range(count)]
    store.add_prompts(prompts)
    for prompt in prompts:
        samples = [SampledCompletion(f"answer {j}", Provenance("sft")) for j in range(k)]
        store.add_completions(prompt.id, samples)
    return prompts


def test_what_a_model_has_scored_is_not_asked_again(store: LabelStore) -> None:
    prompts = add_prompts(store, 2)
    missing = store.unscored("abc")
    assert {prompt.id for prompt, _ in missing} == {prompt.id for prompt in prompts}
    assert [choice.id for _, choice in missing] == [
        completion.id
        for prompt in sorted(prompts, key=lambda prompt: prompt.id)
        for completion in store.completions(prompt.id)
    ]
    store.add_scores("reward", "abc", {missing[0][1].id: 0.5})
    store.add_scores("reward", "abc", {missing[0][1].id: 9.0, missing[1][1].id: -1.0})
    assert store.unscored("abc") == missing[2:]
    assert len(store.unscored("another")) == 4
    scored = {
        candidate.prompt_id: candidate.scores.get("abc") for candidate in store.candidates(["abc"])
    }
    first = missing[0][0].id
    assert scored.pop(first) == (0.5, -1.0), "the first score stays"
    assert list(scored.values()) == [None], "half a prompt's scores order nothing"


def test_a_task_is_no_candidate(store: LabelStore, fill: Callable) -> None:
    fill(store, prompts=3)
    assert store.candidates(["abc"]) == []
    waiting = add_prompts(store, 2)
    store.add_prompts([Prompt.from_text("alone")])
    assert {item.prompt_id for item in store.candidates([])} == {item.id for item in waiting}
    assert store.candidates([], "test") == []


def test_chosen_candidates_become_tasks_that_say_how(store: LabelStore) -> None:
    add_prompts(store, 3)
    (first, second, _) = store.candidates([])
    how = {"policy": "random", "propensity": 0.4}
    assert store.create_selected_tasks([(first, how), (second, {"policy": "x"})], 2) == 2
    assert len(store.candidates([])) == 1
    with store.reading() as session:
        rows = {row.prompt_id: row for row in session.scalars(select(TaskRow))}
        assert rows[first.prompt_id].selection == how
        assert {row.overlap for row in rows.values()} == {2}
    labeler = store.add_labeler("ada")
    task = store.lease_task(labeler)
    assert "propensity" not in repr(task)
