from __future__ import annotations

import json

import pytest

ANIMALS = ("cat", "dog", "fox", "boat", "town", "forest", "red", "blue")


def question_rows(count):
    return [
        {
            "query": f"Question: number {i}, where does Tom live?",
            "choices": [ANIMALS[(i + j) % 8] for j in range(3)],
            "gold": i % 3,
        }
        for i in range(count)
    ]


@pytest.fixture
def write_rows(tmp_path):
    def write(rows, name="questions.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def questions(write_rows):
    """Return a JSONL file of 12 questions."""
    return write_rows(question_rows(12))
