from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.records import Prompt, read_jsonl, write_jsonl

ROWS = [{"prompt": "Où habite Mia ?"}, {"prompt": "À Rome.", "n": 1.5}]


def test_what_is_written_is_read_back_with_its_lines(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    assert write_jsonl(path, ROWS) == 2
    path.write_bytes(b"\n" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert list(read_jsonl(path)) == [(2, ROWS[0]), (3, ROWS[1])]


def test_a_mark_of_utf8_at_the_start_is_no_text(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\n")
    assert list(read_jsonl(path)) == [(1, ROWS[0])]


@pytest.mark.parametrize(
    "line",
    [
        b'{"prompt": "cut',
        b'{"prompt": "caf\xe9"}',
        json.dumps(ROWS[0]).encode("utf-16"),
        b"\x00\x00",
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5_000 + b"}",
        b"[1]",
        b"3",
    ],
    ids=["cut", "latin", "utf-16", "nul", "deep", "long number", "list", "number"],
)
def test_a_line_that_is_no_json_object_in_utf8_is_named(tmp_path: Path, line: bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n' + line.replace(b"\n", b"") + b"\n")
    with pytest.raises(DataError) as caught:
        list(read_jsonl(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)


def test_a_file_of_utf16_is_refused_at_its_first_line(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode("utf-16"))
    with pytest.raises(DataError, match=r":1: not a JSON object \('utf-8' codec"):
        list(read_jsonl(path))


def test_logs_hold_the_last_turn_and_all_of_them():
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})
    assert Prompt(turns).to_log() == {"prompt": "Why?", "messages": list(turns)}
