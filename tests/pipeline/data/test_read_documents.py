from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from pipeline.config.source import Source
from pipeline.data import read_documents
from pipeline.data.tiny import DOCUMENTS
from pipeline.errors import DataError
from pipeline.world import World


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("one\n\nstill one\n", ["one\n\nstill one"]),
        ("one\n\n\ntwo\n \n\t\n\nthree", ["one", "two", "three"]),
        ("\n\n\none\n\n\n", ["one"]),
        ("one\n\n\nstill one\n<|endoftext|>\ntwo\n", ["one\n\n\nstill one", "two"]),
        (
            " \n = One = \n \n a\n \n\n\n = = Part = = \n \n b\n = Two = \n \n c\n",
            [" = One = \n \n a\n \n\n\n = = Part = = \n \n b", " = Two = \n \n c"],
        ),
        ("a <|endoftext|> b", ["a <|endoftext|> b"]),
    ],
)
def test_a_text_file_is_split_as_documented(tmp_path: Path, text, documents):
    path = tmp_path / "book.txt"
    path.write_text(text)
    for name in ("auto", "text"):
        assert list(read_documents(Source(str(path), format=name), 0)) == documents


def test_rows_are_written_as_text(write_rows):
    source = write_rows(
        {"text": "A tale.", "title": "T"},
        {"passage": "Ann ate.", "question": "Who ate?", "answers": ["Ann", "ann"]},
        {"instruction": "Sum.", "input": "1 + 1", "output": "2"},
    )
    assert list(read_documents(source, 0)) == [
        "A tale.",
        "Ann ate.\n\nQuestion: Who ate?\nAnswer: Ann",
        "Sum.\n\n1 + 1\n\n2",
    ]


def test_limit_draws_a_seeded_subset_in_order_and_a_larger_one_adds_to_it(write_rows):
    texts = [f"{number:03d}" for number in range(100)]
    write_rows(*({"text": text} for text in texts))

    def draw(limit: int, seed: int = 0, **fields: str) -> list[str]:
        source = write_rows(*({"text": text} for text in texts), limit=limit, **fields)
        return list(read_documents(source, seed))

    ten = draw(10)
    assert len(ten) == 10
    assert ten == sorted(ten) == draw(10)
    assert ten != texts[:10]
    assert set(ten) < set(draw(30))
    assert draw(100) == draw(1000) == texts
    assert ten != draw(10, seed=1)
    assert ten != draw(10, name="other.jsonl")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tiny_sources_are_the_worlds_and_do_not_end(name):
    assert set(World.DOCUMENT_SOURCES) == set(DOCUMENTS)
    source = Source(f"tiny:{name}", split="validation", limit=20)
    limited = list(read_documents(source, 5))
    assert limited == list(World(5).documents(name, 20, "validation"))
    endless = read_documents(Source(f"tiny:{name}", split="validation"), 5)
    more = list(itertools.islice(endless, 300))
    assert more[:20] == limited
    assert len(set(more)) == 300


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tiny:storys", "tiny:storys must name documents of the tiny world, got 'storys'. Did you"),
        ("tiny:prompts", "must name documents of the tiny world, got 'prompts'."),
        ("store:", "store: must be listed under reward.data"),
        ("nowhere.txt", "No file nowhere.txt. Check the path"),
        ("nowhere.jsonl", "No file nowhere.jsonl. Check the path"),
        ("./nowhere", "No file ./nowhere. Check the path"),
        ("nowhere.parquet", "must be a .jsonl or .txt file, got '.parquet'"),
    ],
)
def test_a_wrong_path_is_one_clear_line(path, message):
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_documents(Source(path), 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": ""}, "'text' is empty"),
        ({"text": 3}, "'text' must be a string, got int"),
        (
            {"content": "x", "id": 1},
            "keys of documents must be text; or passage, question, answers",
        ),
    ],
)
def test_a_faulty_document_is_refused_with_file_and_line(write_rows, row, message):
    source = write_rows({"text": "x"}, row)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        read_documents(source, 0)
    assert str(error.value).startswith(f"{source.path}:2: ")


def test_a_file_without_records_is_refused(tmp_path: Path):
    for name in ("empty.txt", "empty.jsonl"):
        (tmp_path / name).write_text(" \n\n")
        with pytest.raises(DataError, match=f"{name} must hold .*, got"):
            read_documents(Source(str(tmp_path / name)), 0)


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"one\ntwo\ncaf\xe9\n")
    with pytest.raises(DataError, match=r"latin.txt:3: not UTF-8"):
        read_documents(Source(str(path)), 0)


def test_formats_are_held_against_text_files(tmp_path: Path, write_rows):
    (tmp_path / "book.txt").write_text("x")
    with pytest.raises(DataError, match="must be read as text, got format 'qa'"):
        read_documents(Source(str(tmp_path / "book.txt"), format="qa"), 0)
    with pytest.raises(DataError, match=r"got 'oasst'. Use auto, alpaca, qa, text"):
        read_documents(write_rows({"text": "x"}, format="oasst"), 0)
