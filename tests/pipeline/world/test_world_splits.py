from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import combinations, islice

import pytest

from pipeline.errors import ConfigError
from pipeline.world import World
from pipeline.world.facts import questions
from pipeline.world.instruction import USE_CASES
from pipeline.world.keyed import SPLITS, split_of
from pipeline.world.lexicon import words_of
from pipeline.world.patterns import held_out_frame
from pipeline.world.relations import DRAWERS

FINGERPRINT = """
import hashlib, json
from pipeline.world import World, draw_labelers
world = World(3)
parts = [text for source in world.DOCUMENT_SOURCES for text in world.documents(source, 20)]
shown = world.demonstrations("train", 60)
parts += [item.completion for item in shown]
prompts = world.prompts("test", 30)
parts += [json.dumps([item.messages, item.meta]) for item in prompts]
parts += [task.context(doc, 3) for task in world.tasks() for doc in task.docs[:5]]
labeler = draw_labelers(world, 1, 0)[0]
parts += [str(labeler.judge(shown[0].prompt, [item.completion for item in shown[:4]]))]
print(hashlib.sha256(json.dumps(parts).encode()).hexdigest())
"""


def test_every_process_draws_the_same_world():
    seen = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(seen) == 1


def test_seeds_draw_different_facts_and_a_larger_count_only_adds(world):
    assert World(1).facts.facts != world.facts.facts
    assert list(world.documents("stories", 30))[:10] == list(world.documents("stories", 10))
    assert world.demonstrations("train", 50)[:20] == world.demonstrations("train", 20)
    assert world.prompts("test", 50)[:20] == world.prompts("test", 20)


def test_no_combination_and_no_prompt_stands_in_two_splits(world):
    combos, texts = {}, {}
    for split in SPLITS:
        prompts = [item.prompt for item in world.demonstrations(split, 1000)]
        prompts += world.prompts(split, 700)
        texts[split] = [item.id for item in prompts]
        combos[split] = {tuple(item.meta["combination"]) for item in prompts}
        assert len(set(texts[split])) == len(texts[split])
        for kind, *entities in combos[split]:
            assert split_of(kind, tuple(entities)) == split
            assert split_of(kind, tuple(reversed(entities))) == split
    for one, two in combinations(SPLITS, 2):
        assert not combos[one] & combos[two]
        assert not set(texts[one]) & set(texts[two])


def test_no_plain_text_asks_or_pairs_what_belongs_to_another_split(world):
    asked = {
        question: split_of("open_qa", (fact.subject, fact.attribute))
        for fact in world.facts.facts
        for question in questions(fact)
    }
    # Animals that share an answer share no question, so the map is one to one.
    found = Counter()
    for split in SPLITS:
        for source in ("facts", "dialogues"):
            for text in world.documents(source, 400, split):
                for line in text.split("\n"):
                    question = line.split(": ", 1)[-1]
                    if question in asked:
                        assert asked[question] == split
                        found[split] += 1
    assert min(found[split] for split in SPLITS) > 100


def test_documents_of_the_splits_differ(world):
    for source in World.DOCUMENT_SOURCES:
        drawn = {split: set(world.documents(source, 300, split)) for split in SPLITS}
        for one, two in combinations(SPLITS, 2):
            # Very short blocks have few fillings, and copying of one is no leak of another.
            assert not drawn[one] & drawn[two], (source, one, two)


def test_five_million_tokens_can_be_drawn_without_a_repeat(world):
    # A birthday estimate: with D equally likely documents, n draws bring n^2 / 2D repeats.
    from pipeline.world.documents import draw_document
    from pipeline.world.keyed import keyed_random

    distinct_words = 0.0
    for source in World.DOCUMENT_SOURCES:
        rng = keyed_random("birthday", source)
        texts = [draw_document(source, rng, "train", world.facts) for _ in range(4000)]
        repeats = len(texts) - len(set(texts))
        words = sum(len(words_of(text)) for text in texts) / len(texts)
        distinct_words += words * len(texts) ** 2 / 2 / (repeats + 1)
    assert distinct_words > 5e6


def test_documents_are_short_plain_and_unrepeated(world):
    for source in World.DOCUMENT_SOURCES:
        texts = list(world.documents(source, 500))
        assert len(set(texts)) == 500
        assert max(len(words_of(text)) for text in texts) < 130
        assert not any("<|" in text for text in texts)


def test_an_unknown_source_is_named(world):
    with pytest.raises(ConfigError, match="Did you mean 'stories'"):
        next(iter(world.documents("storys", 1)))


def test_demonstrations_are_balanced_over_the_use_cases(world):
    counts = Counter(item.prompt.use_case for item in world.demonstrations("train", 2000))
    assert set(counts) == set(USE_CASES)
    assert max(counts.values()) == min(counts.values()) == 200


def test_prompts_and_demonstrations_share_no_prompt(world):
    shown = {item.prompt.id for item in world.demonstrations("train", 1500)}
    assert not shown & {item.id for item in world.prompts("train", 1500)}


def test_the_vocabulary_is_small_and_closed(world):
    vocabulary = {word for item in world.prompts("train", 2000) for word in _words(item)}
    corpus = {
        word
        for source in World.DOCUMENT_SOURCES
        for text in world.documents(source, 400)
        for word in words_of(text)
    }
    assert 250 < len(vocabulary | corpus) < 500


def _words(prompt):
    return [word for turn in prompt.messages for word in words_of(turn["content"])]


def test_meta_survives_json(world):
    for prompt in world.prompts("validation", 50):
        assert json.loads(json.dumps(prompt.meta)) == prompt.meta


def test_facts_are_stated_in_the_train_corpus_whatever_split_their_question_has(world):
    corpus = " ".join(world.documents("facts", 4000))
    unstated = [
        fact
        for fact in world.facts.facts
        if not any(fact.value in line for line in _lines_of(corpus, fact))
    ]
    assert not unstated


def _lines_of(corpus, fact):
    from pipeline.world.facts import statements

    return [text for text in statements(fact) if text in corpus]


@pytest.mark.parametrize("relation", sorted(DRAWERS))
def test_the_corpus_never_shows_a_relation_in_its_held_out_frame(world, relation):
    from pipeline.world.keyed import keyed_random
    from pipeline.world.relations import draw_pair

    frame, answer = held_out_frame(relation)
    pairs = [draw_pair(relation, keyed_random("frame", i), "train") for i in range(3000)]
    shown = {(frame + answer).format(pair.given, pair.answer) for pair in pairs}
    corpus = set("\n".join(islice(world.documents("patterns", 1500), 1500)).split("\n"))
    assert not shown & corpus
