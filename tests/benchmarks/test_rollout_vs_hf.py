from __future__ import annotations

import json

import pytest

from benchmarks import rollout_vs_hf
from benchmarks.rollout_vs_hf import QUICK, main, measure
from benchmarks.subjects import Folders


def test_pairs_go_on_in_the_recorded_list_the_same_on_both_sides(monkeypatch) -> None:
    orders = []
    monkeypatch.setattr(rollout_vs_hf, "make_models", lambda _: Folders("policy", "reward"))
    monkeypatch.setattr(rollout_vs_hf, "start_side", lambda _, order, **__: orders.append(order))
    measure(QUICK._replace(pairs=2, batch=2), [5, 6, 7], threads=1)
    assert [(order["side"], order["lengths"]) for order in orders] == [
        ("ours", [5, 6, 7, 5]),
        ("transformers", [5, 6, 7, 5]),
        ("transformers", [6, 7, 5, 6]),
        ("ours", [6, 7, 5, 6]),
    ]


def test_quick_runs_both_sides(capsys) -> None:
    assert main(["--quick", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| side")
    found = json.loads(lines[-1])
    rates = [found[side]["completions_per_second"] for side in ("ours", "transformers")]
    assert found["ratio"] == pytest.approx(rates[0] / rates[1])
    # Completions of the same lengths: tokens are in the same ratio.
    tokens = [found[side]["tokens_per_second"] for side in ("ours", "transformers")]
    assert tokens[0] / tokens[1] == pytest.approx(found["ratio"])
