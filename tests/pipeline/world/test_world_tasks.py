from __future__ import annotations

from collections import Counter

import pytest

from pipeline.world import World


@pytest.fixture(scope="module")
def tasks(world):
    return world.tasks()


def test_there_are_at_least_six_tasks_with_enough_docs_and_examples(tasks):
    assert len(tasks) >= 6
    assert len({task.name for task in tasks}) == len(tasks)
    for task in tasks:
        assert len(task.docs) >= 64
        assert len(task.examples) >= 8
        assert len({doc.query for doc in task.docs}) == len(task.docs)


def test_examples_are_never_tested_on(tasks):
    for task in tasks:
        assert not {doc.query for doc in task.examples} & {doc.query for doc in task.docs}


def test_the_right_answer_stands_in_each_place_equally_often(tasks):
    for task in tasks:
        counts = Counter(doc.gold for doc in task.docs)
        assert set(counts) == set(range(4))
        assert max(counts.values()) - min(counts.values()) <= 1


def test_choices_differ_and_the_examples_show_the_right_one(tasks):
    for task in tasks:
        for doc in (*task.docs, *task.examples):
            assert len(set(doc.choices)) == 4
            assert doc.answered == f"{doc.query} {doc.choices[doc.gold]}"
            assert not doc.query.endswith(" ")


def test_contexts_hold_the_description_the_shots_and_the_query(tasks):
    for task in tasks:
        doc = task.docs[0]
        assert task.context(doc, 0) == f"{task.description}\n{doc.query}"
        for shots in (1, 5, 8):
            text = task.context(doc, shots)
            assert text.startswith(task.description)
            assert text.endswith(doc.query)
            assert sum(example.answered in text for example in task.examples) >= shots
            assert text == task.context(doc, shots)


def test_tasks_are_plain_text_short_enough_for_five_shots(tasks):
    for task in tasks:
        longest = max(len(task.context(doc, 5).split()) for doc in task.docs)
        assert longest < 150
        assert "<|" not in task.context(task.docs[0], 5)


def test_tasks_are_the_worlds_and_drawn_by_its_seed(world, tasks):
    assert world.tasks() == tasks
    assert World(1).tasks() != tasks
