from __future__ import annotations

import pytest

from benchmarks.peers import PeerError, install, make_once


def test_a_folder_is_filled_once_and_only_when_whole(tmp_path) -> None:
    path, filled = tmp_path / "build" / "thing", []

    def fill(partial):
        assert not path.exists()
        filled.append(partial)
        (partial / "file").write_text("whole")

    assert make_once(path, fill) == make_once(path, fill) == path
    assert len(filled) == 1
    assert (path / "file").read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_half_way_leaves_nothing(tmp_path) -> None:
    def fill(partial):
        (partial / "file").write_text("half")
        raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        make_once(tmp_path / "thing", fill)
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_fill_at_once_one_is_kept(tmp_path) -> None:
    path = tmp_path / "thing"

    def fill(partial):
        (partial / "file").write_text("second")
        make_once(path, lambda other: (other / "file").write_text("first"))

    assert make_once(path, fill) == path
    assert (path / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_peer_that_pip_refuses_is_one_line(tmp_path) -> None:
    with pytest.raises(PeerError, match=r"^The peer no requirement! must be installable .*\.$"):
        install("no requirement!", tmp_path)
    assert list(tmp_path.iterdir()) == []
