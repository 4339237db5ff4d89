from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.records import Prompt, Ranking
from pipeline.store import LabelStore, Provenance, SampledCompletion
from pipeline.store.oversight import Oversight
from pipeline.store.schema import LabelerRow
from tests.pipeline.judgments import judged
from tests.pipeline.store.people import judge_all, ranks_of, revise


@pytest.fixture
def oversight(store: LabelStore) -> Oversight:
    return Oversight(store)


def test_a_judgment_comes_back_with_all_that_it_is_about(
    store: LabelStore, oversight: Oversight, fill: Callable, clock: Callable
) -> None:
    fill(store, prompts=1, overlap=2)
    store.add_completions(
        Prompt.from_text("train question 0").id,
        [SampledCompletion("answer 1", Provenance("ppo"))],
    )
    submitted = clock()
    (task,) = judge_all(
        store,
        "hugo",
        "1>0=2",
        ratings=None,
        comment="so",
        prompt_flags={"ambiguous": True},
        none_acceptable=True,
        instructions=3,
        active_seconds=41.5,
    )
    clock.advance(5)
    revise(store, task, "2>1>0", "again", interface="2", active_seconds=2.0)
    (found,) = oversight.judged()
    assert [output.text for output in found.outputs] == [
        text for _, text in sorted((choice.id, choice.text) for choice in task.completions)
    ]
    ranks = ranks_of(task, "2>1>0")
    assert found.ranks == tuple(ranks[output.id] for output in found.outputs)
    assert {output.text: set(output.stages) for output in found.outputs} == {
        "answer 0": {"sft"},
        "answer 1": {"sft", "ppo"},
        "answer 2": {"sft"},
    }
    assert [found.outputs[i].id for i in found.presented] == [one.id for one in task.completions]
    assert (found.task, found.kind, found.purpose, found.repeats) == (
        task.id,
        "ranking",
        "work",
        None,
    )
    assert (found.labeler, found.group, found.simulated, found.split) == (
        "hugo",
        "train",
        False,
        "train",
    )
    assert (found.revision, found.interface, found.active_seconds) == (2, "2", 2.0)
    assert (found.submitted, found.created) == (submitted, clock())
    first, second = oversight.judged(newest=False)
    assert second == found
    assert (first.revision, first.comment, first.instructions) == (1, "so", 3)
    assert (first.none_acceptable, first.prompt_flags) == (True, {"ambiguous": True})


def test_records_can_be_narrowed(store: LabelStore, oversight: Oversight, fill: Callable) -> None:
    fill(store, prompts=2, overlap=2)
    judge_all(store, "ada")
    judge_all(store, "bob")
    assert {one.labeler for one in oversight.judged(LabelerRow.name == "bob")} == {"bob"}
    assert len(oversight.judged()) == 4


def test_a_ranking_of_a_record_is_the_ranking_of_the_store(
    store: LabelStore, oversight: Oversight, fill: Callable
) -> None:
    fill(store, prompts=2)
    judge_all(store, "ada", "0>1=2")
    found = sorted((one.ranking for one in oversight.judged()), key=lambda one: one.prompt.id)
    assert found == store.rankings()


def test_the_order_of_a_plain_import_is_not_one_that_somebody_saw(
    store: LabelStore, oversight: Oversight, tmp_path: Path, fill: Callable
) -> None:
    pair = Ranking.from_pair(Prompt.from_text("Which?"), "chosen", "rejected")
    store.import_rankings([pair], split="train", source="forum")
    (imported,) = oversight.judged()
    assert imported.presented is None
    fill(store, prompts=1)
    (task,) = judge_all(store, "ada")
    file = tmp_path / "rows.jsonl"
    store.export_jsonl(file)
    with LabelStore.open(tmp_path / "copy.db") as copy:
        copy.import_jsonl(file)
        shown = {one.labeler: one for one in Oversight(copy).judged()}
    assert shown["forum#1"].presented is None
    ids = [shown["ada"].outputs[i].id for i in shown["ada"].presented]
    assert ids == [choice.id for choice in task.completions]


def test_what_the_page_did_not_send_was_answered_with_no() -> None:
    page = judged("ada", (1, 2), flags=({"violent": True}, {"own": False}))
    assert page.answer(0, "violent") is True
    assert page.answer(0, "sexual") is False
    assert page.answer(1, "own") is False
    assert page.answer(0, "own") is None
    other = judged("ada", (1, 2), flags=({"violent": True}, {}), interface=None)
    assert other.answer(0, "violent") is True
    assert other.answer(1, "violent") is None


def test_changes_are_noticed(store: LabelStore, oversight: Oversight, fill: Callable) -> None:
    seen = [oversight.changes()]

    def changed() -> bool:
        seen.append(oversight.changes())
        return seen[-1] not in seen[:-1]

    fill(store, prompts=2)
    assert not changed()
    tasks = judge_all(store, "ada")
    assert changed()
    assert not changed()
    revise(store, tasks[0], "2>1>0", "again")
    assert changed()
    oversight.set_gold(tasks[0].id, ranks_of(tasks[0], "0>1>2"), {}, "lena")
    assert changed()
    oversight.exclude("ada", "left", "lena")
    assert changed()
