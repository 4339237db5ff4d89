"""Keep what was measured on each stage, so that a later evaluation measures only what is new.

Each stage has three parts: few-shot tasks, perplexity, instruction following; one more each where
toxicity is asked for, where PPO is compared with best-of-n, and where stages are compared with each
other. A part is stored as soon as it is measured, its rows first and then its figures with the key
of what they depend on; a kill loses at most the part at work. Put together from the parts of all
stages are ``results.json``, ``summary.json`` and ``documents.jsonl``.

    documents/STAGE.jsonl     a row a question, task and number of shots
    texts/STAGE.jsonl         a row a held-out document: its loss
    completions/STAGE.jsonl   a row a prompt: its completion and what the judges say
    toxicity/STAGE.jsonl      a row a completion: what the user's function says
    best_of/STAGE.jsonl       a row a completion: what the judges say, and its KL's sample
    wins/STAGE.jsonl          a row a prompt: its completion, what it is worth, and its KL's sample
    stages/STAGE.json         the parts' keys and figures
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.artifacts import as_json, write_json, write_text
from pipeline.evaluation.following import win_rate_against
from pipeline.records import read_jsonl

PartName = Literal["fewshot", "perplexity", "following", "toxicity", "best_of", "win_rates"]
ROWS: Mapping[PartName, str] = {
    "fewshot": "documents",
    "perplexity": "texts",
    "following": "completions",
    "toxicity": "toxicity",
    "best_of": "best_of",
    "win_rates": "wins",
}
"""The folder of each part's rows."""


class Part(NamedTuple):
    """What was measured of one kind on one stage.

    Attributes:
        figures: by name.
        rows: the single measurements behind them.
    """

    figures: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


class EvaluationFolder:
    """Read and write an evaluation's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, stage: str, part: PartName) -> str:
        """Return what a part was measured under, nothing where it was not."""
        key: str = self._stored(stage).get(part, {}).get("key", "")
        return key

    def rows(self, stage: str, part: PartName) -> list[dict[str, Any]]:
        """Return a part's rows, none where it was not measured."""
        path = self._rows_path(stage, part)
        return [row for _, row in read_jsonl(path)] if path.is_file() else []

    def store(self, stage: str, part: PartName, key: str, measured: Part) -> None:
        """Store a part in place of an older one."""
        _write_rows(self._rows_path(stage, part), measured.rows)
        parts = self._stored(stage)
        parts[part] = {"key": key, "figures": as_json(measured.figures)}
        path = self._stage_path(stage)
        path.parent.mkdir(exist_ok=True)
        write_json(path, parts)

    def figures(self, stage: str, part: PartName) -> Mapping[str, Any]:
        """Return a part's figures, none where it was not measured."""
        figures: Mapping[str, Any] = self._stored(stage).get(part, {}).get("figures", {})
        return figures

    def merge(
        self, stages: Sequence[str], rival: str, parts: Sequence[PartName] = ("fewshot",)
    ) -> dict[str, dict[str, Any]]:
        """Write the files that hold all stages, and return the summary.

        Args:
            stages: the evaluated stages, in order.
            rival: the stage that others' answers are compared with, if it was evaluated.
            parts: those whose figures go into ``results.json``.
        """
        results = {
            stage: {
                key: value for part in parts for key, value in self.figures(stage, part).items()
            }
            for stage in stages
        }
        summary = {stage: self._summarize(stage, rival) for stage in stages}
        documents = [row for stage in stages for row in self.rows(stage, "fewshot")]
        _write_rows(self.folder / "documents.jsonl", documents)
        write_json(self.folder / "summary.json", summary)
        write_json(self.folder / "results.json", results)
        return summary

    def _summarize(self, stage: str, rival: str) -> dict[str, Any]:
        # Every task weighs the same, however many numbers of shots it was measured at.
        accuracies = [
            sum(found) / len(found)
            for task in self.figures(stage, "fewshot").values()
            if (found := [figures["acc"] for figures in task.values() if "acc" in figures])
        ]
        summary: dict[str, Any] = {}
        if accuracies:
            summary["fewshot"] = sum(accuracies) / len(accuracies)
        summary |= self.figures(stage, "perplexity")
        summary |= self.figures(stage, "following")
        if stage != rival:
            won = win_rate_against(self.rows(stage, "following"), self.rows(rival, "following"))
            summary |= {
                key.replace("win_rate", f"win_rate_vs_{rival}"): value for key, value in won.items()
            }
        return summary

    def _stage_path(self, stage: str) -> Path:
        return self.folder / "stages" / f"{stage}.json"

    def _rows_path(self, stage: str, part: PartName) -> Path:
        return self.folder / ROWS[part] / f"{stage}.jsonl"

    def _stored(self, stage: str) -> dict[str, Any]:
        path = self._stage_path(stage)
        if not path.is_file():
            return {}
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return stored


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(path, "".join(lines))
