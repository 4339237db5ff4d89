from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.config.run import load_config
from pipeline.runs import open_stage
from pipeline.serving import ModelServer
from pipeline.serving_messages import ServingSettings

COMPARED = """
seed: 3
base: a-model
sft: {}
reward: {}
ppo: {init: sft, prompts: [prompts.jsonl]}
ppo@no_ptx: {ptx_coef: 0}
evaluate: {decoding: {max_new_tokens: 6}}
"""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a command sets in the environment from the other tests."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture(scope="session")
def compared(
    make_policy: Callable, tiny_tokenizer, tiny_formatter, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the YAML of a run of tiny models, whose ``ppo@no_ptx`` is still to do."""
    import torch

    from pipeline.models import new_reward_model, save_model

    folder = tmp_path_factory.mktemp("compared")
    path = folder / "run.yaml"
    path.write_text(f"run_dir: {folder / 'run'}\n{COMPARED}", encoding="utf-8")
    made = load_config(path)
    for seed, (name, parents) in enumerate(
        {"pretrain": [], "sft": ["pretrain"], "reward": ["sft"], "ppo": ["sft", "reward"]}.items()
    ):
        with open_stage(made, name, parents=parents) as stage:
            model = make_policy(seed, torch.float32)
            if name == "reward":
                model = new_reward_model(made.run_dir / "sft" / "model", tiny_formatter, seed)
            stage.save_model(
                lambda to, model=model: save_model(to, model, tiny_tokenizer, "# For tests\n")
            )
            stage.finish({})
    return path


@pytest.fixture(scope="session")
def server() -> Iterator[ModelServer]:
    """Return what runs models: each start takes seconds."""
    with ModelServer(ServingSettings(device="cpu")) as made:
        yield made
