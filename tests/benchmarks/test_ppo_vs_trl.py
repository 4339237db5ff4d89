from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks import ppo_vs_trl
from benchmarks.peers import TRL_WITH_PPO, PeerError, install
from benchmarks.ppo_sides import OUR_MODELS, TRL_MODELS, Order, describe
from benchmarks.ppo_vs_trl import (
    BESIDE,
    CASES,
    QUICK,
    Case,
    Measurements,
    main,
    show_learning,
    summarize,
)
from benchmarks.subjects import PASSES, Folders

ORDER = Order(
    side="ours",
    mode="full",
    precision="float32",
    shape="tiny",
    policy="",
    reward="",
    prompt_tokens=16,
    max_new_tokens=8,
    lengths=[8, 9, 2, 4, 1, 3],
    batch=2,
    epochs=1,
    minibatches=1,
    warm_up=1,
    attention="sdpa",
    threads=1,
)


@pytest.fixture(scope="module")
def peer() -> str:
    try:
        return str(install(TRL_WITH_PPO))
    except PeerError as error:
        pytest.skip(f"TRL 1.12.0 is not to be had here: {error}")


def test_the_warm_up_is_not_counted() -> None:
    stamps, rollouts, lengths = [0.0, 100.0, 101.0, 104.0], [50.0, 0.5, 1.5], [8.0, 3.0, 2.0]
    figures = describe(ORDER, stamps, rollouts, lengths)
    assert figures["seconds"] == 2.0
    assert figures["episodes_per_second"] == 1.0
    assert figures["rollout_seconds"] == 1.0
    assert figures["peak_bytes"] > 0


def test_other_lengths_than_were_given_stop_a_side() -> None:
    with pytest.raises(AssertionError, match=r"must have the given lengths \(\[8.0, 3.0, 2.0\]\)"):
        describe(ORDER, [0.0, 1.0, 2.0, 3.0], [0.1] * 3, [8.0, 3.0, 2.5])
    with pytest.raises(AssertionError, match="3 iterations, 3 ends"):
        describe(ORDER, [0.0, 1.0, 2.0], [0.1] * 3, [8.0, 3.0, 2.0])


def made(monkeypatch, rates, recorded=(3, 1, 2)) -> tuple[Measurements, list]:
    """Return measurements whose sides answer at once, and the orders that they got."""
    orders = []

    def answer_at_once(_, order, *, threads, path=None):
        orders.append(order)
        assert threads == order["threads"] == 1
        assert (path is not None) == (order["side"] == "trl")
        rate = rates[order["side"], order["precision"]]
        # Ours is faster with the eager kernel, TRL slower.
        if order["attention"] == "eager":
            rate += 1 if order["side"] == "ours" else -1
        seconds = 8 / rate
        return {"episodes_per_second": rate, "seconds": seconds, "rollout_seconds": 0.5} | {
            "peak_bytes": 2.0**30
        }

    monkeypatch.setattr(ppo_vs_trl, "start_side", answer_at_once)
    monkeypatch.setattr(ppo_vs_trl, "install", lambda name: f"build/{name}")
    monkeypatch.setattr(ppo_vs_trl, "make_models", lambda _: Folders("policy", "reward"))
    size = dataclasses.replace(QUICK, pairs=2)
    return Measurements(size, recorded, threads=1), orders


def test_best_is_each_sides_own_and_nothing_is_measured_twice(monkeypatch) -> None:
    rates = {("ours", "float32"): 2.0, ("ours", "bf16"): 6.0}
    rates |= {("trl", "float32"): 4.0, ("trl", "bf16"): 3.0}
    measurements, orders = made(monkeypatch, rates)
    full = [case for case in CASES if case.mode == "full"]
    fixed, one_epoch, best, eos = (measurements.of(case) for case in full)
    for found, ours in ((fixed, "float32"), (one_epoch, "float32"), (best, "bf16"), (eos, "bf16")):
        assert [one["precision"] for one in found["ours"]] == [ours] * 2
        assert [one["precision"] for one in found["trl"]] == ["float32"] * 2
        kernels = [[one["attention"] for one in figures] for figures in found.values()]
        assert kernels == [["eager" if ours == "bf16" else "sdpa"] * 2, ["sdpa"] * 2]
    # Two pairs of two sides: fp32, one epoch, bf16 with each kernel, end tokens.
    assert len(orders) == 20
    summary = summarize(best, {"float32": 1e9, "bf16": 4e9})
    assert summary["ratio"] == summary["low"] == summary["high"] == 7 / 4
    assert summary["memory_ratio"] == 1
    assert summary["ours"]["precision"] == "bf16"


def test_utilisation_is_against_the_rate_of_its_own_precision(monkeypatch) -> None:
    rates = dict.fromkeys([(s, p) for s in ("ours", "trl") for p in ("float32", "bf16")], 1.0)
    measurements, _ = made(monkeypatch, rates)
    found = measurements.of(Case("", "full", "float32", "fixed"))
    rate = found["ours"][0]["flops_per_second"]
    one, half = (
        summarize(found, {"float32": machine, "bf16": 1.0})["ours"]["utilisation"]
        for machine in (rate, 2 * rate)
    )
    assert (one, half) == (pytest.approx(1.0), pytest.approx(0.5))


def test_pairs_go_on_in_the_recorded_list(monkeypatch) -> None:
    measurements, _ = made(monkeypatch, {}, recorded=[3, 1, 2])
    eos = Case("", "full", "float32", "eos")
    assert QUICK.episodes == 16
    assert measurements.lengths(eos, 0) == [3, 1, 2] * 5 + [3]
    assert measurements.lengths(eos, 1)[:3] == [1, 2, 3]
    assert set(measurements.lengths(CASES[0], 1)) == {QUICK.max_new_tokens}


def test_every_case_has_both_its_sides() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        modes = dict(case.modes)
        assert modes.pop("ours") in OUR_MODELS
        assert set(modes.values()) <= TRL_MODELS.keys()
        assert set(case.modes.values()) <= PASSES.keys()


def test_adapters_are_compared_with_all_weights_and_shown_beside_trls(monkeypatch) -> None:
    rates = {("ours", "float32"): 2.0, ("ours", "bf16"): 6.0}
    rates |= {("trl", "float32"): 4.0, ("trl", "bf16"): 3.0}
    measurements, orders = made(monkeypatch, rates)
    case = next(case for case in CASES if case.name == "hydra_fixed")
    found = measurements.of(case)
    asked = {(order["side"], order["mode"], order["precision"]) for order in orders[12:]}
    assert asked == {
        ("ours", "hydra", "bf16"),
        ("trl", "full", "float32"),
        ("trl", "lora", "float32"),
    }
    assert list(found) == ["ours", "trl", BESIDE]
    assert summarize(found, {"float32": 1e9, "bf16": 4e9})["ratio"] == 7 / 4


def test_what_was_learned_is_shown_beside_the_speed() -> None:
    header, _, *rows = show_learning().splitlines()
    assert "KL" in header
    assert [row.split()[1] for row in rows] == ["full", "hydra", "trunk"]
    assert {row.split()[3] for row in rows} == {"10"}


def run(capsys, *arguments: str) -> dict:
    assert main(["--quick", "--threads", "1", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| case")
    return json.loads(lines[-1])


@pytest.mark.usefixtures("peer")
def test_quick_runs_one_case_on_both_sides(capsys) -> None:
    found = run(capsys, "--cases", "full_fp32_fixed")
    case = found["cases"]["full_fp32_fixed"]
    assert found["full_fp32_fixed"] == case["ratio"]
    ours, trl = case["ours"], case["trl"]
    assert case["ratio"] == pytest.approx(ours["episodes_per_second"] / trl["episodes_per_second"])
    assert ours["seconds"] > ours["rollout_seconds"] > 0
    assert trl["seconds"] > trl["rollout_seconds"] > 0
    assert "full_best_eos" not in found


@pytest.mark.slow
@pytest.mark.usefixtures("peer")
def test_quick_runs_every_case(capsys) -> None:
    found = run(capsys)
    for case in CASES:
        figures = found["cases"][case.name]
        assert figures["low"] <= figures["ratio"] <= figures["high"]
        assert 0 < figures["ours"]["utilisation"] < 1
        assert figures["trl"]["peak_bytes"] > 1e8
    assert found["lengths"]["max"] <= QUICK.max_new_tokens
