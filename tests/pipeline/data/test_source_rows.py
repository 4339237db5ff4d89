from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from pipeline.config.source import Source
from pipeline.data import (
    fingerprint_sources,
    hash_sources,
    read_demonstrations,
    read_documents,
    read_prompts,
)
from pipeline.errors import DataError


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a data set of two splits as a folder, and keep the library's cache beside it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tasks"
    folder.mkdir()
    for split, rows in {"train": "abc", "test": "de"}.items():
        lines = [json.dumps({"prompt": text, "completion": text.upper()}) for text in rows]
        (folder / f"{split}.jsonl").write_text("\n".join([*lines, ""]))
    return folder


def test_a_folder_is_read_by_split_and_limit(data_folder):
    def read(**fields: object) -> list[str]:
        sources = [Source(str(data_folder), **fields)]
        return [shown.completion for shown in read_demonstrations(sources, 0)]

    assert read() == ["A", "B", "C"]
    assert read(split="test") == ["D", "E"]
    assert len(read(limit=2)) == 2


def test_a_data_sets_empty_rows_are_left_out_and_counted(data_folder):
    with (data_folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "x", "completion": " "}) + "\n")
    dropped: Counter[str] = Counter()
    assert len(read_demonstrations([Source(str(data_folder))], 0, dropped=dropped)) == 3
    assert dropped == {f"{data_folder}: rows with an empty text": 1}


def test_a_data_sets_faulty_row_is_named(data_folder):
    with pytest.raises(DataError, match=r"tasks:1: keys of documents must be text"):
        read_documents(Source(str(data_folder)), 0)


def test_a_missing_split_or_subset_is_one_clear_line(data_folder):
    with pytest.raises(DataError, match=r"Cannot load the data set .*split validation") as error:
        read_prompts([Source(str(data_folder), split="validation")], 0)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="subset none-such"):
        read_prompts([Source(str(data_folder), subset="none-such")], 0)


def test_a_data_set_out_of_reach_is_one_line_that_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"Cannot load the data set no/such.*without a network"
    ) as e:
        read_prompts([Source("no/such")], 0)
    assert "\n" not in str(e.value)
    assert "give the path of a .jsonl file" in str(e.value)


def test_a_files_hash_follows_its_content_alone(tmp_path: Path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("same")
    two.write_text("same")
    sources = [Source(str(one), split="test", limit=1), Source(str(two))]
    hashes = hash_sources(sources, 0)
    assert hashes[str(one)] == hashes[str(two)] == hash_sources(sources, 1)[str(one)]
    two.write_text("other")
    assert hash_sources(sources, 0)[str(two)] != hashes[str(two)]


def test_relative_paths_start_at_the_given_folder(tmp_path: Path):
    (tmp_path / "one.txt").write_text("x")
    inside = hash_sources([Source("one.txt")], 0, tmp_path)
    assert inside == {"one.txt": hash_sources([Source(str(tmp_path / "one.txt"))], 0).popitem()[1]}
    with pytest.raises(DataError, match=re.escape("No file one.txt")):
        hash_sources([Source("one.txt")], 0, tmp_path / "elsewhere")


def test_the_tiny_worlds_hash_follows_name_seed_and_code(monkeypatch):
    def hashes(seed: int) -> dict[str, str]:
        return hash_sources([Source("tiny:facts"), Source("tiny:web", split="test")], seed)

    before = hashes(0)
    assert before == hashes(0)
    assert len({*before.values(), *hashes(1).values()}) == 4
    monkeypatch.setattr("pipeline.data.hashes.hash_world", lambda: "other code")
    assert not set(before.values()) & set(hashes(0).values())


def test_a_folders_hash_follows_its_files_names_and_content(data_folder):
    source = Source(str(data_folder))
    before = hash_sources([source], 0)
    (data_folder / "test.jsonl").rename(data_folder / "validation.jsonl")
    assert hash_sources([source], 0) != before


def test_the_hub_gives_names_and_the_store_nothing():
    sources = [Source("some/set", subset="en"), Source("store:"), Source("other")]
    assert hash_sources(sources, 0) == {"some/set": "hub:some/set/en", "other": "hub:other"}


def test_fingerprints_are_those_of_the_loaded_splits(data_folder, tmp_path):
    (tmp_path / "one.txt").write_text("x")
    sources = [Source(str(data_folder)), Source(str(tmp_path / "one.txt")), Source("tiny:facts")]
    found = fingerprint_sources([*sources, Source(str(data_folder), split="test")])
    assert list(found) == [
        f"fingerprint of {data_folder} (train)",
        f"fingerprint of {data_folder} (test)",
    ]
    assert len(set(found.values())) == 2
    assert not found.keys() & hash_sources(sources, 0).keys()


def test_reading_imports_neither_torch_nor_datasets(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    code = (
        "import sys; from pipeline.data import read_demonstrations, read_documents\n"
        "from pipeline.config.source import Source\n"
        f"read_demonstrations([Source({str(path)!r})], 0)\n"
        "next(read_documents(Source('tiny:facts'), 0))\n"
        "sys.exit(', '.join({'torch', 'datasets', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert done.returncode == 0
