from __future__ import annotations

import json

import pytest

from benchmarks.side_by_side import (
    SideError,
    alternate,
    available_cores,
    compare,
    median_of,
    parser,
    spread,
    start_side,
    table,
)


def test_a_ratio_is_of_pairs_not_of_medians() -> None:
    # The medians are equal; pair by pair ours is 2, 1/4 and 4 times as fast.
    assert compare([4.0, 1.0, 2.0], [2.0, 4.0, 0.5]) == (2.0, 0.25, 4.0)
    assert compare([3.0, 6.0], [2.0, 2.0]).ratio == 2.25
    with pytest.raises(ValueError, match="shorter"):
        compare([1.0, 2.0], [1.0])


def test_the_side_that_goes_first_changes_from_pair_to_pair() -> None:
    calls: list[tuple[str, int]] = []

    def side(name):
        return lambda pair: calls.append((name, pair)) or {"n": len(calls)}

    said: list[str] = []
    measured = alternate({"a": side("a"), "b": side("b")}, 3, said.append)
    assert calls == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert [one["n"] for one in measured["a"]] == [1, 4, 5]
    assert [one["n"] for one in measured["b"]] == [2, 3, 6]
    assert len(said) == 6


def test_a_table_is_aligned_and_a_spread_is_written_with_its_ratio() -> None:
    lines = table(["case", "s"], [["a", "12.5"], ["longest", "1"]]).splitlines()
    assert lines == [
        "| case    | s    |",
        "| ------- | ---- |",
        "| a       | 12.5 |",
        "| longest | 1    |",
    ]
    assert spread(compare([3.0, 4.0], [2.0, 2.0])._asdict()) == "1.75 [1.50, 2.00]"
    assert median_of([{"x": 1}, {"x": 10}, {"x": 2}], "x") == 2


def test_a_side_runs_in_a_process_of_its_own_with_its_threads_and_its_path(tmp_path) -> None:
    (tmp_path / "probe_side.py").write_text(
        "import json, os, sys\n"
        "print('some talk')\n"
        "print(json.dumps({'order': json.loads(sys.argv[1]), 'pid': os.getpid(),"
        " 'threads': os.environ['OMP_NUM_THREADS']}))\n"
    )
    order = {"words": "with 'quotes' and \"more\""}
    first, second = (start_side("probe_side", order, threads=3, path=tmp_path) for _ in range(2))
    assert first["order"] == order
    assert first["threads"] == "3"
    assert first["pid"] != second["pid"]


def test_a_side_that_fails_is_one_line_with_its_last_words(tmp_path) -> None:
    (tmp_path / "broken_side.py").write_text("print('fine so far')\nraise ValueError('no luck')\n")
    (tmp_path / "silent_side.py").write_text("")
    with pytest.raises(SideError, match=r"exit code 1 .*ValueError: no luck"):
        start_side("broken_side", {}, threads=1, path=tmp_path)
    with pytest.raises(SideError, match=r"exit code 0 .*nothing"):
        start_side("silent_side", {}, threads=1, path=tmp_path)


def test_threads_default_to_the_cores_and_nonsense_is_refused(capsys) -> None:
    made = parser("name", "about")
    assert made.parse_args([]).threads == available_cores() >= 1
    assert made.parse_args(["--threads", "7"]).threads == 7
    for wrong in ("0", "-1", "two"):
        with pytest.raises(SystemExit) as ended:
            made.parse_args(["--pairs", wrong])
        assert ended.value.code == 2
        assert f"got {wrong!r}" in capsys.readouterr().err


def test_the_machine_tells_its_rates_and_threads() -> None:
    found = start_side("benchmarks.machine", {"threads": 1}, threads=1)
    assert found["threads"] == 1
    # From a slow core's megaflops to a large machine's petaflops.
    assert all(1e8 < rate < 1e16 for rate in found["matmul_flops_per_second"].values())
    assert json.loads(json.dumps(found)) == found
