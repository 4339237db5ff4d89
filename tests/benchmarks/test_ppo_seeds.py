from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from benchmarks.ppo_seeds import Outcome, judge, main, parse_seeds, summarize, write_row
from pipeline.errors import ConfigError

START = {"start_scores": 0.5, "win_rate": 0.6}


def test_ranges_and_numbers_make_one_list_without_repeats() -> None:
    assert parse_seeds(["0..3", "2", "12"]) == [0, 1, 2, 3, 12]
    with pytest.raises(ConfigError, match=r"got 'ten'\. Write 0\.\.9\."):
        parse_seeds(["ten"])


@pytest.mark.parametrize(
    ("scores", "kl", "said"),
    [
        (0.5, 20.0, ""),
        (0.9, 20.1, "KL above 20"),
        (0.49, 1.0, "score below the start's"),
    ],
)
def test_a_training_diverges_by_its_kl_or_its_score(scores, kl, said) -> None:
    assert judge({**START, "scores": scores, "kl": kl}, 20.0) == said


def test_modes_are_summed_up_apart_and_what_has_no_numbers_counts_as_diverged() -> None:
    figures = [{**START, "scores": score, "kl": 2 * score} for score in (1.0, 2.0, 4.0)]
    outcomes = [Outcome("full", seed, "", row, 10.0 + seed) for seed, row in enumerate(figures)]
    outcomes += [Outcome("full", 3, "not finite: loss/policy", {}, 0.0)]
    outcomes += [Outcome("trunk", 0, "KL above 20", figures[0], 7.0)]
    summary = summarize(outcomes)
    full, trunk = summary["full"], summary["trunk"]
    assert (full["seeds"], full["diverged"]) == (4, 1)
    assert full["scores"] == {
        "mean": pytest.approx(7 / 3),
        "sd": pytest.approx(statistics.stdev([1, 2, 4])),
    }
    assert full["seconds"] == pytest.approx(11)
    assert (trunk["diverged"], trunk["scores"]) == (1, {"mean": 1.0, "sd": None})
    assert "not finite: loss/policy" in write_row(outcomes[3])


def test_a_folder_without_ppo_is_one_line(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path), "--folder", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
