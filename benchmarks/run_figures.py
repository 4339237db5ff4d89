"""Put a finished run's figures in tables: reward model and floors, scores and KL, few-shot tasks.

``python -m benchmarks.run_figures RUN_DIR [--kl ppo sft] [--json FILE]`` reads what the stages
wrote; nothing is computed anew but intervals over prompts and, where asked for, the KL. It prints
Markdown tables and, as its last line, one JSON object with the figures, which ``--json`` also
writes to a file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts import write_json
from pipeline.bootstrap import Interval, bootstrap_difference, bootstrap_mean
from pipeline.errors import RunError
from pipeline.formatting import Formatter
from pipeline.losses import token_logprobs
from pipeline.masked import positions
from pipeline.models import load_policy
from pipeline.records import read_jsonl
from pipeline.rollout import lay_out
from pipeline.runs import Manifest
from pipeline.sampling import batches_by_length
from pipeline.tokenizer import load_tokenizer
from stages.entry import run_command

SEED = 0
"""Of the intervals."""
ROLLOUT = ("scores", "kl", "length", "eos_rate", "entropy")
TRAINED = ("pretrain", "sft", "label", "reward", "ppo", "evaluate")
Row = Mapping[str, Any]


def read(path: Path) -> Any:
    """Return a JSON file's content.

    Raises:
        RunError: if the stage that writes it has not run.
    """
    if not path.is_file():
        raise RunError(f"No {path}. Run 'steerline run CONFIG' to the end first.")
    return json.loads(path.read_text(encoding="utf-8"))


def read_completions(run_dir: Path, stage: str) -> list[Row]:
    """Return a stage's judged answers to the held-out prompts, by prompt id."""
    path = run_dir / "evaluate" / "completions" / f"{stage}.jsonl"
    return sorted((row for _, row in read_jsonl(path)), key=lambda row: str(row["prompt_id"]))


def describe_stages(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return each stage's wall time, commit and figures; ``evaluate`` as it last ran."""
    found = {name: Manifest.read(run_dir / name) for name in TRAINED}
    return {
        name: {
            "seconds": made.seconds,
            "commit": made.git_commit,
            "device": made.device,
            "metrics": {} if name == "evaluate" else dict(made.metrics),
        }
        for name, made in found.items()
        if made is not None
    }


def describe_judges(run_dir: Path) -> dict[str, Any]:
    """Return the reward model's and the floors' accuracy, in all and by source of the judgments.

    A source's labelers share a name but for what stands after ``#`` or ``-``.
    """
    accuracy = read(run_dir / "reward" / "accuracy.json")
    judges = {"reward_model": accuracy["reward_model"], **accuracy["floors"]}
    kept = ("accuracy", "low", "high", "n", "prompts", "tied", "by_prompt", "ahead")
    return {
        name: {
            **{key: figures[key] for key in kept if key in figures},
            "by_source": _pool(figures["by_labeler"]),
        }
        for name, figures in judges.items()
    }


def _pool(by_labeler: Mapping[str, Row]) -> dict[str, dict[str, float]]:
    pooled: dict[str, list[Row]] = {}
    for labeler, figures in by_labeler.items():
        pooled.setdefault(labeler.split("#")[0].split("-")[0], []).append(figures)
    return {
        source: {
            "accuracy": sum(row["accuracy"] * row["n"] for row in rows) / total,
            "n": total,
        }
        for source, rows in pooled.items()
        if (total := sum(row["n"] for row in rows))
    }


def describe_scores(run_dir: Path, stages: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return each stage's mean score on the held-out prompts, and its change from SFT's."""
    answers = {stage: read_completions(run_dir, stage) for stage in stages}
    scores = {stage: [row["score"] for row in rows] for stage, rows in answers.items()}
    figures: dict[str, dict[str, Any]] = {}
    for stage, values in scores.items():
        tokens = [row["tokens"] for row in answers[stage]]
        figures[stage] = {
            "n": len(values),
            "score": bootstrap_mean(values, seed=SEED)._asdict(),
            "completion_tokens": sum(tokens) / len(tokens),
        }
        if stage != "sft":
            change = bootstrap_difference(values, scores["sft"], seed=SEED)
            figures[stage]["against_sft"] = change._asdict()
    return figures


def describe_ppo(run_dir: Path) -> dict[str, dict[str, float]]:
    """Return the rollouts' figures in the first iteration, before any update, and in the last."""
    rows = [row for _, row in read_jsonl(run_dir / "ppo" / "metrics.jsonl")]
    return {
        name: {
            "iteration": row["step"],
            **{key: row[f"objective/{key}"] for key in ROLLOUT},
        }
        for name, row in (("first", rows[0]), ("last", rows[-1]))
    }


@torch.no_grad()
def measure_kl(run_dir: Path, stage: str, reference: str, batch_size: int = 16) -> Interval:
    """Return the KL of one stage's policy to another's over the held-out prompts, nats an answer.

        KL = E_{y ~ pi} [ log pi(y|x) - log pi_ref(y|x) ]

    over the answers that ``evaluate`` sampled, at temperature 1. The interval is over prompts. The
    answers are encoded anew, which may split a text otherwise than it was sampled.
    """
    rows = read_completions(run_dir, stage)
    formatter = Formatter(load_tokenizer(run_dir / stage / "model"))
    prompts = [formatter.prompt_ids(row["messages"]) for row in rows]
    answers = []
    for row in rows:
        ids = formatter.completion_ids(row["completion"])
        answers.append(ids[:-1] if row["finish_reason"] == "length" else ids)
    totals = []
    for name in (stage, reference):
        model: Any = load_policy(run_dir / name / "model").eval()
        total = [0.0] * len(rows)
        whole = [a + b for a, b in zip(prompts, answers, strict=True)]
        for batch in batches_by_length(whole, batch_size):
            ids, mask, completion_mask = lay_out(
                [prompts[i] for i in batch], [answers[i] for i in batch], formatter.pad_id
            )
            time = completion_mask.shape[1]
            logits = model(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=positions(mask),
                logits_to_keep=time + 1,
                use_cache=False,
            ).logits[:, :-1]
            logprobs = token_logprobs(logits, ids[:, -time:])
            sums = torch.where(completion_mask, logprobs, 0.0).sum(dim=1)
            for i, value in zip(batch, sums.tolist(), strict=True):
                total[i] = value
        totals.append(total)
    return bootstrap_difference(*totals, seed=SEED)


def spread(row: Row, places: int, scale: float = 1.0, *, sign: bool = False) -> str:
    """Write an estimate and its 95 % interval."""
    name = next(key for key in ("estimate", "accuracy", "difference") if key in row)
    form = f"{'+' if sign else ''}.{places}f"
    estimate, low, high = (format(scale * row[key], form) for key in (name, "low", "high"))
    return f"{estimate} [{low}, {high}]"


def tables(figures: Mapping[str, Any]) -> list[str]:
    """Return the figures as Markdown tables."""
    judges, scores, fewshot = figures["judges"], figures["scores"], figures["fewshot"]
    sources = list(judges["reward_model"]["by_source"])
    counts = {name: judges["reward_model"]["by_source"][name]["n"] for name in sources}
    named = " | ".join(f"{name} ({counts[name]})" for name in sources)
    lines = [
        f"| judge | agreement, % | by prompt, % | reward model ahead, points | {named} |",
        "|---|---|---|---|" + "---|" * len(sources),
    ]
    for name, row in judges.items():
        ahead = spread(row["ahead"], 1, 100, sign=True) if "ahead" in row else ""
        cells = [f"{100 * row['by_source'][source]['accuracy']:.1f}" for source in sources]
        lines.append(
            f"| {name.replace('_', ' ')} | {spread(row, 1, 100)} | {100 * row['by_prompt']:.1f} | "
            f"{ahead} | {' | '.join(cells)} |"
        )
    lines += ["", "| stage | mean score | against SFT | tokens an answer |", "|---|---|---|---|"]
    for stage, row in scores.items():
        change = spread(row["against_sft"], 2, sign=True) if "against_sft" in row else ""
        tokens = f"{row['completion_tokens']:.1f}"
        lines.append(f"| {stage} | {spread(row['score'], 2)} | {change} | {tokens} |")
    lines += ["", "| rollouts | " + " | ".join(ROLLOUT) + " |", "|---|" + "---|" * len(ROLLOUT)]
    for name, row in figures["ppo"].items():
        cells = [f"{row[key]:.3f}" for key in ROLLOUT]
        lines.append(f"| {name} (iteration {row['iteration']}) | {' | '.join(cells)} |")
    columns = [(task, shots) for task, by in fewshot["sft"].items() for shots in by]
    lines += [
        "",
        "| stage | " + " | ".join(f"{task}, {shots}" for task, shots in columns) + " | mean |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    for stage, by_task in fewshot.items():
        rows = [by_task[task][shots] for task, shots in columns]
        cells = [f"{100 * row['acc']:.0f} ± {100 * row['stderr']:.0f}" for row in rows]
        mean = 100 * sum(row["acc"] for row in rows) / len(rows)
        lines.append(f"| {stage} | {' | '.join(cells)} | {mean:.1f} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_figures", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--kl", nargs=2, metavar=("STAGE", "REFERENCE"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(argv)

    def work() -> None:
        run_dir = given.run_dir
        fewshot = read(run_dir / "evaluate" / "results.json")
        report = read(run_dir / "report" / "report.json")
        figures: dict[str, Any] = {
            "stages": describe_stages(run_dir),
            "judges": describe_judges(run_dir),
            "scores": describe_scores(run_dir, fewshot),
            "ppo": describe_ppo(run_dir),
            "fewshot": fewshot,
            "tax": [row for row in report["tax"] if row["difference"] is not None],
            "language": report["language"],
            "verdict": report["verdict"],
        }
        if given.kl:
            figures["kl"] = {"of": given.kl, **measure_kl(run_dir, *given.kl)._asdict()}
        print("\n".join(tables(figures)))
        if given.kl:
            print(f"\nKL of {' to '.join(given.kl)}: {spread(figures['kl'], 2)} nats an answer")
        if given.json:
            write_json(given.json, figures)
        print(json.dumps(figures))

    return run_command(work)


if __name__ == "__main__":
    raise SystemExit(main())
