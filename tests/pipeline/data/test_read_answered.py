from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config.source import Source
from pipeline.data import read_answered
from pipeline.errors import DataError
from pipeline.store.values import Provenance


@pytest.fixture
def write(tmp_path: Path):
    def to_file(*rows: object) -> Source:
        path = tmp_path / "answers.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return Source(str(path))

    return to_file


def test_completions_by_model_keep_their_models(write):
    source = write(
        {
            "id": "t1",
            "instruction": "Say hello.",
            "input": "to Mia",
            "reference": "Hello Mia",
            "completions": {"davinci": "Hi", "curie": "Hi", "ada": "Hello"},
        }
    )
    (answered,) = read_answered([source], 0)
    assert answered.prompt.messages[0]["content"] == "Say hello.\n\nto Mia"
    assert answered.prompt.meta == {"id": "t1"}
    assert [(item.text, item.provenance) for item in answered.completions] == [
        ("Hi", Provenance("davinci", model="davinci")),
        ("Hi", Provenance("curie", model="curie")),
        ("Hello", Provenance("ada", model="ada")),
    ]


def test_a_list_of_completions_may_name_models_or_sources(write):
    source = write(
        {
            "prompt": [{"role": "user", "content": "Hello?"}],
            "completions": [
                "plain",
                {"text": "named", "model": "sft"},
                {"text": "whole", "sources": [{"stage": "ppo", "seed": 3}, {"stage": "sft"}]},
            ],
        }
    )
    (answered,) = read_answered([source], 0)
    assert [(item.text, item.provenance.stage) for item in answered.completions] == [
        ("plain", "answers"),
        ("named", "sft"),
        ("whole", "ppo"),
        ("whole", "sft"),
    ]
    assert answered.completions[2].provenance.seed == 3


def test_a_prompt_may_have_no_completion(write):
    source = write(
        {"instruction": "Write.", "completions": {}}, {"prompt": "Go.", "completions": []}
    )
    assert [len(answered.completions) for answered in read_answered([source], 0)] == [0, 0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completions": "b"}, "'completions' must be a list"),
        ({"prompt": "a", "completions": [3]}, r"'completions\[1\]' must be a string"),
        ({"prompt": "a", "completions": [" "]}, r"'completions\[1\]\.text' is empty"),
        ({"instruction": "a", "completions": ["b"]}, "must be an object of model and text"),
        ({"instruction": "a", "completions": {"m": 1}}, r"'completions\.m' must be a string"),
        (
            {"prompt": "a", "completions": [{"text": "b", "sources": [{"stge": "x"}]}]},
            r"'completions\[1\]\.sources'",
        ),
        ({"prompt": "a"}, "keys of prompts with completions must be"),
    ],
)
def test_a_faulty_row_is_named(write, row: object, message: str):
    with pytest.raises(DataError, match=message) as caught:
        read_answered([write({"prompt": "fine", "completions": ["x"]}, row)], 0)
    assert ":2:" in str(caught.value)


def test_the_published_user_tasks():
    folder = os.environ.get("STEERLINE_DATA")
    if not folder:
        pytest.skip("STEERLINE_DATA names no folder with the data")
    path = Path(folder, "self_instruct", "user_prompts_with_completions.jsonl")
    found = read_answered([Source(str(path))], 0)
    sizes = Counter(min(len(answered.completions), 1) for answered in found)
    assert sizes == {1: 234, 0: 18}
    assert {len(answered.completions) for answered in found} == {0, 6, 7, 8}
    merged = [len({item.text for item in one.completions}) for one in found]
    assert sum(n < len(one.completions) for n, one in zip(merged, found, strict=True)) == 80
