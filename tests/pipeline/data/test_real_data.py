from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config.source import Source
from pipeline.data import read_demonstrations, read_documents, read_prompts, read_rankings


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("STEERLINE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("STEERLINE_DATA names no folder of real data here")
    return Path(folder)


def test_every_published_file_loads_whole(real_data):
    def source(path: str, name: str = "auto") -> Source:
        return Source(str(real_data / path), format=name)

    documents = {
        "gutenberg_children/books.jsonl": 17,
        "fairytaleqa/stories_train.jsonl": 232,
        "fairytaleqa/stories_val.jsonl": 23,
        "wikitext2/valid.txt": 60,
    }
    for path, count in documents.items():
        assert len(list(read_documents(source(path), 0))) == count, path
    conversations = {
        "fairytaleqa/train.jsonl": (8548, 8546),
        "fairytaleqa/val.jsonl": (1025, 1025),
        "snakes/instructions.jsonl": (2707, 2706),
        "self_instruct/seed_tasks.jsonl": (175, 175),
        "self_instruct/user_prompts_with_completions.jsonl": (252, 252),
    }
    for path, (shown, asked) in conversations.items():
        assert len(read_demonstrations([source(path)], 0)) == shown, path
        assert len(read_prompts([source(path)], 0)) == asked, path
    oasst = source("oasst_en_100/rankings.jsonl", "oasst")
    assert len(read_rankings([oasst], 0)) == 212
    assert len(read_prompts([oasst], 0)) == 212


def test_human_judgments_load_without_the_empty_answers(real_data):
    pandalm = Source(str(real_data / "pandalm/comparisons.jsonl"), format="pandalm")
    harmless = Source(str(real_data / "hh_harmless/comparisons.jsonl"))
    dropped: Counter[str] = Counter()
    assert len(read_rankings([pandalm], 0, dropped=dropped)) == 3 * (999 - 55)
    assert len(read_rankings([harmless], 0, drop_empty=True, dropped=dropped)) == 1997 - 3
    assert sorted(dropped.values()) == [3, 55]
    assert len(read_prompts([harmless], 0)) == 1996
