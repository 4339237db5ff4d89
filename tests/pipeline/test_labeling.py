from __future__ import annotations

import json

import pytest

from pipeline.config.label import ComparisonSection, LabelSection
from pipeline.config.run import resolve
from pipeline.config.source import Source
from pipeline.errors import DataError, StoreError
from pipeline.labeling import (
    gold_accuracy,
    import_completions,
    import_rankings,
    make_tasks,
    open_store,
    simulate,
    split_of,
)
from pipeline.records import Prompt, Ranking
from pipeline.store import LabelStore, Provenance, SampledCompletion
from pipeline.world import World

SECTION = LabelSection(simulated=4, simulated_held_out=2, overlap=2, validation_overlap=3)


@pytest.fixture
def config(tmp_path):
    tree = {
        "run_dir": str(tmp_path / "run"),
        "pretrain": {"tokens": 1, "sources": ["tiny:facts"]},
        "label": {"validation_fraction": 0.5},
    }
    return resolve(tree)


@pytest.fixture
def world():
    return World(0)


@pytest.fixture
def store(config, world):
    """Return a store with prompts of both splits, each with a good and two bad completions."""
    with open_store(config) as store:
        for number, prompt in enumerate(world.prompts("train", 12)):
            split = "validation" if number < 4 else "train"
            store.add_prompts([prompt], split=split)
            reference = prompt.meta["world"]["reference"]
            texts = [reference, f"{reference} {reference} {reference}", "You are an idiot."]
            store.add_completions(
                prompt.id, [SampledCompletion(text, Provenance("sft")) for text in texts]
            )
        yield store


def test_simulated_labelers_fill_every_place_and_no_more(store, world):
    simulate(store, world, SECTION, seed=0)
    counts = store.counts()
    assert counts["places_done"] == counts["places_wanted"] == 8 * 2 + 4 * (3 + 2)
    assert counts["judgments_simulated"] == counts["places_done"]
    assert counts["judgments_human"] == 0
    assert {ranking.labeler.split("-")[0] for ranking in store.rankings()} == {"simulated"}


def test_held_out_labelers_judge_held_out_prompts_only(store, world):
    simulate(store, world, SECTION, seed=0)
    assert store.rankings("train", "held_out") == []
    assert len(store.rankings("validation", "held_out")) == 4 * 2
    by_prompt: dict[str, set[str]] = {}
    for ranking in store.rankings("validation"):
        by_prompt.setdefault(ranking.prompt.id, set()).add(ranking.labeler)
    assert {len(names) for names in by_prompt.values()} == {5}


def test_simulating_again_changes_nothing(store, world):
    simulate(store, world, SECTION, seed=0)
    snapshot = store.snapshot_hash()
    simulate(store, world, SECTION, seed=0)
    assert store.snapshot_hash() == snapshot


def test_gold_agrees_with_its_own_order_and_halves_ties(world):
    prompt = world.prompts("train", 1)[0]
    good, bad = prompt.meta["world"]["reference"], "You are an idiot."
    assert gold_accuracy(world, [Ranking(prompt, (good, bad), (1, 2))]) == (1.0, 1)
    assert gold_accuracy(world, [Ranking(prompt, (good, bad), (2, 1))]) == (0.0, 1)
    assert gold_accuracy(world, [Ranking(prompt, (good, good), (1, 2))]) == (0.5, 1)
    accuracy, pairs = gold_accuracy(world, [Ranking(prompt, (good, bad), (1, 1))])
    assert pairs == 0
    assert accuracy != accuracy


def test_a_prompt_has_one_split_whatever_its_source():
    prompts = [Prompt.from_text(f"Question {number}") for number in range(2000)]
    splits = [split_of(prompt, 0, 0.25) for prompt in prompts]
    assert splits == [split_of(prompt, 0, 0.25) for prompt in prompts]
    assert splits.count("validation") == pytest.approx(500, abs=80)
    assert splits != [split_of(prompt, 1, 0.25) for prompt in prompts]
    assert {split_of(prompt, 0, 0.0) for prompt in prompts} == {"train"}


def test_imported_rankings_go_to_both_splits_once(config, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say {n}", "chosen": f"{n}", "rejected": "no"} for n in range(40)]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    with LabelStore.open(config.run_dir.parent / "labels.db") as store:
        assert import_rankings(store, [Source(str(path))], config) == 40
        assert import_rankings(store, [Source(str(path))], config) == 0
        train, validation = store.rankings("train"), store.rankings("validation")
    assert len(train) + len(validation) == 40
    assert min(len(train), len(validation)) > 8
    assert not {r.prompt.id for r in train} & {r.prompt.id for r in validation}


def answers(tmp_path, *rows):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [Source(str(path))]


def test_completions_made_elsewhere_become_tasks(config, tmp_path):
    rows = [
        {"instruction": f"Task {n}", "completions": {"a": "same", "b": "same", "c": f"other {n}"}}
        for n in range(6)
    ]
    sources = answers(tmp_path, *rows, {"instruction": "Write", "completions": {}})
    section = LabelSection(overlap=1, validation_overlap=2, held_out_overlap=1)
    with open_store(config) as store:
        assert import_completions(store, sources, config) == 7
        assert import_completions(store, sources, config) == 0
        made = make_tasks(store, section)
        assert made == 7
        assert make_tasks(store, section) == 0
        ranked = sum(len(store.completions(prompt.id)) > 1 for prompt in store.prompts("train"))
        assert store.counts()["places_wanted"] == ranked + (6 - ranked) * 3 + 1
        for prompt in store.prompts():
            merged = {item.text: item for item in store.completions(prompt.id)}
            if merged:
                assert {source.model for source in merged["same"].sources} == {"a", "b"}


def test_a_faulty_line_leaves_the_store_as_it_was(config, tmp_path):
    sources = answers(tmp_path, {"prompt": "fine", "completions": ["x"]}, {"prompt": "bad"})
    with open_store(config) as store:
        with pytest.raises(DataError, match=":2:"):
            import_completions(store, sources, config)
        assert store.prompts() == []


def test_a_prompt_of_another_split_leaves_the_store_as_it_was(config, tmp_path):
    rows = [{"prompt": text, "completions": ["x", "y"]} for text in ("fine", "known")]
    with open_store(config) as store:
        store.add_prompts([Prompt.from_text("known")], split="test")
        before = store.counts()
        with pytest.raises(StoreError, match="must stay in one split"):
            import_completions(store, answers(tmp_path, *rows), config)
        assert store.counts() == before


def test_stages_are_compared_where_the_section_says(config):
    section = LabelSection(
        tasks="selected", comparisons=[ComparisonSection(["sft", "ppo"], split="train")]
    )
    with open_store(config) as store:
        prompt = Prompt.from_text("Hello?")
        store.add_prompts([prompt])
        store.add_completions(
            prompt.id,
            [SampledCompletion(stage, Provenance(stage)) for stage in ("sft", "ppo", "base")],
        )
        assert make_tasks(store, section) == 1, "selected: no ranking of the train split"
        assert store.lease_task(store.add_labeler("ada")).kind == "comparison"
