from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from pipeline.artifacts import (
    HASHES,
    begin_folder,
    fill_folder,
    folder_hash,
    hash_file,
    hash_text,
    partial_path,
    seal_folder,
    verify_folder,
    write_json,
    write_text,
)
from pipeline.errors import RunError


class CrashError(Exception):
    """Stand for a process that dies."""


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    with fill_folder(path) as partial:
        (partial / "weights").write_bytes(b"0123456789")
        (partial / "nested").mkdir()
        (partial / "nested" / "more").write_text("more")
    return path


def test_hashes_are_those_of_sha256(tmp_path: Path):
    # Of the empty string: FIPS 180-4's well-known value.
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "empty").touch()
    assert hash_text("") == empty == hash_file(tmp_path / "empty")


def test_a_text_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "manifest.json"
    write_text(path, "old and long")
    write_json(path, {"a": "ü"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "ü"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_a_sealed_folder_verifies_and_lists_every_file(sealed: Path):
    assert verify_folder(sealed, "Mend it.") == folder_hash(sealed)
    listed = json.loads((sealed / HASHES).read_text())
    assert {name: entry["bytes"] for name, entry in listed.items()} == {
        "weights": 10,
        "nested/more": 4,
    }
    assert not partial_path(sealed).exists()


def test_equal_content_has_an_equal_hash_and_other_content_another(sealed: Path, tmp_path: Path):
    def fill(name: str, last: bytes) -> str:
        with fill_folder(tmp_path / name) as partial:
            (partial / "nested").mkdir()
            (partial / "nested" / "more").write_text("more")
            (partial / "weights").write_bytes(b"012345678" + last)
        return folder_hash(tmp_path / name)

    assert fill("same", b"9") == folder_hash(sealed) != fill("other", b"8")


def test_a_crash_before_the_seal_leaves_the_older_folder(sealed: Path):
    before = folder_hash(sealed)
    with contextlib.suppress(CrashError), fill_folder(sealed) as partial:
        (partial / "weights").write_bytes(b"half")
        raise CrashError
    assert verify_folder(sealed, "") == before


def test_what_a_crash_left_is_no_part_of_the_next_folder(sealed: Path):
    (begin_folder(sealed) / "leftover").touch()
    (begin_folder(sealed) / "weights").write_bytes(b"new")
    seal_folder(sealed)
    assert {file.name for file in sealed.iterdir()} == {"weights", HASHES}
    assert [entry.name for entry in sealed.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda path: (path / "weights").write_bytes(b"01234"), "weights has 5 bytes, 10 were"),
        (lambda path: (path / "weights").write_bytes(b"012345678X"), "weights was changed"),
        (lambda path: (path / "nested" / "more").unlink(), "nested/more is missing"),
        (lambda path: (path / HASHES).unlink(), "it has no hashes.json"),
        (lambda path: (path / HASHES).write_text("{"), "hashes.json is not JSON"),
        (lambda path: (path / HASHES).write_bytes(b"\xff\xfe"), "hashes.json is not JSON"),
    ],
)
def test_damage_is_named_in_one_line_with_the_advice(sealed: Path, damage, what: str):
    damage(sealed)
    with pytest.raises(RunError) as caught:
        verify_folder(sealed, "Remove it.")
    assert str(caught.value).startswith(f"{sealed} is damaged: {what}")
    assert str(caught.value).endswith("Remove it.")
    assert "\n" not in str(caught.value)
