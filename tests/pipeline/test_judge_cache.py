from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.judge_cache import VerdictCache


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "judgments" / "llm.jsonl"


def test_verdicts_survive_and_a_cut_line_costs_only_itself(path):
    cache = VerdictCache(path)
    assert (len(cache), cache.find("a")) == (0, None)
    assert not path.exists()
    cache.add("a", "first", "m", "[[A]]")
    cache.add("b", "tie", "m", "half \ud83d [[tie]]")
    # On disk before anything is closed: a kill comes unannounced.
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    cache.close()
    with path.open("ab") as file:
        file.write(b'{"key": "c", "verd')
    again = VerdictCache(path)
    assert (len(again), again.find("a"), again.find("b"), again.find("c")) == (
        2,
        "first",
        "tie",
        None,
    )
    again.add("c", "second", "m", "[[B]]")
    again.close()
    again.add("d", "tie", "m", "[[tie]]")
    again.close()
    keys = [json.loads(line)["key"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert keys == ["a", "b", "c", "d"]
    assert len(VerdictCache(path)) == 4


def test_threads_write_whole_lines(path):
    cache = VerdictCache(path)

    def write(name: int) -> None:
        for i in range(50):
            cache.add(f"{name}/{i}", "first", "m", "x" * 500)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.close()
    assert len(VerdictCache(path)) == 200


@pytest.mark.parametrize("line", ['{"key": "a", "verdict": "A"}', '{"verdict": "tie"}', "no"])
def test_a_damaged_line_is_named(path, line):
    path.parent.mkdir()
    path.write_text(f'{{"key": "z", "verdict": "tie"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"llm\.jsonl:2: "):
        VerdictCache(path)
