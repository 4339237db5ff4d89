from __future__ import annotations

import json

import pytest

from pipeline.config.run import resolve
from pipeline.models import new_reward_model, save_model
from pipeline.runs import open_stage

STARTS = {"sft": ["pretrain"], "sft@other": ["pretrain"], "reward": ["sft"], "ppo": ["sft"]}
ANIMALS = ("cat", "dog", "fox", "boat", "town", "forest", "red", "blue")


def question_rows(count):
    return [
        {
            "query": f"Question: number {i}, where does Tom live?",
            "choices": [ANIMALS[(i + j) % 8] for j in range(3)],
            "gold": i % 3,
        }
        for i in range(count)
    ]


@pytest.fixture
def write_rows(tmp_path):
    def write(rows, name="questions.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def questions(write_rows):
    """Return a JSONL file of 12 questions."""
    return write_rows(question_rows(12))


@pytest.fixture
def tree(tmp_path, questions, write_rows):
    texts = write_rows([{"text": f"Mia has {i} cats."} for i in range(6)], "texts.jsonl")
    prompts = write_rows([{"prompt": f"Say {i}"} for i in range(4)], "prompts.jsonl")
    return {
        "run_dir": str(tmp_path / "run"),
        "pretrain": {"tokens": 100, "sources": ["tiny:facts"]},
        "sft": {},
        "sft@other": {},
        "ppo": {"init": "sft"},
        "evaluate": {
            "tasks": [str(questions)],
            "shots": [0, 2],
            "perplexity": [str(texts)],
            "perplexity_documents": 5,
            "prompts": [{"path": "tiny:prompts", "split": "test", "limit": 6}, str(prompts)],
            "decoding": {"max_new_tokens": 8},
            "calibration_bins": 4,
        },
    }


@pytest.fixture
def finish(tree, make_policy, tiny_tokenizer, tiny_formatter):
    """Return a function that completes a stage with a seeded model."""

    def make(name, seed=0):
        config = resolve(tree)
        with open_stage(config, name, parents=STARTS.get(name, [])) as stage:
            model = make_policy(seed, context=512)
            if name == "reward":
                model = new_reward_model(config.run_dir / "sft" / "model", tiny_formatter, seed)
                model.config.score_offset = 0.5
            stage.save_model(lambda path: save_model(path, model, tiny_tokenizer, "# For tests\n"))
            stage.finish({})

    return make


@pytest.fixture
def few_names(monkeypatch):
    """Let lm_eval's index be that of ARC alone; reading all of it takes many seconds."""
    from pipeline.evaluation import loading

    real = loading.shipped_index
    monkeypatch.setattr(loading, "shipped_index", lambda folder="": real(folder or "arc"))


@pytest.fixture
def no_hub(monkeypatch):
    """Refuse every download at once."""
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
