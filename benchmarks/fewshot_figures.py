"""Put together what the two sides of ``fewshot_vs_lm_eval`` measured, and lay it out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.side_by_side import Figures, table

SIDES = ("ours", "hflm")
TIE = 1e-4
"""Choices whose log-likelihoods differ by less are equal to float32's rounding."""


def seconds_of(run: Figures) -> float:
    """Return all seconds of one side's measurement, its language model's making included."""
    return math.fsum([run["making"], *(task["seconds"] for task in run["tasks"].values())])


def summarize(measured: Mapping[str, Sequence[Figures]]) -> Figures:
    """Put one number of shots' pairs together: seconds, differences, accuracies."""
    found: Figures = {}
    for side, runs in measured.items():
        totals = [seconds_of(run) for run in runs]
        tasks = {
            name: {key: task[key] for key in ("documents", "acc", "acc_norm")}
            | {"seconds": [round(run["tasks"][name]["seconds"], 3) for run in runs]}
            for name, task in runs[0]["tasks"].items()
        }
        found[side] = {
            "seconds": [round(total, 3) for total in totals],
            "total": math.fsum(totals),
            "peak_bytes": max(run["peak_bytes"] for run in runs),
            "tasks": tasks,
        }
    compared = [
        compare_answers(ours["tasks"], theirs["tasks"])
        for ours, theirs in zip(measured["ours"], measured["hflm"], strict=True)
    ]
    return {
        **found,
        "speedup": found["hflm"]["total"] / found["ours"]["total"],
        "max_abs_diff": max(one["max_abs_diff"] for one in compared),
        "same_accuracy": all(one["same_accuracy"] for one in compared),
        "same_greedy": all(one["same_greedy"] for one in compared),
        "ties": max(one["ties"] for one in compared),
    }


def compare_answers(ours: Mapping[str, Figures], theirs: Mapping[str, Figures]) -> Figures:
    """Compare each document's log-likelihoods, its likeliest choice, and the greedy flags.

    Args:
        ours: task to ``logliks`` and ``greedy``, a list a document.
        theirs: the same of the other side, whose near ties excuse another choice.
    Returns:
        ``max_abs_diff``, ``same_accuracy``, ``same_greedy``, and how many ``ties`` were excused.
    """
    largest, same, ties = 0.0, True, 0
    for name, task in theirs.items():
        for own, other in zip(ours[name]["logliks"], task["logliks"], strict=True):
            largest = max([largest, *(abs(a - b) for a, b in zip(own, other, strict=True))])
            if int(np.argmax(own)) != int(np.argmax(other)):
                first, second = sorted(other, reverse=True)[:2]
                ties += first - second <= TIE
                same &= first - second <= TIE
    greedy = all(ours[name]["greedy"] == task["greedy"] for name, task in theirs.items())
    return {
        "max_abs_diff": largest,
        "same_accuracy": same,
        "same_greedy": greedy,
        "ties": ties,
    }


def show(found: Mapping[str, Figures]) -> str:
    """Lay out the seconds as a table, a line a number of shots."""
    header = ["shots", "documents a task", "ours, s", "HFLM, s", "its batch size", "speedup"]
    header += ["largest difference", "same accuracy"]
    rows = [
        [
            shots,
            str(one["documents"]),
            *(", ".join(f"{each:.1f}" for each in one[side]["seconds"]) for side in SIDES),
            str(one["batch_size"]),
            f"{one['speedup']:.2f}",
            f"{one['max_abs_diff']:.1e}",
            "yes" if one["same_accuracy"] else "no",
        ]
        for shots, one in found.items()
    ]
    return table(header, rows)


def show_accuracies(found: Figures) -> str:
    """Lay out the accuracies as a table, a line a task."""
    header = ["task", "documents", "acc, ours", "acc, HFLM", "acc_norm, ours", "acc_norm, HFLM"]
    rows = []
    for name in found["ours"]["tasks"]:
        ours, theirs = (found[side]["tasks"][name] for side in SIDES)
        figures = [one[key] for key in ("acc", "acc_norm") for one in (ours, theirs)]
        rows.append([name, str(ours["documents"]), *(f"{100 * each:.1f} %" for each in figures)])
    return table(header, rows)
