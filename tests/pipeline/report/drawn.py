"""Make run folders of drawn numbers: what the stages would write, and never a measurement."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu

from pipeline.artifacts import hash_file
from pipeline.calibration import expected_calibration_error
from pipeline.config.run import RunConfig, resolve
from pipeline.evaluation.corpus_bleu import count_matches
from pipeline.records import prompt_id, read_jsonl, write_jsonl
from pipeline.runs import Manifest

STAGES = ("pretrain", "sft", "sft@ppo_init", "ppo", "ppo@no_ptx")
TASKS = {
    "agreement": 120,
    "antonyms": 120,
    "copying": 100,
    "facts": 140,
    "plurals": 120,
    "sums": 80,
}
SHOTS = (0, 1, 5)
SKILL = {"pretrain": 0.62, "sft": 0.6, "sft@ppo_init": 0.61, "ppo": 0.59, "ppo@no_ptx": 0.4}
FOLLOWS = {"pretrain": 0.17, "sft": 0.79, "sft@ppo_init": 0.77, "ppo": 0.87, "ppo@no_ptx": 0.89}
PERPLEXITY = dict(zip(STAGES, (9.84, 11.31, 10.6, 10.42, 13.9), strict=True))
TOKEN = dict(
    zip(STAGES, ((0.5, 0.5), (0.7, 0.4), (0.6, 0.45), (0.6, 0.5), (0.8, 0.4)), strict=True)
)
"""Mean confidence in the next token, and how often it is right."""
PROMPTS = 150
SENTENCES = 60
WORDS = ["the", "a", "cat", "dog", "fox", "river", "house", "runs", "sleeps", "small", "red", "old"]
KEPT = {"pretrain": 0.6, "ppo": 0.85}
"""How many words of a translation are the right ones."""


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_manifest(run_dir: Path, stage: str, parents: list[str], **fields: Any) -> None:
    hashes = {parent: hash_file(run_dir / parent / "manifest.json") for parent in parents}
    minute = len(list(run_dir.glob("*/manifest.json")))
    manifest = Manifest(
        **{
            "stage": stage,
            "status": "complete",
            "seed": 7,
            "config_hash": "c0ffee00" * 8,
            "parents": hashes,
            "started": f"2026-01-02T03:{minute:02d}:00+00:00",
            "finished": f"2026-01-02T03:{minute:02d}:31+00:00",
            "seconds": 31.0 + 17 * minute,
            "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
            "model_hash": "5eed" * 16,
            **fields,
        }
    )
    (run_dir / stage).mkdir(parents=True, exist_ok=True)
    manifest.write(run_dir / stage)


def make_config(run_dir: Path) -> RunConfig:
    return resolve(
        {
            "run_dir": str(run_dir),
            "seed": 7,
            "pretrain": {"tokens": 1000, "sources": ["tiny:pretraining"]},
            "sft": {},
            "sft@ppo_init": {},
            "sample": {},
            "label": {"simulated": 6},
            "reward": {},
            "ppo": {"prompts": ["tiny:prompts"], "init": "sft@ppo_init"},
            "ppo@no_ptx": {"ptx_coef": 0.0},
            "evaluate": {"tasks": ["tiny"]},
            "report": {
                "title": "Drawn numbers",
                "notes": ["Test data: every number on this page is drawn at random."],
                "samples": 4,
            },
        }
    )


def draw_run(folder: Path) -> Path:
    """Write what the stages of a whole run leave, and return the folder."""
    draw = np.random.default_rng(11)
    _write_stages(folder, draw)
    _write_documents(folder, draw)
    _write_texts(folder, draw)
    _write_completions(folder, draw)
    write_manifest(folder, "evaluate", list(STAGES), metrics={"models": len(STAGES)}, model_hash="")
    return folder


def draw_generation(folder: Path) -> np.ndarray:
    """Add a task with F1 a document and a BLEU over all to base and PPO; return F1, [2, 50]."""
    f1 = np.random.default_rng(4).random((2, 50)).round(2)
    for stage, values in zip(("pretrain", "ppo"), f1, strict=True):
        figures = {"f1": float(values.mean()), "bleu": 20.5, "bleu_stderr": 1.5, "cut_contexts": 3}
        rows = [{"f1": float(value), "bleu": 1.0} for value in values]
        _add_task(folder, stage, "reading", 4, figures, rows)
    return f1


def draw_translation(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Add a task with the BLEU of a corpus to base and PPO; return references and texts."""
    draw = np.random.default_rng(6)
    references = [draw.choice(WORDS, draw.integers(6, 14)).tolist() for _ in range(SENTENCES)]
    said = {}
    for stage, kept in KEPT.items():
        texts = [
            [word if draw.random() < kept else str(draw.choice(WORDS)) for word in reference]
            for reference in references
        ]
        pairs = [
            (" ".join(right), " ".join(text)) for right, text in zip(references, texts, strict=True)
        ]
        score = sacrebleu.corpus_bleu([text for _, text in pairs], [[right for right, _ in pairs]])
        rows = [{"bleu_counts": count_matches(right, text)} for right, text in pairs]
        _add_task(folder, stage, "translation", 0, {"bleu": score.score}, rows)
        said[stage] = pairs
    return said


def retokenize(folder: Path, stage: str) -> None:
    """Let a stage read the held-out texts in other tokens."""
    path = folder / "evaluate" / "texts" / f"{stage}.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    write_jsonl(path, [{**row, "tokens": row["tokens"] + 7} for row in rows])


def compare_models(folder: Path, names: list[str]) -> None:
    """Turn what was measured into a comparison of models that no stage made."""
    facts = {name: {"place": f"org/{name}", "kind": "hub", "hash": "5eed" * 16} for name in names}
    write_json(folder / "evaluate" / "models.json", facts)


def _add_task(
    folder: Path,
    stage: str,
    task: str,
    shots: int,
    figures: dict[str, float],
    rows: list[dict[str, Any]],
) -> None:
    path = folder / "evaluate" / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    results[stage].setdefault(task, {})[str(shots)] = {**figures, "n": len(rows)}
    write_json(path, results)
    documents = folder / "evaluate" / "documents.jsonl"
    cell = {"stage": stage, "task": task, "shots": shots}
    known = [row for _, row in read_jsonl(documents)]
    write_jsonl(documents, [*known, *({**cell, "doc": i, **row} for i, row in enumerate(rows))])


def _write_stages(folder: Path, draw: np.random.Generator) -> None:
    write_manifest(
        folder,
        "pretrain",
        [],
        metrics={"loss": 2.31, "eval_loss": 2.36, "tokens": 3_000_000},
        sources={"tiny:pretraining": "ab12" * 16},
    )
    _write_losses(folder / "pretrain", 300, 6.2, 2.3, draw)
    for stage in ("sft", "sft@ppo_init"):
        write_manifest(folder, stage, ["pretrain"], metrics={"loss": 0.41, "eval_loss": 0.46})
        _write_losses(folder / stage, 120, 2.4, 0.4, draw)
    write_manifest(folder, "sample", ["sft"], metrics={"completions": 2400}, model_hash="")
    agreement = {
        "simulated": True,
        "judgments_simulated": 600,
        "labeler_agreement": 0.729,
        "labeler_agreement_interval": [0.702, 0.755],
        "labeler_agreement_comparisons": 1180,
        "gold_accuracy": 0.768,
        "gold_pairs": 1210,
    }
    write_manifest(folder, "label", ["sample"], metrics=agreement, model_hash="")
    write_manifest(folder, "reward", ["sft", "label"], metrics={"accuracy": 0.717})
    _write_losses(folder / "reward", 60, 0.69, 0.52, draw)
    write_json(
        folder / "reward" / "accuracy.json",
        {
            "reward_model": {"accuracy": 0.717, "low": 0.69, "high": 0.744, "n": 1210}
            | {"by_group": {"held_out": {"accuracy": 0.703, "n": 402}}},
            "floors": {
                "bag_of_words": {"accuracy": 0.611, "low": 0.58, "high": 0.64, "n": 1210}
                | {"ahead": {"difference": 0.106, "low": 0.071, "high": 0.14}},
                "length": {"accuracy": 0.538, "low": 0.508, "high": 0.569, "n": 1210},
            },
        },
    )
    for stage, height in (("ppo", 1.3), ("ppo@no_ptx", 1.7)):
        rows = _ppo_rows(height, ptx=stage == "ppo", draw=draw)
        metrics = {key: value for key, value in rows[-1].items() if key != "step"}
        write_manifest(folder, stage, ["sft@ppo_init", "reward"], metrics=metrics)
        write_jsonl(folder / stage / "metrics.jsonl", rows)


def _write_losses(
    folder: Path, steps: int, start: float, end: float, draw: np.random.Generator
) -> None:
    rows: list[dict[str, float]] = []
    for step in range(10, steps + 1, 10):
        level = end + (start - end) * math.exp(-4 * step / steps)
        rows.append({"step": step, "loss": level + draw.normal(0, 0.02), "learning_rate": 1e-4})
        if step % 60 == 0:
            rows.append({"step": step, "eval_loss": level + 0.05})
    write_jsonl(folder / "metrics.jsonl", rows)


def _ppo_rows(height: float, *, ptx: bool, draw: np.random.Generator) -> list[dict[str, float]]:
    rows = []
    for step in range(1, 61):
        rise = 1 - math.exp(-step / 20)
        noise = float(draw.normal(0, 0.06))
        score, kl = height * rise + noise, 6 * height * rise + abs(noise)
        row = {
            "step": step,
            "objective/scores": score,
            "objective/kl": kl,
            "objective/rlhf_reward": score - 0.02 * kl,
            "objective/entropy": 14 - 5 * rise + noise,
            "policy/approxkl": 0.004 + 0.01 * abs(noise),
            "policy/clipfrac": 0.05 + 0.3 * abs(noise),
            "policy/ratio": 1 + noise / 20,
            "policy/entropy": 0.9 - 0.2 * rise,
            "loss/policy": -0.02 + noise / 10,
            "loss/value": 0.4 - 0.3 * rise + abs(noise) / 4,
            "value/explained_variance": 0.7 * rise + noise,
            "grad_norm/policy": 1.2 + noise,
            "grad_norm/value": 3 - rise + noise,
        }
        if ptx:
            row |= {"loss/ptx": 2.4 + 0.05 * rise + noise / 10, "grad_norm/ptx": 0.8 + noise / 3}
        rows.append(row)
    return rows


def _write_documents(folder: Path, draw: np.random.Generator) -> None:
    """Give each document a difficulty of its own, so that the stages' answers go together."""
    rows, results = [], {}
    for task, count in TASKS.items():
        hard = draw.normal(0, 0.25, count)
        for shots in SHOTS:
            for stage in STAGES:
                level = SKILL[stage] + 0.03 * shots + 0.1 * draw.normal()
                correct = (draw.normal(level, 0.12, count) > 0.5 + hard).astype(int)
                confidence = np.clip(draw.normal(0.62, 0.1, count), 0.26, 0.99)
                results.setdefault(stage, {}).setdefault(task, {})[str(shots)] = {
                    "acc": float(correct.mean()),
                    "stderr": float(correct.std(ddof=1) / math.sqrt(count)),
                    "n": count,
                    "ece": expected_calibration_error(confidence, correct),
                    "ece_chance": float(0.03 + 0.02 * draw.random()),
                    "ece_mended": float(0.03 + 0.04 * draw.random()),
                    "temperature": float(0.8 + draw.random()),
                    "overconfidence": float(confidence.mean() - correct.mean()),
                    "brier": float(
                        np.mean([_brier(*each) for each in zip(confidence, correct, strict=True)])
                    ),
                }
                rows += [
                    {"stage": stage, "task": task, "shots": shots, "doc": doc}
                    | _answer(float(confidence[doc]), int(correct[doc]))
                    for doc in range(count)
                ]
    write_json(folder / "evaluate" / "results.json", results)
    write_jsonl(folder / "evaluate" / "documents.jsonl", rows)


def _shares(confidence: float) -> np.ndarray:
    """Return four choices' shares, the first the likeliest with the given one."""
    return np.array([confidence, *[(1 - confidence) / 3] * 3])


def _brier(confidence: float, correct: int) -> float:
    error = _shares(confidence)
    error[0 if correct else 1] -= 1
    return float(error @ error)


def _answer(confidence: float, correct: int) -> dict[str, Any]:
    """Return a row whose likelihoods say what its confidence and correctness say."""
    logliks = (np.log(_shares(confidence)) - 7).tolist()
    gold = 0 if correct else 1
    return {"correct": correct, "confidence": confidence, "gold": gold, "logliks": logliks}


def _write_texts(folder: Path, draw: np.random.Generator) -> None:
    (folder / "evaluate" / "texts").mkdir(parents=True)
    size = draw.integers(80, 400, 50)
    for stage in STAGES:
        nll = size * (math.log(PERPLEXITY[stage]) / 4.1 + draw.normal(0, 0.01, len(size)))
        rows = [
            {"stage": stage, "text": i, "nll": float(nll[i]), "tokens": 60, "bytes": int(size[i])}
            | {"confidence": 60 * TOKEN[stage][0] + i % 3, "correct": int(60 * TOKEN[stage][1])}
            for i in range(len(size))
        ]
        write_jsonl(folder / "evaluate" / "texts" / f"{stage}.jsonl", rows)


def _write_completions(folder: Path, draw: np.random.Generator) -> None:
    summary = {}
    (folder / "evaluate" / "completions").mkdir(parents=True, exist_ok=True)
    prompts = [f"Write one sentence about animal number {i} and its home." for i in range(PROMPTS)]
    utilities: dict[str, np.ndarray] = {}
    for stage in STAGES:
        followed = (draw.random(PROMPTS) < FOLLOWS[stage]).astype(int)
        utilities[stage] = 0.35 + 0.5 * followed + 0.1 * draw.random(PROMPTS)
        rows = [
            {
                "prompt_id": prompt_id([{"role": "user", "content": prompt}]),
                "prompt": prompt,
                "use_case": "generation",
                "completion": f"Animal number {i} lives near the river. " * (1 + i % 3)
                + f"So says {stage}.",
                "followed": int(followed[i]),
                "utility": float(utilities[stage][i]),
            }
            for i, prompt in enumerate(prompts)
        ]
        write_jsonl(folder / "evaluate" / "completions" / f"{stage}.jsonl", rows)
        wins = (np.sign(utilities[stage] - utilities.get("sft", utilities[stage])) + 1) / 2
        summary[stage] = {
            "perplexity": PERPLEXITY[stage],
            "bits_per_byte": math.log2(PERPLEXITY[stage]) / 4.1,
            "token_accuracy": TOKEN[stage][1],
            "token_overconfidence": TOKEN[stage][0] - TOKEN[stage][1],
            "token_ece": TOKEN[stage][0] - TOKEN[stage][1] + 0.01,
            "token_reliability": [
                {"confidence": 0.2, "accuracy": 0.1, "n": 1500},
                {"confidence": 2 * TOKEN[stage][0] - 0.2, "accuracy": 0.9, "n": 1500},
            ],
            "instruction_following": float(followed.mean()),
            "instruction_following_stderr": float(followed.std(ddof=1) / math.sqrt(PROMPTS)),
            "utility": float(utilities[stage].mean()),
            **({"win_rate_vs_sft": float(wins.mean())} if stage.startswith("ppo") else {}),
        }
    write_json(folder / "evaluate" / "summary.json", summary)
