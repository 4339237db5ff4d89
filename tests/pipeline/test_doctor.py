from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.ppo import PpoSection
from pipeline.doctor import PATIENT, WINDOW, Doctor, trace_findings

SECTION = PpoSection()
Course = Callable[[float], float]
"""A figure as a function of how much of the training is done, from 0 to 1."""

HEALTHY: dict[str, Course] = {
    "objective/kl": lambda t: 12 * t,
    "objective/scores": lambda t: 1.5 * math.sqrt(t),
    "objective/scores_std": lambda t: 1.2 - 0.4 * t,
    "objective/length": lambda t: 60 + 20 * t,
    "objective/eos_rate": lambda t: 0.9 + 0.08 * t,
    "objective/repetition": lambda t: 0.02 + 0.01 * t,
    "policy/entropy": lambda t: 1.8 - 0.6 * t,
    "policy/ratio": lambda _: 1.0,
    "policy/clipfrac": lambda t: 0.02 + 0.06 * t,
    "value/explained_variance": lambda t: 0.4 + 0.3 * t,
}


def history(iterations: int = 60, **ill: Course | float) -> list[dict[str, float]]:
    """Return a training's figures, with a little noise; ``ill`` replaces whole courses."""
    courses = dict(HEALTHY)
    for name, course in ill.items():
        key = name.replace("__", "/")
        assert key in courses
        courses[key] = course if callable(course) else (lambda _, value=course: value)
    rows = []
    for i in range(iterations):
        t, noise = i / max(1, iterations - 1), 1 + 0.03 * math.sin(7 * i)
        rows.append({key: course(t) * noise for key, course in courses.items()})
        # A value model takes a few iterations to be better than nothing, however long the training.
        rows[-1]["value/explained_variance"] -= 2 * 0.8**i
    return rows


def examine(rows: list[dict[str, float]], section: PpoSection = SECTION) -> set[str]:
    """Return every finding of a whole training."""
    doctor = Doctor(section)
    return {name for row in rows for name in doctor.examine(row)}


@pytest.mark.parametrize("iterations", [1, 8, 24, 60, 300])
def test_a_healthy_training_has_no_finding(iterations):
    assert examine(history(iterations)) == set()


ILLNESSES: dict[str, dict[str, Course | float]] = {
    "start_kl": {"objective__kl": lambda t: 3 + 9 * t},
    "kl": {"objective__kl": lambda t: 85 * t},
    "negative_kl": {"objective__kl": lambda t: -4 * t},
    "ratio": {"policy__clipfrac": lambda t: 0.6 * t},
    "few_ends": {"objective__eos_rate": 0.03},
    "value": {"value__explained_variance": -0.5},
    "entropy_collapse": {"policy__entropy": lambda t: 1.8 * (1 - 0.95 * t)},
    "entropy_growth": {"policy__entropy": lambda t: 1.8 + 4 * t},
    "length_growth": {"objective__length": lambda t: 60 + 120 * t},
    "length_collapse": {"objective__length": lambda t: 60 - 50 * t},
    "lost_ends": {"objective__eos_rate": lambda t: 0.9 - 0.5 * t},
    "repetition": {"objective__repetition": lambda t: 0.02 + 0.6 * t},
    "score_spread": {"objective__scores_std": lambda t: 1.2 * (1 - t)},
    "score_fall": {"objective__scores": lambda t: -2 * t},
    "score_flat": {"objective__scores": 0.01},
}


@pytest.mark.parametrize("name", ILLNESSES)
def test_each_illness_is_found_alone(name):
    assert examine(history(**ILLNESSES[name])) == {name}


def test_the_page_lists_every_illness():
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([a-z_]+)`", page.split("`doctor` looks at")[1].split("## `")[0]))
    assert listed - {"kl_target"} == set(ILLNESSES)


def test_a_ratio_that_runs_away_is_found_both_ways():
    assert examine(history(policy__ratio=lambda t: 1 + 0.3 * t)) == {"ratio"}
    assert examine(history(policy__ratio=lambda t: 1 - 0.3 * t)) == {"ratio"}


@pytest.mark.parametrize("name", ILLNESSES)
def test_a_finding_is_one_sentence_that_names_a_knob_of_the_section(name):
    doctor = Doctor(SECTION)
    sentences = {
        sentence for row in history(**ILLNESSES[name]) for sentence in doctor.examine(row).values()
    }
    known = {f"ppo.{field.name}" for field in dataclasses.fields(SECTION)}
    for sentence in sentences:
        assert sentence.endswith(".")
        assert "\n" not in sentence
        named = {word.strip(",.;:") for word in sentence.split() if word.startswith("ppo.")}
        assert named
        assert named <= known


def test_one_bad_iteration_is_no_finding():
    rows = history()
    rows[30] |= {"objective/kl": 90.0, "policy/clipfrac": 0.9, "objective/repetition": 0.9}
    assert examine(rows) == set()


def test_findings_wait_until_there_is_something_to_compare():
    doctor = Doctor(SECTION)
    rows = history(objective__length=lambda t: 60 if t < 5 / 59 else 500)
    said = ["length_growth" in doctor.examine(row) for row in rows]
    assert said.index(True) == 2 * WINDOW - 1
    flat = Doctor(SECTION)
    said = ["score_flat" in flat.examine(row) for row in history(objective__scores=0.0)]
    assert said.index(True) == PATIENT - 1


def test_a_finding_goes_when_its_cause_goes():
    doctor = Doctor(SECTION)
    found = [doctor.examine(row) for row in history(objective__kl=lambda t: 200 * t * (1 - t))]
    assert "kl" in found[30]
    assert found[-1] == {}


def test_the_limit_of_the_kl_follows_the_target():
    rows = history(objective__kl=lambda t: 20 * t)
    assert examine(rows) == set()
    assert examine(rows, PpoSection(kl_target=6.0)) == {"kl"}
    assert examine(rows, PpoSection(kl_target=12.0)) == set()


def test_cut_completions_are_no_finding_where_a_missing_end_costs_nothing():
    rows = history(objective__eos_rate=0.03)
    assert examine(rows, PpoSection(missing_eos_penalty=None)) == set()
    replaced = PpoSection(missing_eos_penalty=None, missing_eos_score=-1.0)
    assert examine(rows, replaced) == {"few_ends"}


def test_advice_fits_what_is_set():
    def advice(name: str, section: PpoSection) -> str:
        doctor = Doctor(section)
        return [doctor.examine(row) for row in history(**ILLNESSES[name])][-1][name]

    assert "stop_approxkl" not in advice("ratio", SECTION)
    assert "ppo.stop_approxkl" in advice("ratio", PpoSection(num_ppo_epochs=4))
    assert "ppo.whiten_rewards" in advice("length_collapse", PpoSection(whiten_rewards=True))
    assert "ppo.kl_coef" in advice("length_collapse", SECTION)
    assert "ppo.ptx_coef" in advice("score_flat", SECTION)
    assert "ppo.ptx_coef" not in advice("score_flat", PpoSection(ptx_coef=0.0))
    assert "score_scaling" not in advice("value", PpoSection(score_scaling="running"))
    assert "lower ppo.entropy_coef" in advice("entropy_growth", PpoSection(entropy_coef=0.1))


def test_a_finding_is_news_once():
    doctor = Doctor(SECTION)
    told = []
    for row in history(objective__kl=lambda t: 85 * t, objective__length=lambda t: 60 + 140 * t):
        told += doctor.news(doctor.examine(row))
    assert len(told) == 2


@pytest.mark.parametrize("cut", [1, 3, 9, 40])
def test_a_doctor_goes_on_from_its_state(cut):
    rows = history(**ILLNESSES["repetition"])
    whole, first, second = (Doctor(SECTION) for _ in range(3))
    expected = [(found, whole.news(found)) for found in map(whole.examine, rows)]
    for row in rows[:cut]:
        first.news(first.examine(row))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [(f, second.news(f)) for f in map(second.examine, rows[cut:])] == expected[cut:]
    assert sum(len(news) for _, news in expected) == 1


def test_the_value_model_is_given_the_warm_up_to_learn():
    rows = history(300, value__explained_variance=lambda t: 0.5 if t > 20 / 299 else -0.5)
    assert examine(rows, PpoSection(warmup_iterations=20)) == set()
    assert examine(rows, PpoSection(warmup_iterations=0)) == {"value"}


def test_only_what_it_needs_is_kept():
    doctor = Doctor(SECTION)
    for row in history(300):
        doctor.examine({**row, "perf/rollout_seconds": 1.0})
    assert len(json.dumps(doctor.state_dict())) < 10_000


def test_findings_of_a_log_have_their_first_and_last_iteration():
    log = [
        {"step": 1, "doctor": {"kl": "far: 51."}},
        {"step": 2},
        {"step": 3, "doctor": {"ratio": "big.", "kl": "far: 60."}},
        {"step": 4, "doctor": "not a finding"},
        {"doctor": {"kl": "no step."}},
    ]
    assert trace_findings(log) == [("kl", "far: 60.", 1, 3, 2), ("ratio", "big.", 3, 3, 1)]
